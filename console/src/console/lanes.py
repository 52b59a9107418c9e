"""The picture of an order: a lane for each service, time going down, each event a dot with its cause's arrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from console.domain import TAKES_PART

LANES = (*TAKES_PART, "outside", "operations")
LEFT, WIDTH, TOP, STEP = 150, 172, 46, 34
SHOWN = 60
UNDOES = frozenset({
    "order.cancellation_requested", "order.cancelled", "stock.released", "stock.release_failed", "payment.refunded",
    "payment.refund_failed", "payment.skipped", "order.compensation_failed", "stock.resolved", "payment.resolved",
})  # fmt: skip
FAILS = frozenset({"stock.rejected", "payment.declined", "notification.failed", "order.stuck", "finding.raised",
                   "order.compensation_failed", "payment.refund_failed", "stock.release_failed", "input.parked",
                   "input.dead"})  # fmt: skip
BY_OUTSIDE = frozenset({"payment", "notification"})
"""Services whose own events may come of an answer from outside, which is no event."""
WAIT_SECONDS = 1.0
DETAIL_MAX = 90


@dataclass(frozen=True, slots=True)
class Dot:
    """An event in the picture and in its table."""

    id: str
    type: str
    lane: str
    x: int
    y: int
    label: str
    kind: str
    at: Any
    since_ms: int
    waited_ms: int
    cause: str
    detail: str
    place: str
    fault: str | None
    from_x: int | None
    from_y: int | None
    outside_x: int | None

    @property
    def from_left(self) -> bool:
        """Whether nothing comes in from the right, where the label stands."""
        return self.outside_x is None and (self.from_x is None or self.from_x <= self.x)


@dataclass(frozen=True, slots=True)
class Picture:
    """The whole of it; ``left_out`` are events beyond what is drawn."""

    dots: tuple[Dot, ...]
    lanes: tuple[tuple[str, int], ...]
    width: int
    height: int
    left_out: int


def picture(events: Sequence[Mapping[str, Any]]) -> Picture:
    """Return the picture of an order's events, oldest first."""
    used = {lane_of(event) for event in events} | {"order"}
    if any(service in used for service in BY_OUTSIDE):
        used.add("outside")
    lanes = {lane: LEFT + n * WIDTH for n, lane in enumerate(name for name in LANES if name in used)}
    dots: dict[str, Dot] = {}
    before = None
    for event in events[:SHOWN]:
        dot = _dot(event, events[0], before, dots, lanes)
        dots[dot.id] = dot
        before = event
    height = TOP + STEP * len(dots) + 10
    width = LEFT + WIDTH * len(lanes) + 40
    return Picture(tuple(dots.values()), tuple(lanes.items()), width, height, max(0, len(events) - SHOWN))


def lane_of(event: Mapping[str, Any]) -> str:
    """Return the lane of an event: who said it on its own topic; what is for operators has one of its own."""
    source = str(event["source"])
    own = event["topic"] == f"{source}.events"
    return source if own and source in LANES else "operations"


def detail_of(body: Mapping[str, Any] | None) -> str:
    """Return a body in a line, without the order's id."""
    told = {name: value for name, value in (body or {}).items() if name != "order_id" and value is not None}
    line = ", ".join(f"{name} {_said(value)}" for name, value in told.items())
    return line if len(line) <= DETAIL_MAX else line[: DETAIL_MAX - 1] + "…"


def _said(value: object) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_said(one)}" for name, one in value.items())
    if isinstance(value, list):
        return "; ".join(_said(one) for one in value)
    return str(value)


def _dot(
    event: Mapping[str, Any], first: Mapping[str, Any], before: Mapping[str, Any] | None, dots: Mapping[str, Dot],
    lanes: Mapping[str, int],
) -> Dot:  # fmt: skip
    lane, kind, cause = lane_of(event), str(event["type"]), dots.get(str(event["causation"]))
    outside = None
    if cause is None and lane in BY_OUTSIDE:
        outside = lanes["outside"]
    told = cause.type if cause else "an answer of the outside" if outside else "a command, or a timer"
    waited = _ms(event["at"] - before["at"]) if before else 0
    return Dot(
        str(event["event_id"]), kind or "unreadable", lane, lanes[lane], TOP + STEP * len(dots) + STEP // 2,
        _label(kind, event), _kind(kind, event), event["at"], _ms(event["at"] - first["at"]), waited, told,
        detail_of(event["body"]), f"{event['topic']}[{event['partition']}]@{event['offset']}", event["fault"],
        cause.x if cause else None, cause.y if cause else None, outside,
    )  # fmt: skip


def _label(kind: str, event: Mapping[str, Any]) -> str:
    if event["fault"]:
        return "unreadable"
    apart = (event["body"] or {}).get("kind") if kind.startswith("notification.") else None
    return kind.partition(".")[2] + (f" ({apart})" if apart else "") if "." in kind else kind


def _kind(kind: str, event: Mapping[str, Any]) -> str:
    """Return how a dot is drawn: forward, undo, or fail."""
    if event["fault"] or kind in FAILS:
        return "fail"
    return "undo" if kind in UNDOES else "forward"


def _ms(span: Any) -> int:  # noqa: ANN401 - a timedelta
    return int(span.total_seconds() * 1000)
