"""Documents of evidence as the services give them, for cases made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from quadrille_why import Case
from quadrille_why.case import SERVICES

ORDER = "01a1fd62-57f0-7eeb-be96-e59ce40f9cc6"
NOW = datetime(2026, 11, 21, 22, 0, 22, tzinfo=UTC)
HEARS = {
    "order": ["stock.reserved", "stock.rejected", "payment.charged", "payment.refunded", "stock.released"],
    "inventory": ["order.placed", "order.cancellation_requested", "order.confirmed"],
    "payment": ["order.placed", "stock.reserved", "order.cancellation_requested"],
    "notification": ["order.confirmed", "order.cancelled", "order.cancellation_requested"],
}
USUAL = {"done": [0.3, 1.2], "undone": [0.2, 1.9]}


def at(clock: str) -> str:
    """A time of the day all this happens on."""
    return f"2026-11-21T{clock}.000Z"


def look(**changed: Any) -> dict[str, Any]:  # noqa: ANN401 - members of a document
    """Order's look of an order that waits for the money since 21:42:22."""
    return {
        "status": "INVENTORY_RESERVED", "final": False, "reason": None, "attention": None, "amount_minor": 2500,
        "currency": "EUR", "owed": [{"owes": "payment", "fact": "payment.charged"}], "since_at": at("21:42:22"),
        "placed_at": at("21:42:19"), "deadline_at": at("21:47:19"), "trace_id": "04a7", "resolved": None,
        "history": [["PENDING", at("21:42:19"), "order.placed"]], "shortages": [], "code": None, "failed": [],
        "rule": None, "usual_seconds": USUAL, **changed,
    }  # fmt: skip


def ended(status: str, reason: str | None, **changed: Any) -> dict[str, Any]:  # noqa: ANN401 - as above
    """Order's look of an order that is over."""
    history = [["PENDING", at("21:42:19"), "order.placed"], ["CANCELLING", at("21:43:00"), "x"]]
    history = [*history[: 2 if reason else 1], [status, at("21:43:01"), "x"]]
    return look(status=status, final=True, reason=reason, owed=[], history=history, **changed)


def fact(kind: str, number: int, *, published: bool = True, clock: str = "21:42:19") -> dict[str, Any]:
    """An event that was said; its id is made of its number."""
    topic = {"stock": "inventory", "payment": "payment", "order": "order"}[kind.partition(".")[0]]
    return {
        "id": f"01a1fd62-57f0-8000-8000-{number:012d}", "topic": f"{topic}.events", "type": kind, "sequence": number,
        "cause": ORDER, "at": at(clock), "published": published,
    }  # fmt: skip


def row(kind: str, number: int, error_class: str, error: str, **changed: Any) -> dict[str, Any]:  # noqa: ANN401 - as above
    """A parked record of payment.events[5]."""
    return {
        "id": f"01a1fd62-57f0-8000-8000-{number:012d}", "line": ORDER, "state": "OPEN", "type": kind, "bytes": 91,
        "topic": "payment.events", "partition": 5, "offset": 20 + number, "error_class": error_class, "error": error,
        "attempts": 3, "parked_at": at("21:42:22"), "retry_at": None, "headers": ["ce_id"], "ended_by": None,
        "reason": None, **changed,
    }  # fmt: skip


def task(kind: str, **changed: Any) -> dict[str, Any]:  # noqa: ANN401 - as above
    """An intent that failed twice and is due in two seconds."""
    return {
        "id": "t", "key": ORDER, "type": kind, "kind": "intent", "due": at("22:00:24"), "leased_until": None,
        "attempts": 2, "error_class": "TRANSIENT", "error": "TransientError", **changed,
    }  # fmt: skip


def evidence(service: str, **changed: Any) -> dict[str, Any]:  # noqa: ANN401 - as above
    """What a service tells that holds nothing."""
    return {
        "service": service, "at": NOW.isoformat(), "hears": HEARS[service], "parked": [], "tasks": [], "said": [],
        "handled": [], "look": None, "unread": [], "relay": {"published_at": at("22:00:21"), "stopped": None},
        "breaker": None, "intake": None, "silent": [], "stalled": None, "audit": [], "withheld": [], "missing": {},
        **changed,
    }  # fmt: skip


def case(
    given: Mapping[str, Mapping[str, Any]],
    *,
    away: Mapping[str, str] | None = None,
    gone: tuple[str, ...] = (),
    relays: Mapping[str, Any] | None = None,
) -> Case:
    """A case of what is ``given`` by service; the others hold nothing, those ``gone`` told nothing at all."""
    found = {name: evidence(name, **given.get(name, {})) for name in SERVICES if name not in gone}
    asked = frozenset(str(one["id"]) for doc in found.values() for one in doc["said"])
    return Case(ORDER, NOW, found, away or {}, relays or {}, asked, 12)


CAPTURED = {
    "state": "CHARGED", "code": None, "amount_minor": 2500, "currency": "EUR", "how": None,
    "entries": [{"kind": "CAPTURE", "amount_minor": 2500, "currency": "EUR", "at": at("21:42:19")}],
}  # fmt: skip
CHARGING = {**CAPTURED, "state": "CHARGING", "entries": []}
HELD = {"state": "RESERVED", "skus": ["SKU-TEA"], "quantities": [1]}
