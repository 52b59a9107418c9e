"""Envelopes and outcomes: what a service is given, with id, key, body and trace, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

from quadrille.ids import id_time
from quadrille.messages import Emitted, Intent, Message
from quadrille.observability.trace_context import Context, new_span_id, new_trace
from quadrille.processing.causes import Cause
from quadrille.processing.idempotency import IdempotencyKey, KeptAnswer
from quadrille.processing.parked_retry import Setback

TOO_OLD = "the event is older than the inbox can tell", "BELOW_FLOOR"
DEADLY = "the process died each time it was handled", "FATAL"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that could not be decoded, with the error class it is parked under and a fixed phrase."""

    reason: str
    error_class: str = "UNDECODABLE"


@dataclass(frozen=True, slots=True)
class OffsetRange:
    """A step on a partition: from the position ``first`` to ``next``, the offset after this record.

    ``moves`` is false for a record that is read again: the service's own position stays where it is.
    """

    topic: str
    partition: int
    first: int
    next: int
    moves: bool = True


@dataclass(frozen=True, slots=True)
class Record:
    """The bytes of a record as they came, kept for parking; ``headers`` are (name, value) pairs."""

    raw: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class RedriveRequest:
    """A person asks to try a parked input again; ``accept_old`` lets in what is older than the inbox can tell."""

    actor: str
    reason: str
    accept_old: bool = False


@dataclass(frozen=True, slots=True)
class Envelope:
    """Anything a handler is given: an event consumed, a command, a result of the outside, a due timer.

    ``from_task`` is the task a result or timer ends; ``request`` is the idempotency key a command comes under;
    ``redriven`` says that the input comes from its parked row, ``early`` that it is tried before its time, ``redrive``
    who has asked for it, ``place`` where it was read: ``topic[partition]@offset``; ``compensates`` is the step a result
    compensates; ``span_id`` is the id of its future process span.
    """

    id: UUID
    key: str
    body: Message | Unreadable
    at: datetime
    type: str
    record: Record | None = None
    origin: OffsetRange | None = None
    from_task: UUID | None = None
    request: IdempotencyKey | None = None
    redriven: bool = False
    early: bool = False
    redrive: RedriveRequest | None = None
    place: str | None = None
    attempts: int = 1
    compensates: str | None = None
    trace: Context = field(default_factory=new_trace)
    span_id: str = field(default_factory=new_span_id)

    @property
    def alone(self) -> bool:
        """Whether it waits for nobody: results and timers have no order relative to topics."""
        return self.from_task is not None

    @property
    def lane(self) -> str:
        """The lane it is parked in: its key's, or its own if it waits for nobody."""
        return str(self.from_task) if self.alone else self.key

    @property
    def accepted(self) -> bool:
        """Whether a person lets it in although it is older than the inbox can tell."""
        return self.redrive is not None and self.redrive.accept_old

    @property
    def inside(self) -> Context:
        """The place of the handler's span: what it emits hangs below it."""
        return Context(self.trace.trace_id, self.span_id, self.trace.sampled)


@dataclass(frozen=True, slots=True)
class LeasedIntent:
    """An intent in this worker's hand; the lease is ours until ``expires`` on our monotonic clock.

    ``span_id`` is the id of the future span of its call.
    """

    id: UUID
    key: str
    intent: Intent
    attempts: int
    expires: float
    trace: Context
    span_id: str = field(default_factory=new_span_id, compare=False)

    @property
    def inside(self) -> Context:
        """The place of the call's span: what is called outside hangs below it."""
        return Context(self.trace.trace_id, self.span_id, self.trace.sampled)


@dataclass(frozen=True, slots=True)
class Handled:
    """Handled now: what was said, the intents this process may carry out itself, the answer kept for repeats."""

    emitted: tuple[Emitted, ...] = ()
    handed: tuple[LeasedIntent, ...] = ()
    kept: KeptAnswer | None = None


@dataclass(frozen=True, slots=True)
class Replayed:
    """A command whose idempotency key has its answer: nothing happened, the asker gets that."""

    kept: KeptAnswer


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Handled before, or not to be handled again: nothing happened."""


@dataclass(frozen=True, slots=True)
class Parked:
    """Set aside with its key; ``reason`` is a fixed phrase, ``setback`` what becomes of its row."""

    error_class: str
    reason: str
    cause: Cause | None = field(default=None, compare=False)
    setback: Setback | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Failed:
    """A command raised: nothing happened, and the caller is told so."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Busy:
    """Another transaction holds this command's request key: nothing happened, ask again alone."""


@dataclass(frozen=True, slots=True)
class EffectBlocked:
    """Kept back by a replay's fence: nothing happened; ``verdict`` says why, ``effects`` what it would have led to."""

    verdict: str
    effects: frozenset[str] = frozenset()


Outcome: TypeAlias = Handled | Replayed | Duplicate | Parked | Failed | Busy | EffectBlocked


def due_of(timer: Message | Unreadable, identity: UUID) -> datetime:
    """Return when a timer was due, to the microsecond: its id has whole milliseconds, which is before that."""
    due: datetime = getattr(timer, "due", None) or id_time(identity)
    return due
