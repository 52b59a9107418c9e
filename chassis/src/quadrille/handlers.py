"""Handler registry: the saga, read from signatures; what a handler takes is consumed, what it returns is emitted."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable
from typing import Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

from quadrille.messages import (
    AnyRecord,
    Command,
    Emitted,
    Event,
    Intent,
    Message,
    Reply,
    Result,
    Saying,
    Timer,
    first_field,
)
from quadrille.rows import Rows
from quadrille.system_messages import SystemEvent

W = TypeVar("W")
E = TypeVar("E", bound=Message)
S = TypeVar("S", bound=Saying)
BASES = (Message, Event, Command, Result, Timer, Intent, Reply)
KINDS: dict[str, type[Message]] = {
    "step": Event,
    "pivot": Event,
    "retryable": Event,
    "compensates": Event,
    "learns": Event,
    "records": AnyRecord,
    "command": Command,
    "answer": Result,
    "timer": Timer,
}


@dataclasses.dataclass(frozen=True, slots=True)
class HandlerSpec:
    """One handler: what it hears, what it may say, its role in the saga and the step it undoes."""

    name: str
    role: str
    consumes: type[Message]
    emits: tuple[type[Emitted], ...]
    handler: Callable[[Any, Any], Saying]
    doc: str
    compensates: str | None = None


class HandlerRegistry(Generic[W]):
    """The handlers of one service over one working set.

    The service hears heartbeats of whom it consumes, and of those it only ``watches``.
    Refuses at import, with TypeError: a second handler of a type, a missing or base-class annotation, a role that does
    not fit the kind of message, a third parameter, another working set, a working set with a field that is not Rows.
    """

    def __init__(self, service: str, work: type[W], watches: tuple[str, ...] = ()) -> None:
        self.service = service
        self.watches = watches
        self.work = work
        self.specs: dict[type[Message], HandlerSpec] = {}
        self.record_topics: tuple[str, ...] = ()
        self._undoing: dict[type[Message], str] = {}
        _check_working_set(work)

    def step(self, handler: Callable[[E, W], S]) -> Callable[[E, W], S]:
        """Register a step of the saga: it can be undone by a compensation."""
        return self._register("step", handler)

    def pivot(self, handler: Callable[[E, W], S]) -> Callable[[E, W], S]:
        """Register the decision after which the saga goes on to its end."""
        return self._register("pivot", handler)

    def retryable(self, handler: Callable[[E, W], S]) -> Callable[[E, W], S]:
        """Register a step after the pivot: it is never undone and succeeds at last."""
        return self._register("retryable", handler)

    def learns(self, handler: Callable[[E, W], S]) -> Callable[[E, W], S]:
        """Register a handler that folds what another service did and needs no undo of its own."""
        return self._register("learns", handler)

    def command(self, handler: Callable[[E, W], S]) -> Callable[[E, W], S]:
        """Register the handler of a request over HTTP."""
        return self._register("command", handler)

    def answer(self, handler: Callable[[E, W], S]) -> Callable[[E, W], S]:
        """Register the handler of an result of the outside world."""
        return self._register("answer", handler)

    def timer(self, handler: Callable[[E, W], S]) -> Callable[[E, W], S]:
        """Register the handler of a due timer."""
        return self._register("timer", handler)

    def records(self, *topics: str) -> Callable[[Callable[[E, W], S]], Callable[[E, W], S]]:
        """Register the one reaction to every record of these topics, readable or not: a console's, an archive's.

        It takes an AnyRecord; a service that has it hears no event by a class of its own.
        """
        if self.record_topics or self.consumes(Event) or not topics:
            message = f"{self.service}: one reaction hears all records of the topics named, or handlers hear events"
            raise TypeError(message)

        def register(handler: Callable[[E, W], S]) -> Callable[[E, W], S]:
            found = self._register("records", handler)
            self.record_topics = tuple(sorted(set(topics)))
            return found

        return register

    def compensates(self, undone: Callable[..., Saying]) -> Callable[[Callable[[E, W], S]], Callable[[E, W], S]]:
        """Register the handler that undoes a step named by its function."""
        step = next((r for r in self.specs.values() if r.handler is undone and r.role == "step"), None)
        if step is None:
            message = f"{self.service}: a compensation must name a registered step, not {_name(undone)}"
            raise TypeError(message)

        def register(handler: Callable[[E, W], S]) -> Callable[[E, W], S]:
            return self._register("compensates", handler, step.name)

        return register

    def dispatch(self, body: Message, work: W) -> tuple[Emitted, ...]:
        """Return what the handler of this message says; () for someone else's business.

        Raises whatever the handler raises, and TypeError if it said what its signature does not declare.
        """
        reaction = self.specs.get(type(body))
        if reaction is None:
            return ()
        said = reaction.handler(body, work)
        saying: tuple[Emitted, ...] = said if isinstance(said, tuple) else () if said is None else (said,)
        for one in saying:
            if type(one) not in reaction.emits:
                message = f"{reaction.name} said {type(one).__name__}, which its signature does not declare"
                raise TypeError(message)
        return saying

    def consumes(self, kind: type[E]) -> dict[str, type[E]]:
        """Return the classes of this kind that have a handler, by wire type."""
        return {cls.type: cls for cls in self.specs if issubclass(cls, kind)}

    def emits(self, kind: type[E]) -> dict[str, type[E]]:
        """Return the classes of this kind that some handler may say, by wire type."""
        return {cls.type: cls for r in self.specs.values() for cls in r.emits if issubclass(cls, kind)}

    def compensated_step(self, cls: type[Message]) -> str | None:
        """Return the step that a said event or intent undoes: whose compensation may say it; None for the others."""
        return self._undoing.get(cls)

    def topics(self) -> tuple[str, ...]:
        """Return the topics this service hears, sorted."""
        return self.record_topics or tuple(sorted({cls.topic for cls in self.consumes(Event).values()}))

    def watched(self) -> tuple[str, ...]:
        """Return the topics of which it hears heartbeats alone, sorted."""
        return tuple(sorted({f"{source}.events" for source in self.watches} - {*self.topics()}))

    def subscribed(self) -> tuple[str, ...]:
        """Return the topics this service reads: what it hears, and what it watches."""
        return *self.topics(), *self.watched()

    def _register(self, role: str, handler: Callable[[E, W], S], undoes: str | None = None) -> Callable[[E, W], S]:
        hears, says = _edges(handler, self.work)
        if not issubclass(hears, KINDS[role]):
            message = f"{_name(handler)}: @on.{role} hears a {KINDS[role].__name__}, not {hears.__name__}"
            raise TypeError(message)
        if issubclass(hears, Event) and self.record_topics:
            message = f"{_name(handler)}: {self.service} hears all records of its topics by one reaction already"
            raise TypeError(message)
        if issubclass(hears, Event) and not hears.source:
            message = (
                f"{_name(handler)}: {hears.__name__} must name who says it: class {hears.__name__}(Event, source=…)"
            )
            raise TypeError(message)
        if first := next((r for r in self.specs.values() if r.consumes.type == hears.type), None):
            message = f"{hears.type} ({hears.__name__}) has a handler already: {first.name}"
            raise TypeError(message)
        doc = (inspect.getdoc(handler) or "").split("\n")[0]
        if undoes:
            undone = (cls for cls in says if issubclass(cls, Event | Intent) and not issubclass(cls, SystemEvent))
            self._undoing |= dict.fromkeys(undone, undoes)
        self.specs[hears] = HandlerSpec(_name(handler), role, hears, says, handler, doc, undoes)
        return handler


def _name(handler: Callable[..., object]) -> str:
    return str(getattr(handler, "__name__", handler))


def _edges(handler: Callable[..., object], work: type) -> tuple[type[Message], tuple[type[Emitted], ...]]:
    name, parameters = _name(handler), list(inspect.signature(handler).parameters)
    if len(parameters) != 2:  # noqa: PLR2004 - a message and the working set, always
        message = f"{name} must take exactly a message and the working set"
        raise TypeError(message)
    hints = get_type_hints(handler)
    for part in (*parameters, "return"):
        if part not in hints:
            message = f"{name}: annotate {part!r}: the saga is read from signatures"
            raise TypeError(message)
    if hints[parameters[1]] is not work:
        message = f"{name} works on {hints[parameters[1]]}, not on {work.__name__}"
        raise TypeError(message)
    hears = _concrete(name, hints[parameters[0]])
    return hears, tuple(dict.fromkeys(_said(name, hints["return"])))


def _concrete(name: str, annotation: object) -> type[Message]:
    if not (isinstance(annotation, type) and issubclass(annotation, Message)) or annotation in BASES:
        message = f"{name}: {annotation} is no message of its own; name one dataclass"
        raise TypeError(message)
    first_field(annotation)
    if not _frozen(annotation):
        message = f"{name}: {annotation.__name__} must be frozen: a handler could change what others are to hear"
        raise TypeError(message)
    return annotation


def _said(name: str, annotation: object) -> list[type[Emitted]]:
    if annotation is None or annotation is type(None) or annotation is Ellipsis:
        return []
    if get_origin(annotation) in (Union, types.UnionType, tuple):
        return [cls for part in get_args(annotation) for cls in _said(name, part)]
    cls = _concrete(name, annotation)
    if not issubclass(cls, Event | Intent | Timer | Reply):
        message = f"{name} may not say {cls.__name__}: only facts, intents, timers and replies are said"
        raise TypeError(message)
    return [cls]


def _frozen(cls: type) -> bool:
    return dataclasses.is_dataclass(cls) and bool(cls.__dataclass_params__.frozen)  # type: ignore[attr-defined] # not in typeshed


def _check_working_set(work: type) -> None:
    if not _frozen(work):
        message = f"the working set {work.__name__} must be a frozen dataclass of Rows"
        raise TypeError(message)
    hints = get_type_hints(work)
    for field in dataclasses.fields(work):
        if get_origin(hints[field.name]) is not Rows and field.name != "rules":
            message = f"{work.__name__}.{field.name} is not Rows: a handler's changes could not be rewound"
            raise TypeError(message)
