"""Messages: the kinds a handler consumes and emits; a wire name is derived from its class, never written twice."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeAlias, TypeVar
from uuid import UUID

from pydantic import TypeAdapter

_WORD = re.compile(r"(?<!^)(?=[A-Z])")
UNDATED = datetime.fromtimestamp(0, UTC)


def wire_type(name: str) -> str:
    """Return the wire name of a class: ``ParcelSent`` is ``parcel.sent``."""
    noun, *rest = _WORD.sub("_", name).lower().split("_")
    return f"{noun}.{'_'.join(rest)}" if rest else noun


def _snake(name: str) -> str:
    return _WORD.sub("_", name).lower()


class _Dated:
    """Holds the chassis' stamps outside the dataclass fields, so that they never reach Avro, equality or hash."""

    __slots__ = ("_at", "_attempts", "_waiting")


class Message(_Dated):
    """A frozen dataclass whose first field is its key; ``at`` is stamped by the chassis."""

    __slots__ = ()
    type: ClassVar[str] = ""
    key_field: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "type" not in cls.__dict__:
            cls.type = cls._wire_name()

    @classmethod
    def _wire_name(cls) -> str:
        return wire_type(cls.__name__)

    @property
    def at(self) -> datetime:
        """When the input happened: an event's time, a command's intake, a timer's due time, an answer's recording."""
        return getattr(self, "_at", UNDATED)


class Event(Message):
    """Something that happened, published to the world: an outbox row; type ``noun.past_participle``.

    ``class ParcelSent(Event, source="depot")`` is an event heard from the service depot; without a source
    it is this service's own. ``topic`` is set for the chassis' shared topics only.
    """

    __slots__ = ()
    source: ClassVar[str] = ""
    topic: ClassVar[str] = ""

    def __init_subclass__(cls, source: str = "", topic: str = "") -> None:
        super().__init_subclass__()
        if source:  # a slotted dataclass is made twice, the second time without class arguments
            cls.source = source
        if topic or source:
            cls.topic = topic or f"{source}.events"


@dataclasses.dataclass(frozen=True, slots=True)
class AnyRecord(Message):
    """A record of a topic, whatever it is: what a reaction to all records is given, each record once.

    ``fault`` says why it could not be read, None where it was; then ``body`` is its decoded body, as plain values. What
    headers do not say, or say wrongly, is None or empty; ``id`` is then made of the record's place.
    """

    key: str
    id: UUID
    topic: str
    partition: int
    offset: int
    named: str
    source: str
    sequence: int | None
    causation: UUID | None
    trace_id: str
    schema_id: int | None
    body: Mapping[str, Any] | None
    fault: str | None
    headers: tuple[tuple[str, bytes], ...]
    raw: bytes


class Command(Message):
    """A request over HTTP that may be refused; it is never parked.

    ``class ResolveParcel(Command, waiting=True)`` is told what waits here: see ``waiting``.
    """

    __slots__ = ()
    asks_what_waits: ClassVar[bool] = False

    def __init_subclass__(cls, waiting: bool = False) -> None:  # noqa: FBT001, FBT002 - a class argument, named
        super().__init_subclass__()
        if waiting:
            cls.asks_what_waits = True

    @property
    def waiting(self) -> frozenset[str]:
        """The types of the events of its key that are parked or discarded here: they came and were not handled."""
        return getattr(self, "_waiting", frozenset())

    @classmethod
    def _wire_name(cls) -> str:
        return _snake(cls.__name__)


class Intent(Message):
    """A committed promise to do one thing outside; type ``book_truck``.

    ``class BookTruck(Intent, effect="truck")`` names what it leads to, as an operator says it; else it is the type.
    """

    __slots__ = ()
    effect: ClassVar[str] = ""

    def __init_subclass__(cls, effect: str = "") -> None:
        super().__init_subclass__()
        cls.effect = effect or cls.__dict__.get("effect", cls.type)  # a slotted dataclass is made twice

    @classmethod
    def _wire_name(cls) -> str:
        return _snake(cls.__name__)


class Result(Message):
    """What the outside answered to an intent."""

    __slots__ = ()

    @property
    def attempts(self) -> int:
        """How often the intent's task row was leased before this answer."""
        return getattr(self, "_attempts", 1)

    @classmethod
    def _wire_name(cls) -> str:
        return _snake(cls.__name__)


class Timer(Message):
    """A message to oneself, consumed when ``due`` has passed; every timer has a field ``due``."""

    __slots__ = ()

    @classmethod
    def _wire_name(cls) -> str:
        return _snake(cls.__name__)


class Reply(Message):
    """Said to the asker of a command only, stored nowhere."""

    __slots__ = ()

    @classmethod
    def _wire_name(cls) -> str:
        return _snake(cls.__name__)


class NotYet(Exception):  # noqa: N818 - the name says what is the case
    """An event came before what it refers to: parked as CAUSALITY (law.md, "Late, duplicate, out of order")."""


class Infrastructure(Exception):  # noqa: N818 - a class of trouble, not one error
    """Something below the business is away: the partition pauses, no attempt is counted, nothing is parked."""


M = TypeVar("M", bound=Message)
Emitted: TypeAlias = Event | Intent | Timer | Reply
"""What a handler may return, one or several of them."""
Saying: TypeAlias = Emitted | tuple[Emitted, ...] | None


def key_of(message: Message) -> str:
    """Return the key of a message: the value of its first field, as text."""
    return str(getattr(message, first_field(type(message))))


def first_field(cls: type[Message]) -> str:
    """Return the name of a message class's key field.

    Raises TypeError for a class that is no dataclass or has no fields.
    """
    if not (name := cls.__dict__.get("key_field")):
        fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
        if not fields:
            message = f"{cls.__name__} must be a frozen dataclass whose first field is its key"
            raise TypeError(message)
        name = cls.key_field = fields[0].name
    return str(name)


def stamp(message: M, at: datetime, attempts: int = 1) -> M:
    """Give a message its time and return it; done once, by the chassis, before a handler sees it."""
    object.__setattr__(message, "_at", at)
    if isinstance(message, Result):
        object.__setattr__(message, "_attempts", attempts)
    return message


def tell_waiting(command: Command, types: Iterable[str]) -> None:
    """Tell a command what waits for its key; done once, by the chassis, before its handler sees it."""
    object.__setattr__(command, "_waiting", frozenset(types))


_ADAPTERS: dict[type[Message], TypeAdapter[Any]] = {}


def to_json(message: Message) -> bytes:
    """Return an intent's, timer's or answer's body as canonical JSON."""
    return _adapter(type(message)).dump_json(message)


def from_json(cls: type[Message], body: bytes | str) -> Message:
    """Return the message of a JSON body; raises pydantic's ValidationError."""
    found: Message = _adapter(cls).validate_json(body)
    return found


def _adapter(cls: type[Message]) -> TypeAdapter[Any]:
    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls]
