"""How long undoing takes, by the databases' own commit times: from the event that failed an order to its last undo.

The event that failed it is the first of ``FAILED`` to be committed; all is undone when the last participant's
acknowledgement is committed; the order then hears of that and ends. Nothing is asked while a run lasts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import psycopg

from quadrille.db.conninfo import pinned

if TYPE_CHECKING:
    from quadrille_cli.stack import Stack

FAILED = ("stock.rejected", "payment.declined", "order.cancellation_requested")
SETTLED = {
    "inventory": ("stock.rejected", "stock.released"),
    "payment": ("payment.declined", "payment.skipped", "payment.refunded"),
}
ENDED = "order.cancelled"
COMMITTED = """
SELECT aggregateid, type, pg_xact_commit_timestamp(xmin) FROM outbox
 WHERE type = ANY(%b) AND occurred_at >= %b"""  # its age is narrowed by occurred_at's index
TYPES = frozenset({*FAILED, *(kind for kinds in SETTLED.values() for kind in kinds), ENDED})


@dataclass(frozen=True, slots=True)
class Undone:
    """How long one order's undoing took, in seconds from the commit of the event that failed it."""

    order_id: str
    undone: float
    cancelled: float


def measure(stack: Stack, orders: Collection[str], since: datetime) -> list[Undone] | None:
    """Return every one of these orders that was undone; None where the databases keep no commit times.

    ``since`` is before the first of them was placed, by this machine's clock.
    """
    wanted, found = set(orders), dict[str, dict[str, datetime]]()
    for service in ("order", *SETTLED):
        with psycopg.connect(pinned(stack.database_url(service, "app")), autocommit=True) as db:
            if db.execute("SHOW track_commit_timestamp").fetchone() != ("on",):
                return None
            rows: list[tuple[Any, ...]] = db.execute(COMMITTED, [sorted(TYPES), since]).fetchall()
        for order, kind, at in rows:
            if order in wanted:
                found.setdefault(order, {})[kind] = at
    return list(_undone(found))


def _undone(found: dict[str, dict[str, datetime]]) -> Iterator[Undone]:
    for order, facts in found.items():
        settled = [max((facts[kind] for kind in kinds if kind in facts), default=None) for kinds in SETTLED.values()]
        known = [at for at in settled if at]
        if ENDED not in facts or len(known) < len(SETTLED):
            continue
        failed = min(facts[kind] for kind in FAILED if kind in facts)
        yield Undone(order, (max(known) - failed).total_seconds(), (facts[ENDED] - failed).total_seconds())
