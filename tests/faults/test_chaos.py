"""`quadrille chaos`: many kinds of faults, two at a time, on a stack behind proxies under load; the auditor judges.

A short run here, by count; ``quadrille chaos --for 10m --seed N`` goes on as long as one has time for.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from quadrille_cli.chaos import report
from quadrille_cli.chaos.customers import Customers
from quadrille_cli.chaos.faults import DEAD, KINDS, ROLES, WELL, Arena, Fault, kinds
from quadrille_cli.chaos.nemesis import Entry, Nemesis, Result
from quadrille_cli.chaos.readiness import AGAIN, LATE, SILENT, Answer, Truth
from quadrille_cli.chaos.schedule import Strike, schedule
from tests.stack.conftest import quadrille

SEED, ORDERS, FAULTS = 4, 300, 14
READY = Answer(ready=True)


@pytest.mark.timeout(3600)  # of looks, not of seconds: a machine that has other things to do takes longer for them
def test_a_short_run_is_clean(arena: Arena, tmp_path: Path) -> None:
    """300 orders, 14 faults of as many kinds, two at a time: all ends, nothing is lost or doubled, no /readyz lies."""
    strikes = schedule(SEED, kinds(proxied=True), count=FAULTS)
    customers = Customers(arena.stack, SEED, rate=10.0, log=tmp_path / "clients.jsonl", count=ORDERS)
    result = Nemesis(arena, strikes, customers, print).run()
    shown = "\n".join(report.lines(result))
    assert result.code == 0, shown
    assert (len(result.log), result.orders) == (FAULTS, ORDERS)
    assert result.healed_seconds is not None
    assert max(map(len, shown.splitlines())) <= report.COLUMNS


def test_a_schedule_is_its_seeds(tmp_path: Path) -> None:
    """The same seed prints the same plan, another one another; a long one has every kind, two at a time."""
    code, printed = quadrille("chaos", "--for", "20m", "--seed", "7", "--plan", "-o", "json")
    assert code == 0
    assert quadrille("chaos", "--for", "20m", "--seed", "7", "--plan", "-o", "json") == (0, printed)
    assert quadrille("chaos", "--for", "20m", "--seed", "8", "--plan", "-o", "json") != (0, printed)
    strikes = schedule(7, kinds(proxied=True), 1200)
    assert [one["fault"] for one in json.loads(printed)] == [str(one.fault) for one in strikes]
    assert {one.fault.kind for one in strikes} == set(KINDS)
    assert len(KINDS) >= 20
    assert {one.lane for one in strikes} == {0, 1}
    code, printed = quadrille("chaos", "--for", "20m", "--plan", "--data", str(tmp_path))
    assert code == 0
    assert "link" not in printed


def test_a_stack_that_is_not_its_own_is_not_broken_unasked(arena: Arena) -> None:
    """Without --yes a named stack is left alone: exit code 2, and nothing is placed or struck."""
    before = [process.pid for process in arena.stack.processes.values()]
    code, printed = quadrille("chaos", "--for", "10s", "--data", str(arena.stack.data))
    assert code == 2
    assert "--yes" in printed
    assert [process.pid for process in arena.stack.processes.values()] == before


@pytest.mark.timeout(1800)
def test_interrupted_it_heals_first(arena: Arena, tmp_path: Path) -> None:
    """Ctrl-C in the midst of two faults: it says so, and every process runs and none is frozen; nothing is judged."""
    began: list[str] = []

    def say(line: str) -> None:
        began.append(line)
        if len(began) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    held = [
        Strike(1, 0, 0.0, 600.0, told=False, fault=Fault("worker frozen", "payment-worker")),
        Strike(2, 1, 0.0, 600.0, told=False, fault=Fault("database killed", "postgres:inventory")),
    ]
    customers = Customers(arena.stack, SEED, rate=2.0, log=tmp_path / "clients.jsonl")
    result = Nemesis(arena, held, customers, say).run()
    assert result.interrupted
    assert result.report is None
    assert "interrupted" in "\n".join(report.lines(result))
    assert [str(entry.fault) for entry in result.log if entry.trouble] == []
    for name, process in arena.stack.processes.items():
        if name != "aot-training":
            assert process.running, name
            assert psutil.Process(process.pid).status() != psutil.STATUS_STOPPED, name
            process.await_ready()


def test_a_role_that_says_it_is_ready_without_what_it_needs_lies() -> None:
    """Ready for 80 looks with its database dead is a lie, told once; whoever has said so once has not lied."""
    faults = [Fault("database killed", "postgres:order")]
    truth = Truth()
    for _ in range(LATE - 1):
        truth.note(faults, dict.fromkeys(ROLES, READY))
    assert truth.lies == []
    assert truth.untold(faults[0]) == ["order-api", "order-worker", "order-relay"]
    truth.note(faults, {**dict.fromkeys(ROLES, READY), "order-relay": SILENT})
    truth.note(faults, dict.fromkeys(ROLES, READY))
    assert [lie.partition(" ")[0] for lie in truth.lies] == ["order-api", "order-worker"]
    assert truth.untold(faults[0]) == []


def test_a_role_that_lacks_nothing_and_is_never_ready_lies() -> None:
    """Not ready for 120 looks with all it needs is a lie; one ready look in between, or an unsure fault, is none."""
    truth, silent = Truth(), dict.fromkeys(ROLES, SILENT)
    for _ in range(AGAIN - 1):
        truth.note([Fault("registry killed", "registry")], silent)
    truth.note([Fault("slot dropped", "postgres:order")], {**silent, "payment-api": READY})
    for _ in range(AGAIN - 1):
        truth.note([], {"order-relay": SILENT, "payment-api": SILENT})
    assert truth.lies != []
    assert not [lie for lie in truth.lies if lie.startswith(("order-", "payment-api"))]


def test_every_kind_says_who_cannot_work() -> None:
    """A dead server is missed by those who need it, a dead registry or processor by nobody; an API needs no broker."""
    assert Fault("broker killed", "kafka").standing("order-api") == WELL
    assert Fault("broker killed", "kafka").standing("order-relay") == DEAD
    assert Fault("read-only", "postgres:order").standing("order-relay") == WELL
    assert Fault("database frozen", "postgres:order").standing("inventory-worker") == WELL
    assert {Fault("outside killed", "sandbox").standing(role) for role in ROLES} == {WELL}


def test_what_is_wrong_is_in_the_exit_code(tmp_path: Path) -> None:
    """An order that did not end, one that ended otherwise, a lie, a fall, a fault that failed: each is exit code 1."""
    del tmp_path
    entry = Entry(1, Fault("broker killed", "kafka"), 0.0, 1.0, "KafkaError")
    for field, value in [
        ("waiting", ["order x"]), ("strange", ["order x ended y"]), ("fallen", ["kafka: end"]), ("log", [entry]),
        ("troubles", ["POST: 500"]), ("truth", Truth(lies=["a lie"])),
    ]:  # fmt: skip
        result = Result(1, 1.0, 1)
        assert result.code == 8  # not judged
        setattr(result, field, value)
        assert result.code == 1, field
        assert any(line.startswith("wrong: ") for line in report.lines(result))


def test_the_page_names_every_kind() -> None:
    """docs/chaos.md has every kind of fault in its table, and no other."""
    page = (Path(__file__).parents[2] / "docs" / "chaos.md").read_text("utf-8")
    table = page.partition("| kind | on |")[2].partition("\n\n")[0]
    named = [name.strip() for row in table.splitlines()[2:] for name in row.split("|")[1].split(",")]
    assert sorted(named) == sorted(KINDS)
