"""The four services as the explorer sees them: real handlers over interned rows, each reaction computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from operator import itemgetter
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar, get_args, get_type_hints

from quadrille.handlers import HandlerRegistry
from quadrille.messages import Emitted, Event, Intent, Message, Timer
from quadrille.rows import Rows

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")
M = TypeVar("M", bound=Message)
State: TypeAlias = tuple[tuple[str, tuple[tuple[Any, Any], ...]], ...]  # tables by name, each its items by key
Forget: TypeAlias = Callable[[Any], Any]  # makes rows equal that differ in what no handler decides by


class Names(Generic[T]):
    """Small numbers for things: equal things have one number, and numbers are cheap to keep and to compare."""

    def __init__(self) -> None:
        self.things: list[T] = []
        self._numbers: dict[T, int] = {}

    def of(self, thing: T) -> int:
        """Return the number of a thing."""
        number = self._numbers.get(thing)
        if number is None:
            number = self._numbers[thing] = len(self.things)
            self.things.append(thing)
        return number

    def __getitem__(self, number: int) -> T:
        return self.things[number]


class Table(Rows[K, V]):
    """Rows of a table that is wholly in memory."""

    __slots__ = ()

    def get(self, key: K) -> V | None:
        """Return the row as it stands now, or None if there is none."""
        return self._now.get(key)

    def put(self, key: K, row: V) -> None:
        """Set the row."""
        self._now[key] = row

    def items(self) -> Iterator[tuple[K, V]]:
        """Return what the table holds."""
        return iter(self._now.items())


class Reacted(NamedTuple):
    """What one message did to one state, and what was said about it."""

    state: int
    emitted: tuple[Emitted, ...]


class Raised(Exception):  # noqa: N818 - the name says what is the case
    """A handler raised: nothing may (laws L5 and L11)."""


Checks: TypeAlias = Callable[[Message, State, State, tuple[Emitted, ...]], None]


@dataclass(frozen=True, slots=True)
class Kept:
    """The parts of a service that its search keeps: its handlers, its rules and what may be forgotten of a row.

    ``passing``: tables that tell the store what to do and hold nothing after the commit.
    """

    on: HandlerRegistry[Any]
    rules: object = None
    forget: Forget = lambda row: row
    passing: tuple[str, ...] = ()


class Actor:
    """One service: (state, message) -> (state, said), by its real handlers, computed once and checked once."""

    def __init__(self, kept: Kept, messages: Names[Message], check: Checks) -> None:
        self.on = kept.on
        self.name = kept.on.service
        self.states: Names[State] = Names()
        self.calls = 0
        self.exercised: set[tuple[str, str]] = set()
        self._kept = kept
        self._messages = messages
        self._check = check
        self._known: dict[tuple[int, int], Reacted] = {}
        self._classes = kept.on.consumes(Event)

    def receives(self, state: int, message: int) -> Reacted:
        """Return what the message does to the state; raises Raised, or what the check raises."""
        known = self._known.get((state, message))
        if known is None:
            known = self._known[state, message] = self._react(state, self._messages[message])
        return known

    def begins(self, **tables: dict[Any, Any]) -> int:
        """Return a state with these rows."""
        return self.states.of(tuple((name, _items(tables.get(name, {}).items())) for name in self._tables()))

    def work(self, state: int) -> Any:  # noqa: ANN401 - every service has its own working set
        """Return a working set of a state's rows."""
        tables: dict[str, Any] = {name: Table((), dict(items)) for name, items in self.states[state]}
        if self._kept.rules is not None:
            tables["rules"] = self._kept.rules
        return self.on.work(**tables)

    def takes(self, fact: Event) -> Message | None:
        """Return an event of another service as this one reads it from the topic; None if it does not hear it."""
        cls = self._classes.get(fact.type)
        return _read_as(cls, fact) if cls else None

    def _react(self, state: int, message: Message) -> Reacted:
        self.calls += 1
        work, before = self.work(state), self.states[state]
        try:
            emitted = self.on.dispatch(message, work)
        except Exception as raised:
            why = f"{self.name} raised {type(raised).__name__} while it heard {message.type}: {raised}"
            raise Raised(why) from raised
        if emitted:
            name = f"{self.name}.{self.on.specs[type(message)].name}"
            self.exercised |= {(name, one.type) for one in emitted}
        tables = {name: getattr(work, name) for name in self._tables()}
        self._check(message, before, tuple((name, _items(table.items())) for name, table in tables.items()), emitted)
        lasting = {name: () if name in self._kept.passing else table.items() for name, table in tables.items()}
        kept = tuple((name, _items(items, self._kept.forget)) for name, items in lasting.items())
        return Reacted(self.states.of(kept), emitted)

    def _tables(self) -> list[str]:
        return [field.name for field in fields(self.on.work) if field.name != "rules"]


def row(state: State, table: str, key: object) -> Any:  # noqa: ANN401 - every table has its own rows
    """Return the row of a table, or None if there is none."""
    return next((found for name, items in state if name == table for k, found in items if k == key), None)


def token(emitted: Emitted) -> str:
    """Return the name under which it is remembered that something was said: its type, and whom or what it is about."""
    about = getattr(emitted, "participant", None) or getattr(emitted, "kind", None)
    return f"{emitted.type} of {about}" if about and emitted.type != "payment.refunded" else emitted.type


def is_outward(emitted: Emitted) -> bool:
    """Tell whether something said outlives the commit: events, intents and timers do, replies do not."""
    return isinstance(emitted, Event | Intent | Timer)


def _items(items: Any, forget: Forget = lambda row: row) -> tuple[tuple[Any, Any], ...]:  # noqa: ANN401 - as above
    return tuple(sorted(((key, forget(row)) for key, row in items), key=itemgetter(0)))


def _read_as(cls: type[M], fact: object) -> M:
    """Return what a consumer's class keeps of an event: the fields it names, by name, as Avro's resolution does."""
    hints = get_type_hints(cls)
    return cls(**{f.name: _value(hints[f.name], getattr(fact, f.name)) for f in fields(cls)})  # type: ignore[arg-type] # a dataclass


def _value(hint: object, value: object) -> Any:  # noqa: ANN401 - the field's own type
    inner = next(iter(get_args(hint)), None)
    if isinstance(value, tuple) and isinstance(inner, type) and is_dataclass(inner):
        return tuple(_read_as(inner, one) for one in value)  # type: ignore[type-var] # lines are no messages
    return value
