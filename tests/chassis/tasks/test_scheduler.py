"""Intents after the commit: carried out under one key until an answer is in, each once, never forgotten."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from quadrille.ids import event_id
from quadrille.intents import Decision, TransientError
from quadrille.messages import to_json
from quadrille.processing.envelope import Duplicate, Handled, Parked, Record
from quadrille.tasks import scheduler as schedulers
from tests.chassis.support import sample_service
from tests.chassis.support.database import Database, envelope_of, wait_until
from tests.chassis.support.sample_gateway import SOON, Oven, done, kitchen_with, ordered, working
from tests.chassis.support.sample_messages import (
    BakeCake,
    CakeBaked,
    CakeOrdered,
    CakeReady,
    OrderDropped,
    TastingBooked,
)
from tests.chassis.support.sample_service import Pantry

ROW = "SELECT attempts, leased_until IS NOT NULL, error_class, error FROM task"


@pytest.mark.proves("L10")
def test_an_intent_that_nobody_took_is_leased_carried_out_and_ended(db: Database) -> None:
    """Said and committed, then the process was gone: the next one finds it, and handling the answer ends its row."""
    [order] = ordered(db, "o-1")
    assert db.rows(ROW) == [(0, False, None, None)]

    oven = Oven()
    with working(db, oven):
        done(db, 1)

    row = event_id("pantry", order.id, "bake_cake", 0)
    assert oven.calls == {"o-1": 1}
    assert db.emitted("type", "causationid", "sequence") == [("cake.ready", event_id("pantry", row, "answer", 0), 1)]


def test_an_intent_is_handed_on_already_leased(db: Database) -> None:
    """With room in hand the row is born leased, so no second worker takes it; the answer counts one try."""
    service, oven = kitchen_with(), Oven()
    [outcome] = db.commit(envelope_of(CakeOrdered("o-1")), service=service, room=1)
    assert isinstance(outcome, Handled)
    assert [entry.intent for entry in outcome.handed] == [BakeCake("o-1")]
    assert db.rows(ROW) == [(1, True, None, None)]

    with working(db, oven, service) as one, working(db, oven, service):
        one.accept(outcome)
        done(db, 1)
    assert oven.calls == {"o-1": 1}


def test_there_is_never_more_in_hand_than_there_is_room(db: Database) -> None:
    """Of three intents two fit: the third stays due now, for whoever looks next."""
    outcomes = db.commit(*(envelope_of(CakeOrdered(f"o-{n}")) for n in range(3)), service=kitchen_with(), room=2)

    assert [len(o.handed) for o in outcomes if isinstance(o, Handled)] == [1, 1, 0]
    assert db.one("SELECT count(*) FROM task WHERE leased_until IS NULL AND attempts = 0 AND due <= now()") == 1


@pytest.mark.proves("L10")
def test_a_crash_between_call_and_commit_asks_again_under_the_same_key(db: Database) -> None:
    """The call was made, its answer never came in: when the lease is over another worker asks again; said once."""
    ordered(db, "o-1")
    oven = Oven()
    oven.calls["o-1"] = 1  # by the one that is dead now
    db.rows("UPDATE task SET attempts = 1, leased_until = now() + interval '0.2 s'")

    with working(db, oven):
        done(db, 1)

    assert oven.calls == {"o-1": 2}
    assert (
        db.one("SELECT convert_from(substr(payload, 6), 'UTF8') FROM outbox") == to_json(CakeReady("o-1", 2)).decode()
    )


def test_an_answer_fed_twice_has_one_effect(db: Database) -> None:
    """In one batch, or late from a lease that had run out: Done once, then Seen."""
    [order] = ordered(db, "o-1")
    row = event_id("pantry", order.id, "bake_cake", 0)
    answer = envelope_of(CakeBaked("o-1"), event_id("pantry", row, "answer", 0), from_task=row)
    late = envelope_of(CakeBaked("o-1", raw=True), answer.id, from_task=row)

    assert [type(o) for o in db.commit(answer, answer)] == [Handled, Duplicate]
    assert db.commit(late) == [Duplicate()]
    assert (db.emitted("type"), db.rows("SELECT * FROM task")) == ([("cake.ready",)], [])


@pytest.mark.parametrize("trouble", [TransientError("nothing known"), ValueError("a bug")])
def test_trouble_climbs_the_ladder_until_an_answer_comes(db: Database, trouble: Exception) -> None:
    """What cannot be known yet, and a bug too, is tried again delay by delay; the result knows how often."""
    ordered(db, "o-1")
    oven = Oven()
    oven.trouble = [trouble, trouble]

    with working(db, oven):
        done(db, 1)

    assert oven.calls == {"o-1": 3}
    assert (
        db.one("SELECT convert_from(substr(payload, 6), 'UTF8') FROM outbox") == to_json(CakeReady("o-1", 3)).decode()
    )


def test_a_row_tells_what_keeps_it_waiting(db: Database) -> None:
    """Between two tries the row names the kind of trouble by its class, never by its values, and nobody has it."""
    ordered(db, "o-1")
    oven = Oven()
    oven.trouble = [TransientError("card 4111")]
    with working(db, oven, kitchen_with(delays=(timedelta(seconds=60),))):
        wait_until(lambda: db.rows(ROW) == [(1, False, "TRANSIENT", "TransientError")])
        assert db.one("SELECT due > now() + interval '20 s' FROM task")


def test_past_the_top_of_the_ladder_the_intent_is_answered_as_exhausted(db: Database) -> None:
    """Three tries with two delays, then its handler hears that every try failed."""
    ordered(db, "o-1")
    oven = Oven()
    oven.trouble = [TransientError()] * 9

    with working(db, oven):
        done(db, 1, "cake.spoiled")
    assert oven.calls == {"o-1": 3}


def test_without_a_top_the_last_rung_repeats(db: Database) -> None:
    """What has no answer for giving up is never given up."""
    ordered(db, "o-1")
    oven, service = Oven(), kitchen_with(top=False)
    oven.trouble = [TransientError()] * 5

    with working(db, oven, service):
        done(db, 1)
    assert oven.calls == {"o-1": 6}


def test_intents_that_lead_to_one_another_climb_one_ladder(db: Database) -> None:
    """Said again because of its answer, an intent goes on where the tries stopped: it is not asked for without end."""
    ordered(db, "o-1")
    oven, service = Oven(), kitchen_with(delays=(*SOON, timedelta(seconds=60)), goes_on=True)
    oven.raw = 9
    with working(db, oven, service):
        wait_until(lambda: db.rows("SELECT attempts FROM task WHERE due > now() + interval '20 s'") == [(3,)])

    assert oven.calls == {"o-1": 3}
    ordered(db, "o-2", service=service)
    assert db.rows("SELECT attempts FROM task WHERE key = 'o-2' AND due <= now()") == [(0,)]


def test_an_intent_said_anew_begins_at_the_bottom(db: Database) -> None:
    """Planted: without going on, what is said again because of its answer is tried at once each time."""
    ordered(db, "o-1")
    oven = Oven()
    oven.raw = 9
    with working(db, oven, kitchen_with(delays=(timedelta(seconds=60),))):
        done(db, 1)

    assert oven.calls == {"o-1": 10}


def test_an_intent_told_to_wait_is_not_called_and_not_counted(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """WAIT puts it off without a try; when it may go, its first try is its first."""
    monkeypatch.setattr(schedulers, "WAIT_SECONDS", 0.05)
    ordered(db, "o-1")
    db.rows("UPDATE cake SET state = 'HELD_BACK'")
    oven, rulings = Oven(), Counter[Decision]()

    def when(intent: BakeCake, work: Pantry) -> Decision:
        ruling = sample_service.may_bake(intent, work)
        rulings[ruling] += 1
        assert datetime.now(UTC) - intent.at < timedelta(seconds=20)
        return ruling

    with working(db, oven, kitchen_with(when)):
        wait_until(lambda: rulings[Decision.DEFER] > 3)
        assert not oven.calls
        db.rows("UPDATE cake SET state = 'WANTED'")
        done(db, 1)
    assert (
        db.one("SELECT convert_from(substr(payload, 6), 'UTF8') FROM outbox") == to_json(CakeReady("o-1", 1)).decode()
    )


def test_an_intent_to_be_dropped_is_answered_so(db: Database) -> None:
    """DROP never calls: the handler hears that it was dropped, and the row is gone; the next one goes its way."""
    ordered(db, "o-1", "o-2")
    db.commit(envelope_of(OrderDropped("o-1")))
    oven = Oven()

    with working(db, oven, kitchen_with(sample_service.may_bake)):
        done(db, 1, "cake.spoiled")
        done(db, 1, "cake.ready")
    assert oven.calls == {"o-2": 1}


def test_the_first_hand_on_is_judged_too(db: Database) -> None:
    """Ordered and dropped in one batch: the intent is not handed on, it stays for the scheduler to drop."""
    outcomes = db.commit(
        envelope_of(CakeOrdered("o-1")),
        envelope_of(OrderDropped("o-1")),
        service=kitchen_with(sample_service.may_bake),
        room=5,
    )

    assert [o.handed for o in outcomes if isinstance(o, Handled)] == [(), ()]
    assert db.rows(ROW) == [(0, False, None, None)]


def test_one_intent_that_cannot_be_read_or_judged_does_not_stop_the_others(db: Database) -> None:
    """A body of another shape, and a precondition that raises, are rescheduled with their reason; the rest is baked."""
    ordered(db, "o-1", "o-2", "o-3", "o-4")
    db.rows("UPDATE task SET body = '{}' WHERE key = 'o-1'")
    oven = Oven()

    def when(intent: BakeCake, work: Pantry) -> Decision:
        if intent.order_id == "o-2":
            raise KeyError(intent.order_id)
        return sample_service.may_bake(intent, work)

    slow = (timedelta(seconds=60),)
    with working(db, oven, kitchen_with(when, slow)):
        wait_until(lambda: len(db.emitted()) == 2)
        found = "SELECT key, leased_until, error_class, error FROM task ORDER BY key"
        wanted = [("o-1", None, "UNREADABLE", "ValidationError"), ("o-2", None, "HANDLER", "KeyError")]
        wait_until(lambda: db.rows(found) == wanted)


def test_two_workers_share_the_work_without_doubling(db: Database) -> None:
    """Sixty intents and thirty timers for two schedulers: each carried out once, by one of them."""
    ordered(db, *(f"o-{n}" for n in range(60)))
    now = datetime.now(UTC)
    db.commit(*(envelope_of(TastingBooked(f"t-{n}", now - timedelta(seconds=n))) for n in range(30)))
    oven, other = Oven(), Oven()

    with working(db, oven), working(db, other):
        done(db, 60)

    assert oven.calls + other.calls == Counter({f"o-{n}": 1 for n in range(60)})
    assert db.one("SELECT count(*) FROM outbox WHERE type = 'tasting.begun'") == 30


def test_an_answer_that_cannot_be_handled_parks_alone_and_is_not_asked_again(db: Database) -> None:
    """Its intent is held, so the outside is not called again for an answer that is here already."""
    ordered(db, "o-1")
    oven = Oven()
    oven.odd = True
    with working(db, oven):
        wait_until(lambda: len(db.parked()) == 1)
        oven.odd = False
        ordered(db, "o-2")
        wait_until(lambda: db.emitted() == [("cake.ready", "o-2")])
    assert oven.calls == {"o-1": 1, "o-2": 1}


def test_an_answer_that_says_the_intent_again_starts_over(db: Database) -> None:
    """Put back into the oven twice: two new rows, each with its own answer, and one cake in the end."""
    ordered(db, "o-1")
    oven = Oven()
    oven.raw = 2
    with working(db, oven):
        done(db, 1)
    assert oven.calls == {"o-1": 3}
    assert db.one("SELECT count(*) FROM inbox") == 4


def test_a_parked_answer_is_the_only_one(db: Database) -> None:
    """Two answers to one intent, the first parked: the second is Seen, and both have one row in parked."""
    [order] = ordered(db, "o-1")
    row = event_id("pantry", order.id, "bake_cake", 0)
    body = CakeBaked("o-1", odd=True)
    odd = envelope_of(body, event_id("pantry", row, "answer", 0), from_task=row, record=Record(to_json(body)))

    assert [type(o) for o in db.commit(odd)] == [Parked]
    assert db.commit(odd, replace(odd, body=CakeBaked("o-1"))) == [Duplicate(), Duplicate()]
    assert len(db.parked()) == 1
