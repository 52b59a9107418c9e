"""Each guard of attempts, announcements and old intents is planted with a fault, and its promise turns red."""

from __future__ import annotations

import pytest

from quadrille import intents
from quadrille.processing import batch as committing
from quadrille.processing import compensation, outbox
from quadrille.tasks import executor, leases, scheduler
from tests.chassis.processing import test_compensation, test_outbox
from tests.chassis.processing.test_batch_plants import Plant, sow
from tests.chassis.support.database import Database
from tests.chassis.tasks import test_breaker_recovery, test_old_intents

PLANTS = {
    "a stream keyed by the service is numbered like an order's": Plant(
        committing, "_collect", "if fact.key == batch.service.name", "if fact is None",
        lambda db: test_outbox.test_findings_of_several_workers_at_once_are_numbered_without_a_gap(db, None),
    ),
    "an announcement numbers without its key's lock": Plant(
        outbox, "lock", "tx.execute(LOCK_KEYS, [wanted])", "pass",
        lambda db: test_outbox.test_findings_of_several_workers_at_once_are_numbered_without_a_gap(db, "o-1"),
    ),
    "a stream does not count on": Plant(
        outbox, "ADD_NUMBERED", "s.sequence + 1", "s.sequence",
        test_outbox.test_a_handler_may_raise_a_finding_in_its_services_name,
    ),
    "a row that is not ours any more is told of": Plant(
        scheduler, "TaskScheduler._postpone", "if row.id in due ... due[row.id]", "if row ... due.get(row.id)",
        test_compensation.test_a_retry_is_told_if_and_only_if_the_row_was_put_off,
    ),
    "a silent handler counts as success": Plant(
        compensation, "_means_failure", "return reaction is not None", "return False",
        test_compensation.test_an_answer_of_failure_is_told_as_one_though_its_handler_is_silent,
    ),
    "a dropped intent counts as tried": Plant(
        executor, "step_of", "_dropped", "_never", test_compensation.test_a_drop_is_no_try,
    ),
    "a lost worker's try is forgotten": Plant(
        scheduler, "TaskScheduler._tell_lost", "if told", "if not told",
        test_compensation.test_a_try_whose_worker_died_is_told_by_the_next,
    ),
    "an old intent acts without asking": Plant(
        executor, "IntentExecutor._ask", ">= OLD", "< OLD",
        lambda db: test_old_intents.test_only_an_old_intent_asks_first(db, 20.1, ["o-1"]),
    ),
    "rows hastened come all at once": Plant(
        leases, "HASTEN", "random() *", "0.5 *", test_breaker_recovery.test_what_falls_due_after_the_healing_is_spread,
    ),
    "many tries use up the day": Plant(
        intents, "RetryPolicy.is_exhausted", " and age >= self.max_age", "",
        test_old_intents.test_many_tries_in_a_row_do_not_use_up_a_day,
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", PLANTS)
def test_a_planted_fault_turns_its_promise_red(db: Database, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """With one line changed, the test that promises the contrary fails."""
    sow(PLANTS[fault], monkeypatch)
    with pytest.raises(Exception):  # noqa: B017, PT011 - an assertion, or what the fault made the code raise
        PLANTS[fault].promise(db)
