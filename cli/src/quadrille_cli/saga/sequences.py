"""Sequence diagrams of whole paths through the saga, walked over the handlers' signatures: docs/choreography.md.

A signature says what a handler may emit, a path which of it: only forks are declared, and one that no signature allows,
or that no message reaches, is a finding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, get_type_hints

from quadrille.handlers import HandlerRegistry, HandlerSpec
from quadrille.messages import Event, Intent, Message, Reply, Timer
from quadrille.system_messages import SystemEvent
from quadrille_cli.saga.checks import Saga

Registry: TypeAlias = HandlerRegistry[Any]
NOTHING: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Path:
    """One way through the saga: the commands that begin it, and the branch taken at each fork.

    ``forks`` name what a handler emits where its signature leaves a choice, ``results`` what the outside answers to an
    intent. A command of ``then`` comes when everything before it has come to rest.
    """

    title: str
    begins: str
    forks: Mapping[str, tuple[str, ...]]
    results: Mapping[str, str]
    then: tuple[str, ...] = ()


HAPPY: Mapping[str, tuple[str, ...]] = {
    "payment.learn_amount": NOTHING,  # the charge waits for the stock
    "inventory.reserve_stock": ("stock.reserved",),
    "payment.charged": ("payment.charged",),
    "order.confirm": ("order.confirmed",),
    "notification.tell_of_confirmation": ("send_mail",),
}
UNDOING: Mapping[str, tuple[str, ...]] = {
    "inventory.release_stock": ("stock.released",),
    "notification.tell_of_cancellation": ("send_mail",),
}
PATHS = (
    Path("The happy path", "place_order", HAPPY, {"charge_card": "card_charged", "send_mail": "mail_sent"}),
    Path(
        "A failed path: the card is declined",
        "place_order",
        {
            "payment.learn_amount": NOTHING,
            "inventory.reserve_stock": ("stock.reserved",),
            "order.give_up_unpaid": ("order.cancellation_requested",),
            "inventory.release_early": ("stock.released",),
            "inventory.release_stock": NOTHING,  # it has released and said so: the fast path came first
            "payment.undo_payment": NOTHING,  # a declined card owes nothing
            "order.note_released": ("order.cancelled",),
            "notification.tell_of_cancellation": ("send_mail",),
        },
        {"charge_card": "card_declined", "send_mail": "mail_sent"},
    ),
    Path(
        "An undone path: the customer cancels after the confirmation",
        "place_order",
        {
            **HAPPY,
            **UNDOING,
            "order.cancel_order": ("order.cancellation_requested",),
            "payment.undo_payment": ("refund_card",),
            "payment.refunded": ("payment.refunded",),
            "order.note_released": NOTHING,  # the money is still owed
            "order.note_refunded": ("order.cancelled",),
        },
        {"charge_card": "card_charged", "refund_card": "card_refunded", "send_mail": "mail_sent"},
        then=("cancel_order",),
    ),
)


@dataclass(slots=True)
class Walk:
    """A path as it was walked: what each handler emitted, the lines of its diagram, and what does not fit."""

    handled: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    outsides: dict[str, str] = field(default_factory=dict)


def walk(saga: Saga, path: Path) -> Walk:
    """Follow a path breadth first, as its messages would arrive, until nothing more is emitted."""
    walked, answered = Walk(), set[str]()
    for command in (path.begins, *path.then):
        waiting = deque(_commands(saga, command))
        if not waiting:
            walked.faults.append(f"nobody handles {command}")
        while waiting:
            waiting += _step(saga, path, walked, answered, waiting.popleft())
    reached = {name for name, _ in walked.handled}
    walked.faults += [f"{name} is never reached" for name in path.forks if name not in reached]
    walked.faults += [f"{intent} is never emitted" for intent in path.results if intent not in answered]
    return walked


def diagram(saga: Saga, path: Path) -> str:
    """Return a path as a Mermaid sequence diagram."""
    walked = walk(saga, path)
    services = [service.service for service in saga.services]
    people = ["  actor client", *(f"  participant {name}" for name in services)]
    people += [f"  participant {name} as {shown}" for name, shown in walked.outsides.items()]
    return "\n".join(["```mermaid", "sequenceDiagram", *people, *walked.lines, "```"])


def document(saga: Saga) -> str:
    """Return all diagrams under their titles."""
    return "\n\n".join(f"### {path.title}\n\n{diagram(saga, path)}" for path in PATHS)


def findings(saga: Saga) -> Iterator[str]:
    """Yield where a declared path is none that the handlers could take, a line each."""
    for path in PATHS:
        yield from (f"{path.title}: {fault}" for fault in walk(saga, path).faults)


Arrival: TypeAlias = tuple[Registry, HandlerSpec, str]
"""A message at a handler, with the one it comes from."""


def _commands(saga: Saga, command: str) -> Iterator[Arrival]:
    for service in saga.services:
        yield from ((service, spec, "client") for spec in service.specs.values() if spec.consumes.type == command)


def _step(saga: Saga, path: Path, walked: Walk, answered: set[str], arrival: Arrival) -> Iterator[Arrival]:
    """Let a handler handle its message; yield where what it emits arrives."""
    service, spec, sender = arrival
    name, here = f"{service.service}.{spec.name}", service.service
    arrow = "->>" if sender == "client" else "-->>" if sender in walked.outsides else "-)"
    by = "" if spec.name == spec.consumes.type else f" ({spec.name})"
    walked.lines.append(f"  {sender}{arrow}{here}: {spec.consumes.type}{by}")
    emitted = _emitted(path, name, spec, walked)
    walked.handled.append((name, tuple(cls.type for cls in emitted)))
    if sender == "client":
        walked.lines += [f"  {here}-->>client: {cls.type}" for cls in spec.emits if issubclass(cls, Reply)]
    for cls in emitted:
        if issubclass(cls, Event):
            yield from ((hearer, handler, here) for hearer, handler in saga.hearers(cls.type))
        elif issubclass(cls, Intent):
            answered.add(cls.type)
            yield from _call(saga, path, walked, service, cls)


def _emitted(path: Path, name: str, spec: HandlerSpec, walked: Walk) -> list[type[Message]]:
    """Return what a handler emits on this path: the one thing its signature leaves, or what is declared."""
    able = {cls.type: cls for cls in spec.emits if not issubclass(cls, Reply | Timer | SystemEvent)}
    if name not in path.forks and len(able) > 1:
        walked.faults.append(f"{name} may emit {', '.join(sorted(able))}: the path does not say which")
        return []
    chosen = path.forks.get(name, tuple(able))
    walked.faults += [f"{name} never emits {kind}" for kind in chosen if kind not in able]
    return [able[kind] for kind in chosen if kind in able]


def _call(saga: Saga, path: Path, walked: Walk, service: Registry, intent: type[Intent]) -> Iterator[Arrival]:
    """Let the outside carry out an intent; yield its result on its way back."""
    outside = saga.outsides.get(service.service)
    policy = outside.policies.get(intent) if outside else None
    results = {cls.type: cls for cls in saga.answers(service, intent)}
    result = results.get(path.results.get(intent.type, ""))
    spec = service.specs.get(result) if result else None
    if policy is None or spec is None:
        walked.faults.append(f"{intent.type} has no result {path.results.get(intent.type)}")
        return
    client = [*get_type_hints(policy.call).values()][1].__name__
    there = f"outside_{service.service}"
    walked.outsides[there] = client
    walked.lines.append(f"  {service.service}->>{there}: {intent.type}")
    yield service, spec, there
