"""The rules of an order's life: who decides, what is undone, and when it is over (law.md, "Order")."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal, NamedTuple, TypeAlias

from order import events
from quadrille import Event, FeedPlace, NotYet, Rows, key_of, rfc3339

Phase: TypeAlias = Literal["PENDING", "SUCCEEDED", "COMPENSATING", "COMPENSATED", "COMPENSATION_FAILED"]
Reason: TypeAlias = Literal[
    "CUSTOMER", "DEADLINE", "OUT_OF_STOCK", "PAYMENT_DECLINED", "CONFIRMATION_REJECTED", "OPERATOR", "PARTICIPANT_AWAY"
]
Attention: TypeAlias = Literal["STUCK", "CONFLICT"]
Key: TypeAlias = tuple[str, str, str]  # caller, customer, reference
BY_HAND = events.StockResolved | events.PaymentResolved


class Status(StrEnum):
    """Where an order stands."""

    PENDING = "PENDING"
    INVENTORY_RESERVED = "INVENTORY_RESERVED"
    INVENTORY_FAILED = "INVENTORY_FAILED"
    PAYMENT_CHARGED = "PAYMENT_CHARGED"
    PAYMENT_FAILED = "PAYMENT_FAILED"
    INVENTORY_RELEASED = "INVENTORY_RELEASED"
    CONFIRMED = "CONFIRMED"
    CANCELLING = "CANCELLING"
    CANCELLED = "CANCELLED"
    COMPENSATION_FAILED = "COMPENSATION_FAILED"


PHASES: dict[Status, Phase] = {
    **dict.fromkeys(Status, "COMPENSATING"),
    **dict.fromkeys((Status.PENDING, Status.INVENTORY_RESERVED, Status.PAYMENT_CHARGED), "PENDING"),
    Status.CONFIRMED: "SUCCEEDED",
    Status.CANCELLED: "COMPENSATED",
    Status.COMPENSATION_FAILED: "COMPENSATION_FAILED",
}
OPEN = frozenset({Status.PENDING, Status.INVENTORY_RESERVED})  # the order goes on and nothing is decided
FINAL = frozenset({Status.CONFIRMED, Status.CANCELLED})
AWAITS = {"inventory": Status.PENDING, "payment": Status.INVENTORY_RESERVED}
"""Which open order waits for whom."""

# What each participant may have done, in rank (law L11); the last but one is a failed undo, the last are settled.
_RANKS = {
    "inventory": "NONE < RESERVED < COMMITTED < RELEASE_FAILED < REJECTED RELEASED RESOLVED",
    "payment": "NONE < UNKNOWN < CHARGED < REFUND_FAILED < DECLINED SKIPPED REFUNDED RESOLVED",
}
RANKS = {
    name: {state: rank for rank, states in enumerate(line.split(" < ")) for state in states.split()}
    for name, line in _RANKS.items()
}
FAILED, SETTLED = 3, 4
# What is owed at which rank: the next step while the order goes on, all acknowledgements while it is undone.
OWED = {"inventory": ("stock.reserved", "stock.committed"), "payment": ("payment.charged",) * 2}
_REFUND = ("payment.refunded", "payment.refunded")
UNDONE = {"inventory": ("stock.released",) * 4, "payment": ("payment.skipped", "payment.charged", *_REFUND)}


@dataclass(frozen=True, slots=True)
class States:
    """What each participant last did, by its name in ``RANKS``."""

    inventory: str = "NONE"
    payment: str = "NONE"

    def rank(self, participant: str) -> int:
        """Return how far a participant is."""
        return RANKS[participant][getattr(self, participant)]

    def debts(self, *, undone: bool) -> tuple[tuple[str, str], ...]:
        """Return who owes which event to an order that goes on, or to one that is undone."""
        owed, ranks = UNDONE if undone else OWED, [(name, self.rank(name)) for name in RANKS]
        found = [(name, owed[name][rank]) for name, rank in ranks if rank < len(owed[name])]
        next_step = found[:1] if self.inventory == "NONE" else found[-1:]
        return tuple(found if undone else next_step)

    @property
    def settled(self) -> bool:
        """Tell whether no participant has anything left to do or undo."""
        return all(self.rank(participant) == SETTLED for participant in RANKS)


@dataclass(frozen=True, slots=True)
class Entry:
    """A status the order passed through, and the event that made it so."""

    sequence: int
    status: Status
    at: datetime
    because: str


@dataclass(frozen=True, slots=True)
class Detail:
    """What is worth knowing of how it went; ``failed`` are undos announced as failed, ``stuck`` how loud it is."""

    shortages: tuple[events.Shortage, ...] = ()
    code: str | None = None
    refund: events.PaymentRefunded | None = None
    failed: tuple[events.OrderCompensationFailed, ...] = ()
    resolved: str | None = None
    stuck: int = 0

    def knowing(self, fact: Event) -> Detail:
        """Return the detail with what an event adds to it."""
        if isinstance(fact, events.StockRejected):
            return replace(self, shortages=fact.shortages)
        if isinstance(fact, events.PaymentDeclined):
            return replace(self, code=fact.code)
        if isinstance(fact, events.PaymentRefunded):
            return replace(self, refund=fact)
        return replace(self, resolved=fact.how) if isinstance(fact, BY_HAND) else self


@dataclass(frozen=True, slots=True)
class Order:
    """An order's row; ``reason`` is why it is undone, None while it goes on."""

    order_id: str
    caller: str
    customer_id: str
    lines: tuple[events.Line, ...]
    amount_minor: int
    currency: str
    placed_at: datetime
    deadline_at: datetime
    trace_id: str
    history: tuple[Entry, ...]
    version: int = 1
    status: Status = Status.PENDING
    states: States = field(default_factory=States)
    detail: Detail = field(default_factory=Detail)
    reference: str | None = None
    cancellable_until: datetime | None = None
    reason: Reason | None = None
    attention: Attention | None = None

    def to(self, status: Status, at: datetime, because: str) -> Order:
        """Return the order in its next status, which stays visible in its history."""
        history = (*self.history, Entry(len(self.history) + 1, status, at, because))
        return replace(self.freed(), status=status, history=history, version=self.version + 1)

    def knowing(self, fact: Event, participant: str, state: str) -> Order:
        """Return the order with what a participant did; what contradicts an order that goes on is marked."""
        rank, goes_on = RANKS[participant][state], self.reason is None
        conflict = goes_on and (rank == FAILED or (rank == SETTLED and self.status is Status.CONFIRMED))
        knowing = replace(
            self,
            states=replace(self.states, **{participant: state}),
            detail=self.detail.knowing(fact),
            attention="CONFLICT" if conflict else self.attention,
            version=self.version + 1,
        )
        return knowing if knowing.debts else knowing.freed()

    @property
    def since(self) -> datetime:
        """Since when the order waits for what it waits for."""
        return self.history[-1].at if self.history else self.placed_at

    @property
    def debts(self) -> tuple[tuple[str, str], ...]:
        """Return who owes the order which event; none once it is over."""
        return self.states.debts(undone=self.reason is not None)

    def called_for(self, level: int) -> Order:
        """Return the order as one somebody is called for."""
        detail = replace(self.detail, stuck=level)
        return replace(self, detail=detail, attention=self.attention or "STUCK", version=self.version + 1)

    def freed(self) -> Order:
        """Return the order as one that nobody is called for."""
        attention = None if self.attention == "STUCK" else self.attention
        return replace(self, detail=replace(self.detail, stuck=0), attention=attention) if self.detail.stuck else self


class Change(NamedTuple):
    """An order's new status as its caller's feed tells it, at its place; ``reference`` is the caller's own name."""

    place: FeedPlace
    entry: Entry
    reference: str | None


ENDS = {Status.CONFIRMED, Status.CANCELLED, Status.COMPENSATION_FAILED}
END_TYPES = tuple(sorted(f"order.{status.lower()}" for status in ENDS))
"""What an endpoint may be told: the ends of orders, one that could not be undone among them."""
OVERLAP = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A secret an endpoint's deliveries are signed with, and since when."""

    secret: str = field(repr=False)
    since: datetime


@dataclass(frozen=True, slots=True)
class Webhook:
    """A caller's endpoint: what it is told, how that is signed, up to which place in the feed it was told.

    ``place`` None is from now on. ``waits`` says that an end lies behind that place, ``failure`` is the last one.
    """

    webhook_id: str
    caller: str
    url: str
    types: tuple[str, ...]
    keys: tuple[SigningKey, ...]
    created_at: datetime
    place: FeedPlace | None = None
    delivered_at: datetime | None = None
    disabled_at: datetime | None = None
    disabled_because: str | None = None
    failure: Mapping[str, Any] | None = None
    waits: bool = False

    def rotated(self, secret: str, at: datetime) -> Webhook:
        """Return it with a new secret beside the one before."""
        return replace(self, keys=(SigningKey(secret, at), *self.keys[:1]))


def live_secrets(keys: Sequence[SigningKey], at: datetime) -> list[str]:
    """Return the secrets that sign now: the newest, and the one before it for a day."""
    return [key.secret for n, key in enumerate(keys) if n == 0 or at - keys[0].since < OVERLAP]


class Notice(NamedTuple):
    """An order's new status as endpoints are told it."""

    place: FeedPlace
    entry: Entry
    reference: str | None
    reason: str | None
    amount_minor: int
    currency: str

    @property
    def type(self) -> str:
        """Its type, by which endpoints choose."""
        return f"order.{self.entry.status.lower()}"

    @property
    def identity(self) -> str:
        """Its id, the same each time and for every endpoint: order and sequence name a change for ever."""
        return f"evt_{self.place.key}_{self.entry.sequence}"

    @property
    def body(self) -> bytes:
        """What is sent."""
        entry, undone = self.entry, self.entry.status is not Status.CONFIRMED
        return webhook_body(
            self.type, entry.at, order_id=str(self.place.key), reference=self.reference, sequence=entry.sequence,
            status=entry.status, phase=PHASES[entry.status], final=entry.status in FINAL,
            reason=self.reason if undone else None, amount_minor=self.amount_minor, currency=self.currency,
            because=entry.because,
        )  # fmt: skip


def webhook_body(kind: str, at: datetime, **data: object) -> bytes:
    """Return a delivery's body as the Standard Webhooks specification shapes it."""
    told = {"type": kind, "timestamp": rfc3339(at), "data": data}
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()


class Telling(NamedTuple):
    """An endpoint with what comes next in its feed, from ``place`` on, wanted there or not."""

    webhook: Webhook
    place: FeedPlace
    notices: Sequence[Notice]


def placed(command: events.PlaceOrder) -> Order:
    """Return the order as it is when it is placed: the one the 202 shows."""
    bought = command.customer_id, command.lines, command.amount_minor, command.currency
    begun = (Entry(1, Status.PENDING, command.placed_at, events.OrderPlaced.type),)
    times = command.placed_at, command.deadline_at, command.trace_id
    return Order(command.order_id, command.caller, *bought, *times, begun, reference=command.reference)


class Decision(NamedTuple):
    """The decision to undo an order: why, when, because of which event, into which status, and who wants it."""

    reason: Reason
    at: datetime
    because: str = events.OrderCancellationRequested.type
    status: Status = Status.CANCELLING
    requested_by: str = "order"


LEVELS = ("WARN", "PAGE", "ESCALATE")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an order may wait before somebody is warned, then paged, then more are called."""

    warn: timedelta = timedelta(minutes=5)
    page: timedelta = timedelta(minutes=10)
    escalate: timedelta = timedelta(minutes=30)

    def level(self, waited: timedelta) -> int:
        """Return how many of the levels are reached."""
        return sum(waited >= limit for limit in (self.warn, self.page, self.escalate))

    def next(self, since: datetime, at: datetime) -> datetime:
        """Return when to look again: at the next level, after the last one as often as that took."""
        coming = (since + limit for limit in (self.warn, self.page, self.escalate))
        return min((moment for moment in coming if moment > at), default=at + self.escalate)


@dataclass(frozen=True, slots=True)
class Waiting:
    """An order that waits: for whom and which event, since when, and how loudly that was said already.

    ``in_vain`` says that its customer has paid for what was never confirmed, and the money cannot be given back.
    """

    order_id: str
    status: str
    reason: str | None
    debts: tuple[tuple[str, str], ...]
    since: datetime
    level: int
    in_vain: bool = False

    @property
    def urgency(self) -> tuple[bool, bool, datetime]:
        """What the queue is sorted by: who paid in vain, then other failed undos; among equals who waits longest."""
        return not self.in_vain, self.status != "COMPENSATION_FAILED", self.since

    def shown(self, parked: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return it as an operator sees it; what is ``parked`` of it here holds it up, whoever else owes something."""
        waits_here = [fact for _, fact in self.debts if parked and fact in parked["waiting"]]
        owed = [{"owes": "order" if fact in waits_here else owes, "fact": fact} for owes, fact in self.debts]
        level = LEVELS[self.level - 1] if self.level else None
        since = self.since.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        about = {"order_id": self.order_id, "status": self.status, "reason": self.reason}
        return {**about, "owed": owed, "since_at": since, "level": level, "parked": parked}


class Crowd(NamedTuple):
    """So many orders that wait alike: in one status, with participants in the same states, for as long.

    ``level`` is how many of the levels of patience they have waited through; ``oldest`` waits longest.
    """

    status: str
    undone: bool
    states: States
    level: int
    orders: int
    oldest: float


class StepTimes(NamedTuple):
    """What a step took in orders that have ended: of how many, half of them and 99 of 100 within so many seconds.

    A step is named by the event that ended it; ``TO_DECIDE`` and ``TO_UNDO`` are an order's whole ways.
    """

    step: str
    orders: int
    p50: float
    p99: float


TO_DECIDE, TO_UNDO = "placed to decided", "decided to undone"


@dataclass(frozen=True, slots=True)
class Rules:
    """The order's clocks (law.md, "Clocks")."""

    order_deadline: timedelta = timedelta(minutes=15)
    cancel_cutoff: timedelta = timedelta(minutes=30)
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True, slots=True)
class Orders:
    """The rows a batch may touch."""

    rows: Rows[str, Order]
    references: Rows[Key, str]
    blocked: Rows[str, str]  # customers whose orders are not confirmed
    rules: Rules = field(default_factory=Rules)
    webhooks: Rows[str, Webhook] = field(default_factory=lambda: Rows((), {}))

    def known(self, order_id: str) -> Order:
        """Return the order; raises NotYet for one that was never placed here."""
        if order := self.rows.get(order_id):
            return order
        message = "an order that was never placed here"
        raise NotYet(message)

    def fold(self, fact: Event, participant: str, state: str) -> Order | None:
        """Return the order, knowing the event now, or None if it knew as much already (law L11)."""
        order = self.known(key_of(fact))
        if RANKS[participant][state] <= order.states.rank(participant):
            return None
        order = order.knowing(fact, participant, state)
        self.rows.put(order.order_id, order)
        return order

    def abort(self, order: Order, decision: Decision) -> events.OrderCancellationRequested:
        """Decide to undo the order; the caller's guard sees to it that this happens once (law L9)."""
        asked = events.OrderCancellationRequested(order.order_id, decision.reason, decision.requested_by, order.status)
        order = order.to(decision.status, decision.at, decision.because)
        self.rows.put(order.order_id, replace(order, reason=decision.reason, cancellable_until=None))
        return asked

    def close(self, order: Order, at: datetime, because: str) -> tuple[events.OrderCancelled, ...]:
        """End an order that is being undone and whose participants have all settled (law L3)."""
        if (reason := order.reason) is None or not order.states.settled:
            return ()
        if order.status is Status.PAYMENT_FAILED and order.states.inventory == "RELEASED":
            order = order.to(Status.INVENTORY_RELEASED, at, because)
        self.rows.put(order.order_id, order.to(Status.CANCELLED, at, because))
        settlement = tuple((name, getattr(order.states, name)) for name in RANKS)
        return (events.OrderCancelled(order.order_id, order.customer_id, reason, settlement),)
