"""Orders as they stood at a moment: folded from what had been said of them by then, and what was not known yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from quadrille.values import rfc3339
from quadrille_cli.terminal import money

Document = dict[str, Any]
DECIDED = {
    "order.placed": "PENDING",
    "order.confirmed": "CONFIRMED",
    "order.cancellation_requested": "CANCELLING",
    "order.compensation_failed": "COMPENSATION_FAILED",
    "order.compensation_resolved": "CANCELLING",
    "order.cancelled": "CANCELLED",
}
"""What order's own events make of its status; the later, by their sequence, the truer."""
UNDONE = {"OUT_OF_STOCK": "INVENTORY_FAILED", "PAYMENT_DECLINED": "PAYMENT_FAILED"}
"""How the status of an order that is undone tells why."""
SAID = {
    "inventory": {
        "stock.reserved": "RESERVED", "stock.committed": "COMMITTED", "stock.release_failed": "RELEASE_FAILED",
        "stock.rejected": "REJECTED", "stock.released": "RELEASED", "stock.resolved": "RESOLVED",
    },
    "payment": {
        "payment.outcome_unknown": "UNKNOWN", "payment.charged": "CHARGED", "payment.refund_failed": "REFUND_FAILED",
        "payment.declined": "DECLINED", "payment.skipped": "SKIPPED", "payment.refunded": "REFUNDED",
        "payment.resolved": "RESOLVED",
    },
    "notification": {
        "notification.suppressed": "SUPPRESSED", "notification.failed": "FAILED", "notification.sent": "SENT",
    },
}  # fmt: skip
DETAIL = {
    "stock.rejected": ("shortages",),
    "payment.declined": ("code",),
    "payment.refunded": ("kind", "amount_minor"),
    "order.compensation_failed": ("participant", "error_class", "attempts", "error"),
    "order.compensation_resolved": ("participant", "how"),
}
"""What is worth knowing of how it went."""
UNSAID = ("reference", "caller")
"""What no event says of an order."""


def as_of(found: Sequence[Document], order_id: str, at: datetime) -> Document:
    """Return an order as it stood at a moment, by the records found of it; each event counts once, wherever it lies."""
    once = {one["event_id"] or f"{one['topic']}[{one['partition']}]@{one['offset']}": one for one in reversed(found)}
    events = sorted(once.values(), key=lambda one: (one["time"], one["source"] or "", one["sequence"] or 0))
    known = [one for one in events if datetime.fromisoformat(one["time"]) <= at]
    later = [one for one in events if datetime.fromisoformat(one["time"]) > at]
    facts = {one["type"]: one for one in known if one["body"] is not None}
    placed = facts.get("order.placed", {}).get("body") or {}
    told = ("customer_id", "currency", "amount_minor", "lines")
    status = _status(facts)
    return {
        "order_id": order_id, "as_of": rfc3339(at), "status": status, "final": status in ("CONFIRMED", "CANCELLED"),
        "reason": _reason(facts), "placed_at": facts["order.placed"]["time"] if placed else None,
        **{name: placed.get(name) for name in told},
        **{name: _state(facts, words) for name, words in SAID.items()},
        "detail": {kind: {name: facts[kind]["body"].get(name) for name in names}
                   for kind, names in DETAIL.items() if kind in facts},
        "known": [_line(one) for one in known], "not_yet_known": [_line(one) for one in later],
        "not_said": list(UNSAID),
        "trace_id": next((one["trace_id"] for one in known if one["trace_id"]), None),
    }  # fmt: skip


def _status(facts: Mapping[str, Document]) -> str:
    """Return the status: what order decided last, or how far the others are while nothing is decided."""
    decisions = [facts[kind] for kind in DECIDED if kind in facts]
    if not decisions:
        return "UNKNOWN"
    last = max(decisions, key=lambda one: one["sequence"] or 0)["type"]
    if last == "order.cancellation_requested":
        status = UNDONE.get(str(_reason(facts)), DECIDED[last])
        return "INVENTORY_RELEASED" if status == "PAYMENT_FAILED" and "stock.released" in facts else status
    if last != "order.placed":
        return DECIDED[last]
    if "payment.charged" in facts:
        return "PAYMENT_CHARGED"
    return "INVENTORY_RESERVED" if "stock.reserved" in facts else DECIDED[last]


def _reason(facts: Mapping[str, Document]) -> str | None:
    asked = facts.get("order.cancelled") or facts.get("order.cancellation_requested")
    return str(asked["body"]["reason"]) if asked else None


def _state(facts: Mapping[str, Document], words: Mapping[str, str]) -> str:
    """Return what a participant has said last."""
    said = [(facts[kind]["sequence"] or 0, word) for kind, word in words.items() if kind in facts]
    return max(said, default=(0, "NONE"))[1]


def _line(one: Document) -> Document:
    named = ("time", "type", "event_id", "topic", "partition", "offset")
    return {name: one[name] for name in named} | ({"undecodable": True} if one.get("undecodable") else {})


def told(document: Document) -> Iterator[tuple[str, str]]:
    """Yield what there is to say of an order as it stood: a word, and what it is."""
    reason = f" {document['reason']}" if document["reason"] else ""
    yield "order", document["order_id"]
    yield "as of", document["as_of"]
    yield "status", f"{document['status']}{reason}, {'final' if document['final'] else 'not final'}"
    if document["placed_at"]:
        yield "placed", f"{document['placed_at']}, by {document['customer_id']}"
        for n, line in enumerate(document["lines"]):
            cost = f"{line['quantity']} × {line['sku']} at {money(line['unit_price_minor'], document['currency'])}"
            yield "goods" if n == 0 else "", cost
        yield "amount", money(document["amount_minor"], document["currency"])
    for name in SAID:
        yield name, document[name]
    for name, value in document["detail"].items():
        yield name, ", ".join(f"{word} {held}" for word, held in value.items())
    for word, some in (("known", document["known"]), ("not yet", document["not_yet_known"])):
        for n, one in enumerate(some):
            broken = "  UNDECODABLE" if one.get("undecodable") else ""
            where = f"{one['topic']}[{one['partition']}]@{one['offset']}"
            yield word if n == 0 else "", f"{one['time'][:23]}  {one['type'] or '?':<28} {where}{broken}"
    if not document["not_yet_known"]:
        yield "not yet", "nothing was said of it later, as far as the log was read"
    yield "unsaid", f"{', '.join(document['not_said'])}: no event says them"
