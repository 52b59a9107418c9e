"""What is the matter with an order, as far as its events tell: the sentence, evidence behind it, and what to do.

One function, so that whoever knows more about an order can be asked in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from console.domain import Order
from console.verdict import ago, lasted

MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer in words; ``level`` is good, going, warn or bad."""

    level: str
    sentence: str
    evidence: tuple[tuple[str, str], ...]
    commands: tuple[str, ...]


def answer_of(order: Order, failures: Sequence[Mapping[str, Any]], now: datetime) -> Answer:
    """Return what is the matter with an order."""
    tail, waits = f"…{order.order_id[-4:]}", order.waits
    evidence = [("money", order.money), ("goods", order.goods)]
    if (mail := order.state("notification")) != "NONE":
        evidence.append(("mail", mail.lower()))
    evidence += [("parked", _parked(one)) for one in failures if one["state"] in ("OPEN", "DEAD")]
    commands = commands_of(order, failures)
    if order.final:
        took = f" after {lasted(order.took // MILLISECOND)}" if order.took else ""
        because = f": {REASON_WORDS.get(order.reason or '', order.reason or '')}" if order.reason else ""
        level = "bad" if order.attention else "good"
        return Answer(level, f"{tail} is {order.status.lower()}{took}{because}.", tuple(evidence), commands)
    if waits is None:
        return Answer("warn", f"{tail}: its placing was not heard; only others spoke of it.", tuple(evidence), commands)
    since = ago(max(0.0, (now - waits.since).total_seconds() // 1))
    level = "bad" if order.attention else "going"
    return Answer(level, f"{tail} waits {since} for {waits.who}: {waits.because}.", tuple(evidence), commands)


REASON_WORDS = {
    "CUSTOMER": "the customer cancelled", "OPERATOR": "an operator cancelled", "DEADLINE": "not decided in time",
    "OUT_OF_STOCK": "out of stock", "PAYMENT_DECLINED": "the card was declined",
    "CONFIRMATION_REJECTED": "the confirmation was rejected",
}  # fmt: skip


def commands_of(order: Order, failures: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the commands that end what stands in the way, each a line to copy."""
    parked = [one for one in failures if one["state"] in ("OPEN", "DEAD")]
    found = [f"quadrille parked show {one['event_id']}" for one in parked[:2]]
    found += [f"quadrille parked redrive {one['event_id']} --reason '…'" for one in parked[:1]]
    if order.status == "COMPENSATION_FAILED":
        who = order.facts["order.compensation_failed"].text("participant") or "payment"
        found.append(f"quadrille resolve {order.order_id} --participant {who} --retry --reason '…'")
    return tuple(found)


def _parked(one: Mapping[str, Any]) -> str:
    behind = f", {one['behind']} wait behind it" if one["behind"] else ""
    return f"at {one['service']} since {one['since']:%H:%M:%S}: {one['error_class']}, {one['error']}{behind}"
