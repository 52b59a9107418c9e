"""What `status` says of processes and of what flows, and which one thing it tells to do; how a process ended."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from quadrille_cli.commands.status import lines
from quadrille_cli.services import SERVICES
from quadrille_cli.stack import code, condition, logs, services
from quadrille_cli.stack.condition import Condition, Flow
from quadrille_cli.stack.last_words import BY_HAND, ending, in_words
from quadrille_cli.stack.ports import ROLES
from quadrille_cli.stack.processes import Process, Spec

PORTS = {"order-worker": 8201}
OPEN = {"intake": "OPEN", "cause": None, "since": "2026-11-21T09:14:03.120Z"}
GUARDED = {"intake": "GUARDED", "cause": "DISK_GUARD", "detail": "1.6 GB of log kept for a slot, 1.5 GB is the limit"}
DEBT = {"owes": "payment", "fact": "payment.refunded"}
ORDER = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"
WAITS = {"order_id": ORDER, "status": "PAYMENT_PENDING", "owed": [DEBT]}
WELL = Condition("order-worker", 4711, "ready", 600.0, PORTS)
RESTS = "assignment: what was read waits to be committed: the consumer is paused: by local: a test"
REASON = "relay: the relay has published nothing for 17 s: Kafka or the relay is away; what is said waits in the outbox"


def flow(**more: object) -> Flow:
    """Everything flows, but for what is said otherwise."""
    usual: dict[str, object] = {"intake": OPEN, "stuck": {"count": 0, "stuck": []}, "lag": {"order": 0}}
    return Flow(**{**usual, **more})  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize(
    ("process", "flows", "said"),
    [
        (WELL, flow(), "nothing to do"),
        (Condition("order-worker", 1, "gone", 60.0, PORTS), flow(), "quadrille start order-worker"),
        (Condition("order-worker", 1, "silent", 60.0, PORTS), flow(), "quadrille restart order-worker"),
        (Condition("order-worker", 1, "not ready", 60.0, PORTS), flow(), "mend what order-worker waits for"),
        (Condition("order-worker", 1, "not ready", 60.0, PORTS, not_ready=[RESTS]), flow(), "consumers resume order"),
        (WELL, flow(stuck={"count": 1, "stuck": [WAITS]}), f"quadrille why {ORDER[-8:]}"),
        (WELL, flow(parked={"order": "2 parked inputs wait for a person"}), "quadrille parked list"),
        (WELL, flow(intake={**OPEN, "intake": "PAUSED", "cause": "PAUSED"}), "quadrille intake resume"),
        (WELL, flow(intake={**OPEN, "intake": "SHUT", "cause": "SAGA_FAILURE_RATE"}), "too many sagas fail"),
        (WELL, flow(intake={**OPEN, **GUARDED}), "1.6 GB of log kept for a slot, 1.5 GB is the limit"),
        (WELL, flow(breakers={"payment": "open"}), "what payment calls"),
        (WELL, flow(lag={"order": 7}), "order has 7 records ahead"),
    ],
)
def test_the_last_line_is_what_to_do_now(process: Condition, flows: Flow, said: str) -> None:
    """One thing, the most urgent, as a command where there is one."""
    *_, last = lines([process], flows)

    assert last.startswith("now ")
    assert said in last


def test_everything_fits_the_screen_and_nothing_is_dropped() -> None:
    """A reason that is longer than the screen goes on in the next line; each part that is degraded is named."""
    told = list(lines([Condition("notification-worker", 4711, "degraded", 7200.0, PORTS, degraded=[REASON])], flow()))

    assert max(map(len, told)) <= 80
    assert f"degraded: notification-worker: {REASON}" in " ".join(" ".join(told).split())
    assert told[1].split() == ["notification-worker", "degraded", "2h", "8201", "relay"]


def test_what_nobody_answers_for_is_not_called_none() -> None:
    """Whose worker does not answer has no lag that is known; an order's api that is away leaves its lines unknown."""
    told = "\n".join(lines([WELL], flow(stuck=None, intake=None, unknown={"stuck": "order-api does not answer"})))

    assert "not known of inventory, payment, notification" in " ".join(told.split())
    assert "stuck     not known: order-api does not answer" in told


@pytest.fixture
def process(tmp_path: Path) -> Process:
    """One that has run and ended."""
    spec = Spec("order-worker", list, tmp_path / "order-worker.log", {}, lambda: True, ports=PORTS)
    return Process(spec, pid=4711, born="before")


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ({"event": "stopped", "level": "info", "status": 0}, "exit code 0"),
        ({"event": "stopped", "level": "critical", "status": 1}, "exit code 1"),
        ({"event": "refused to run", "level": "critical", "reason": "port taken"}, "refused to run: port taken"),
        ({"event": "partitions assigned", "level": "info"}, "killed: it said nothing at its end"),
    ],
)
def test_how_a_process_ended_is_read_off_its_last_line(process: Process, last: dict[str, object], said: str) -> None:
    """Ours say that they end; whoever did not was killed."""
    process.spec.log.write_text(json.dumps(last) + "\n", encoding="utf-8")

    state, since, note = ending(process)

    assert (state, note) == ("gone", said)
    assert since is not None


def test_whoever_saw_the_end_is_believed(process: Process) -> None:
    """The exit code that a parent was told, or that it was asked for, goes before the log."""
    process.spec.log.write_text("Traceback: no\n", encoding="utf-8")
    process.ended = in_words(-9)
    assert ending(process)[::2] == ("gone", "killed by SIGKILL")
    process.ended = BY_HAND
    assert ending(process)[::2] == ("stopped", "by quadrille stop")
    assert in_words(3) == "exit code 3"


def test_edited_code_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the package with other contents is another digest, and is named; one that is only touched is not."""
    package = tmp_path / "edited_shop"
    package.mkdir()
    (package / "__init__.py").touch()
    (file := package / "handlers.py").write_text("def react(): ...\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    before, at = code.digest("edited_shop"), file.stat().st_mtime

    file.touch()
    assert code.digest("edited_shop") == before
    file.write_text("def react(): return 1\n", encoding="utf-8")

    assert code.digest("edited_shop") != before
    assert "handlers.py" in code.edited("edited_shop", at - 1)


def test_a_process_knows_that_its_code_was_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its launch on, and as long as it runs that code; one whose start nobody noted is not called edited."""
    (tmp_path / "reloaded_shop").mkdir()
    (file := tmp_path / "reloaded_shop" / "__init__.py").write_text("OLD = 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    log = tmp_path / "part.log"
    part = Process(Spec("part", lambda: command, log, {}, lambda: True, package="reloaded_shop"))
    assert not part.edited
    part.launch()
    try:
        assert not part.edited
        file.write_text("NEW = 2\n", encoding="utf-8")
        assert part.edited
    finally:
        part.kill()


def test_every_process_of_ours_is_known_by_its_package(tmp_path: Path) -> None:
    """The console's too: of one without, `up --reload` would never see that its code was edited."""
    ports = defaultdict[str, int](int)
    roles = [services.role(service, name, {}, tmp_path, ports) for service in SERVICES for name in ROLES]
    made = [services.sandbox(tmp_path, tmp_path, ports), services.console({}, tmp_path, ports), *roles]
    ours = {one.name: one.spec.package for one in made}

    assert [name for name, package in ours.items() if not package] == []
    assert all(any(code.files(package)) for package in ours.values())


def test_a_flow_is_a_document_too() -> None:
    """With -o json the same is told to programs."""
    told = condition.shown([WELL], flow(breakers={"payment": "closed"}))

    assert (told["stuck"], told["now"], told["breakers"]) == (0, "nothing to do: all flows", {"payment": "closed"})


LINE = {
    "ts": "2026-11-21T09:14:03.391Z", "level": "info", "event": "event published", "service": "payment",
    "role": "relay", "release": "1.0", "order_id": ORDER, "event_id": "1", "event_type": "payment.charged",
    "topic": "payment.events", "partition": 7, "offset": 3, "trace_id": "04a7", "sequence": 1, "ms": 2.5,
}  # fmt: skip


def test_an_orders_story_is_told_across_processes_by_time(tmp_path: Path) -> None:
    """Its lines of all logs by time, found by the end of its id; a line for people says who, what and where."""
    other = {**LINE, "order_id": "01a1fd62-57f0-7eeb-be96-e59ce40f9cb2"}
    handled = {**LINE, "ts": "2026-11-21T09:14:03.400Z", "event": "input handled", "outcome": "duplicate"}
    files = {name: tmp_path / f"{name}.log" for name in ("payment-relay", "order-worker")}
    files["payment-relay"].write_text(f"{json.dumps(LINE)}\n{json.dumps(other)}\n", encoding="utf-8")
    files["order-worker"].write_text(f"no JSON at all\n{json.dumps(handled)}\n", encoding="utf-8")

    assert logs.orders(files, ORDER[-8:]) == {ORDER}
    assert logs.orders(files, "0000") == set()
    told = [logs.pretty(name, text) for name, text in logs.merged(files, logs.LogFilter(ORDER))]
    assert told == [
        "09:14:03.391  payment-relay        published  payment.charged  #1  payment.events[7]@3  2.5 ms",
        "09:14:03.400  order-worker         handled  payment.charged  #1  duplicate  payment.events[7]@3  2.5 ms",
    ]
    assert logs.pretty("kafka", "[2026] INFO plain") == "              kafka                [2026] INFO plain"
