"""Two faults at a time under a stream of orders: all goes on by itself, and every /readyz tells the truth meanwhile.

A few pairs here; ``python -m tests.faults SEED PAIRS`` runs as many as one has time for.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import pytest

from quadrille_cli.chaos.faults import ROLES
from quadrille_cli.chaos.readiness import SILENT, Answer
from quadrille_cli.stack.processes import Process
from tests.faults.customers import Customers
from tests.faults.drill import Drill
from tests.faults.faults import AREAS, SINGLES, Fault, Pair, every, pairs
from tests.faults.readiness import STEADY, lies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quadrille_cli.stack import Stack
    from tests.conftest import Shop

DATABASE_THEN_WORKER = Pair(1, Fault("killed", "postgres:inventory"), Fault("frozen", "inventory-worker"), 3, 3, 0, 2)
DATABASE_AND_BROKER = Pair(2, Fault("read-only", "postgres:payment"), Fault("frozen", "kafka"), 1, 5, 0, 4)
IDLE_RELAYS = Pair(3, Fault("read-only", "postgres:order"), Fault("frozen", "postgres:payment"), 0, 3, 1, 1)
SAMPLE = every(14)[:2]
"""Of the 66 pairs of single faults; ``python -m tests.faults 14 0`` (in `make test-all`) runs all of them."""
DEAF_AND_LYING = """
import sys
from quadrille.app import main
from quadrille.consumer.loop import ConsumerLoop
from quadrille.ops import server
ConsumerLoop._recover = lambda self, trouble: self.stop.wait()
async def ready(self): return True, {"ready": True, "checks": {}}
server.OpsServer.ready = ready
main("inventory", ["worker"])
"""
READY = Answer(ready=True)


@contextmanager
def planted(stack: Stack, name: str, program: str) -> Iterator[None]:
    """A process that runs another program for a while."""
    usual = stack.process(name)
    other = Process(replace(usual.spec, command=lambda: [usual.spec.command()[0], "-c", program]))
    usual.stop()
    stack.processes[name] = other
    try:
        other.start()
        yield
    finally:
        other.kill()
        stack.processes[name] = usual
        usual.start()


@pytest.mark.timeout(900)  # of looks, not of seconds: a machine that has other things to do takes longer for them
@pytest.mark.parametrize("pair", [DATABASE_THEN_WORKER, DATABASE_AND_BROKER, IDLE_RELAYS, *SAMPLE], ids=str)
def test_a_pair_of_faults_heals_by_itself(shop: Shop, stack: Stack, pair: Pair) -> None:
    """Every order accepted meanwhile comes to its end, nothing is lost or doubled, nobody says ready who is not."""
    customers = Customers(stack, seed=1)
    drill = Drill(shop, customers, print)
    with customers:
        drill.run(pair)
    drill.reckon()
    assert drill.found == []


def _has_joined(stack: Stack) -> bool:
    return any("partitions assigned" in line for line in stack.process("inventory-worker").log_tail(200))


@pytest.mark.timeout(900)
def test_a_worker_that_never_hears_again_and_says_it_is_ready_is_found(shop: Shop, stack: Stack) -> None:
    """Planted: after an outage of its database inventory's worker hears nothing, and its /readyz says it does."""
    customers = Customers(stack, seed=1)
    drill = Drill(shop, customers, print, looks=(4, 12))
    with planted(stack, "inventory-worker", DEAF_AND_LYING), customers:
        shop.until(lambda: _has_joined(stack), "it has partitions, which its readiness does not say")
        found = " ".join(drill.run(replace(DATABASE_THEN_WORKER, second=Fault("killed", "registry"))))
    assert "inventory-worker says it is ready with postgres:inventory killed, asked 4 times" in found
    assert "orders do not end" in found
    shop.until(lambda: not drill.left(), "all is over, with the worker as it is")


def test_a_lie_is_one_however_it_is_told() -> None:
    """Ready without what it needs, or not ready though it has all: a lie; one late check of a busy machine is none."""
    faults = [Fault("read-only", "postgres:order"), Fault("killed", "registry")]
    true = {role: Answer(ready=False) if role in ("order-api", "order-worker") else READY for role in ROLES}
    assert lies(faults, [true] * STEADY) == []
    assert lies(faults, [{**true, "payment-api": SILENT}, true, true]) == []
    (ready,) = lies(faults, [true, {**true, "order-api": READY}])
    assert ready == "order-api says it is ready with postgres:order read-only, asked 2 times"
    (flapping,) = lies(faults, [*[{**true, "payment-api": SILENT}] * STEADY, true])
    assert flapping == "payment-api, which lacks nothing, says it is not ready: no answer"
    (last,) = lies(faults, [true, {**true, "payment-api": SILENT}])
    assert last == flapping


def test_a_broker_is_needed_by_those_who_hear_or_say() -> None:
    """Without Kafka an API is ready and takes orders; workers and relays are not."""
    faults = [Fault("frozen", "kafka"), Fault("frozen", "sandbox")]
    told = lies(faults, [dict.fromkeys(ROLES, READY)])
    assert [line.partition(" ")[0] for line in told] == [role for role in ROLES if not role.endswith("-api")]


def test_a_seed_repeats_its_pairs_and_reaches_every_kind() -> None:
    """The same seed is the same run, a longer one begins with it; two faults are never on one process."""
    run = list(pairs(7, 400))
    assert run[:30] == list(pairs(7, 30))
    assert run[:30] != list(pairs(8, 30))
    assert all(pair.first.target != pair.second.target for pair in run)
    struck = {(fault.kind, fault.target) for pair in run for fault in (pair.first, pair.second)}
    assert struck == {(kind, target) for kinds, targets, _ in AREAS.values() for kind in kinds for target in targets}


def test_every_pair_of_the_twelve_comes_once() -> None:
    """Sixty-six pairs, none on one process, in the order and as far apart as the seed says."""
    run = every(7)
    assert run == every(7) != every(8)
    assert {frozenset((pair.first, pair.second)) for pair in run} == {
        frozenset(two) for two in combinations(SINGLES, 2)
    }
    assert len(run) == len({pair.number for pair in run}) == 66
    assert len({fault.target for fault in SINGLES}) == len(SINGLES) == 12
