"""The promises of scheduler and consumer loop are seen to break: each of these faults turns a test of theirs red."""

from __future__ import annotations

import psycopg
import pytest

from quadrille.consumer import loop
from quadrille.kafka.topics import StoppedError
from quadrille.tasks import leases
from tests.chassis.consumer import test_loop
from tests.chassis.processing.test_batch_plants import Plant, sow
from tests.chassis.support.database import Database
from tests.chassis.support.kafka_harness import Kitchen
from tests.chassis.tasks import test_scheduler, test_scheduler_outages

LEASES = {
    "a lease is not fenced": Plant(
        leases, "RESCHEDULE", " AND a.attempts = n.attempts AND a.leased_until < 'infinity'", "",
        test_scheduler_outages.test_who_lost_a_lease_changes_nothing_about_it,
    ),
    "a leased row is leased again": Plant(
        leases, "LEASE_DUE", "(leased_until IS NULL OR leased_until < now())", "attempts < 9",
        test_scheduler.test_an_intent_is_handed_on_already_leased,
    ),
    "waiting is an attempt": Plant(
        leases, "RESCHEDULE", "a.attempts - n.untried", "a.attempts - 0 * n.untried",
        test_scheduler_outages.test_a_lease_too_short_for_a_call_is_given_back,
    ),
}  # fmt: skip


def _unused(db: Database) -> None:
    """The promise needs a broker, too: called by the test itself."""


@pytest.mark.parametrize("fault", LEASES)
def test_a_fault_in_a_lease_turns_its_promise_red(db: Database, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """With one line of a lease changed, the test that promises the contrary fails."""
    sow(LEASES[fault], monkeypatch)

    with pytest.raises((AssertionError, psycopg.Error)):
        LEASES[fault].promise(db)


def test_a_timer_before_its_commit_is_noticed(kitchen: Kitchen, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caught up as soon as everything is read, committed or not: its promise turns red."""
    line = "self._commit(inputs)"
    sow(Plant(loop, "ConsumerLoop._round", line, f"self.assignment.look(); {line}", _unused), monkeypatch)

    with pytest.raises(AssertionError):
        test_loop.test_a_worker_has_caught_up_only_when_what_it_read_is_committed(kitchen, db)


def test_a_stop_that_blames_the_topic_is_noticed(
    kitchen: Kitchen, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of a partition never taken in hand stops the worker with a reason: its promise turns red."""
    line = "if out_of_range:"
    blames = f"if error.code() == KafkaError._AUTO_OFFSET_RESET: raise StoppedError(error.str())\n    {line}"
    sow(Plant(loop, "ConsumerLoop._judge", line, blames, _unused), monkeypatch)

    def twenty_stops() -> None:  # the client does not say so at each
        for _ in range(20):
            test_loop.test_a_stop_while_an_assignment_waits_is_a_clean_stop(kitchen, db)

    with pytest.raises(StoppedError):
        twenty_stops()
