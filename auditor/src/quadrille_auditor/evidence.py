"""Evidence: what an audit has read, as plain values; every invariant is a function of it and of nothing else.

Each database was read in one snapshot, order's first. What an order has left behind is judged as a whole only where it
is at rest (``Evidence.resting``): nothing is under way for it, and nothing was said of it since reading began.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

Place: TypeAlias = tuple[str, int]
"""A topic and a partition of it."""


class OutboxRow(NamedTuple):
    """An event as a service has committed it."""

    id: str
    topic: str
    key: str
    type: str
    sequence: int
    payload: bytes
    cause: str
    traceparent: str
    at: datetime


class Record(NamedTuple):
    """A record as it lies on its topic; ``fault`` says why its value or headers cannot be read."""

    topic: str
    partition: int
    offset: int
    key: str
    headers: Mapping[str, str]
    value: bytes
    name: str = ""
    body: Mapping[str, Any] = {}
    fault: str = ""

    @property
    def id(self) -> str:
        """Its event's id, empty where it has none."""
        return self.headers.get("ce_id", "")

    @property
    def type(self) -> str:
        """Its event's type, empty where it has none."""
        return self.headers.get("ce_type", "")

    @property
    def source(self) -> str:
        """The service that said it, empty where none is named."""
        return self.headers.get("ce_source", "").partition("/")[2]

    @property
    def at(self) -> str:
        """Where it lies, as every interface writes it."""
        return f"{self.topic}[{self.partition}]@{self.offset}"


class Task(NamedTuple):
    """An intent or a timer that is still open."""

    id: str
    key: str
    type: str
    due: datetime
    attempts: int


class ParkedRow(NamedTuple):
    """An input that was set aside."""

    id: str
    line: str
    state: str
    type: str
    topic: str
    partition: int
    offset: int
    ended_by: str
    reason: str


class AuditRow(NamedTuple):
    """A privileged action; ``said`` is the text its hash is made over, behind the previous hash."""

    number: int
    actor: str
    action: str
    subject: str
    reason: str
    outcome: str
    said: str
    previous: bytes
    hash: bytes


class Database(NamedTuple):
    """What the chassis keeps in a service's database; before the floors days were dropped, by design."""

    service: str
    outbox: tuple[OutboxRow, ...]
    inbox: frozenset[str]
    outbox_floor: datetime
    inbox_floor: datetime
    positions: Mapping[Place, int]
    tasks: tuple[Task, ...]
    parked: tuple[ParkedRow, ...]
    audit: tuple[AuditRow, ...]
    buried: frozenset[str] = frozenset()
    """Rows of the outbox that the broker refused and a person has buried: they are on no topic."""
    burials: tuple[str, ...] = ()
    """What is yet to be told of them: a worker looks every few seconds."""


class Order(NamedTuple):
    """An order's row; ``history`` holds sequence, status and time of every status it passed through."""

    id: str
    status: str
    reason: str
    amount_minor: int
    currency: str
    placed_at: datetime
    deadline_at: datetime
    cancellable_until: datetime | None
    trace_id: str
    history: tuple[tuple[int, str, datetime], ...]


class Key(NamedTuple):
    """The answer that is kept under an idempotency key."""

    caller: str
    route: str
    key: str
    subject: str
    answer: str
    at: datetime


class Hold(NamedTuple):
    """What an order holds of the stock."""

    order: str
    state: str
    lines: tuple[tuple[str, int], ...]


class Level(NamedTuple):
    """The pieces of one SKU."""

    sku: str
    available: int
    held: int
    committed: int
    received: int


class Payment(NamedTuple):
    """Where an order's money stands; ``how`` is set where a person ended it."""

    order: str
    state: str
    permitted: bool
    began_at: datetime | None
    how: str


class Money(NamedTuple):
    """A line of a ledger: payment's own, or the processor's."""

    key: str
    order: str
    kind: str
    amount_minor: int
    currency: str


class Notice(NamedTuple):
    """Where a mail to a customer stands."""

    order: str
    kind: str
    state: str


class Mail(NamedTuple):
    """A mail as it was delivered."""

    number: int
    order: str
    message_id: str


class Asked(NamedTuple):
    """What a client sent under a key and was answered, or which status and version it saw of an order.

    ``outcome`` is accepted, refused, unknown or seen.
    """

    client: str
    key: str
    order: str
    outcome: str
    status: str = ""
    version: int = 0


@dataclass(frozen=True)
class Evidence:
    """All that was read; ``first`` are the ids that each outbox held when reading began, ``moved`` the keys since.

    ``clients`` is None where no log of theirs was given, ``healed_at`` where it is not known when the last fault ended;
    ``extra_mails`` are as many as senders were killed or frozen; ``outside`` is False
    where neither the processor's ledger nor the mailbox was given.
    """

    at: datetime
    first: Mapping[str, frozenset[str]]
    moved: frozenset[str]
    databases: Mapping[str, Database]
    orders: Mapping[str, Order]
    keys: tuple[Key, ...]
    holds: Mapping[str, Hold]
    levels: tuple[Level, ...]
    payments: Mapping[str, Payment]
    entries: tuple[Money, ...]
    notices: tuple[Notice, ...]
    addresses: frozenset[str]
    records: tuple[Record, ...]
    ranges: Mapping[Place, tuple[int, int]]
    ledger: tuple[Money, ...]
    mails: tuple[Mail, ...]
    clients: tuple[Asked, ...] | None = None
    logs: tuple[tuple[str, str], ...] = ()
    healed_at: datetime | None = None
    extra_mails: int = 0
    outside: bool = True

    @cached_property
    def under_way(self) -> frozenset[str]:
        """The keys for which something is open or waits, in whichever database, or was said since reading began."""
        tasks = {one.key for db in self.databases.values() for one in db.tasks if one.type in INTENTS}
        parked = {one.line for db in self.databases.values() for one in db.parked if one.state in ("OPEN", "DEAD")}
        of_tasks = {task.key for db in self.databases.values() for task in db.tasks if task.id in parked}
        return frozenset(tasks | parked | of_tasks | self.moved)

    @cached_property
    def resting(self) -> Mapping[str, Order]:
        """The orders that are at their end, with nothing under way: these are judged as a whole."""
        return {
            id_: order
            for id_, order in self.orders.items()
            if order.status in ("CONFIRMED", "CANCELLED") and id_ not in self.under_way
        }

    @cached_property
    def frozen(self) -> frozenset[str]:
        """The orders that wait for a person's word."""
        return frozenset(id_ for id_, order in self.orders.items() if order.status == "COMPENSATION_FAILED")

    @cached_property
    def in_flight(self) -> frozenset[str]:
        """The orders that are not at rest: told, not judged as a whole."""
        return frozenset(self.orders.keys() - self.resting.keys() - self.frozen)

    @cached_property
    def story(self) -> Mapping[str, tuple[Record, ...]]:
        """The records of each key, first copies only, as they lie: by topic, partition and offset."""
        found: defaultdict[str, list[Record]] = defaultdict(list)
        for record in self.firsts:
            found[record.key].append(record)
        return {key: tuple(records) for key, records in found.items()}

    @cached_property
    def firsts(self) -> tuple[Record, ...]:
        """The first copy of each record that has an id: what is sent again is no second event."""
        seen: set[tuple[str, str]] = set()
        kept = []
        for record in self.records:
            if record.id and (record.topic, record.id) not in seen:
                seen.add((record.topic, record.id))
                kept.append(record)
        return tuple(kept)

    @cached_property
    def said(self) -> Mapping[str, tuple[str, ...]]:
        """The types that each order's services have committed, in whichever database; facts of the saga alone."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for db in self.databases.values():
            for row in db.outbox:
                if row.topic == f"{db.service}.events":
                    found[row.key].append(row.type)
        return {key: tuple(types) for key, types in found.items()}

    def whole(self, record: Record) -> bool:
        """Tell whether a record's partition still has its beginning: retention has cut nothing off."""
        return self.ranges.get((record.topic, record.partition), (0, 0))[0] == 0


INTENTS = frozenset({"charge_card", "inquire_charge", "refund_card", "inquire_refund", "send_mail"})
"""What services have promised to do outside for an order."""
BEAT = "canary.beat"
HEARD = {
    "order": frozenset(
        {
            *("stock.reserved", "stock.rejected", "stock.committed", "stock.released", "stock.release_failed"),
            *("stock.resolved", "payment.charged", "payment.declined", "payment.outcome_unknown", "payment.skipped"),
            *("payment.refunded", "payment.refund_failed", "payment.resolved"),
        }
    ),
    "inventory": frozenset({"order.placed", "order.confirmed", "order.cancellation_requested", "payment.declined"}),
    "payment": frozenset({"order.placed", "order.cancellation_requested", "stock.reserved"}),
    "notification": frozenset({"order.confirmed", "order.cancelled", "order.cancellation_requested"}),
}
"""Which types each service handles; a test holds it against the handlers."""
SERVICES = tuple(HEARD)
