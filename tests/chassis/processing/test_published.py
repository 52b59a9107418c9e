"""What a service published and its restored database has forgotten: not said twice, not otherwise, under its number."""

from __future__ import annotations

from uuid import UUID

import pytest

from quadrille.processing import published
from quadrille.processing.envelope import Envelope, Handled, Parked
from tests.chassis.support.database import Database, envelope_of
from tests.chassis.support.sample_messages import BreadOrdered, LoavesHeld, OrderDropped

FORGOTTEN = "INSERT INTO said_before SELECT id, causationid, type, sequence, %s FROM outbox"
STREAM = "SELECT sequence FROM stream WHERE topic = 'pantry.events' AND key = 'o-1'"


def restored(db: Database, *, kept: bool, available: int = 5) -> Envelope:
    """Handle an order, set the database back to before it; its fact is in the outbox again if it was read back."""
    db.fill(rye=5)
    order = envelope_of(BreadOrdered("o-1", quantity=2))
    assert db.commit(order) == [Handled((LoavesHeld("o-1", 2),))]
    db.rows(FORGOTTEN, kept)
    if not kept:
        db.rows("DELETE FROM outbox")
    db.rows("DELETE FROM inbox")
    db.rows("DELETE FROM hold")
    db.rows("UPDATE level SET available = %s", available)
    return order


def said(db: Database) -> list[tuple[UUID, str, int]]:
    return [tuple(row) for row in db.emitted("id", "type", "sequence")]


def test_what_was_read_back_is_not_said_twice(db: Database) -> None:
    """The input is handled once more for its effect; its fact is in the outbox already, and takes no new number."""
    order = restored(db, kept=True)
    before = said(db)

    assert db.commit(order) == [Handled((LoavesHeld("o-1", 2),))]

    assert (said(db), db.one(STREAM), db.one("SELECT available FROM level")) == (before, 1, 3)
    db.commit(envelope_of(OrderDropped("o-1")))
    assert [row[1:] for row in said(db)] == [("loaves.held", 1), ("loaves.returned", 2)]


def test_what_was_declared_lost_is_said_again_under_its_number(db: Database) -> None:
    """It lies on its topic under it; what comes after goes on behind that."""
    order = restored(db, kept=False)
    assert said(db) == []

    db.commit(order, envelope_of(OrderDropped("o-1")))

    assert [row[1:] for row in said(db)] == [("loaves.held", 1), ("loaves.returned", 2)]


def test_a_published_fact_is_not_contradicted(db: Database) -> None:
    """Two loaves were held, all others know: with one on the shelf it is not refused now, a person decides."""
    order = restored(db, kept=True, available=1)
    before = said(db)

    (outcome,) = db.commit(order)

    assert isinstance(outcome, Parked)
    wanted = ("CONTRADICTS", "published loaves.held before the database was restored, and would not say so now")
    assert (outcome.error_class, outcome.reason) == wanted
    assert (said(db), db.one("SELECT available FROM level")) == (before, 1)
    assert db.parked("line", "error_class", "state") == [("o-1", "CONTRADICTS", "DEAD")]


def test_a_lost_fact_may_be_contradicted(db: Database) -> None:
    """Who declared it lost said that: what is decided now is said."""
    order = restored(db, kept=False, available=1)

    assert isinstance(db.commit(order)[0], Handled)
    assert [row[1] for row in said(db)] == ["loaves.short"]


def test_planted_a_service_that_heeds_nothing_says_it_twice(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the look at what was published the same fact has two numbers."""
    monkeypatch.setattr(published, "heed", lambda *_: None)
    order = restored(db, kept=True)

    db.commit(order)

    assert [row[1:] for row in said(db)] == [("loaves.held", 1), ("loaves.held", 2)]
