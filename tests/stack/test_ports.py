"""Ports: every start finds its own, whoever else starts; one given by hand is never moved, and its holder is named."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from quadrille_cli.stack import CannotRun, Stack, ports, state
from quadrille_cli.stack.errors import PortTaken
from quadrille_cli.stack.processes import Process
from quadrille_cli.testing import Start

NOT_HERE = 9
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another user, a network of its own")
CLAIMING = """
import sys
from quadrille_cli.stack import ports
claims = ports.Claims()
print(ports.choose(["kafka"], claims.take, {}, {"kafka": int(sys.argv[1])})["kafka"], flush=True)
sys.stdin.read()
"""


@contextmanager
def held(port: int = 0) -> Iterator[int]:
    """A port of the loopback that somebody (this test) listens on."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen()
        yield int(server.getsockname()[1])


@contextmanager
def another_start(
    usual: int, env: Mapping[str, str] | None = None, before: tuple[str, ...] = (), uid: int | None = None
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process that has chosen its port and does not listen yet; and the port."""
    # A user's own Python may be closed to others: it is started first, and becomes that user afterwards.
    become = "" if uid is None else f"import os; import quadrille_cli.stack.ports; os.setgroups([]); os.setuid({uid})\n"
    start = subprocess.Popen(
        [*before, sys.executable, "-c", become + CLAIMING, str(usual)], env={**os.environ, **(env or {})},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with start:
        assert start.stdout is not None
        yield start, int(start.stdout.readline())
        start.kill()


def choose(usual: int, given: Mapping[str, int] | None = None) -> int:
    """The port that a start of this process chooses now."""
    with closing(ports.Claims()) as claims:
        return ports.choose(["kafka"], claims.take, given or {}, {"kafka": usual})["kafka"]


def free() -> int:
    """A port nobody has."""
    return ports.scattered(["kafka"])["kafka"]


def test_a_busy_port_gives_way_to_the_next_free_one() -> None:
    """A part whose usual port is held takes the next free one."""
    with held() as port:
        chosen = choose(port)

        assert chosen > port
        assert ports.is_free(chosen)


def test_two_starts_at_once_do_not_take_the_same_port(tmp_path: Path) -> None:
    """A port that another start has chosen, under another cache, is left to it until that start is over."""
    port = free()
    with another_start(port, {"QUADRILLE_CACHE": str(tmp_path), "TMPDIR": str(tmp_path)}) as (_, first):
        assert first == port
        assert choose(port) != port
    assert choose(port) == port


def test_stacks_that_start_at_once_under_other_caches_all_run(tmp_path: Path) -> None:
    """Four whole starts at the same moment, each with a cache of its own: all run, no port is taken twice."""
    start = "import sys; from quadrille_cli.stack import Stack; Stack(sys.argv[1], parts={'sandbox'}).start()"
    homes = [tmp_path / str(n) for n in range(4)]
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", start, str(home)], env={**os.environ, "QUADRILLE_CACHE": f"{home}-cache"}
        )
        for home in homes
    ]
    try:
        assert [one.wait() for one in starts] == [0] * 4
        found = [stack for home in homes if (stack := Stack.found(home))]
        assert all(stack.process("sandbox").running for stack in found)
        assert len({port for stack in found for port in stack.ports.values()}) == 4 * 2
    finally:
        for home in homes:
            if stack := Stack.found(home):
                stack.stop()


@NEEDS_ROOT
@pytest.mark.parametrize("user", ["nobody", "daemon"])
def test_the_start_of_another_user_is_seen(user: str) -> None:
    """A port that another user's start has chosen is left to it, and the other way round."""
    port, uid = free(), pwd.getpwnam(user).pw_uid
    with another_start(port, uid=uid) as (_, first):
        assert first == port
        assert choose(port) != port
    with closing(ports.Claims()) as mine:
        assert mine.take(port)
        with another_start(port, uid=uid) as (_, second):
            assert second != port


@NEEDS_ROOT
def test_a_start_in_another_network_is_in_nobodys_way() -> None:
    """What is claimed in another network name space is another port."""
    port = free()
    with another_start(port, before=("unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh")) as (
        _,
        first,
    ):
        assert (first, choose(port)) == (port, port)


def test_the_claims_of_a_killed_start_are_gone() -> None:
    """A start that is killed leaves nothing behind that keeps its ports from the next one."""
    port = free()
    with another_start(port) as (start, first):
        assert first == port
        start.send_signal(signal.SIGKILL)
        start.wait()

        assert choose(port) == port


def test_a_busy_port_given_by_hand_is_refused(tmp_path: Path) -> None:
    """`up --port` on a held port starts nothing, names the holder with its pid and exits 9."""
    command = [sys.executable, "-m", "quadrille_cli", "up", "--detach", "--data", str(tmp_path / "data")]
    with held() as port:
        done = subprocess.run([*command, "--port", f"kafka={port}"], capture_output=True, text=True, check=False)

    assert done.returncode == NOT_HERE
    assert f"port {port}, given by hand for kafka, is held by" in done.stderr
    assert f"(pid {os.getpid()})" in done.stderr
    assert "fix:" in done.stderr
    assert not (tmp_path / "data" / "kafka").exists()


def test_a_port_claimed_by_another_start_is_refused_with_its_pid() -> None:
    """Given by hand, a port that a start has chosen and nobody listens on yet: the refusal names that start."""
    port = free()
    with another_start(port) as (start, _), pytest.raises(CannotRun, match=rf"is starting \(pid {start.pid}\)"):
        choose(port, {"kafka": port})


@NEEDS_ROOT
def test_the_holder_that_may_not_be_looked_into_is_named_by_its_user() -> None:
    """An ordinary user who may not see the holder's pid is told whose process it is."""
    ask = "import os, sys; from quadrille_cli.stack import ports; os.setuid(65534)\n"
    with held() as port:
        command = [sys.executable, "-c", f"{ask}print(ports.owner({port}))"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert told == "a process of the user root\n"


def test_one_port_given_twice_is_refused() -> None:
    """The same port by hand for two parts: both are named."""
    with pytest.raises(CannotRun, match="given by hand for kafka and for registry"):
        choose(free(), {"kafka": 19092, "registry": 19092})


def test_an_unknown_port_name_is_refused() -> None:
    """A port by hand for something that does not listen names what does."""
    with pytest.raises(CannotRun, match="no part listens under the name kafak") as refused:
        choose(free(), {"kafak": 1234})

    assert "kafka" in refused.value.fix


class Thief:
    """Takes a part's port at the last moment: when its step begins, after every port was chosen."""

    def __init__(self, stack: Stack, name: str, port: str, taking: ExitStack) -> None:
        self.stack, self.name, self.port, self.taking = stack, name, port, taking
        self.taken = 0
        self.lines: list[str] = []

    def began(self, step: str) -> None:
        """Take the port, once."""
        if step == self.name and not self.taken:
            self.taken = self.stack.ports[self.port]
            self.taking.enter_context(held(self.taken))

    def ended(self, step: str, seconds: float, remark: str) -> None:
        """Nothing."""

    def failed(self, step: str, seconds: float) -> None:
        """Nothing."""

    def said(self, text: str) -> None:
        """Keep it."""
        self.lines.append(text)


@pytest.mark.parametrize(
    ("parts", "step", "port"),
    [
        ({"postgres:order", "postgres:payment"}, "postgres:order", "postgres:order"),
        ({"kafka"}, "kafka", "kafka-controller"),
        ({"registry"}, "registry", "registry-management"),
        ({"sandbox"}, "sandbox", "smtp"),
    ],
)
def test_a_bind_that_fails_tries_the_next_port(new_stack: Start, parts: set[str], step: str, port: str) -> None:
    """A port taken between choice and bind: the start goes on with another one, and says who has the first."""
    stack = new_stack(parts=parts)
    with ExitStack() as taking:
        thief = Thief(stack, step, port, taking)
        stack.progress = thief

        stack.start()

        assert stack.ports[port] != thief.taken
        assert all(process.running for process in stack.processes.values())
        [line] = [line for line in thief.lines if "moves to another one" in line]
        assert (f"(pid {os.getpid()})" in line, f"port {thief.taken}" in line, port in line) == (True, True, True)
        there = state.load(stack.data)
        assert there is not None
        assert there.ports == stack.ports


def test_a_port_given_by_hand_is_not_moved_when_its_bind_fails(new_stack: Start) -> None:
    """A port given by hand that is taken at the last moment ends the start: the holder is named, nothing runs on."""
    given = free()
    stack = new_stack(parts={"postgres:order"}, scattered=False, given={"postgres:order": given})
    with ExitStack() as taking:
        stack.progress = Thief(stack, "postgres:order", "postgres:order", taking)
        with pytest.raises(CannotRun, match=rf"given by hand for postgres:order, is held by .* \(pid {os.getpid()}\)"):
            stack.start()

    assert not any(process.running for process in stack.processes.values())


def test_a_part_that_finds_its_port_taken_names_the_holder(new_stack: Start) -> None:
    """A server that finds its port taken is reported with that cause and its holder, not with its log alone."""
    stack = new_stack(parts={"postgres:order"})
    stack.start()
    server: Process = stack.process("postgres:order")
    server.stop()
    with held(stack.ports["postgres:order"]) as port, pytest.raises(PortTaken) as failure:
        server.start()

    assert failure.value.cause.startswith(f"its port {port} is held by ")
    assert f"(pid {os.getpid()})" in failure.value.cause


def test_a_part_of_a_tests_stack_comes_back_where_it_was(new_stack: Start) -> None:
    """Started again it listens where it did, so that whoever knows its address goes on; held, it moves."""
    stack = new_stack(parts={"postgres:order"})
    stack.start()
    before = stack.ports["postgres:order"]
    stack.process("postgres:order").stop()
    stack.start()
    assert stack.ports["postgres:order"] == before

    stack.process("postgres:order").stop()
    with held(before):
        stack.start()
    assert stack.ports["postgres:order"] != before
