"""How an order stands, read off the events that were heard of it, in whatever order they came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from quadrille import Rows

FINAL = frozenset({"CONFIRMED", "CANCELLED"})
UNKNOWN = "UNKNOWN"
"""The status of an order of which only others have spoken so far."""
DECISIONS = {
    "order.placed": "PENDING",
    "order.confirmed": "CONFIRMED",
    "order.cancellation_requested": "CANCELLING",
    "order.cancelled": "CANCELLED",
    "order.compensation_failed": "COMPENSATION_FAILED",
    "order.compensation_resolved": "CANCELLING",
}
# What each participant has said last, the later the truer.
SAID = {
    "inventory": {
        "stock.reserved": "RESERVED",
        "stock.committed": "COMMITTED",
        "stock.release_failed": "RELEASE_FAILED",
        "stock.rejected": "REJECTED",
        "stock.released": "RELEASED",
        "stock.resolved": "RESOLVED",
    },
    "payment": {
        "payment.outcome_unknown": "UNKNOWN",
        "payment.charged": "CHARGED",
        "payment.refund_failed": "REFUND_FAILED",
        "payment.declined": "DECLINED",
        "payment.skipped": "SKIPPED",
        "payment.refunded": "REFUNDED",
        "payment.resolved": "RESOLVED",
    },
    "notification": {
        "notification.suppressed": "SUPPRESSED",
        "notification.failed": "FAILED",
        "notification.sent": "SENT",
    },
}
SETTLED = {
    "inventory": frozenset({"REJECTED", "RELEASED", "RESOLVED"}),
    "payment": frozenset({"DECLINED", "SKIPPED", "REFUNDED", "RESOLVED"}),
}
TAKES_PART = "order", *SAID
REASONS = {
    "CUSTOMER": "the customer cancelled",
    "OPERATOR": "an operator cancelled",
    "DEADLINE": "it was not decided by its deadline",
    "OUT_OF_STOCK": "something in it is out of stock",
    "PAYMENT_DECLINED": "the card was declined",
    "CONFIRMATION_REJECTED": "the confirmation was rejected",
    "PARTICIPANT_AWAY": "a service it waited for was away",
}
OPEN = frozenset({"OPEN", "DEAD"})


@dataclass(frozen=True, slots=True)
class Stored:
    """A record as it is kept."""

    event_id: Any
    type: str
    source: str
    key: str
    sequence: int | None
    at: datetime
    causation: Any
    trace_id: str
    topic: str
    partition: int
    offset: int
    schema_id: int | None
    body: Mapping[str, Any] | None
    fault: str | None
    headers: tuple[tuple[str, str], ...]
    raw: bytes


@dataclass(frozen=True, slots=True)
class Fact:
    """The last event of a type, or of what tells several of a type apart, that was heard of an order."""

    type: str
    at: datetime
    id: str
    sequence: int
    body: Mapping[str, Any]

    def text(self, name: str) -> str | None:
        """Return a text of the body, None if there is none."""
        value = self.body.get(name)
        return value if isinstance(value, str) else None

    def number(self, name: str) -> int | None:
        """Return a whole number of the body, None if there is none."""
        value = self.body.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 62 else None


@dataclass(frozen=True, slots=True)
class Waits:
    """What an order waits for: whom, the event owed, since when, and a sentence."""

    who: str
    what: str
    since: datetime
    because: str


@dataclass(frozen=True, slots=True)
class Failure:
    """An input that a service could not handle, as ``ops.events`` tells of it."""

    service: str
    event_id: str
    order_id: str
    state: str
    error_class: str
    error: str
    behind: int
    since: datetime
    at: datetime
    ended_by: str | None = None
    reason: str | None = None
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Order:
    """An order with the facts that were heard of it; everything else is read off those."""

    order_id: str
    facts: Mapping[str, Fact] = field(default_factory=dict)
    parked: Mapping[str, Fact] = field(default_factory=dict)
    trace_id: str = ""

    def hears(self, name: str, fact: Fact, trace_id: str) -> Order:
        """Return the order with one more fact; of the same name the one of the higher sequence stays."""
        known = self.facts.get(name)
        if known and known.sequence >= fact.sequence:
            return self
        return replace(self, facts={**self.facts, name: fact}, trace_id=self.trace_id or trace_id)

    def parks(self, name: str, fact: Fact) -> Order:
        """Return the order with an input that is parked, or was; the later word counts."""
        known = self.parked.get(name)
        if known and known.at > fact.at:
            return self
        return replace(self, parked={**self.parked, name: fact})

    @property
    def decision(self) -> Fact | None:
        """Return what the order service decided last."""
        found = [self.facts[name] for name in DECISIONS if name in self.facts]
        return max(found, key=lambda fact: fact.sequence, default=None)

    @property
    def status(self) -> str:
        """Return the status, in the order API's words."""
        decision = self.decision
        status = DECISIONS[decision.type] if decision else UNKNOWN
        if status != "PENDING":
            return status
        if "payment.charged" in self.facts:
            return "PAYMENT_CHARGED"
        return "INVENTORY_RESERVED" if "stock.reserved" in self.facts else status

    @property
    def final(self) -> bool:
        """Whether the order has come to an end."""
        return self.status in FINAL

    def state(self, participant: str) -> str:
        """Return how far a participant is, in its own words; NONE while nothing was heard."""
        found = [(fact.sequence, word) for name, word in SAID[participant].items() if (fact := self.fact(name))]
        return max(found, default=(0, "NONE"))[1]

    def fact(self, kind: str) -> Fact | None:
        """Return the last fact of a type."""
        found = [fact for fact in self.facts.values() if fact.type == kind]
        return max(found, key=lambda fact: fact.sequence, default=None)

    def settled(self, participant: str) -> bool:
        """Whether a participant has nothing left to undo."""
        return self.state(participant) in SETTLED[participant]

    @property
    def reason(self) -> str | None:
        """Return why it is undone."""
        asked = self.facts.get("order.cancelled") or self.facts.get("order.cancellation_requested")
        return asked.text("reason") if asked and not self.status.startswith(("PEND", "INV", "PAY")) else None

    @property
    def ended_at(self) -> datetime | None:
        """Return when it came to its end."""
        return self.decision.at if self.final and self.decision else None

    @property
    def took(self) -> timedelta | None:
        """Return how long it took to its end."""
        placed, ended = self.facts.get("order.placed"), self.ended_at
        return ended - placed.at if placed and ended else None

    @property
    def open_parked(self) -> list[tuple[str, Fact]]:
        """Return what is parked of it now, by ``service/event id``."""
        return sorted((name, fact) for name, fact in self.parked.items() if state_of(fact) in OPEN)

    @property
    def waits(self) -> Waits | None:
        """Return what it waits for; None when it has ended, or nothing is known of its placing."""
        if parked := self.open_parked:
            name, fact = parked[0]
            service = name.partition("/")[0]
            reason = fact.text("error") or fact.text("error_class") or "no reason told"
            return Waits(service, "parked", fact.at, f"an input is parked at {service}: {reason}")
        match self.status:
            case "COMPENSATION_FAILED":
                return self._waits_for_person()
            case "CANCELLING":
                return self._waits_for_undo()
            case "PENDING" | "INVENTORY_RESERVED" | "PAYMENT_CHARGED":
                return self._waits_for_decision()
            case _:
                return None

    def _waits_for_person(self) -> Waits:
        failed = self.facts["order.compensation_failed"]
        who = failed.text("participant") or "a participant"
        error = failed.text("error") or failed.text("error_class") or "no reason told"
        return Waits("a person", "resolve", failed.at, f"{who} cannot undo its part: {error}")

    def _waits_for_undo(self) -> Waits:
        asked = self.facts.get("order.cancellation_requested") or self.facts["order.compensation_resolved"]
        because = REASONS.get(asked.text("reason") or "", "it is being undone")
        if not self.settled("payment"):
            charged = self.facts.get("payment.charged")
            owed = "payment.refunded" if charged else "payment.skipped"
            todo = "the money is to go back" if charged else "payment is to say that nothing was charged"
            return Waits("payment", owed, asked.at, f"{because}: {todo}")
        if not self.settled("inventory"):
            return Waits("inventory", "stock.released", asked.at, f"{because}: the goods are to come back")
        last = max(fact.at for fact in self.facts.values())
        return Waits("order", "order.cancelled", last, f"{because}: all is undone, order has not said so yet")

    def _waits_for_decision(self) -> Waits:
        facts = self.facts
        for kind, said in (
            ("payment.declined", "the card was declined"),
            ("stock.rejected", "something is out of stock"),
            ("payment.charged", "the money is taken"),
        ):
            if kind in facts:
                owed = "order.confirmed" if kind == "payment.charged" else "order.cancelled"
                return Waits("order", owed, facts[kind].at, f"{said}: order has not decided yet")
        if unknown := facts.get("payment.outcome_unknown"):
            return Waits("payment", "payment.charged", unknown.at, "nobody knows yet whether the card was charged")
        if reserved := facts.get("stock.reserved"):
            return Waits("payment", "payment.charged", reserved.at, "the goods are held, the card is to be charged")
        placed = facts["order.placed"]
        return Waits("inventory", "stock.reserved", placed.at, "inventory has not said yet whether it has the goods")

    @property
    def attention(self) -> str | None:
        """Return why a person is needed: UNDO_FAILED, PARKED, CONFLICT or STUCK; None if nobody is.

        What is parked and not dead is tried again by itself.
        """
        if self.status == "COMPENSATION_FAILED":
            return "UNDO_FAILED"
        if any(state_of(fact) == "DEAD" for _, fact in self.open_parked):
            return "PARKED"
        if "finding.raised" in self.facts:
            return "CONFLICT"
        stuck, waits = self.facts.get("order.stuck"), self.waits
        return "STUCK" if stuck and waits and stuck.at >= waits.since else None

    @property
    def money(self) -> str:
        """Return in words where the money is."""
        words = {
            "NONE": "nothing charged", "UNKNOWN": "unknown whether it was charged", "CHARGED": "taken",
            "REFUND_FAILED": "taken, and cannot go back", "DECLINED": "declined", "SKIPPED": "nothing charged",
            "REFUNDED": "given back", "RESOLVED": "settled by a person",
        }  # fmt: skip
        return words[self.state("payment")]

    @property
    def goods(self) -> str:
        """Return in words where the goods are."""
        words = {
            "NONE": "nothing held", "RESERVED": "held", "COMMITTED": "taken for good",
            "RELEASE_FAILED": "held, and cannot come back", "REJECTED": "out of stock", "RELEASED": "given back",
            "RESOLVED": "settled by a person",
        }  # fmt: skip
        return words[self.state("inventory")]


def state_of(fact: Fact) -> str:
    """Return the state of an input that a fact of ``ops.events`` leaves it in."""
    return {
        "input.parked": "OPEN",
        "input.dead": "DEAD",
        "input.redriven": "REDRIVEN",
        "input.discarded": "DISCARDED",
    }.get(fact.type, "OPEN")


TracePart: TypeAlias = tuple[str, bytes]
"""Some of a trace's spans: its id, and an export request of OTLP as it came."""


@dataclass(frozen=True, slots=True)
class Span:
    """A span of a trace, as it is drawn."""

    trace_id: str
    span_id: str
    parent_id: str
    service: str
    role: str
    name: str
    kind: int
    began_ns: int
    ended_ns: int
    error: str | None
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Keeping:
    """How much is kept, and who is told."""

    age: timedelta = timedelta(days=7)
    events: int = 2_000_000
    traces: int = 10_000
    targets: Mapping[str, int] = field(default_factory=dict)  # who is told of alerts, from which severity on


@dataclass(frozen=True)
class Shown:
    """What the console writes: every record once, each order as it stands, what failed, parts of traces."""

    events: Rows[Any, Stored]
    orders: Rows[str, Order]
    failures: Rows[tuple[str, str], Failure]
    parts: Rows[TracePart, TracePart]
    alerts: Rows[str, Any] = field(default_factory=lambda: Rows((), {}))
    rules: Keeping = Keeping()
