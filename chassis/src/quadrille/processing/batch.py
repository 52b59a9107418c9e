"""Batch: the one function every input goes through; effects once per input id, in one transaction with the position."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeAlias, TypeVar
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
from quadrille.processing import compensation, outbox, published, setbacks, unit_of_work
from quadrille.processing.causes import cause_of
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
from quadrille.processing.unit_of_work import PAYLOAD_MAX, BatchState, FencedError, PendingWrites, TaskRecord
from quadrille.service import Service, Tx, tables
from quadrille.system_messages import SystemEvent, topic_of

W = TypeVar("W")
LEASE = timedelta(seconds=30)
READ, WRITE = "SELECT inbox", "INSERT outbox"  # the groups of a batch by their chief statement; the last ends in COMMIT
# What is caught where no input is to blame: the worker re-reads its positions and seeks, the intake looks its requests
# up. Which errors of the database are an input's, ``sqlstate`` tells; ``process_batch`` never raises those.
OUTAGE = (FencedError, Infrastructure, psycopg.Error)


class _PendingWrites(logging.Filter):
    """Drops psycopg's warning that a pipeline was aborted: the error that aborted it is raised, and judged here."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is to be kept."""
        last = record.args[-1] if isinstance(record.args, tuple) and record.args else None
        return not isinstance(last, psycopg.errors.PipelineAborted)


logging.getLogger("psycopg").addFilter(_PendingWrites())


class EmissionRefusedError(Exception):
    """A handler said something the chassis cannot keep: a foreign key, or an event too large for a record."""


class BrakedError(Infrastructure):
    """Too many of a batch were parked alike: nothing of it happened, and its first ``upto`` inputs may be committed."""

    def __init__(self, upto: int) -> None:
        super().__init__("too many in a row were parked by one exception")
        self.upto = upto


BatchBrake: TypeAlias = Callable[[Sequence[Envelope], Sequence[Outcome]], int | None]
"""Tells how many inputs of a batch may be committed, None for all of them."""


class EffectGuard(Protocol):
    """What a replay is let through by; everything else passes."""

    def refuses(self, envelope: Envelope, history: BatchState) -> EffectBlocked | None:
        """Tell whether an input is not to be handled at all."""
        ...

    def judges(self, envelope: Envelope, emitted: tuple[Emitted, ...]) -> EffectBlocked | None:
        """Tell whether what its handler said must not be said: then nothing of it happens."""
        ...


@dataclass(slots=True)
class _Batch:
    """One transaction's worth of work in memory."""

    service: Service[Any]
    work: Any
    history: BatchState
    writes: PendingWrites
    room: int
    guard: EffectGuard | None


def process_batch(  # noqa: PLR0913, PLR0917 - one of each thing that may be said of a batch
    tx: Tx,
    service: Service[W],
    inputs: Sequence[Envelope],
    room: int = 0,
    guard: EffectGuard | None = None,
    brake: BatchBrake | None = None,
) -> list[Outcome]:
    """Handle a batch of inputs, each id once; ``room`` intents may be leased to this process at once.

    A batch the database refuses is halved until the guilty input is alone and parked. Raises FencedError and every
    infrastructure error; then nothing of the refused part happened, or its COMMIT's answer was lost. BrakedError is
    raised when ``brake`` does not let the whole batch through; then nothing of it happened.
    """
    if not inputs:
        return []
    try:
        return _placed(tx, service, inputs, room, guard, brake)
    except Exception as refused:
        if is_outage(refused):
            raise
        if len(inputs) == 1:
            return [_process_single(tx, service, inputs[0], refused, guard)]
    half = len(inputs) // 2  # no room: what one half leased would be lost from memory if the other met an outage
    return process_batch(tx, service, inputs[:half], 0, guard) + process_batch(tx, service, inputs[half:], 0, guard)


def is_outage(trouble: BaseException) -> bool:
    """Tell whether trouble is nobody's fault who is handled here; else values, a handler or a store have caused it."""
    return isinstance(trouble, OUTAGE) and not sqlstate.blames_input(trouble)


def _placed(  # noqa: PLR0913, PLR0917 - as above
    tx: Tx,
    service: Service[W],
    inputs: Sequence[Envelope],
    room: int,
    guard: EffectGuard | None,
    brake: BatchBrake | None = None,
) -> list[Outcome]:
    """Handle a batch in one transaction, and once more if a day had no place: nobody need have kept days ahead."""
    try:
        return _process(tx, service, inputs, room, guard, brake)
    except psycopg.errors.CheckViolation as refused:
        if not sqlstate.is_missing_partition(refused):
            raise
    make_days(tx)
    return _process(tx, service, inputs, room, guard, brake)


def _process(  # noqa: PLR0913, PLR0917 - as above
    tx: Tx,
    service: Service[W],
    inputs: Sequence[Envelope],
    room: int,
    guard: EffectGuard | None,
    brake: BatchBrake | None,
) -> list[Outcome]:
    began = time.monotonic()
    with timed(tx, (i.trace for i in inputs)) as statements, pipelined(tx):
        statements.begin(READ)
        opening = unit_of_work.begin(tx, inputs)
        work = service.load(tx, [stamp(i.body, i.at, i.attempts) for i in inputs if isinstance(i.body, Message)])
        batch = _Batch(service, work, opening.history(), PendingWrites(), room, guard)
        statements.end()
        outcomes = [_handle(batch, envelope) for envelope in inputs]
        if brake and (upto := brake(inputs, outcomes)) is not None:
            raise BrakedError(upto)
        handed = _lease_now(batch, began + LEASE.total_seconds())
        if not service.relayed:
            batch.writes.facts.clear()
            batch.writes.ours.clear()
        statements.begin(WRITE)
        service.store.save(tx, work)
        unit_of_work.end(tx, list(zip(inputs, outcomes, strict=True)), batch.writes, batch.history, LEASE)
        if batch.writes.ours:
            outbox.write(tx, batch.writes.ours)
    return [_with_handed(outcome, envelope, handed) for outcome, envelope in zip(outcomes, inputs, strict=True)]


def _process_single(
    tx: Tx, service: Service[W], envelope: Envelope, refused: Exception, guard: EffectGuard | None
) -> Outcome:
    """Give a lone input a second chance (a racing insert has landed by now), then park it."""
    try:
        return _placed(tx, service, [envelope], 0, guard)[0]
    except Exception as again:
        if is_outage(again):
            raise
        if isinstance(envelope.body, Command):
            return Failed(again)
        blame = _failure_outcome(service, envelope, refused)
    with pipelined(tx):
        history, writes = unit_of_work.begin(tx, [envelope]).history(), PendingWrites()
        outcome: Outcome = Duplicate()
        if not history.knows(envelope):
            outcome = _parked(service, writes, history, envelope, blame) if isinstance(blame, Parked) else blame
        unit_of_work.end(tx, [(envelope, outcome)], writes, history, LEASE)
    return outcome


def _handle(batch: _Batch, envelope: Envelope) -> Outcome:
    history = batch.history
    if envelope.request and envelope.request.lock in history.busy:
        return Busy()
    if kept := history.answer(envelope):
        return Replayed(kept)
    if batch.guard and (withheld := batch.guard.refuses(envelope, history)):
        return withheld
    if history.knows(envelope):
        return Duplicate()
    outcome = _dispatch(batch, envelope)
    if isinstance(outcome, Parked):
        return _parked(batch.service, batch.writes, history, envelope, outcome)
    return outcome


def _dispatch(batch: _Batch, envelope: Envelope) -> Handled | Parked | Failed | EffectBlocked:
    """Let the handler do its work; of one that fails, or that the gate does not let through, nothing is left."""
    if not isinstance(envelope.body, Command) and not batch.history.admits(envelope):
        return Parked(unit_of_work.BEHIND, "behind an earlier one of its order")
    if isinstance(envelope.body, Unreadable):
        return _unread(batch.service, envelope, envelope.body)
    if isinstance(envelope.body, Command):
        tell_waiting(envelope.body, batch.history.waiting.get(envelope.key, ()))
    rows, mark = tables(batch.work), batch.writes.mark()
    marks = [table.mark() for table in rows]
    outcome: Parked | Failed | EffectBlocked | None
    try:
        emitted = batch.service.on.dispatch(envelope.body, batch.work)
        outcome = batch.guard.judges(envelope, emitted) if batch.guard else None
        if outcome is None:
            _collect(batch, envelope, emitted)
            if said := batch.history.said_before.get(envelope.id):
                published.heed(batch.writes, mark, said)
            return _done(batch, envelope, emitted)
    except Infrastructure:
        raise
    except Exception as raised:  # noqa: BLE001 - a handler's failure is its input's: rewound, then parked
        outcome = _failure_outcome(batch.service, envelope, raised)
    batch.writes.rewind(mark)
    for table, place in zip(rows, marks, strict=True):
        table.rewind(place)
    return outcome


def _done(batch: _Batch, envelope: Envelope, emitted: tuple[Emitted, ...]) -> Handled:
    history, kept = batch.history, _answer_to_keep(envelope, emitted)
    if kept:
        batch.writes.answers.append(kept)
        history.answers[kept.name] = kept
    history.seen.add(envelope.id)
    if envelope.redriven:
        history.lanes[envelope.lane].remove(envelope.id)
        batch.writes.facts += setbacks.redriven(batch.service, envelope, history)
    return Handled(emitted, kept=kept)


def _answer_to_keep(envelope: Envelope, emitted: tuple[Emitted, ...]) -> KeptAnswer | None:
    """Return what repeats of a command are answered; None if it came under no key, or was refused."""
    if envelope.request is None:
        return None
    reply = next((message for message in emitted if isinstance(message, Reply)), None)
    return envelope.request.kept(reply, envelope.key, envelope.at) if reply else None


def _parked(
    service: Service[Any], writes: PendingWrites, history: BatchState, envelope: Envelope, outcome: Parked
) -> Parked:
    """Set an input aside: in its lane, with what becomes of it and what is told."""
    if not envelope.redriven:
        history.lanes.setdefault(envelope.lane, []).append(envelope.id)
    outcome = setbacks.judged(outcome, envelope, history)
    writes.facts += setbacks.news(service, envelope, outcome, history)
    return outcome


def _unread(service: Service[Any], envelope: Envelope, body: Unreadable) -> Parked:
    return Parked(body.error_class, body.reason, cause_of(service, envelope.type, body.error_class))


def _failure_outcome(service: Service[Any], envelope: Envelope, raised: Exception) -> Parked | Failed:
    """Name what went wrong by class and a fixed phrase: an exception's values may hold what must not be stored."""
    if isinstance(envelope.body, Command):
        return Failed(raised)
    if isinstance(envelope.body, Unreadable):
        return _unread(service, envelope, envelope.body)
    if sqlstate.is_missing_partition(raised) and id_milliseconds(envelope.id) < time.time() * 1000:
        return _unread(service, envelope, Unreadable(*TOO_OLD))
    if isinstance(raised, published.ContradictionError):
        return Parked("CONTRADICTS", str(raised), cause_of(service, envelope.type, "CONTRADICTS"))
    if isinstance(raised, NotYet):
        phrase = "NotYet: came before what it refers to"
        return Parked("CAUSALITY", phrase, cause_of(service, envelope.type, "CAUSALITY", raised))
    cause = cause_of(service, envelope.type, "HANDLER", raised)
    phrase = f"{type(raised).__name__} while handling {envelope.type}"
    return Parked("HANDLER", f"{phrase} at {cause.place}" if cause.place else phrase, cause)


def _collect(batch: _Batch, envelope: Envelope, emitted: tuple[Emitted, ...]) -> None:
    """Give every event, intent and timer its id, encode it, and queue it in order."""
    ordinals: dict[str, int] = {}
    for message in emitted:
        ordinal = ordinals[message.type] = ordinals.get(message.type, -1) + 1
        if isinstance(message, Event):
            fact = _event(batch.service, envelope, message, ordinal)
            (batch.writes.ours if fact.key == batch.service.name else batch.writes.facts).append(fact)
        elif isinstance(message, Intent | Timer):
            batch.writes.tasks.append(_task(batch.service, envelope, message, ordinal))
    if attempt := compensation.ended(batch.service.on, envelope, emitted):
        cause = envelope.from_task or envelope.id
        batch.writes.facts.append(outbox.saying(batch.service, cause, attempt, attempt.attempt, envelope.inside))


def _event(service: Service[Any], envelope: Envelope, fact: Event, ordinal: int) -> unit_of_work.OutboxRecord:
    payload, key = service.codec.encode(fact), key_of(fact)
    if key != envelope.key and not (isinstance(fact, SystemEvent) and key == service.name):
        message = f"{fact.type} has another key than its cause: its sequence could not be kept"
        raise EmissionRefusedError(message)
    if len(payload) > PAYLOAD_MAX:
        message = f"{fact.type} has {len(payload)} bytes; a record carries {PAYLOAD_MAX}"
        raise EmissionRefusedError(message)
    identity = event_id(service.name, envelope.id, fact.type, ordinal)
    topic = topic_of(fact, service.name) if isinstance(fact, SystemEvent) else fact.topic or f"{service.name}.events"
    sending = envelope.inside.child().traceparent
    return unit_of_work.OutboxRecord(
        identity, topic, key, fact.type, payload, envelope.id, sending, bytes.fromhex(envelope.span_id)
    )


def _task(service: Service[Any], envelope: Envelope, message: Intent | Timer, ordinal: int) -> TaskRecord:
    due: datetime | None = getattr(message, "due", None) if isinstance(message, Timer) else None
    identity = event_id(service.name, envelope.id, message.type, ordinal, milliseconds(due) if due else None)
    task = TaskRecord(identity, envelope.id, message, to_json(message), due, envelope.inside)
    policy = service.outside.policies.get(type(message)) if envelope.from_task and isinstance(message, Intent) else None
    if policy is None or not policy.continues:
        return task
    wait = policy.retry.delay(envelope.attempts) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
    return replace(task, wait=wait, tried=envelope.attempts)


def _lease_now(batch: _Batch, expires: float) -> dict[UUID, list[LeasedIntent]]:
    """Lease as many fresh intents as there is room to this process itself, so that no poll stands between."""
    handed: dict[UUID, list[LeasedIntent]] = {}
    tasks, policies, now = batch.writes.tasks, batch.service.outside.policies, datetime.now(UTC)
    for place, task in enumerate(tasks):
        intent = task.message
        if batch.room <= 0 or not isinstance(intent, Intent) or not (policy := policies.get(type(intent))):
            continue
        if task.wait:
            continue
        if policy.precondition and policy.precondition(stamp(intent, now), batch.work) is not Decision.PROCEED:
            continue
        batch.room -= 1
        tasks[place] = replace(task, handed=True)
        entry = LeasedIntent(task.id, key_of(intent), intent, 1, expires, task.trace)
        handed.setdefault(task.cause, []).append(entry)
    return handed


def _with_handed(outcome: Outcome, envelope: Envelope, handed: dict[UUID, list[LeasedIntent]]) -> Outcome:
    entries = handed.get(envelope.id) if isinstance(outcome, Handled) else None
    return replace(outcome, handed=tuple(entries)) if isinstance(outcome, Handled) and entries else outcome
