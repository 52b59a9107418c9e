"""Sagas given up for a service that is silent: while it is, however many they are, and never on doubt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from quadrille.consumer.heartbeat import SILENT_SECONDS
from quadrille.consumer.outage import AT_ONCE, OutageGuard
from quadrille.observability.trace_context import new_trace
from quadrille.observability.tracing import Spans
from quadrille.processing.telemetry import Telemetry
from quadrille.service import Outages, Tx, WaitingSaga
from tests.chassis.consumer.test_heartbeat import Worker
from tests.chassis.support.kafka_harness import Kitchen
from tests.chassis.support.sample_messages import FillShelf, MealOrdered

GIVEN_UP = "SELECT sku, available FROM level WHERE sku LIKE 'waits-%%' ORDER BY sku"
TRACE = new_trace().trace_id


class Watch:
    """A worker's guard over sagas that wait for order, each of which it gives up by filling a shelf."""

    def __init__(self, kitchen: Kitchen, waits: int) -> None:
        self.worker, self.asked = Worker(kitchen), list[tuple[str, int]]()
        self.left = [f"waits-{n:03}" for n in range(waits)]
        self.guard = self.guarding("order")
        self.worker.look()
        self.worker.now += 30
        self.worker.look()
        self.worker.hear("order", "payment")

    def guarding(self, *fail_fast: str) -> OutageGuard:
        """Return a guard with a policy for these."""
        worker, spans = self.worker, Spans("pantry", "worker", "", None)
        outages = Outages(frozenset(fail_fast), self.waiting, lambda key, source: FillShelf(key, len(source)))
        return OutageGuard(worker.service, outages, worker.heartbeat, spans, Telemetry(spans), lambda: worker.now)

    def waiting(self, tx: Tx, source: str, most: int) -> list[WaitingSaga]:
        """Return the sagas whose shelf is not filled yet."""
        self.asked.append((source, most))
        done = {sku for (sku,) in tx.execute("SELECT sku FROM level").fetchall()}
        return [WaitingSaga(key, TRACE) for key in self.left if key not in done][:most]

    def wait(self, seconds: float) -> None:
        """Let time pass while the worker looks."""
        for _ in range(round(seconds * 2)):
            self.worker.wait(0.5)
            self.guard.poll(self.worker.tx, self.worker.assignment)

    def given_up(self) -> list[Any]:
        """Return which sagas were given up, and what the command said."""
        return self.worker.db.rows(GIVEN_UP)


@pytest.fixture
def kitchen(kitchen: Kitchen) -> Kitchen:
    """A group that has just begun, with a table of beats nobody has written in."""
    kitchen.db.rows("TRUNCATE canary, level, outbox")
    kitchen.start_here()
    return kitchen


@pytest.fixture
def watch(kitchen: Kitchen) -> Iterator[Watch]:
    """Two sagas that wait for order, which was heard a moment ago."""
    made = Watch(kitchen, 2)
    yield made
    made.worker.tx.close()


def test_what_waits_for_the_silent_is_given_up_once(watch: Watch) -> None:
    """Not before it is called silent; then each saga by one command, which names who is away."""
    watch.wait(SILENT_SECONDS - 1)
    assert (watch.given_up(), watch.asked) == ([], [])

    watch.wait(3)

    assert ("service.silent", "order") in watch.worker.told()
    assert watch.given_up() == [("waits-000", 5), ("waits-001", 5)]
    assert set(watch.asked) == {("order", AT_ONCE)}


def test_what_comes_while_it_is_silent_is_given_up_too(watch: Watch) -> None:
    """As long as it is not heard again: afterwards nothing is asked for any more."""
    watch.wait(SILENT_SECONDS + 2)
    watch.left.append("waits-002")
    watch.wait(2)
    assert len(watch.given_up()) == 3

    watch.worker.hear("order")
    asked = len(watch.asked)
    watch.left.append("waits-003")
    watch.wait(2)

    assert (len(watch.given_up()), len(watch.asked)) == (3, asked)


def test_more_than_a_batch_is_given_up_without_a_rest(kitchen: Kitchen) -> None:
    """A full batch is followed by the next one in the loop's next round."""
    watch = Watch(kitchen, AT_ONCE + 1)
    while not watch.given_up():
        watch.wait(0.5)
    assert len(watch.given_up()) == AT_ONCE

    watch.guard.poll(watch.worker.tx, watch.worker.assignment)

    assert len(watch.given_up()) == AT_ONCE + 1
    watch.worker.tx.close()


@pytest.mark.parametrize("doubt", ["unread", "away ourselves", "not caught up"])
def test_nothing_is_given_up_on_doubt(watch: Watch, kitchen: Kitchen, doubt: str) -> None:
    """It was called silent, but we may have missed its return: nothing ends before we know."""
    left, watch.left = watch.left, []
    watch.wait(SILENT_SECONDS + 2)
    assert ("service.silent", "order") in watch.worker.told()

    watch.left = left
    if doubt == "unread":
        kitchen.tell(MealOrdered("o-1"), 2)
        kitchen.flush()
    if doubt == "away ourselves":
        watch.worker.heartbeat.suspend()
    watch.worker.assignment.caught_up = doubt != "not caught up"
    watch.wait(SILENT_SECONDS - 1)

    assert watch.given_up() == []


def test_a_policy_for_one_nobody_hears_is_refused(watch: Watch) -> None:
    """Whose heartbeat is not heard can never be called silent: the worker does not begin with such a policy."""
    with pytest.raises(TypeError, match="hears no heartbeat of nobody"):
        watch.guarding("order", "nobody")
