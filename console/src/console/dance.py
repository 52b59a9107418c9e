"""The dance: who tells whom what, and how often; drawn with how each service's processes are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from console.domain import TAKES_PART
from console.neighbours import Health

# Who hears what, by who says it and to whom; a test holds it to the handlers' signatures.
HEARS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("order", "inventory"): ("order.placed", "order.confirmed", "order.cancellation_requested"),
    ("order", "payment"): ("order.placed", "order.cancellation_requested"),
    ("order", "notification"): ("order.confirmed", "order.cancelled", "order.cancellation_requested"),
    ("inventory", "order"): (
        "stock.reserved", "stock.rejected", "stock.committed", "stock.released", "stock.release_failed",
        "stock.resolved",
    ),
    ("inventory", "payment"): ("stock.reserved",),
    ("payment", "order"): (
        "payment.charged", "payment.declined", "payment.outcome_unknown", "payment.skipped", "payment.refunded",
        "payment.refund_failed", "payment.resolved",
    ),
    ("payment", "inventory"): ("payment.declined",),
}  # fmt: skip
WIDE, HIGH = 150, 58
PLACES = {"order": (10, 96), "inventory": (245, 10), "payment": (245, 182), "notification": (480, 96)}
MINUTES = 5
GAP = 9
ALONG, ALONG_WIDE = 0.36, 0.8
"""Where on its way an arrow's rate stands; on the one that crosses others, near its end."""
ROLES = "api", "worker", "relay"


@dataclass(frozen=True, slots=True)
class Box:
    """A service with its processes."""

    name: str
    x: int
    y: int
    processes: tuple[Health, ...]
    release: str
    note: str


@dataclass(frozen=True, slots=True)
class Arrow:
    """What one service tells another, and how often a minute."""

    source: str
    target: str
    x1: float
    y1: float
    x2: float
    y2: float
    label_x: float
    label_y: float
    per_minute: float
    types: tuple[tuple[str, int], ...]


def boxes(health: Sequence[Health]) -> list[Box]:
    """Return the services with how their processes are."""
    found = []
    for name in TAKES_PART:
        mine = sorted((one for one in health if one.service == name), key=lambda one: ROLES.index(one.role))
        outside = next((why for one in mine for why in one.why if why.startswith("outside")), "")
        release = next((one.release for one in mine if one.release), "")
        found.append(Box(name, *PLACES[name], tuple(mine), release, outside))
    return found


def arrows(told: Iterable[Mapping[str, Any]]) -> list[Arrow]:
    """Return the arrows, by how many events of each type were published in the last five minutes."""
    counts = {row["type"]: int(row["count"]) for row in told}
    return [_arrow(*pair, tuple((kind, counts.get(kind, 0)) for kind in kinds)) for pair, kinds in HEARS.items()]


def _arrow(source: str, target: str, types: tuple[tuple[str, int], ...]) -> Arrow:
    (ax, ay), (bx, by) = ((x + WIDE / 2, y + HIGH / 2) for x, y in (PLACES[source], PLACES[target]))
    length = ((bx - ax) ** 2 + (by - ay) ** 2) ** 0.5
    dx, dy = (bx - ax) / length, (by - ay) / length
    ax, ay, bx, by = ax - dy * GAP, ay + dx * GAP, bx - dy * GAP, by + dx * GAP
    begin, end = _edge(dx, dy), _edge(dx, dy) + 3
    x1, y1, x2, y2 = ax + dx * begin, ay + dy * begin, bx - dx * end, by - dy * end
    along = ALONG_WIDE if dy == 0 else ALONG
    middle = x1 + (x2 - x1) * along - dy * 14, y1 + (y2 - y1) * along + dx * 13 + 4
    rate = sum(count for _, count in types) / MINUTES
    x1, y1, x2, y2, x, y = (round(one, 1) for one in (x1, y1, x2, y2, *middle))
    return Arrow(source, target, x1, y1, x2, y2, x, y, rate, types)


def _edge(dx: float, dy: float) -> float:
    """Return how far a box's edge is from its middle in a direction."""
    return min(WIDE / 2 / abs(dx) if dx else WIDE, HIGH / 2 / abs(dy) if dy else WIDE)
