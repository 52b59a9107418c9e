"""The one function that carries the guarantee: effects once per input id, in one transaction with the position."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar
from uuid import UUID

import psycopg
from pydantic import TypeAdapter

from chassis import announce, attempts, ledger, sqlstate
from chassis.facts import Announced
from chassis.ids import event_id, id_milliseconds, milliseconds
from chassis.inputs import Busy, Done, Entry, Failed, Input, Outcome, Parked, Seen, Unreadable, Withheld
from chassis.ledger import Fenced, History, Promise, Told
from chassis.outside import Ruling
from chassis.reading import TOO_OLD
from chassis.service import Service, Tx, tables
from chassis.session import pipelined
from chassis.upkeep import make_days
from chassis.words import (
    Command,
    Fact,
    Infrastructure,
    Intent,
    Message,
    NotYet,
    Said,
    Timer,
    key_of,
    stamp,
    tell_waiting,
)

W = TypeVar("W")
LEASE = timedelta(seconds=30)
PAYLOAD_MAX = 262_144
# What is caught where no input is to blame: the worker re-reads its positions and seeks, the intake looks its requests
# up. Which errors of the database are an input's, ``sqlstate`` tells; ``commit`` never raises those.
OUTAGE = (Fenced, Infrastructure, psycopg.Error)
_ADAPTERS: dict[type[Message], TypeAdapter[Any]] = {}


class _Told(logging.Filter):
    """Drops psycopg's warning that a pipeline was aborted: the error that aborted it is raised, and judged here."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is to be kept."""
        last = record.args[-1] if isinstance(record.args, tuple) and record.args else None
        return not isinstance(last, psycopg.errors.PipelineAborted)


logging.getLogger("psycopg").addFilter(_Told())


class Refused(Exception):  # noqa: N818 - the name says what is the case
    """A handler said something the chassis cannot keep: a foreign key, or a fact too large for a record."""


class Gate(Protocol):
    """What a replay is let through by; everything else passes."""

    def refuses(self, heard: Input, history: History) -> Withheld | None:
        """Tell whether an input is not to be handled at all."""
        ...

    def judges(self, heard: Input, said: tuple[Said, ...]) -> Withheld | None:
        """Tell whether what its handler said must not be said: then nothing of it happens."""
        ...


@dataclass(slots=True)
class _Batch:
    """One transaction's worth of work in memory."""

    service: Service[Any]
    work: Any
    history: History
    told: Told
    room: int
    gate: Gate | None


def commit(
    tx: Tx, service: Service[W], inputs: Sequence[Input], room: int = 0, gate: Gate | None = None
) -> list[Outcome]:
    """Handle a batch of inputs, each id once; ``room`` intents may be leased to this process at once.

    A batch the database refuses is halved until the guilty input stands alone and is parked. Raises Fenced and every
    infrastructure error; then nothing of the refused part happened, or its COMMIT's answer was lost.
    """
    if not inputs:
        return []
    try:
        return _placed(tx, service, inputs, room, gate)
    except Exception as refused:
        if is_outage(refused):
            raise
        if len(inputs) == 1:
            return [_alone(tx, service, inputs[0], refused, gate)]
    half = len(inputs) // 2  # no room: what one half leased would be lost from memory if the other met an outage
    return commit(tx, service, inputs[:half], 0, gate) + commit(tx, service, inputs[half:], 0, gate)


def is_outage(trouble: BaseException) -> bool:
    """Tell whether trouble is nobody's fault who is handled here; else values, a handler or a store have caused it."""
    return isinstance(trouble, OUTAGE) and not sqlstate.blames_input(trouble)


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


def _placed(tx: Tx, service: Service[W], inputs: Sequence[Input], room: int, gate: Gate | None) -> list[Outcome]:
    """Handle a batch in one transaction, and once more if a day had no place: nobody need have kept days ahead."""
    try:
        return _together(tx, service, inputs, room, gate)
    except psycopg.errors.CheckViolation as refused:
        if not sqlstate.is_missing_partition(refused):
            raise
    make_days(tx)
    return _together(tx, service, inputs, room, gate)


def _together(tx: Tx, service: Service[W], inputs: Sequence[Input], room: int, gate: Gate | None) -> list[Outcome]:
    began = time.monotonic()
    with pipelined(tx):
        opening = ledger.begin(tx, inputs)
        work = service.load(tx, [stamp(i.body, i.at, i.attempts) for i in inputs if isinstance(i.body, Message)])
        batch = _Batch(service, work, opening.history(), Told(), room, gate)
        outcomes = [_handle(batch, heard) for heard in inputs]
        handed = _hand_on(batch, began + LEASE.total_seconds())
        service.store.save(tx, work)
        ledger.end(tx, list(zip(inputs, outcomes, strict=True)), batch.told, batch.history, LEASE)
        if batch.told.ours:
            announce.write(tx, batch.told.ours)
    return [_with_handed(outcome, heard, handed) for outcome, heard in zip(outcomes, inputs, strict=True)]


def _alone(tx: Tx, service: Service[W], heard: Input, refused: Exception, gate: Gate | None) -> Outcome:
    """Give a lone input a second chance (a racing insert has landed by now), then park it."""
    try:
        return _placed(tx, service, [heard], 0, gate)[0]
    except Exception as again:
        if is_outage(again):
            raise
        if isinstance(heard.body, Command):
            return Failed(again)
        blame = _blame(heard, refused)
    with pipelined(tx):
        history = ledger.begin(tx, [heard]).history()
        outcome: Outcome = Seen() if history.knows(heard) else blame
        ledger.end(tx, [(heard, outcome)], Told(), history, LEASE)
    return outcome


def _handle(batch: _Batch, heard: Input) -> Outcome:
    history = batch.history
    if heard.request in history.busy:
        return Busy()
    if batch.gate and (withheld := batch.gate.refuses(heard, history)):
        return withheld
    if history.knows(heard):
        return Seen()
    if not isinstance(heard.body, Command) and not history.admits(heard):
        return _parked(history, heard, Parked(ledger.BEHIND, "behind an earlier one of its order"))
    outcome = _react(batch, heard)
    return _parked(history, heard, outcome) if isinstance(outcome, Parked) else outcome


def _react(batch: _Batch, heard: Input) -> Done | Parked | Failed | Withheld:
    """Let the handler do its work; of one that fails, or that the gate does not let through, nothing is left."""
    if isinstance(heard.body, Unreadable):
        return Parked(heard.body.error_class, heard.body.reason)
    if isinstance(heard.body, Command):
        tell_waiting(heard.body, batch.history.waiting.get(heard.key, ()))
    rows, mark = tables(batch.work), batch.told.mark()
    marks = [table.mark() for table in rows]
    outcome: Parked | Failed | Withheld | None
    try:
        said = batch.service.on.react(heard.body, batch.work)
        outcome = batch.gate.judges(heard, said) if batch.gate else None
        if outcome is None:
            _tell(batch, heard, said)
            return _done(batch.history, heard, said)
    except Infrastructure:
        raise
    except Exception as raised:  # noqa: BLE001 - a handler's failure is its input's: rewound, then parked
        outcome = _blame(heard, raised)
    batch.told.rewind(mark)
    for table, place in zip(rows, marks, strict=True):
        table.rewind(place)
    return outcome


def _done(history: History, heard: Input, said: tuple[Said, ...]) -> Done:
    history.seen.add(heard.id)
    if heard.redriven:
        history.lines[heard.line].remove(heard.id)
    return Done(said)


def _parked(history: History, heard: Input, outcome: Parked) -> Parked:
    if not heard.redriven:
        history.lines.setdefault(heard.line, []).append(heard.id)
    return outcome


def _blame(heard: Input, raised: Exception) -> Parked | Failed:
    """Name what went wrong by class and a fixed phrase: an exception's values may hold what must not be stored."""
    if isinstance(heard.body, Command):
        return Failed(raised)
    if isinstance(heard.body, Unreadable):
        return Parked(heard.body.error_class, heard.body.reason)
    if sqlstate.is_missing_partition(raised) and id_milliseconds(heard.id) < time.time() * 1000:
        return Parked(TOO_OLD[1], TOO_OLD[0])
    if isinstance(raised, NotYet):
        return Parked("CAUSALITY", "NotYet: came before what it refers to")
    return Parked("HANDLER", f"{type(raised).__name__} while handling {heard.type}")


def _tell(batch: _Batch, heard: Input, said: tuple[Said, ...]) -> None:
    """Give every fact, intent and timer its id, encode it, and queue it in order."""
    ordinals: dict[str, int] = {}
    for message in said:
        ordinal = ordinals[message.type] = ordinals.get(message.type, -1) + 1
        if isinstance(message, Fact):
            fact = _fact(batch.service, heard, message, ordinal)
            (batch.told.ours if fact.key == batch.service.name else batch.told.facts).append(fact)
        elif isinstance(message, Intent | Timer):
            batch.told.promises.append(_promise(batch.service, heard, message, ordinal))
    if attempt := attempts.ended(batch.service.on, heard, said):
        cause = heard.agenda or heard.id
        batch.told.facts.append(announce.saying(batch.service, cause, attempt, attempt.attempt, heard.inside))


def _fact(service: Service[Any], heard: Input, fact: Fact, ordinal: int) -> ledger.Said:
    payload, key = service.codec.encode(fact), key_of(fact)
    if key != heard.key and not (isinstance(fact, Announced) and key == service.name):
        message = f"{fact.type} has another key than its cause: its sequence could not be kept"
        raise Refused(message)
    if len(payload) > PAYLOAD_MAX:
        message = f"{fact.type} has {len(payload)} bytes; a record carries {PAYLOAD_MAX}"
        raise Refused(message)
    identity = event_id(service.name, heard.id, fact.type, ordinal)
    topic = (fact.said_on if isinstance(fact, Announced) else fact.topic) or f"{service.name}.events"
    sending = heard.inside.child().traceparent
    return ledger.Said(identity, topic, key, fact.type, payload, heard.id, sending, bytes.fromhex(heard.span_id))


def _promise(service: Service[Any], heard: Input, message: Intent | Timer, ordinal: int) -> Promise:
    due: datetime | None = getattr(message, "due", None) if isinstance(message, Timer) else None
    identity = event_id(service.name, heard.id, message.type, ordinal, milliseconds(due) if due else None)
    promise = Promise(identity, heard.id, message, to_json(message), due, heard.inside)
    errand = service.outside.errands.get(type(message)) if heard.agenda and isinstance(message, Intent) else None
    if errand is None or not errand.goes_on:
        return promise
    wait = errand.rung(heard.attempts) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
    return replace(promise, wait=wait, tried=heard.attempts)


def _hand_on(batch: _Batch, expires: float) -> dict[UUID, list[Entry]]:
    """Lease as many fresh intents as there is room to this process itself, so that no poll stands between."""
    handed: dict[UUID, list[Entry]] = {}
    promises, errands, now = batch.told.promises, batch.service.outside.errands, datetime.now(UTC)
    for place, promise in enumerate(promises):
        intent = promise.message
        if batch.room <= 0 or not isinstance(intent, Intent) or not (errand := errands.get(type(intent))):
            continue
        if promise.wait:
            continue
        if errand.when and errand.when(stamp(intent, now), batch.work) is not Ruling.GO:
            continue
        batch.room -= 1
        promises[place] = replace(promise, handed=True)
        entry = Entry(promise.id, key_of(intent), intent, 1, expires, promise.trace)
        handed.setdefault(promise.cause, []).append(entry)
    return handed


def _with_handed(outcome: Outcome, heard: Input, handed: dict[UUID, list[Entry]]) -> Outcome:
    entries = handed.get(heard.id) if isinstance(outcome, Done) else None
    return Done(outcome.said, tuple(entries)) if isinstance(outcome, Done) and entries else outcome
