"""The head of the audit chain is said when it is time, and only when it is another one."""

from __future__ import annotations

from datetime import timedelta

from quadrille.consumer.sealing import Sealing
from quadrille.db import audit
from tests.chassis.support import sample_service
from tests.chassis.support.database import Database


def act(db: Database) -> str:
    """Do something by hand; the chain's new head."""
    with db.connect() as tx:
        audit.record(tx, audit.Action("ann", "eat", "a", "hungry"))
        return audit.head(tx) or ""


def test_a_head_is_said_once_when_it_is_time(db: Database) -> None:
    """Nothing is said before its time, of an empty chain, or again of the same head; a new one is."""
    db.rows("TRUNCATE audit")
    now = [0.0]
    sealing = Sealing(sample_service.service(), timedelta(hours=1), lambda: now[0])

    def said(hours: float) -> int:
        now[0] += hours * 3600
        with db.connect() as tx:
            sealing.look(tx)
        return int(db.one("SELECT count(*) FROM outbox WHERE type = 'audit.sealed'"))

    assert said(2) == 0
    act(db)
    assert [said(0.5), said(0.5), said(1)] == [0, 1, 1]
    act(db)
    assert [said(0.5), said(0.5)] == [1, 2]


def test_a_head_that_was_said_is_a_row_for_ever(db: Database) -> None:
    """A head that is no row's any more is strange: its chain was cut, or written anew."""
    db.rows("TRUNCATE audit")
    first, last = act(db), act(db)

    with db.connect() as tx:
        assert audit.strange(tx, [first, last]) == []
        assert audit.strange(tx, [first, "00" * 32]) == ["00" * 32]
    db.rows("DELETE FROM audit WHERE number = 2")
    with db.connect() as tx:
        assert audit.flaw(tx) is None
        assert audit.strange(tx, [first, last]) == [last]
