"""What is the matter with an order, as far as its events tell: the sentence, evidence behind it, and what to do.

The services are asked, by the sentences that `quadrille why` prints; while order is away its events have to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from console.domain import Order
from console.verdict import ago, lasted
from quadrille_why import Answer as WhyAnswer

UNTOLD = frozenset({"UNKNOWN", "INTAKE_SHUT", "ORDER_AWAY"})  # order itself has not answered, or knows nothing of it
NOW = "now"  # what to do is shown as commands
MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer in words; ``level`` is good, going, warn or bad."""

    level: str
    sentence: str
    evidence: tuple[tuple[str, str], ...]
    commands: tuple[str, ...]


def answer_of(order: Order, failures: Sequence[Mapping[str, Any]], now: datetime, told: WhyAnswer) -> Answer:
    """Return what is the matter with an order, as the services tell it, or as its events do while none of them does."""
    if told.code in UNTOLD:
        return _by_its_events(order, failures, now)
    level = "bad" if order.attention else "good" if order.final else "going"
    evidence = [(one.label, " · ".join(filter(None, (one.text, one.more)))) for one in told.lines if one.label != NOW]
    commands = tuple(dict.fromkeys([*filter(None, [told.command]), *commands_of(order, failures)]))
    return Answer(level, f"{told.sentence}.", tuple(evidence), commands)


def _by_its_events(order: Order, failures: Sequence[Mapping[str, Any]], now: datetime) -> Answer:
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
    "CONFIRMATION_REJECTED": "the confirmation was rejected", "PARTICIPANT_AWAY": "a service it waited for was away",
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


@dataclass(frozen=True, slots=True)
class Button:
    """A button of a page: the action it asks for, its words, what the action is to know."""

    action: str
    words: str
    given: Mapping[str, str]


def buttons_of(order: Order) -> tuple[Button, ...]:
    """Return what a person can do about an order, the likeliest first."""
    found = [
        Button("redrive", f"Redrive at {service}…", {"service": service, "id": which,
                                                     "error_class": fact.text("error_class") or ""})
        for name, fact in order.open_parked[:1]
        for service, _, which in [name.partition("/")]
    ]  # fmt: skip
    if order.status == "COMPENSATION_FAILED":
        who = order.facts["order.compensation_failed"].text("participant") or "payment"
        owed = {"order": order.order_id, "participant": who}
        found += [Button("retry-undo", "Retry the undo…", owed), Button("resolve", "End it by hand…", owed)]
    if order.status in CANCELLABLE:
        found.append(Button("cancel", "Cancel…", {"order": order.order_id}))
    return tuple(found)


CANCELLABLE = frozenset({"PENDING", "INVENTORY_RESERVED", "PAYMENT_CHARGED", "CONFIRMED"})


def _parked(one: Mapping[str, Any]) -> str:
    behind = f", {one['behind']} wait behind it" if one["behind"] else ""
    return f"at {one['service']} since {one['since']:%H:%M:%S}: {one['error_class']}, {one['error']}{behind}"
