"""The `quadrille` command over a whole stack: up, status, logs, topics, down, as a person uses them."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple, get_args

import httpx
import psutil
import pytest

from order.domain import Reason
from quadrille_cli.client import Client
from quadrille_cli.commands.demo import EITHER, REFUSED, TEA, scenes
from quadrille_cli.demo_data import order_of
from quadrille_cli.stack import Stack
from quadrille_cli.stack.processes import birth

Ask = Callable[..., str]
Pids = dict[str, int]
Ports = dict[str, dict[str, int]]
ENDS = ("CONFIRMED", EITHER, REFUSED)
UP = ("up", "--detach", "--set", "INBOX_WINDOW=6d")
MEMORY_BAR_MB = 1536  # each page once: what the processes share (libraries, shared buffers) is not counted for each


class Played(NamedTuple):
    """The stack as `quadrille demo` left it: a way to ask the command about it, the demo's exit code and output."""

    ask: Ask
    code: int
    out: str
    fatal: list[str]


@pytest.fixture(scope="module")
def played(stack_home: Path) -> Iterator[Played]:
    """A whole stack started by the demo, on whatever ports are free."""
    home = stack_home / "command"

    def ask(*words: str, code: int = 0) -> str:
        done = _run(home, *words)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    shown = _run(home, "demo")
    logs = [path.read_text("utf-8", "replace") for path in (home / "logs").glob("*.log")]
    fatal = [line for text in logs for line in text.splitlines() if "FATAL" in line]
    yield Played(ask, shown.returncode, shown.stdout + shown.stderr, fatal)
    ask("down", "--wipe")
    assert not home.exists()


@pytest.fixture(scope="module")
def demos(played: Played) -> Pids:
    """The processes as the demo left them, with the demo's settings."""
    return pids(played.ask)


@pytest.fixture(scope="module")
def running(played: Played, demos: Pids) -> Ask:
    """The same stack, told another setting by `up` than by the demo; and a way to ask the command about it."""
    assert demos
    assert "processes ready in" in played.ask(*UP)
    return played.ask


def _run(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "quadrille_cli", *words, "--data", str(home)]
    return subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)


def test_the_demo_places_the_whole_table(played: Played) -> None:
    """Twenty orders, every outcome of the table, each as expected, held against the processor's own ledger."""
    assert played.code == 0, played.out
    assert "20 orders: 9 CONFIRMED, 10 CANCELLED, 1 COMPENSATION_FAILED      expected = actual" in played.out
    table = [line for line in played.out.splitlines() if re.search(r" \d+\.\ds +[0-9a-f]{8}$", line)]
    shown = Counter(line.partition("  ")[0] for line in table)
    assert max(map(len, table)) <= 80
    assert shown == Counter(scene.shows for scene in scenes())
    reasons = {*get_args(Reason)} - {"PARTICIPANT_AWAY"}  # a demo with a service away would show that
    assert {scene.ends for scene in scenes()} == {*ENDS, *(f"CANCELLED {reason}" for reason in reasons)}


def logs_in(link: str) -> None:
    """Follow a link, press its button, and be somebody."""
    address, _, token = link.partition("/login?t=")
    with httpx.Client(base_url=address, headers={"Origin": address}) as http:
        asked = http.get(link)
        assert (asked.status_code, ">Log in</button>" in asked.text) == (200, True), asked.text
        assert http.post("/login", data={"t": token}).status_code == 303
        assert "You act as <b>local</b>" in http.get("/login").text


def test_the_first_link_logs_in_to_the_console(played: Played) -> None:
    """The demo's first line has a link that logs in, so has `up`'s, and `quadrille login` gives another, with why."""
    shown = next(line for line in played.out.splitlines() if line.startswith("console"))
    links = re.findall(r"^console +(http://127\.0\.0\.1:\d+/login\?t=\S+)$", played.ask("up", "--detach"), re.MULTILINE)
    made = json.loads(played.ask("login", "--reason", "a test", "-o", "json"))
    for link in (shown.split()[1], *links, made["url"], played.ask("login").strip()):
        logs_in(link)
    assert (len(links), made["actor"]) == (1, "local")


def test_a_clean_start_has_nothing_fatal_in_it(played: Played) -> None:
    """No server is asked before it says that it takes sessions: no log of a first start has the word."""
    assert played.fatal == []


def test_the_command_the_demo_prints_ends_the_order_it_left(played: Played) -> None:
    """The line is typed as it stands: it exits 0, the order is CANCELLED and says that it was resolved by hand."""
    [line] = [line for line in played.out.splitlines() if line.startswith("resolve")]
    done = subprocess.run(
        ["bash", "-c", line.removeprefix("resolve").strip()], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    order_id = done.stdout.split()[0]
    document = json.loads(played.ask("orders", "get", order_id, "-o", "json"))
    assert (document["status"], document["final"], document["payment"]) == ("CANCELLED", True, "RESOLVED")
    assert document["detail"]["resolved"] == {"how": "EXTERNAL"}


def test_the_curl_the_demo_prints_places_an_order(played: Played) -> None:
    """It has the port of this stack: typed as it stands, it is answered with an order."""
    text = played.out[played.out.index("curl -s") :].partition("}]}'")[0] + "}]}'"
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=False)

    assert json.loads(done.stdout)["status"] == "PENDING", text


def test_a_demo_that_is_refused_says_by_whom_and_why(played: Played, stack_home: Path) -> None:
    """While an operator takes no orders the demo places none: the problem in words and its exit code, no traceback."""
    found = Stack.found(stack_home / "command")
    assert found is not None
    with Client(found.url("order-api")) as ops:
        ops.demand("POST", "/ops/intake/pause", {"reason": "stocktaking"})
        with Client(found.url("order")) as api:
            deadline = time.monotonic() + 60
            while api.ask("POST", "/v1/orders", order_of(TEA), {"Idempotency-Key": str(uuid.uuid4())}).status != 503:
                assert time.monotonic() < deadline
        told = played.ask("demo", code=7)
        ops.demand("POST", "/ops/intake/resume", {"reason": "done"})

    assert "503 overloaded" in told
    assert "cause PAUSED" in told
    assert "Traceback" not in told


def pids(ask: Ask) -> Pids:
    """Every process of the stack by name."""
    return {p["name"]: p["pid"] for p in json.loads(ask("status", "-o", "json"))["processes"] if "aot" not in p["name"]}


def ports(ask: Ask) -> Ports:
    """The ports of every process of the stack by name."""
    return {p["name"]: p["ports"] for p in json.loads(ask("status", "-o", "json"))["processes"]}


def test_status_shows_every_process_within_the_memory_bar(running: Ask) -> None:
    """Twenty-one processes run, each with its ports; together they stay below the bar of 2 GB."""
    told = json.loads(running("status", "-o", "json", "--sample", "1"))
    found = [p for p in told["processes"] if p["name"] != "aot-training"]

    assert len(found) == 5 + 2 + 1 + 4 * 3 + 1
    assert all(process["running"] and process["ports"] for process in found)
    assert sum(process["pss_mb"] for process in found) < MEMORY_BAR_MB


def test_up_again_changes_nothing(running: Ask) -> None:
    """`up` on a running stack starts nothing and says so."""
    before = pids(running)

    assert "runs already" in running(*UP)

    assert pids(running) == before


def test_a_dead_process_is_reported_and_brought_back(running: Ask) -> None:
    """`status` exits 1 when a process is gone; `up` starts exactly that one; the console, if its port moved."""
    before, listened = pids(running), ports(running)
    psutil.Process(before["inventory-worker"]).kill()
    psutil.wait_procs([psutil.Process(before["inventory-worker"])], timeout=60)

    assert re.search(r"inventory-worker +gone .*killed", running("status", code=1))
    running(*UP)

    after = pids(running)
    moved = ports(running) != listened
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"inventory-worker", *(["console"] if moved else [])}


def test_a_port_taken_meanwhile_moves_and_the_console_is_told(running: Ask) -> None:
    """Another program listens where a dead process did: it begins elsewhere; who asks it there is started again."""
    before, port = pids(running), ports(running)["inventory-worker"]["inventory-worker"]
    psutil.Process(before["inventory-worker"]).kill()
    psutil.wait_procs([psutil.Process(before["inventory-worker"])], timeout=60)

    with ExitStack() as held:
        with suppress(OSError):  # who was here first has taken it just as well
            held.enter_context(socket.create_server(("127.0.0.1", port)))
        assert re.search(r"started again: console, for", running(*UP))

    after = pids(running)
    assert ports(running)["inventory-worker"]["inventory-worker"] != port
    assert {name for name in before if after[name] != before[name]} == {"inventory-worker", "console"}


def test_a_process_is_stopped_started_and_restarted_by_name(running: Ask) -> None:
    """`stop` ends one and `status` says by whom; `start` brings it back; `restart payment` is all three, no other."""
    before = pids(running)

    assert "ended: payment-worker" in running("stop", "payment-worker")
    assert "by quadrille stop" in running("status", code=1)
    assert "quadrille start payment-worker" in running("status", code=1).splitlines()[-1]
    assert "started: payment-worker" in running("start", "payment-worker")
    running("restart", "payment")
    assert "nothing to do" in running("start", "payment", "kafka")
    assert "no process here is named paiment" in running("stop", "paiment", code=9)

    after = pids(running)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"payment-api", "payment-worker", "payment-relay"}
    assert running("status").splitlines()[-1].startswith("now")


def test_up_leaves_alone_what_it_did_not_start(running: Ask) -> None:
    """Attached to nothing that ran before: it returns, the stack goes on; its settings stay, and one goes if asked."""
    before = pids(running)

    told = running("up")

    assert "is left running" in told
    assert "this stack's settings stay: INBOX_WINDOW" in told
    assert pids(running) == before


def test_what_a_shell_needs_is_printed_without_secrets(running: Ask, stack_home: Path) -> None:
    """`env` gives addresses that a shell takes; the databases' passwords only where they are asked for."""
    found = Stack.found(stack_home / "command")
    assert found is not None
    told = running("env")

    assert f"export ORDER_URL={found.url('order')}\n" in told
    assert found.password not in told
    assert f"export ORDER_DATABASE_URL={found.database_url('order')}\n" in running("env", "--secrets")


def test_logs_are_one_stream_by_time(running: Ask) -> None:
    """The logs of all processes come merged; asked for one process, only that one's come."""
    everything = running("logs")
    assert {line.split()[0] for line in everything.splitlines() if line[:1].isalpha()} >= {"kafka", "registry"}

    assert {line.split()[0] for line in running("logs", "kafka").splitlines()} == {"kafka"}
    assert "no log of nothing" in running("logs", "nothing", code=7)


def test_settings_are_shown_without_secrets(running: Ask, stack_home: Path) -> None:
    """`status --config` names every setting and its source; the stack's password is not in it."""
    told = running("status", "--config")
    found = Stack.found(stack_home / "command")

    assert found is not None
    assert "DATABASE_URL" in told
    assert found.password not in told


def test_other_settings_restart_our_processes(running: Ask, demos: Pids) -> None:
    """`up` with another setting starts our own processes again, so that they know it, and leaves the servers alone."""
    after = pids(running)

    assert after["kafka"] == demos["kafka"]
    assert after["order-worker"] != demos["order-worker"]
    assert "INBOX_WINDOW         6d" in running("status", "--config")


def test_down_ends_everything(running: Ask) -> None:
    """`down` leaves no process; the stack comes back with its data."""
    before = pids(running)

    running("down")

    assert not [name for name, pid in before.items() if birth(pid)]
    assert "0 new" in running("up", "--detach")
