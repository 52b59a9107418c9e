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

from quadrille.db import sqlstate
from quadrille.db.connection import pipelined
from quadrille.db.retention import make_days
from quadrille.db.statements import timed
from quadrille.ids import event_id, id_milliseconds, milliseconds
from quadrille.intents import Decision
from quadrille.messages import (
    Command,
    Emitted,
    Event,
    Infrastructure,
    Intent,
    Message,
    NotYet,
    Reply,
    Timer,
    key_of,
    stamp,
    tell_waiting,
    to_json,
)
from quadrille.processing import compensation, outbox, unit_of_work
from quadrille.processing.envelope import (
    TOO_OLD,
    Busy,
    Duplicate,
    EffectBlocked,
    Envelope,
    Failed,
    Handled,
    LeasedIntent,
    Outcome,
    Parked,
    Replayed,
    Unreadable,
)
from quadrille.processing.idempotency import KeptAnswer
from quadrille.processing.unit_of_work import BatchState, FencedError, PendingWrites, TaskRecord
from quadrille.service import Service, Tx, tables
from quadrille.system_messages import SystemEvent

W = TypeVar("W")
LEASE = timedelta(seconds=30)
PAYLOAD_MAX = 262_144
READ, WRITE = "SELECT inbox", "INSERT outbox"  # the groups of a batch by their chief statement; the last ends in COMMIT
# What is caught where no input is to blame: the worker re-reads its positions and seeks, the intake looks its requests
# up. Which errors of the database are an input's, ``sqlstate`` tells; ``commit`` never raises those.
OUTAGE = (FencedError, Infrastructure, psycopg.Error)


class _PendingWrites(logging.Filter):
    """Drops psycopg's warning that a pipeline was aborted: the error that aborted it is raised, and judged here."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is to be kept."""
        last = record.args[-1] if isinstance(record.args, tuple) and record.args else None
        return not isinstance(last, psycopg.errors.PipelineAborted)


logging.getLogger("psycopg").addFilter(_PendingWrites())


class Refused(Exception):  # noqa: N818 - the name says what is the case
    """A handler said something the chassis cannot keep: a foreign key, or an event too large for a record."""


class EffectGuard(Protocol):
    """What a replay is let through by; everything else passes."""

    def refuses(self, heard: Envelope, history: BatchState) -> EffectBlocked | None:
        """Tell whether an input is not to be handled at all."""
        ...

    def judges(self, heard: Envelope, said: tuple[Emitted, ...]) -> EffectBlocked | None:
        """Tell whether what its handler said must not be said: then nothing of it happens."""
        ...


@dataclass(slots=True)
class _Batch:
    """One transaction's worth of work in memory."""

    service: Service[Any]
    work: Any
    history: BatchState
    told: PendingWrites
    room: int
    gate: EffectGuard | None


def process_batch(
    tx: Tx, service: Service[W], inputs: Sequence[Envelope], room: int = 0, gate: EffectGuard | None = None
) -> list[Outcome]:
    """Handle a batch of inputs, each id once; ``room`` intents may be leased to this process at once.

    A batch the database refuses is halved until the guilty input is alone and parked. Raises FencedError and every
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
            return [_process_single(tx, service, inputs[0], refused, gate)]
    half = len(inputs) // 2  # no room: what one half leased would be lost from memory if the other met an outage
    return process_batch(tx, service, inputs[:half], 0, gate) + process_batch(tx, service, inputs[half:], 0, gate)


def is_outage(trouble: BaseException) -> bool:
    """Tell whether trouble is nobody's fault who is handled here; else values, a handler or a store have caused it."""
    return isinstance(trouble, OUTAGE) and not sqlstate.blames_input(trouble)


def _placed(
    tx: Tx, service: Service[W], inputs: Sequence[Envelope], room: int, gate: EffectGuard | None
) -> list[Outcome]:
    """Handle a batch in one transaction, and once more if a day had no place: nobody need have kept days ahead."""
    try:
        return _process(tx, service, inputs, room, gate)
    except psycopg.errors.CheckViolation as refused:
        if not sqlstate.is_missing_partition(refused):
            raise
    make_days(tx)
    return _process(tx, service, inputs, room, gate)


def _process(
    tx: Tx, service: Service[W], inputs: Sequence[Envelope], room: int, gate: EffectGuard | None
) -> list[Outcome]:
    began = time.monotonic()
    with timed(tx, (i.trace for i in inputs)) as statements, pipelined(tx):
        statements.begin(READ)
        opening = unit_of_work.begin(tx, inputs)
        work = service.load(tx, [stamp(i.body, i.at, i.attempts) for i in inputs if isinstance(i.body, Message)])
        batch = _Batch(service, work, opening.history(), PendingWrites(), room, gate)
        statements.end()
        outcomes = [_handle(batch, heard) for heard in inputs]
        handed = _lease_now(batch, began + LEASE.total_seconds())
        statements.begin(WRITE)
        service.store.save(tx, work)
        unit_of_work.end(tx, list(zip(inputs, outcomes, strict=True)), batch.told, batch.history, LEASE)
        if batch.told.ours:
            outbox.write(tx, batch.told.ours)
    return [_with_handed(outcome, heard, handed) for outcome, heard in zip(outcomes, inputs, strict=True)]


def _process_single(
    tx: Tx, service: Service[W], heard: Envelope, refused: Exception, gate: EffectGuard | None
) -> Outcome:
    """Give a lone input a second chance (a racing insert has landed by now), then park it."""
    try:
        return _placed(tx, service, [heard], 0, gate)[0]
    except Exception as again:
        if is_outage(again):
            raise
        if isinstance(heard.body, Command):
            return Failed(again)
        blame = _failure_outcome(heard, refused)
    with pipelined(tx):
        history = unit_of_work.begin(tx, [heard]).history()
        outcome: Outcome = Duplicate() if history.knows(heard) else blame
        unit_of_work.end(tx, [(heard, outcome)], PendingWrites(), history, LEASE)
    return outcome


def _handle(batch: _Batch, heard: Envelope) -> Outcome:
    history = batch.history
    if heard.request and heard.request.lock in history.busy:
        return Busy()
    if kept := history.answer(heard):
        return Replayed(kept)
    if batch.gate and (withheld := batch.gate.refuses(heard, history)):
        return withheld
    if history.knows(heard):
        return Duplicate()
    if not isinstance(heard.body, Command) and not history.admits(heard):
        return _parked(history, heard, Parked(unit_of_work.BEHIND, "behind an earlier one of its order"))
    outcome = _dispatch(batch, heard)
    return _parked(history, heard, outcome) if isinstance(outcome, Parked) else outcome


def _dispatch(batch: _Batch, heard: Envelope) -> Handled | Parked | Failed | EffectBlocked:
    """Let the handler do its work; of one that fails, or that the gate does not let through, nothing is left."""
    if isinstance(heard.body, Unreadable):
        return Parked(heard.body.error_class, heard.body.reason)
    if isinstance(heard.body, Command):
        tell_waiting(heard.body, batch.history.waiting.get(heard.key, ()))
    rows, mark = tables(batch.work), batch.told.mark()
    marks = [table.mark() for table in rows]
    outcome: Parked | Failed | EffectBlocked | None
    try:
        said = batch.service.on.dispatch(heard.body, batch.work)
        outcome = batch.gate.judges(heard, said) if batch.gate else None
        if outcome is None:
            _collect(batch, heard, said)
            return _done(batch, heard, said)
    except Infrastructure:
        raise
    except Exception as raised:  # noqa: BLE001 - a handler's failure is its input's: rewound, then parked
        outcome = _failure_outcome(heard, raised)
    batch.told.rewind(mark)
    for table, place in zip(rows, marks, strict=True):
        table.rewind(place)
    return outcome


def _done(batch: _Batch, heard: Envelope, said: tuple[Emitted, ...]) -> Handled:
    history, kept = batch.history, _answer_to_keep(heard, said)
    if kept:
        batch.told.answers.append(kept)
        history.answers[kept.name] = kept
    history.seen.add(heard.id)
    if heard.redriven:
        history.lines[heard.lane].remove(heard.id)
    return Handled(said, kept=kept)


def _answer_to_keep(heard: Envelope, said: tuple[Emitted, ...]) -> KeptAnswer | None:
    """Return what repeats of a command are answered; None if it came under no key, or was refused."""
    if heard.request is None:
        return None
    reply = next((message for message in said if isinstance(message, Reply)), None)
    return heard.request.kept(reply, heard.key, heard.at) if reply else None


def _parked(history: BatchState, heard: Envelope, outcome: Parked) -> Parked:
    if not heard.redriven:
        history.lines.setdefault(heard.lane, []).append(heard.id)
    return outcome


def _failure_outcome(heard: Envelope, raised: Exception) -> Parked | Failed:
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


def _collect(batch: _Batch, heard: Envelope, said: tuple[Emitted, ...]) -> None:
    """Give every event, intent and timer its id, encode it, and queue it in order."""
    ordinals: dict[str, int] = {}
    for message in said:
        ordinal = ordinals[message.type] = ordinals.get(message.type, -1) + 1
        if isinstance(message, Event):
            fact = _event(batch.service, heard, message, ordinal)
            (batch.told.ours if fact.key == batch.service.name else batch.told.facts).append(fact)
        elif isinstance(message, Intent | Timer):
            batch.told.promises.append(_task(batch.service, heard, message, ordinal))
    if attempt := compensation.ended(batch.service.on, heard, said):
        cause = heard.from_task or heard.id
        batch.told.facts.append(outbox.saying(batch.service, cause, attempt, attempt.attempt, heard.inside))


def _event(service: Service[Any], heard: Envelope, fact: Event, ordinal: int) -> unit_of_work.OutboxRecord:
    payload, key = service.codec.encode(fact), key_of(fact)
    if key != heard.key and not (isinstance(fact, SystemEvent) and key == service.name):
        message = f"{fact.type} has another key than its cause: its sequence could not be kept"
        raise Refused(message)
    if len(payload) > PAYLOAD_MAX:
        message = f"{fact.type} has {len(payload)} bytes; a record carries {PAYLOAD_MAX}"
        raise Refused(message)
    identity = event_id(service.name, heard.id, fact.type, ordinal)
    topic = (fact.said_on if isinstance(fact, SystemEvent) else fact.topic) or f"{service.name}.events"
    sending = heard.inside.child().traceparent
    return unit_of_work.OutboxRecord(
        identity, topic, key, fact.type, payload, heard.id, sending, bytes.fromhex(heard.span_id)
    )


def _task(service: Service[Any], heard: Envelope, message: Intent | Timer, ordinal: int) -> TaskRecord:
    due: datetime | None = getattr(message, "due", None) if isinstance(message, Timer) else None
    identity = event_id(service.name, heard.id, message.type, ordinal, milliseconds(due) if due else None)
    promise = TaskRecord(identity, heard.id, message, to_json(message), due, heard.inside)
    errand = service.outside.policies.get(type(message)) if heard.from_task and isinstance(message, Intent) else None
    if errand is None or not errand.continues:
        return promise
    wait = errand.rung(heard.attempts) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
    return replace(promise, wait=wait, tried=heard.attempts)


def _lease_now(batch: _Batch, expires: float) -> dict[UUID, list[LeasedIntent]]:
    """Lease as many fresh intents as there is room to this process itself, so that no poll stands between."""
    handed: dict[UUID, list[LeasedIntent]] = {}
    promises, errands, now = batch.told.promises, batch.service.outside.policies, datetime.now(UTC)
    for place, promise in enumerate(promises):
        intent = promise.message
        if batch.room <= 0 or not isinstance(intent, Intent) or not (errand := errands.get(type(intent))):
            continue
        if promise.wait:
            continue
        if errand.precondition and errand.precondition(stamp(intent, now), batch.work) is not Decision.PROCEED:
            continue
        batch.room -= 1
        promises[place] = replace(promise, handed=True)
        entry = LeasedIntent(promise.id, key_of(intent), intent, 1, expires, promise.trace)
        handed.setdefault(promise.cause, []).append(entry)
    return handed


def _with_handed(outcome: Outcome, heard: Envelope, handed: dict[UUID, list[LeasedIntent]]) -> Outcome:
    entries = handed.get(heard.id) if isinstance(outcome, Handled) else None
    return replace(outcome, handed=tuple(entries)) if isinstance(outcome, Handled) and entries else outcome
