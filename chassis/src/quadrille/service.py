"""Service: its handlers, store, gateway and codec as the chassis sees them; what a store stands on.

Reading order: ``Store`` (what a service's store is), ``Tx`` (what it gets), ``schema`` and ``run_migrations`` (what its
migrations call), ``Digest`` (what it tells of many sagas), ``Service`` (all of it wired for one process).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

from quadrille import lazy
from quadrille.db import schema
from quadrille.db.connection import Tx, connection
from quadrille.handlers import HandlerRegistry
from quadrille.ids import floor_of, milliseconds
from quadrille.intents import Gateway
from quadrille.messages import Command, Event, Message
from quadrille.rows import Rows

if TYPE_CHECKING:
    from quadrille.db.migrations import run_migrations
else:
    __getattr__ = lazy.face(__name__, {"quadrille.db.migrations": ("run_migrations",)})  # Alembic is no worker's

__all__ = [
    "Digest",
    "Service",
    "Store",
    "Tx",
    "WaitingSaga",
    "connection",
    "floor_of",
    "milliseconds",
    "run_migrations",
    "schema",
]
W = TypeVar("W")


class Store(Protocol[W]):
    """The SQL of one service; a plain module satisfies it."""

    def load(self, tx: Tx, messages: Sequence[Message]) -> W:
        """Bring every row these messages may touch, own rows first, then shared rows, each ORDER BY key FOR UPDATE."""
        ...

    def save(self, tx: Tx, work: W) -> None:
        """Write back what changed: INSERT added, UPDATE changed, DELETE dropped; never an upsert."""
        ...


@dataclass(frozen=True, slots=True)
class Digest:
    """The two statements by which a service tells of its own rows, those that a saga's events have made.

    ``page`` takes ``after`` and ``limit`` and gives keys, sorted; ``rows`` takes ``keys`` and ``below``, a
    transaction's number as text, and gives of each key that is known: the key, whether all its rows were written below
    it (``age(xmin) > age(%(below)b::text::xid8::xid)``), and what they hold as jsonb, with no personal datum in it.
    """

    page: str
    rows: str


class Encoder(Protocol):
    """Turns an emitted event into the bytes of its record."""

    def encode(self, fact: Event) -> bytes:
        """Return Confluent wire bytes: 0, four bytes of schema id, Avro."""
        ...


@dataclass(frozen=True, slots=True)
class Service(Generic[W]):
    """A service wired for one process; ``rules`` are the frozen settings its working set carries.

    ``relayed`` is whether a relay publishes its outbox; where none does, nothing is put there.
    """

    on: HandlerRegistry[W]
    store: Store[W]
    codec: Encoder
    outside: Gateway = field(default_factory=lambda: Gateway(""))
    rules: object = None
    relayed: bool = True

    @property
    def name(self) -> str:
        """The service's name, which is its topic's, database's and consumer group's too."""
        return self.on.service

    def load(self, tx: Tx, messages: Sequence[Message]) -> W:
        """Return the working set of a batch, with the rules put in."""
        work = self.store.load(tx, messages)
        return work if self.rules is None else replace(work, rules=self.rules)  # type: ignore[type-var]  # W is a dataclass: HandlerRegistry refuses others


def tables(work: object) -> tuple[Rows[Any, Any], ...]:
    """Return the tables of a working set, for marking and rewinding."""
    values = (getattr(work, f.name) for f in fields(work))  # type: ignore[arg-type]  # a dataclass: HandlerRegistry refuses others
    return tuple(v for v in values if isinstance(v, Rows))


F = TypeVar("F", bound=Event)


class Decoder(Protocol):
    """Turns the bytes of a record into an event of a consumer's own class."""

    def decode(self, value: bytes, cls: type[F]) -> F:
        """Return the projection; raises DecodeError, or Infrastructure while the schema cannot be fetched."""
        ...


OutagePolicy: TypeAlias = Literal["wait", "fail_fast"]
"""What becomes of sagas that wait for a service whose heartbeat is gone (``quadrille.consumer.outage``)."""


class WaitingSaga(NamedTuple):
    """A saga that waits for a service: its key, and the trace it is in."""

    key: str
    trace_id: str


@dataclass(frozen=True, slots=True)
class Outages:
    """What a service does about outages of others.

    ``fail_fast`` are whose outage ends what waits for them, ``waiting`` finds that: some of the sagas that wait for a
    service, at most so many. ``give_up`` makes the command that ends one, of its key and the service that is away; a
    saga that has moved on meanwhile takes it as nothing.
    """

    fail_fast: frozenset[str]
    waiting: Callable[[Tx, str, int], Sequence[WaitingSaga]]
    give_up: Callable[[str, str], Command]
