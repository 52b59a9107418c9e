"""After a crash `up` just works: any process killed with -9, its files half-written, its pid another's by now."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import psycopg
import pytest

from quadrille_cli.stack import CannotRun, Stack, leftovers, state
from quadrille_cli.stack.processes import Child, Process
from quadrille_cli.testing import Start

DATABASE = "postgres:order"
NEVER_ENDS = "SELECT count(*) FROM generate_series(1, 1000000000000)"


@pytest.fixture
def crashed(new_stack: Start) -> Stack:
    """A database with a row in it, that runs."""
    stack = new_stack(parts={DATABASE})
    stack.start()
    with psycopg.connect(stack.database_url("order", "owner")) as db:
        db.execute("CREATE TABLE kept AS SELECT 4711 AS id")
    return stack


def kept(stack: Stack) -> list[tuple[int]]:
    """What lay in the database before the crash."""
    with psycopg.connect(stack.database_url("order", "owner")) as db:
        return db.execute("SELECT id FROM kept").fetchall()


Again = Callable[[Stack], Stack]


@pytest.fixture
def again(new_stack: Start) -> Again:
    """Starts a stack as another command would, which knows its directory alone."""

    def started(stack: Stack) -> Stack:
        found = new_stack(parts=stack.parts)
        found.data = stack.data
        found.start()
        return found

    return started


@contextmanager
def busy(stack: Stack) -> Iterator[psutil.Process]:
    """A session whose server process computes and looks at nothing else; that process."""

    def ask(db: psycopg.Connection) -> None:
        with suppress(psycopg.Error):
            db.execute(NEVER_ENDS)

    db = psycopg.connect(stack.database_url("order", "postgres").replace("/order", "/postgres"), autocommit=True)
    db.execute("SET statement_timeout = 0")
    server = psutil.Process(db.info.backend_pid)
    asking = threading.Thread(target=ask, args=(db,))
    asking.start()
    try:
        with psycopg.connect(stack.database_url("order", "postgres").replace("/order", "/postgres")) as other:
            while not other.execute("SELECT 1 FROM pg_stat_activity WHERE query = %s", [NEVER_ENDS]).fetchone():
                other.rollback()
        yield server
    finally:
        with suppress(psutil.NoSuchProcess):
            server.kill()
        asking.join()
        db.close()


@pytest.mark.parametrize("frozen", [False, True])
def test_a_killed_postmasters_children_are_waited_for_and_ended(crashed: Stack, frozen: bool, again: Again) -> None:  # noqa: FBT001
    """A child that outlives its postmaster, at work or frozen, keeps no `up` from starting; the data is there."""
    with busy(crashed) as child:
        if frozen:
            child.suspend()
        os.kill(crashed.process(DATABASE).pid, signal.SIGKILL)
        assert child.is_running()

        found = again(crashed)

        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        assert kept(found) == [(4711,)]


def test_a_lock_file_with_the_pid_of_another_program_is_stale(crashed: Stack, new_stack: Start, again: Again) -> None:
    """After a reboot the pid in postmaster.pid may be any program's, even another cluster's: `up` starts."""
    other = new_stack(parts={DATABASE})
    other.start()
    server = crashed.process(DATABASE)
    lock = crashed.clusters["order"].home / "postmaster.pid"
    lines = lock.read_text().split("\n")
    server.kill()
    lock.write_text("\n".join([str(other.process(DATABASE).pid), *lines[1:]]))
    shutil.chown(lock, *(("nobody", "nogroup") if os.geteuid() == 0 else (None, None)))

    assert kept(again(crashed)) == [(4711,)]
    assert other.process(DATABASE).running


def test_a_cluster_that_is_served_is_not_started_twice(crashed: Stack) -> None:
    """A server that runs on the directory is named with its pid; it is neither ended nor fought."""
    pid = crashed.process(DATABASE).pid
    with pytest.raises(CannotRun, match=rf"is served already, by postgres \(pid {pid}\)"):
        leftovers.clear(crashed.clusters["order"].home)

    assert crashed.process(DATABASE).running


@pytest.mark.parametrize("text", ["", '{"ports": {"kaf', "null", "{}", '{"processes": {}, "color": "red"}'])
def test_a_state_that_was_cut_short_costs_nothing(crashed: Stack, text: str, again: Again) -> None:
    """With `state.json` half-written what runs is found, ended and started anew: same password, same data."""
    before = crashed.process(DATABASE)
    state.file(crashed.data).write_text(text)

    found = again(crashed)

    assert not before.running
    assert found.password == crashed.password
    assert kept(found) == [(4711,)]


@pytest.mark.parametrize(
    "words", [("status",), ("orders", "list"), ("topics", "plan"), ("operations", "ls"), ("load",)]
)
def test_commands_on_a_state_that_was_cut_short_say_what_to_do(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Whatever is asked of a stack whose state is unreadable: one line, the way out, exit code 7, no traceback."""
    state.file(tmp_path).write_text('{"ports": {"kaf')
    command = [sys.executable, "-m", "quadrille_cli", *words]
    env = {**os.environ, "QUADRILLE_DATA": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    assert (done.returncode, "fix: quadrille up --detach" in done.stderr) == (7, True), done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_down_ends_what_a_lost_state_does_not_name(crashed: Stack) -> None:
    """`down` with an unreadable state ends the stack's processes all the same."""
    state.file(crashed.data).write_text("")
    found = Stack.found(crashed.data)
    assert found is not None

    found.stop()

    assert not crashed.process(DATABASE).running


def test_a_start_that_is_killed_leaves_nothing_in_the_way(new_stack: Start, again: Again) -> None:
    """`up` killed with -9 between the launch of a process and the note of it: the next one ends and replaces it."""
    stack = new_stack(parts={"sandbox"})
    stack.start()
    stack.stop()
    stack.process("sandbox").on_change = lambda: os.kill(os.getpid(), signal.SIGKILL)
    child = os.fork()
    if not child:
        stack.process("sandbox").launch()  # ends this process
        os._exit(1)
    os.waitpid(child, 0)
    there = state.load(stack.data)
    assert there is not None
    assert not there.alive
    [stray] = leftovers.strays(stack.logs, ())

    again(stack)

    assert not stray.is_running() or stray.status() == psutil.STATUS_ZOMBIE
    assert len(leftovers.strays(stack.logs, ())) == 1


def test_strays_of_another_stack_are_left_alone(crashed: Stack, new_stack: Start, again: Again) -> None:
    """What was started for another data directory is never taken for one's own, nor what one's own have started."""
    other = new_stack(parts={"sandbox"})
    other.start()

    assert leftovers.strays(other.logs, {other.process("sandbox").pid}) == []
    again(crashed)

    assert other.process("sandbox").running


def test_a_process_that_is_about_to_die_is_started_anew(crashed: Stack) -> None:
    """One that seemed to run when `up` came, and was killed, is launched again and is no failed start."""
    found = crashed.process(DATABASE)
    pids = [found.pid]

    def ready() -> bool:
        if pids:
            psutil.Process(pids.pop()).kill()
        return found.spec.ready()

    part = Process(replace(found.spec, ready=ready), found.pid, found.born)
    part.follow(found)
    try:
        part.start()

        assert part.pid != found.pid
        assert kept(crashed) == [(4711,)]
    finally:
        part.stop()


def test_every_process_killed_at_once_comes_back(parts_of_the_stack: Start) -> None:
    """Kafka, registry, database and sandbox killed with -9 in one moment: `up` starts them all, with what they held."""
    stack = parts_of_the_stack("kafka", "topics", "registry", DATABASE, "sandbox")
    families = [[psutil.Process(p.pid)] for p in stack.processes.values() if p.running]
    for family in families:
        for process in family:
            process.kill()

    stack.start()

    assert all(process.running for process in stack.processes.values())


def test_a_child_left_running_is_no_leak() -> None:
    """What `quadrille up --detach` leaves running is warned of by nobody; what has ended is reaped with its object."""
    pids = []
    for seconds in ("600", "0"):
        child = Child(["sleep", seconds])
        pids.append(child.pid)
        if seconds == "0":
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        del child
    gc.collect()

    os.kill(pids[0], signal.SIGKILL)
    assert os.waitpid(pids[0], 0)[0] == pids[0]
    with pytest.raises(ChildProcessError):
        os.waitpid(pids[1], 0)


def test_a_registry_whose_first_start_was_cut_short_begins_anew(new_stack: Start) -> None:
    """Its tables are made in many steps: a database that was never ready holds nothing and stops each start."""
    stack = new_stack(parts={"registry"})
    database, unfinished = (stack.data / "registry" / name for name in ("registry.mv.db", "registry.new"))
    database.parent.mkdir(parents=True)
    database.write_bytes(b"cut short")
    unfinished.touch()

    stack.start()

    assert database.stat().st_size > len(b"cut short")
    assert not unfinished.exists()


def test_a_copy_of_kafkas_directory_that_was_cut_short_is_made_anew(new_stack: Start) -> None:
    """A start killed while it copied Kafka's formatted directory: the next one copies it whole."""
    stack = new_stack(parts={"kafka"})
    half = stack.data / "kafka" / "data.new"
    half.mkdir(parents=True)
    (half / "meta.properties").write_text("version=1\n")

    stack.start()

    assert (stack.data / "kafka" / "data" / "bootstrap.checkpoint").exists()


def test_a_file_that_another_process_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's file that somebody else has locked is named, with a way to find who; it is not touched."""
    monkeypatch.setattr(leftovers, "PATIENCE", 0.1)
    file = tmp_path / ".lock"
    file.touch()
    lock = f"import fcntl, sys; f = open({str(file)!r}, 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); "
    with subprocess.Popen([sys.executable, "-c", lock + "sys.stdin.read()"], stdin=-1, stdout=-1) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(CannotRun, match=f"kafka: another process uses {file}"):
            leftovers.unlocked("kafka", file)
        holder.kill()
    leftovers.unlocked("kafka", file)


def test_a_stack_of_an_older_release_keeps_its_password(crashed: Stack, again: Again) -> None:
    """A data directory whose password stood in `state.json` alone is found with it, and keeps it apart from now on."""
    crashed.stop()
    (crashed.data / "password").unlink()
    assert json.loads(state.file(crashed.data).read_text())["password"] == crashed.password

    assert kept(again(crashed)) == [(4711,)]
    assert (crashed.data / "password").read_text() == crashed.password
    assert (crashed.data / "password").stat().st_mode & 0o777 == 0o600


def test_databases_whose_password_is_lost_are_given_a_new_one(crashed: Stack, again: Again) -> None:
    """Without `state.json` and `password` nobody can log in: the next start gives a new password, the data stays."""
    crashed.stop()
    (crashed.data / "password").unlink()
    state.file(crashed.data).unlink()

    found = again(crashed)

    assert found.password != crashed.password
    assert kept(found) == [(4711,)]
    found.stop()
    assert kept(again(crashed)) == [(4711,)]
