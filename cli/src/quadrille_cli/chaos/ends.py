"""Whether the orders of customers have come to their ends, read from the services' databases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import psycopg

from quadrille_cli.chaos.customers import SCENARIOS
from quadrille_cli.chaos.faults import DATABASES, Arena

OVER = ("CANCELLED", "COMPENSATION_FAILED")
STANDS = "SELECT order_id::text, concat_ws(' ', status, reason), states->>'inventory' FROM orders"
DUE = "SELECT count(*) FROM task WHERE due < now() + interval '5 seconds'"


def unended(arena: Arena, taken: Mapping[str, str]) -> list[str]:
    """Return which orders have not ended, by id and kind, or what else is still to be done; a line each."""
    try:
        stands = _stands(arena)
        left = [
            f"order {order} ({kind}), {' '.join(stands.get(order, ('not there',)))}"
            for order, kind in taken.items()
            if order not in stands or not _over(kind, *stands[order])
        ]
        due = {place: arena.sql(place, DUE)[0][0] for place in DATABASES}
    except psycopg.Error as gone:
        return [f"the orders cannot be read: {type(gone).__name__}"]
    return left or [f"{count} tasks are due in {place}" for place, count in due.items() if count]


def counted(arena: Arena, taken: Mapping[str, str]) -> tuple[Counter[str], list[str]]:
    """Return how many orders came to which end, and those that ended as their kind must not."""
    ends, strange = Counter[str](), []
    stands = _stands(arena)
    for order, kind in taken.items():
        end = stands[order][0] if order in stands else "not there"
        ends[end] += 1
        if end not in SCENARIOS[kind].ends:
            strange.append(f"order {order} ({kind}) ended {end}")
    return ends, strange


def _stands(arena: Arena) -> dict[str, tuple[str, str]]:
    return {str(order): (str(end), str(stock)) for order, end, stock in arena.sql("postgres:order", STANDS)}


def _over(kind: str, end: str, stock: str) -> bool:
    confirmed = end == "CONFIRMED" and stock == "COMMITTED" and not SCENARIOS[kind].cancel
    return confirmed or end.startswith(OVER)
