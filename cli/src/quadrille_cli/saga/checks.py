"""Whether the saga as drawn does its work: nothing said in vain, no dead end, all can be undone, all acknowledge.

What no signature can say is declared here, each with its reason; a declaration that no longer fits is a finding too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from quadrille.handlers import HandlerRegistry, HandlerSpec
from quadrille.intents import Gateway, IntentPolicy
from quadrille.messages import Command, Event, Intent, Message, Reply, Result, Timer
from quadrille.system_messages import SystemEvent

ABORT, FROZEN, RESOLVED = "order.cancellation_requested", "order.compensation_failed", "order.compensation_resolved"
CONFIRMED, CANCELLED = "order.confirmed", "order.cancelled"
OPERATORS = {
    FROZEN: "a person retries or resolves the undo, at the participant that owes it",
    RESOLVED: "they see that what they were paged for is over",
}
READERS = {
    "notification.sent": "whether a customer was told changes nothing for money or stock",
    "notification.failed": "a mail that was given up is notification's own alarm, and changes nothing else",
    "notification.suppressed": "a mail that would have been untrue, or had no address: nothing follows from it",
}
RESTS = {
    CONFIRMED: "the good end; what follows it succeeds at last",
    CANCELLED: "the other end",
    "stock.committed": "the last step of a confirmed order",
    "payment.outcome_unknown": "shown to the client; the inquiry goes on by itself",
}
UNDONE_BY = {
    "order.confirm": "cancel_order",  # before the cut-off
    "inventory.commit_stock": "release_stock",  # returned, unless the goods were sold as sealed
}
IRREVERSIBLE = {
    "notification.tell_of_confirmation": "a mail cannot be unsent: a cancellation has a mail of its own",
    "notification.tell_of_cancellation": "a mail cannot be unsent, and nothing undoes a cancellation",
}
BESIDE = {
    "order.push_webhook": "tells a client's endpoint what has happened already; no order waits for it",
}


@dataclass(frozen=True, slots=True)
class Declared:
    """What is so on purpose: events that no service hears, events after which nothing need follow, steps for good.

    ``beside`` are intents that no saga waits for.
    """

    operators: Mapping[str, str] = field(default_factory=lambda: OPERATORS)
    readers: Mapping[str, str] = field(default_factory=lambda: READERS)
    rests: Mapping[str, str] = field(default_factory=lambda: RESTS)
    undone_by: Mapping[str, str] = field(default_factory=lambda: UNDONE_BY)
    irreversible: Mapping[str, str] = field(default_factory=lambda: IRREVERSIBLE)
    beside: Mapping[str, str] = field(default_factory=lambda: BESIDE)


@dataclass(frozen=True, slots=True)
class Saga:
    """The handlers of all services, the gateways of those that reach outside, and what is declared."""

    services: Sequence[HandlerRegistry[Any]]
    outsides: Mapping[str, Gateway] = field(default_factory=dict)
    declared: Declared = field(default_factory=Declared)

    @property
    def decider(self) -> HandlerRegistry[Any] | None:
        """The one service that may say that an order is to be undone."""
        return next((service for service in self.services if ABORT in service.emits(Event)), None)

    @property
    def participants(self) -> list[HandlerRegistry[Any]]:
        """The services that do something which can be undone."""
        return [s for s in self.services if any(r.role == "step" for r in s.specs.values())]

    def said(self, service: HandlerRegistry[Any]) -> dict[str, type[Event]]:
        """Return the events a service says in the saga; the chassis' own are for operators by their nature."""
        return {kind: cls for kind, cls in service.emits(Event).items() if not issubclass(cls, SystemEvent)}

    def hearers(self, kind: str) -> list[tuple[HandlerRegistry[Any], HandlerSpec]]:
        """Return who hears an event, and with which handler."""
        return [
            (s, r) for s in self.services for r in s.specs.values() if _is_fact(r.consumes) and r.consumes.type == kind
        ]

    def answers(self, service: HandlerRegistry[Any], intent: type[Intent]) -> set[type[Result]]:
        """Return every answer that may come back to an intent."""
        outside = self.outsides.get(service.service)
        policy = outside.policies.get(intent) if outside else None
        return _answers(intent, policy) if policy else set()

    def follows(self, service: HandlerRegistry[Any], begun: Iterable[type[Message]]) -> set[type[Message]]:
        """Return what a service says, or hears from outside, because of what it has said; that included."""
        found, left = set(), list(begun)
        while left:
            if (cls := left.pop()) in found:
                continue
            found.add(cls)
            if issubclass(cls, Intent):
                left += self.answers(service, cls)
            if issubclass(cls, Result | Timer) and (reaction := service.specs.get(cls)):
                left += reaction.emits
        return found


def findings(saga: Saga) -> Iterator[str]:
    """Yield what is wrong with the saga, a line each."""
    yield from orphans(saga)
    yield from unanswered(saga)
    yield from dead_ends(saga)
    yield from aside(saga)
    yield from undone(saga)
    yield from aborts(saga)
    yield from acknowledgements(saga)
    yield from ways_out(saga)


def orphans(saga: Saga) -> Iterator[str]:
    """No event is heard that nobody says, and none is said that nobody hears, unless it is declared for somebody."""
    said = {(s.service, kind) for s in saga.services for kind in saga.said(s)}
    declared = {**saga.declared.operators, **saga.declared.readers}
    for service in saga.services:
        for kind, cls in service.consumes(Event).items():
            if (cls.source, kind) not in said:
                yield f"{service.service} consumes {kind}, which {cls.source} never emits"
        for kind in saga.said(service):
            heard = [hearer.service for hearer, _ in saga.hearers(kind)]
            if not heard and kind not in declared:
                yield f"{service.service} emits {kind}, which nobody consumes and which is declared for nobody"
            if heard and kind in declared:
                yield f"{kind} is declared for people, and {', '.join(heard)} consumes it"
    for kind in sorted({*declared, *saga.declared.rests} - {kind for _, kind in said}):
        yield f"{kind} is declared, and nobody emits it"


def unanswered(saga: Saga) -> Iterator[str]:
    """Every intent is carried out and each of its answers heard; every timer set is heard, and the other way round."""
    for service in saga.services:
        name, heard = service.service, service.consumes(Result)
        given: set[type[Result]] = set()
        for kind, intent in service.emits(Intent).items():
            answers = saga.answers(service, intent)
            given |= answers
            if not answers:
                yield f"{name} emits {kind}, which nobody carries out"
            for answer in sorted(answers - set(heard.values()), key=lambda cls: cls.type):
                yield f"{name} does not consume {answer.type}, an answer to {kind}"
        for kind in sorted(kind for kind, cls in heard.items() if cls not in given):
            yield f"{name} consumes {kind}, which answers no intent"
        for kind in sorted(set(service.emits(Timer)) ^ set(service.consumes(Timer))):
            yield f"{name}: the timer {kind} is {'never set' if kind in service.consumes(Timer) else 'never consumed'}"


def dead_ends(saga: Saga) -> Iterator[str]:
    """From everything that is said a path leads to an end, or to whom it is declared for; a timer may just warn."""
    declared = saga.declared
    resting = {*declared.operators, *declared.readers, *declared.rests}
    for service in saga.services:
        said = {cls for r in service.specs.values() for cls in r.emits if not issubclass(cls, SystemEvent | Reply)}
        beside = {cls for cls in said if f"{service.service}.{cls.type}" in declared.beside}
        for cls in sorted(said - beside, key=lambda cls: cls.type):
            warns = issubclass(cls, Timer) and any(issubclass(c, SystemEvent) for c in saga.follows(service, [cls]))
            if not warns and not _leads(saga, service, cls, resting):
                yield f"{service.service} emits {cls.type}, which leads to no end"


def aside(saga: Saga) -> Iterator[str]:
    """What is declared beside the saga is there, and nothing of the saga follows from it."""
    for service in saga.services:
        for kind, cls in service.emits(Intent).items():
            if f"{service.service}.{kind}" in saga.declared.beside and any(
                _is_fact(c) for c in saga.follows(service, [cls])
            ):
                yield f"{service.service}.{kind} is declared beside the saga, and an event follows from it"
    there = {f"{service.service}.{kind}" for service in saga.services for kind in service.emits(Intent)}
    for name in sorted(set(saga.declared.beside) - there):
        yield f"{name} is declared beside the saga, and is not there"


def undone(saga: Saga) -> Iterator[str]:
    """Every step has a compensation; what comes after the pivot has an undo too, or is declared irreversible."""
    names = {f"{s.service}.{r.name}" for s in saga.services for r in s.specs.values()}
    for service in saga.services:
        compensated = {r.compensates for r in service.specs.values()}
        begun = {cls for r in service.specs.values() if r.role in ("step", "retryable") for cls in r.emits}
        for reaction in service.specs.values():
            name = f"{service.service}.{reaction.name}"
            if reaction.role == "step" and reaction.name not in compensated:
                yield f"{service.service}: {reaction.name} is a step with no compensation"
            if reaction.role in ("pivot", "retryable") and not _declared_undo(saga.declared, name):
                yield f"{name} has no undo and is not declared irreversible"
            for cls in reaction.emits:
                if reaction.role == "learns" and issubclass(cls, Intent) and cls not in begun:
                    yield f"{name} begins {cls.type} outside and is no step: nobody would undo it"
    for name, undo in saga.declared.undone_by.items():
        if not {name, f"{name.partition('.')[0]}.{undo}"} <= names:
            yield f"{name} is declared undone by {undo}, and one of them is not there"
    for name in sorted(set(saga.declared.irreversible) - names):
        yield f"{name} is declared irreversible, and is not there"


def aborts(saga: Saga) -> Iterator[str]:
    """There is one abort event (L2); deadline, command and failed steps lead to it; it reaches each step's undo."""
    decider = saga.decider
    if decider is None:
        yield f"nobody emits {ABORT}: no order can be undone"
        return
    for kind, who in ((Timer, "deadline"), (Command, "command")):
        if not any(issubclass(r.consumes, kind) and _says(r, ABORT) for r in decider.specs.values()):
            yield f"{decider.service}: no {who} leads to {ABORT}"
    for service in saga.participants:
        undos = [r for r in service.specs.values() if r.role == "compensates" and _is_fact(r.consumes)]
        other = {r.consumes.type for r in undos if getattr(r.consumes, "source", "") == decider.service} - {ABORT}
        if other:
            yield f"{service.service} undoes on {', '.join(sorted(other))} too: every abort is {ABORT} (L2)"
        for step in (r for r in service.specs.values() if r.role == "step"):
            if not any(r.compensates == step.name and r.consumes.type == ABORT for r in undos):
                yield f"{ABORT} does not reach the undo of {service.service}.{step.name}"
            outcomes = [cls for cls in saga.follows(service, step.emits) if _is_fact(cls)]
            if not any(_says(r, ABORT) for cls in outcomes for s, r in saga.hearers(cls.type) if s is decider):
                yield f"{service.service}.{step.name} cannot fail: none of its facts leads to {ABORT}"


def acknowledgements(saga: Saga) -> Iterator[str]:
    """Whatever a participant says when it undoes leads to "done" or "failed" (L3), and the decider hears it."""
    decider = saga.decider
    for service in saga.participants if decider else ():
        for undo in (r for r in service.specs.values() if r.role == "compensates"):
            name = f"{service.service}.{undo.name}"
            begun = [cls for cls in undo.emits if not issubclass(cls, SystemEvent | Reply)]
            if not begun:
                yield f"{name} acknowledges nothing (L3)"
            for cls in begun:
                facts = {c.type for c in saga.follows(service, [cls]) if _is_fact(c) and not issubclass(c, SystemEvent)}
                heard = {kind: [r for s, r in saga.hearers(kind) if s is decider] for kind in facts}
                if not any(_says(r, CANCELLED) or _says(r, FROZEN) for rs in heard.values() for r in rs):
                    yield f"{name} emits {cls.type}, which acknowledges nothing (L3)"
                for kind in sorted(kind for kind, reactions in heard.items() if not reactions):
                    yield f"{name} leads to {kind}, which the decider does not consume"


def ways_out(saga: Saga) -> Iterator[str]:
    """An undo that failed has an exit: a command at its participant that leads to what resolves it."""
    decider = saga.decider
    resolving = [r.consumes.type for r in decider.specs.values() if _says(r, RESOLVED)] if decider else []
    for failure in (r.consumes for r in decider.specs.values() if _says(r, FROZEN)) if decider else ():
        source = getattr(failure, "source", "")
        for service in (s for s in saga.services if s.service == source):
            commands = [r for r in service.specs.values() if issubclass(r.consumes, Command)]
            ends = {cls.type for r in commands for cls in saga.follows(service, r.emits)}
            if ends.isdisjoint(resolving):
                yield f"{failure.type} has no way out: no command of {source} leads to what resolves it"


def _leads(saga: Saga, service: HandlerRegistry[Any], begun: type[Message], resting: set[str]) -> bool:
    """Tell whether a path leads from something said to an event after which nothing need follow."""
    seen, left = set(), [(service, begun)]
    while left:
        where, cls = left.pop()
        if (where.service, cls) in seen:
            continue
        seen.add((where.service, cls))
        for after in saga.follows(where, [cls]):
            if _is_fact(after) and after.type in resting:
                return True
            left += [(s, said) for s, r in (saga.hearers(after.type) if _is_fact(after) else ()) for said in r.emits]
    return False


def _answers(intent: type[Intent], policy: IntentPolicy) -> set[type[Result]]:
    found = _classes(get_type_hints(policy.call).get("return"))
    example = intent(*("" for _ in fields(intent)))  # type: ignore[arg-type] # a dataclass; its values are not looked at
    found |= {type(told(example)) for told in (policy.exhausted, policy.cancelled) if told}
    return {cls for cls in found if issubclass(cls, Result)}


def _classes(annotation: object) -> set[type]:
    if get_origin(annotation) in (Union, UnionType, tuple):
        return {cls for part in get_args(annotation) for cls in _classes(part)}
    return {annotation} if isinstance(annotation, type) else set()


def _declared_undo(declared: Declared, name: str) -> bool:
    return name in declared.undone_by or name in declared.irreversible


def _is_fact(cls: type[Message]) -> bool:
    return issubclass(cls, Event)


def _says(reaction: HandlerSpec, kind: str) -> bool:
    return any(cls.type == kind for cls in reaction.emits)
