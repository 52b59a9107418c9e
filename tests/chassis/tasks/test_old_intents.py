"""An intent that is old, by the time in its id, asks what became of it before it acts; the top is a time as well."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from quadrille.ids import id_time, uuid7
from quadrille.intents import DELAYED, FOR_A_DAY, INQUIRY, TransientError
from quadrille.service import Service
from tests.chassis.support.database import Database, envelope_of, wait_until
from tests.chassis.support.sample_gateway import Oven, done, kitchen_with, working
from tests.chassis.support.sample_messages import BakeCake, CakeBaked, CakeOrdered, CakeReady
from tests.chassis.support.sample_service import Pantry

HOUR_MS = 3_600_000


def inquiring(asked: list[str], known: CakeBaked | None) -> Service[Pantry]:
    """Return a pantry that asks for an old cake, and what it hears."""
    service = kitchen_with()

    @service.outside.looks_up(BakeCake)
    def look_for_cake(intent: BakeCake, oven: Oven) -> CakeBaked | None:
        asked.append(intent.order_id)
        if oven.trouble:
            raise oven.trouble.pop()
        return known

    return service


def ordered_ago(db: Database, hours: float, service: Service[Pantry]) -> None:
    """Order a cake, as it was said so many hours ago."""
    cause = uuid7(int(time.time() * 1000 - hours * HOUR_MS))
    db.commit(envelope_of(CakeOrdered("o-1"), cause), service=service)
    assert id_time(db.one("SELECT id FROM task")) < datetime.now(UTC) - timedelta(hours=hours - 0.1)


@pytest.mark.parametrize(("hours", "first"), [(19.9, []), (20.1, ["o-1"])])
def test_only_an_old_intent_asks_first(db: Database, hours: float, first: list[str]) -> None:
    """Below 20 h it acts; from then on it asks, and does not act where the answer is known."""
    asked: list[str] = []
    service, oven = inquiring(asked, CakeBaked("o-1")), Oven()
    ordered_ago(db, hours, service)

    with working(db, oven, service):
        done(db, 1, CakeReady.type)

    assert (asked, oven.calls["o-1"]) == (first, 0 if first else 1)


def test_what_is_not_known_is_done(db: Database) -> None:
    """Nothing is known of an old one: it is carried out under its key, after asking."""
    asked: list[str] = []
    service, oven = inquiring(asked, None), Oven()
    ordered_ago(db, 30, service)

    with working(db, oven, service):
        done(db, 1, CakeReady.type)

    assert (asked, oven.calls["o-1"]) == (["o-1"], 1)


def test_an_inquiry_without_an_answer_keeps_it_from_acting(db: Database) -> None:
    """Nobody can tell: it climbs and asks again, and acts not before it knows."""
    asked: list[str] = []
    service, oven = inquiring(asked, None), Oven()
    oven.trouble = [TransientError(), TransientError()]
    ordered_ago(db, 30, service)

    with working(db, oven, service):
        done(db, 1, CakeReady.type)

    assert (asked, oven.calls["o-1"]) == (["o-1"] * 3, 1)


def test_age_is_judged_by_the_clock_given(db: Database) -> None:
    """A new intent is old when the clock says so."""
    asked: list[str] = []
    service, oven = inquiring(asked, CakeBaked("o-1")), Oven()
    with working(db, oven, service) as scheduler:
        scheduler.calls.clock = lambda: datetime.now(UTC) + timedelta(hours=21)
        db.commit(envelope_of(CakeOrdered("o-1")), service=service)
        done(db, 1, CakeReady.type)
    assert (asked, oven.calls["o-1"]) == (["o-1"], 0)


def test_who_inquires_must_be_carried_out() -> None:
    """An inquiry for an intent nobody carries out, a second one, or one of another type is refused at import."""
    service = inquiring([], None)
    with pytest.raises(TypeError, match="looked up already"):
        service.outside.looks_up(BakeCake)
    with pytest.raises(TypeError, match="first parameter must be BakeCake"):

        @kitchen_with().outside.looks_up(BakeCake)  # type: ignore[arg-type] # on purpose
        def wrong(intent: CakeOrdered, oven: Oven) -> CakeBaked | None: ...


def test_many_tries_in_a_row_do_not_use_up_a_day(db: Database) -> None:
    """Tried more often than there are delays, in an outage that came and went: it is still tried, till its time."""
    delays = (timedelta(milliseconds=1),) * 2 + (timedelta(hours=1),)
    oven, service = Oven(), kitchen_with(delays=delays)
    oven.trouble = [TransientError()] * 2
    db.commit(envelope_of(CakeOrdered("o-1")), service=service)
    db.rows("UPDATE task SET attempts = 50")

    with working(db, oven, service):
        wait_until(
            lambda: db.emitted() or db.one("SELECT attempts FROM task WHERE due > now() + interval '9 min'") == 51
        )
    assert db.emitted("type") == []


def test_the_ladders_are_those_of_the_saga() -> None:
    """Delayed 1, 5, 30 s, 2, 10 min; an undoing then every 15 min up to 24 h; inquiries soon, 5 s for 5 min, 2 min."""
    assert [one.total_seconds() for one in DELAYED.delays] == [1, 5, 30, 120, 600]
    assert FOR_A_DAY.delays[:5] == DELAYED.delays
    assert {one.total_seconds() for one in FOR_A_DAY.delays[5:]} == {900}
    assert timedelta(hours=23, minutes=45) <= FOR_A_DAY.max_age <= timedelta(hours=24)
    assert [one.total_seconds() for one in INQUIRY.delays[:4]] == [0.5, 1, 2, 4]
    assert {one.total_seconds() for one in INQUIRY.delays[4:-1]} == {5}
    assert sum(INQUIRY.delays[4:-1], timedelta()) == timedelta(minutes=5)
    assert INQUIRY.delays[-1] == timedelta(minutes=2)
