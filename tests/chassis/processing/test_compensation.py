"""Every try to undo something is told on saga.audit, with what became of it and when the next one is due."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from quadrille.consumer.deserializer import RecordDeserializer
from quadrille.consumer.parking import redrive_open
from quadrille.handlers import HandlerRegistry
from quadrille.intents import Gateway, TransientError
from quadrille.messages import Event
from quadrille.processing.envelope import Handled, Parked
from quadrille.service import Service
from quadrille.system_messages import CompensationAnswered, RetryCompensation
from quadrille.testing.in_memory import PlainCodec
from tests.chassis.support import sample_service
from tests.chassis.support.database import Database, envelope_of, wait_until
from tests.chassis.support.sample_gateway import Oven, done, kitchen_with, ordered, working
from tests.chassis.support.sample_messages import (
    BakeCake,
    BreadOrdered,
    CakeBurnt,
    CakeOrdered,
    FillShelf,
    LoavesReturned,
    Mode,
    OrderDropped,
    ShelfFilled,
)
from tests.chassis.support.sample_service import Cake, Pantry, Rules

TOLD = """
SELECT sequence, convert_from(substr(payload, 6), 'UTF8')::jsonb, causationid, aggregateid FROM outbox
 WHERE aggregatetype = 'saga.audit' AND type = 'compensation.attempted' ORDER BY aggregateid, sequence"""


@dataclass(frozen=True, slots=True)
class CakeRuined(Event):
    """The undoing failed; an event with a field ``error_class`` says so."""

    order_id: str
    error_class: str
    code: str
    attempts: int


def ruin(answer: CakeBurnt, work: Pantry) -> CakeRuined | None:
    """Say so once; of a cake that is spoiled already there is nothing more to say."""
    if (cake := work.cakes.get(answer.order_id)) and cake.state == "SPOILED":
        return None
    work.cakes.put(answer.order_id, Cake(answer.order_id, "SPOILED"))
    return CakeRuined(answer.order_id, "TRANSIENT_EXHAUSTED", "unanswered", answer.attempts)


def keep_loaves(dropped: OrderDropped, _: Pantry) -> CakeRuined:
    """Fail to give back."""
    return CakeRuined(dropped.order_id, "BUSINESS", "sealed", 1)


def undoing(service: Service[Pantry] | None = None) -> Service[Pantry]:
    """Return a pantry in which a cake undoes what was held: the intent is a compensation's."""
    on = HandlerRegistry("pantry", Pantry)
    on.step(sample_service.hold_loaves)
    on.compensates(sample_service.hold_loaves)(sample_service.want_cake)
    on.compensates(sample_service.hold_loaves)(sample_service.return_loaves)
    on.answer(sample_service.take_cake)
    on.answer(ruin)
    on.answer(sample_service.let_go)
    on.command(sample_service.fill_shelf)
    return replace(service or kitchen_with(), on=on)


def told(db: Database) -> list[dict[str, Any]]:
    """Return what was told, in sequence; numbered from 1 without a gap per order."""
    rows = db.rows(TOLD)
    for key in {row[3] for row in rows}:
        assert [n for n, _, _, k in rows if k == key] == list(range(1, 1 + sum(k == key for *_, k in rows)))
    return [body for _, body, *_ in rows]


def shape(db: Database) -> list[tuple[Any, ...]]:
    """Return attempt, outcome and error class of all that was told."""
    return [(one["attempt"], one["outcome"], one["error_class"]) for one in told(db)]


@pytest.mark.proves("F7")
def test_every_try_outside_is_told_with_the_next_one(db: Database) -> None:
    """Two tries without an answer and one with: RETRY, RETRY, DONE, numbered, each with when it goes on."""
    [order] = ordered(db, "o-1", service=undoing())
    oven, began = Oven(), datetime.now(UTC)
    oven.trouble = [TransientError("card 4111"), ValueError("a bug")]

    with working(db, oven, undoing()):
        done(db, 1)

    assert shape(db) == [(1, "RETRY", "HANDLER"), (2, "RETRY", "TRANSIENT"), (3, "DONE", None)]
    first, second, last = told(db)
    assert (first["participant"], first["step"], first["order_id"]) == ("pantry", "hold_loaves", "o-1")
    assert (first["error"], second["error"], last["error"]) == ("ValueError", "TransientError", None)
    due = [datetime.fromisoformat(one["next_attempt_at"]) for one in (first, second)]
    assert began < due[0] < due[1] < datetime.now(UTC)
    assert last["next_attempt_at"] is None
    assert len({row[2] for row in db.rows(TOLD)}) == 1, "the cause is the intent's row"
    assert order.id not in {row[2] for row in db.rows(TOLD)}


def test_the_end_of_the_ladder_is_told_as_failed(db: Database) -> None:
    """Past the top the last try is FAILED, with the class its event gives."""
    ordered(db, "o-1", service=undoing())
    oven = Oven()
    oven.trouble = [TransientError()] * 20

    with working(db, oven, undoing()):
        done(db, 1, "cake.ruined")

    assert shape(db)[-1][1:] == ("FAILED", "TRANSIENT_EXHAUSTED")
    assert {outcome for _, outcome, _ in shape(db)[:-1]} == {"RETRY"}
    assert [attempt for attempt, *_ in shape(db)] == list(range(1, sum(oven.calls.values()) + 1))


def test_an_answer_of_failure_is_told_as_one_though_its_handler_is_silent(db: Database) -> None:
    """What an answer means is read off its handler's signature: nothing more to say is not success."""
    ordered(db, "o-1", service=undoing())
    db.rows("UPDATE cake SET state = 'SPOILED'")
    outside = Gateway("pantry")

    @outside.executes(BakeCake)
    def burn(intent: BakeCake, oven: Oven) -> CakeBurnt:
        return CakeBurnt(intent.order_id)

    with working(db, Oven(), replace(undoing(), outside=outside)):
        done(db, 0)

    assert shape(db) == [(1, "FAILED", "cake_burnt")]


def test_a_drop_is_no_try(db: Database) -> None:
    """An intent dropped before its turn was never tried: nothing is told."""
    ordered(db, "o-1", service=undoing())
    db.rows("UPDATE cake SET state = 'UNWANTED'")

    with working(db, Oven(), undoing(kitchen_with(sample_service.may_bake))):
        done(db, 1, "cake.spoiled")

    assert told(db) == []


def test_a_try_whose_worker_died_is_told_by_the_next(db: Database) -> None:
    """A lease that ran out was a try of which nobody knows: LOST, then the next one."""
    ordered(db, "o-1", service=undoing())
    db.rows("UPDATE task SET attempts = 1, leased_until = now() - interval '1 s'")

    with working(db, Oven(), undoing()):
        done(db, 1)

    assert shape(db) == [(1, "RETRY", "LOST"), (2, "DONE", None)]


def test_what_no_compensation_says_is_not_told(db: Database) -> None:
    """Where a cake undoes nothing its tries are nobody's audit."""
    ordered(db, "o-1")
    oven = Oven()
    oven.trouble = [TransientError()]

    with working(db, oven):
        done(db, 1)

    assert told(db) == []


def test_an_answer_that_was_parked_is_told_when_it_is_handled(db: Database) -> None:
    """A handler that chokes on the answer tells nothing; redriven, it tells the try it was."""
    ordered(db, "o-1", service=undoing())
    oven = Oven()
    oven.odd = True
    with working(db, oven, undoing()):
        wait_until(lambda: db.parked("error_class") == [("HANDLER",)])
    assert told(db) == []

    service = replace(undoing(), rules=Rules(patient=True))
    with db.connect() as tx:
        assert [type(one) for one in redrive_open(tx, service, RecordDeserializer({}, PlainCodec()))] == [Handled]
    assert shape(db) == [(1, "DONE", None)]


def test_an_undoing_inside_the_database_is_one_try(db: Database) -> None:
    """Given back: DONE; nothing to give back: DONE as well, it acknowledges; absorbed: no try; in one batch or more."""
    db.fill(rye=5)
    db.commit(envelope_of(BreadOrdered("o-1")), envelope_of(BreadOrdered("o-3")), service=undoing())
    drops = [envelope_of(OrderDropped(order)) for order in ("o-1", "o-2", "o-1")]

    db.commit(*drops, service=undoing())

    assert [(one["order_id"], one["attempt"], one["outcome"]) for one in told(db)] == [
        ("o-1", 1, "DONE"),
        ("o-2", 1, "DONE"),
    ]
    assert [row[2] for row in db.rows(TOLD)] == [drops[0].id, drops[1].id]


def test_a_persons_retry_is_told_like_the_rest(db: Database) -> None:
    """Whoever says what a compensation says has tried to undo: a command too."""
    on = HandlerRegistry("pantry", Pantry)
    on.step(sample_service.hold_loaves)
    on.compensates(sample_service.hold_loaves)(keep_loaves)

    @on.command
    def try_again(fill: FillShelf, _: Pantry) -> CakeRuined | ShelfFilled:
        return CakeRuined(fill.sku, "BUSINESS", "still sealed", 2)

    service = replace(kitchen_with(), on=on)
    db.commit(envelope_of(OrderDropped("o-1")), service=service)
    db.commit(envelope_of(FillShelf("o-1", 1)), service=service)

    assert shape(db) == [(1, "FAILED", "BUSINESS"), (2, "FAILED", "BUSINESS")]
    assert [one["error"] for one in told(db)] == ["sealed", "still sealed"]


def test_a_persons_retry_in_vain_is_told_too(db: Database) -> None:
    """A try that changes nothing says no event, only its reply; the audit hears of it all the same."""
    on = HandlerRegistry("pantry", Pantry)
    on.step(sample_service.hold_loaves)
    on.compensates(sample_service.hold_loaves)(sample_service.return_loaves)

    @on.command
    def try_again(command: RetryCompensation, _: Pantry) -> LoavesReturned | CompensationAnswered:
        return CompensationAnswered(
            command.order_id, "STILL_FAILED" if command.order_id == "o-1" else "NOT_OWED", "HELD"
        )

    db.commit(
        envelope_of(RetryCompensation("o-1")),
        envelope_of(RetryCompensation("o-2")),
        service=replace(kitchen_with(), on=on),
    )

    assert [(one["order_id"], one["step"]) for one in told(db)] == [("o-1", "hold_loaves")]
    assert shape(db) == [(1, "FAILED", "BUSINESS")]


def test_a_retry_is_told_if_and_only_if_the_row_was_put_off(db: Database) -> None:
    """A row that somebody else has leased meanwhile is not ours to tell of, nor to put off."""
    ordered(db, "o-1", service=undoing())
    oven = Oven()
    oven.door.clear()
    oven.trouble = [TransientError()]
    with working(db, oven, undoing(kitchen_with(delays=(timedelta(seconds=60),)))):
        wait_until(lambda: oven.calls)
        db.rows("UPDATE task SET attempts = attempts + 1, leased_until = now() + interval '1 h'")
        oven.door.set()
        wait_until(lambda: not oven.trouble)
    assert told(db) == []
    assert db.rows("SELECT attempts, leased_until > now() FROM task") == [(2, True)]


def test_a_refused_batch_tells_nothing_twice(db: Database) -> None:
    """Halved and handled again, each undoing is told once, and the guilty one not at all."""
    db.fill(rye=5, oat=0)
    db.commit(envelope_of(BreadOrdered("o-1")), service=undoing())
    forced = envelope_of(BreadOrdered("o-9", "oat", mode=Mode.FORCED))

    outcomes = db.commit(envelope_of(OrderDropped("o-1")), forced, envelope_of(OrderDropped("o-2")), service=undoing())

    assert [type(one) for one in outcomes] == [Handled, Parked, Handled]
    assert [one["order_id"] for one in told(db)] == ["o-1", "o-2"]


def test_the_body_is_the_contracts(db: Database) -> None:
    """The fields are those of compensation.attempted, no more and no fewer."""
    db.commit(envelope_of(OrderDropped("o-1")), service=undoing())
    [(payload,)] = db.rows("SELECT payload FROM outbox WHERE aggregatetype = 'saga.audit'")
    assert set(json.loads(payload[5:])) == {
        "order_id", "participant", "step", "attempt", "outcome", "error_class", "error", "next_attempt_at",
    }  # fmt: skip


def test_cakes_ordered_count_as_no_try_yet(db: Database) -> None:
    """An intent said is a promise, no try: it is told when a lease of it ends."""
    db.commit(envelope_of(CakeOrdered("o-1")), service=undoing())
    assert told(db) == []
