"""Timers, stops and outages of the scheduler: fired once and in time, answers kept, leases respected."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from quadrille.consumer.deserializer import RecordDeserializer
from quadrille.consumer.parking import redrive_open
from quadrille.handlers import HandlerRegistry
from quadrille.intents import TransientError
from quadrille.messages import Event, to_json
from quadrille.observability.tracing import Spans
from quadrille.processing.envelope import Handled, Parked
from quadrille.processing.telemetry import Telemetry
from quadrille.tasks.scheduler import SchedulerPorts, TaskScheduler
from quadrille.testing.in_memory import PlainCodec
from tests.chassis.support import sample_service
from tests.chassis.support.database import Database, envelope_of, wait_until
from tests.chassis.support.kafka_harness import Running
from tests.chassis.support.sample_gateway import Oven, done, kitchen_with, ordered, working
from tests.chassis.support.sample_messages import (
    BeginTasting,
    BreadOrdered,
    CakeOrdered,
    CakeReady,
    Mode,
    TastingBooked,
)
from tests.chassis.support.sample_service import Pantry, Rules


def test_a_timer_fires_once_when_it_is_due_and_not_before(db: Database) -> None:
    """One is due, one in a second, one tomorrow: two fire, the second one not early, after a restart neither again."""
    now = datetime.now(UTC)
    later = now + timedelta(seconds=1)
    due = {"t-1": now - timedelta(minutes=1), "t-2": later, "t-3": now + timedelta(days=1)}
    db.commit(*(envelope_of(TastingBooked(key, at)) for key, at in due.items()))

    with working(db, Oven()):
        wait_until(lambda: len(db.emitted()) == 2)
        assert datetime.now(UTC) >= later
    with working(db, Oven()) as again:
        again.wake()
        wait_until(lambda: again._look_at > 0)  # noqa: SLF001 - it has looked once

    assert sorted(db.emitted()) == [("tasting.begun", "t-1"), ("tasting.begun", "t-2")]
    assert db.rows("SELECT key FROM task") == [("t-3",)]


@dataclass(frozen=True, slots=True)
class TastingTimed(Event):
    """What time a timer's handler was given."""

    order_id: str
    told_at: datetime
    due: datetime


def time_tasting(tasting: BeginTasting, pantry: Pantry) -> TastingTimed:
    """Say what time it is."""
    if not pantry.rules.patient and tasting.order_id == "odd":
        raise ValueError(tasting.order_id)
    return TastingTimed(tasting.order_id, tasting.at, tasting.due)


def test_a_timers_time_is_when_it_was_due_to_the_microsecond(db: Database) -> None:
    """Its id has whole milliseconds, which is earlier: a handler that counts from it would find its time not come."""
    on = HandlerRegistry("pantry", Pantry)
    on.learns(sample_service.book_tasting)
    on.timer(time_tasting)
    service = replace(sample_service.service(), on=on)
    due = datetime.now(UTC).replace(microsecond=123_999) - timedelta(seconds=2)
    db.commit(envelope_of(TastingBooked("t-1", due)), envelope_of(TastingBooked("odd", due)), service=service)

    with working(db, Oven(), service):
        wait_until(lambda: len(db.emitted()) == 1 and db.parked("error_class") == [("HANDLER",)])
    with db.connect() as tx:
        service = replace(service, rules=Rules(patient=True))
        assert [type(one) for one in redrive_open(tx, service, RecordDeserializer({}, PlainCodec()))] == [Handled]

    timed = [PlainCodec().decode(payload, TastingTimed) for (payload,) in db.emitted("payload")]
    assert {(one.order_id, one.told_at, one.due) for one in timed} == {("t-1", due, due), ("odd", due, due)}


@pytest.mark.proves("late.timer")
def test_timers_wait_until_the_topics_are_read(db: Database) -> None:
    """While there are unread events no timer fires, however long it is due; intents do not wait for that."""
    db.commit(envelope_of(TastingBooked("t-1", datetime.now(UTC) - timedelta(minutes=5))))
    ordered(db, "o-1")

    read = threading.Event()
    with working(db, Oven(), caught_up=read.is_set) as scheduler:
        wait_until(lambda: db.emitted() == [("cake.ready", "o-1")])
        read.set()
        scheduler.wake()
        wait_until(lambda: len(db.emitted()) == 2)


def test_a_timer_that_cannot_be_handled_parks_alone(db: Database) -> None:
    """One raises, one has a body of another shape: both are parked and held; the third fires."""
    now = datetime.now(UTC)
    db.commit(*(envelope_of(TastingBooked(key, now)) for key in ("unlucky-1", "t-2", "t-3")))
    db.rows("UPDATE task SET body = '{}' WHERE key = 't-2'")

    with working(db, Oven()):
        wait_until(lambda: db.emitted() == [("tasting.begun", "t-3")])
        wait_until(lambda: len(db.parked()) == 2)
    assert sorted(db.parked("type", "error_class")) == [("begin_tasting", "HANDLER"), ("begin_tasting", "UNHEARD")]
    assert db.rows("SELECT leased_until = 'infinity' FROM task") == [(True,), (True,)]


CUT = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'pantry' AND pid <> pg_backend_pid()"
)


def test_an_answer_outlives_the_database(db: Database) -> None:
    """Sessions are cut while the oven bakes: the answer stays in hand and is committed later, without a second call."""
    ordered(db, *(f"o-{n}" for n in range(5)))
    oven = Oven()
    oven.door.clear()
    with working(db, oven):
        wait_until(lambda: len(oven.calls) == 5)
        assert db.one(CUT) >= 1
        oven.door.set()
        done(db, 5)
    assert set(oven.calls.values()) == {1}


def test_a_halved_batch_leases_nothing_to_a_process_that_may_forget_it(db: Database) -> None:
    """Half of it may be committed when the other half meets an outage: its intents are simply due now."""
    batch = [envelope_of(CakeOrdered("o-1")), envelope_of(BreadOrdered("o-2", mode=Mode.FORCED))]

    outcomes = db.commit(*batch, service=kitchen_with(), room=5)

    assert [type(o) for o in outcomes] == [Handled, Parked]
    assert db.rows("SELECT leased_until, attempts FROM task") == [(None, 0)]


def test_who_lost_a_lease_changes_nothing_about_it(db: Database) -> None:
    """A call that took too long ends in trouble: a row that is leased anew since, or held, stays as it is."""
    ordered(db, "o-1", "o-2")
    oven = Oven()
    oven.door.clear()
    with working(db, oven):
        wait_until(lambda: len(oven.calls) == 2)
        db.rows("UPDATE task SET attempts = 2, leased_until = now() + interval '30 s' WHERE key = 'o-1'")
        db.rows("UPDATE task SET leased_until = 'infinity' WHERE key = 'o-2'")
        before = db.rows("SELECT task::text FROM task ORDER BY key")
        oven.trouble = [TransientError(), TransientError()]
        oven.door.set()
    assert db.rows("SELECT task::text FROM task ORDER BY key") == before


def test_a_lease_too_short_for_a_call_is_given_back(db: Database) -> None:
    """An intent that waited too long in hand is not called: somebody else may have it, at once and uncounted."""
    service, oven = kitchen_with(), Oven()
    [outcome] = db.commit(envelope_of(CakeOrdered("o-1")), service=service, room=1)
    assert isinstance(outcome, Handled)
    stale = replace(outcome.handed[0], expires=time.monotonic() + 5)

    with working(db, oven, service) as scheduler:
        scheduler.calls.take([stale])
        done(db, 1)
    assert oven.calls == {"o-1": 1}
    assert (
        db.one("SELECT convert_from(substr(payload, 6), 'UTF8') FROM outbox") == to_json(CakeReady("o-1", 1)).decode()
    )


def test_a_stop_finishes_what_is_under_way_and_gives_back_the_rest(db: Database) -> None:
    """Ten calls are under way, thirty wait: ten answers are committed, the others are due now and untried."""
    ordered(db, *(f"o-{n}" for n in range(40)))
    oven = Oven()
    oven.door.clear()
    oven.raw = 3  # three answers say the intent again, with nobody left to carry it out
    scheduler = TaskScheduler(kitchen_with(), db.connect, Telemetry(Spans.disabled()), SchedulerPorts(oven))
    run = Running(scheduler.run)
    try:
        wait_until(lambda: len(oven.calls) == 10)
        wait_until(lambda: db.one("SELECT count(*) FROM task WHERE leased_until > now()") == 40)
        run.stop.set()
        wait_until(lambda: scheduler.room() == 0 and scheduler.calls.closed)
    finally:
        oven.door.set()
    run.end()

    assert sum(oven.calls.values()) == 10
    assert len(db.emitted()) == 7
    free = "SELECT count(*) FROM task WHERE leased_until IS NULL AND attempts = 0 AND due <= now()"
    assert db.one(free) == db.one("SELECT count(*) FROM task") == 33


def test_what_comes_after_the_end_is_left_to_others(db: Database) -> None:
    """The consumer loop's last batch hands on to a scheduler that has ended: no error, no call; the lease runs out."""
    service, oven = kitchen_with(), Oven()
    with working(db, oven, service) as scheduler:
        pass
    [outcome] = db.commit(envelope_of(CakeOrdered("o-1")), service=service, room=1)
    assert isinstance(outcome, Handled)

    scheduler.accept(outcome)

    assert (scheduler.room(), oven.calls) == (0, Counter())
