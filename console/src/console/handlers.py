"""What the console does with a record: keep it, and let its order know; what is kept of a trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from console.alerts import domain as alerts
from console.domain import TAKES_PART, Fact, Failure, Order, Shown, TracePart, state_of
from console.reading import fact_of, input_of, name_of, stored
from quadrille import AnyRecord, Command, HandlerRegistry, Reply

TOPICS = (
    *(f"{service}.events" for service in TAKES_PART),
    *(f"{service}.dead-letters" for service in TAKES_PART),
    "saga.audit", "ops.events",
)  # fmt: skip
Telling: TypeAlias = tuple[alerts.SendAlert, ...]
on = HandlerRegistry("console", Shown)


@dataclass(frozen=True)
class KeepSpans(Command):
    """Spans that a process exported, by its name: parts of traces, each with its trace's id, as they came."""

    source: str
    parts: tuple[TracePart, ...]


@dataclass(frozen=True)
class SpansKept(Reply):
    """They are kept."""

    source: str


@on.records(*TOPICS)
def take(record: AnyRecord, shown: Shown) -> Telling:
    """Keep a record as it came; one that could be read is a fact of its order, and may be told to those outside."""
    if shown.events.get(record.id) is None:
        shown.events.put(record.id, stored(record))
    if (fact := fact_of(record)) is None:
        return alerts.note(record, None, shown.alerts, shown.rules.targets)
    order = shown.orders.get(record.key) or Order(record.key)
    if failed := input_of(fact):
        _note_failure(record.key, failed, fact, shown)
        order = order.parks("/".join(failed), fact)
    else:
        order = order.hears(name_of(fact), fact, record.trace_id)
    shown.orders.put(record.key, order)
    return alerts.note(record, order, shown.alerts, shown.rules.targets)


@on.answer
def note_told(taken: alerts.AlertTaken, shown: Shown) -> Telling:
    """A target was told; it is told what has changed meanwhile."""
    return alerts.go_on(taken, shown.alerts, shown.rules.targets)


@on.answer
def note_refused(refused: alerts.AlertRefused, shown: Shown) -> Telling:
    """A target could not be told; it is told what has changed meanwhile."""
    return alerts.go_on(refused, shown.alerts, shown.rules.targets)


@on.command
def keep_spans(command: KeepSpans, shown: Shown) -> SpansKept:
    """Keep parts of traces for their waterfalls; what comes twice is drawn once."""
    for part in command.parts:
        shown.parts.put(part, part)
    return SpansKept(command.source)


def _note_failure(order_id: str, place: tuple[str, str], fact: Fact, shown: Shown) -> None:
    """Note where an input stands that could not be handled; what later words leave out stays as it was told."""
    known = shown.failures.get(place)
    if known and known.at > fact.at:
        return
    body = {**(known.body if known else {}), **fact.body}
    told = Fact(fact.type, fact.at, fact.id, fact.sequence, body)
    since = known.since if known else fact.at
    found = Failure(
        *place, order_id, state_of(fact), told.text("error_class") or "", told.text("error") or "",
        told.number("behind") or 0, since, fact.at, fact.text("operator"), fact.text("reason"), body,
    )  # fmt: skip
    shown.failures.put(place, found)
