"""The SQL of findings: what is to be looked at, what was found and closed, what is still to be said."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from console.findings.domain import Discrepancy
from quadrille.service import Tx

CHANGED = """
SELECT order_id, changed_at FROM order_view WHERE changed_at > %b ORDER BY changed_at LIMIT %b"""
NOW = "SELECT clock_timestamp()"
OPEN = "SELECT DISTINCT order_id FROM finding WHERE closed_at IS NULL"
OF_ORDERS = "SELECT finding_id, order_id, kind FROM finding WHERE closed_at IS NULL AND order_id = ANY(%b) FOR UPDATE"
ADD = """
INSERT INTO finding (finding_id, order_id, kind, expected, found, evidence, mender, event)
VALUES (%b, %b, %b, %b, %b, %b, %b, %b)"""
SEEN = """
UPDATE finding SET seen_at = clock_timestamp(), expected = %b, found = %b, mender = %b, event = %b
 WHERE finding_id = %b"""
CLOSE = "UPDATE finding SET closed_at = clock_timestamp() WHERE finding_id = ANY(%b)"
UNSAID = """
SELECT finding_id::text, order_id, kind, expected, found, evidence, closed_at IS NOT NULL, said FROM finding
 WHERE said < CASE WHEN closed_at IS NULL THEN 1 ELSE 2 END ORDER BY raised_at LIMIT 100"""
SAID = "UPDATE finding SET said = %b WHERE finding_id = %b::uuid"
COUNT = "SELECT kind, count(*) FROM finding WHERE closed_at IS NULL GROUP BY 1"
LET_GO = "DELETE FROM finding WHERE closed_at < clock_timestamp() - %b::interval AND said = 2"
RECORDS = """
SELECT type, event_id::text, topic, partition, "offset", key FROM event
 WHERE key = ANY(%b) AND fault IS NULL AND topic = ANY(%b) ORDER BY number"""
NOTE = """
INSERT INTO reconciliation (at, outcome, detail, judged, moving, judged_at)
VALUES (clock_timestamp(), %(outcome)b, %(detail)b, %(judged)b, %(moving)b,
        CASE WHEN %(outcome)b = 'JUDGED' THEN clock_timestamp() END)
ON CONFLICT (only_one) DO UPDATE SET at = excluded.at, outcome = excluded.outcome, detail = excluded.detail,
  judged = excluded.judged, moving = excluded.moving,
  judged_at = coalesce(excluded.judged_at, reconciliation.judged_at)"""
TOPICS = ("order.events", "inventory.events", "payment.events", "notification.events")


class Place(NamedTuple):
    """Where an event lies."""

    type: str
    event_id: str
    topic: str
    partition: int
    offset: int

    @property
    def shown(self) -> str:
        """It in a line."""
        return f"{self.type} {self.event_id} at {self.topic}[{self.partition}]@{self.offset}"


@dataclass(frozen=True, slots=True)
class Found:
    """A discrepancy of an order, with what shows it."""

    order_id: str
    discrepancy: Discrepancy
    evidence: Sequence[str]


def changed(tx: Tx, since: datetime, most: int) -> tuple[list[str], datetime]:
    """Return the orders of which something was heard since, at most so many, and from when on to ask next."""
    (now,) = tx.execute(NOW).fetchone() or (since,)
    rows = tx.execute(CHANGED, [since, most]).fetchall()
    return [row[0] for row in rows], (rows[-1][1] if len(rows) == most else now)


def open_orders(tx: Tx) -> list[str]:
    """Return the orders of which something is found."""
    return [row[0] for row in tx.execute(OPEN)]


def keep(tx: Tx, judged: Collection[str], found: Sequence[Found], new_id: Sequence[UUID]) -> None:
    """Keep what was found of the orders judged, as one transaction; what is so no more is closed."""
    with tx.transaction():
        known = {(row[1], row[2]): row[0] for row in tx.execute(OF_ORDERS, [list(judged)])}
        for one, identity in zip(found, new_id, strict=True):
            kind, expected, so, repair = one.discrepancy
            mends = [repair.service, repair.event] if repair else [None, None]
            if there := known.pop((one.order_id, kind.value), None):
                tx.execute(SEEN, [expected, so, *mends, there])
            else:
                tx.execute(ADD, [identity, one.order_id, kind.value, expected, so, list(one.evidence), *mends])
        if known:
            tx.execute(CLOSE, [list(known.values())])


def unsaid(tx: Tx) -> list[tuple[Any, ...]]:
    """Return what is still to be said."""
    return tx.execute(UNSAID).fetchall()


def said(tx: Tx, finding_id: str, how_far: int) -> None:
    """Note how far a finding is said."""
    tx.execute(SAID, [how_far, finding_id])


def counted(tx: Tx) -> dict[str, int]:
    """Return how many are open, by kind."""
    return dict(tx.execute(COUNT).fetchall())


def records_of(tx: Tx, orders: Sequence[str]) -> dict[str, list[Place]]:
    """Return where the events of orders lie, as far as they are kept here."""
    found: dict[str, list[Place]] = {}
    for *place, key in tx.execute(RECORDS, [list(orders), list(TOPICS)]):
        found.setdefault(key, []).append(Place(*place))
    return found


def note(tx: Tx, told: Mapping[str, object]) -> None:
    """Note how a round went."""
    tx.execute(NOTE, told)


def let_go(tx: Tx, age: object) -> None:
    """Let go what was closed long ago."""
    tx.execute(LET_GO, [age])
