"""System events: the chassis' own, the same in every service; each class is its schema in ``schemas/chassis``.

Those keyed by a saga lie in its stream of the service that emits them, those keyed by a service's name in that
service's own. A handler may return one like any event; the chassis emits them by ``quadrille.processing.outbox``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Literal

from quadrille.messages import Command, Event, Reply


class SystemEvent(Event):
    """An event of the chassis itself: for operators, the console and the auditor, whom no saga waits for.

    ``said_on`` is its topic, in which ``{service}`` is who emits it; empty for the service's own. A replay's events
    have a field of the name ``topic``.
    """

    __slots__ = ()
    said_on: ClassVar[str] = ""

    def __init_subclass__(cls, topic: str = "") -> None:
        super().__init_subclass__()
        if topic:  # a slotted dataclass is made twice, the second time without class arguments
            cls.said_on = topic


def topic_of(fact: SystemEvent, service: str) -> str:
    """Return the topic that a service says an event of the chassis on."""
    return fact.said_on.format(service=service) or f"{service}.events"


@dataclass(frozen=True, slots=True)
class CompensationAttempted(SystemEvent, topic="saga.audit"):
    """One try to undo something; ``step`` is the handler whose effect is undone, ``outcome`` DONE, RETRY or FAILED."""

    order_id: str
    participant: str
    step: str
    attempt: int
    outcome: str
    error_class: str | None = None
    error: str | None = None
    next_attempt_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class OrderStuck(SystemEvent, topic="ops.events"):
    """A saga has waited too long for an event; ``level`` is WARN, PAGE or ESCALATE."""

    order_id: str
    owes: str
    fact: str
    since_at: datetime
    level: str


@dataclass(frozen=True, slots=True)
class InputParked(SystemEvent, topic="ops.events"):
    """An input has failed for the first time: it and what follows of its key wait, all others go on."""

    order_id: str
    service: str
    event_id: str
    error_class: str
    error: str
    behind: int


@dataclass(frozen=True, slots=True)
class InputDead(SystemEvent, topic="ops.events"):
    """A parked input is not tried again by itself: it waits for a person."""

    order_id: str
    service: str
    event_id: str
    error_class: str
    error: str
    behind: int


@dataclass(frozen=True, slots=True)
class InputRedriven(SystemEvent, topic="ops.events"):
    """A parked input went through its handler at last; ``operator`` is ``worker`` if nobody had to ask for it."""

    order_id: str
    service: str
    event_id: str
    operator: str
    reason: str


@dataclass(frozen=True, slots=True)
class InputDiscarded(SystemEvent, topic="ops.events"):
    """A person has dropped a parked input: its id counts as seen until a person puts it back."""

    order_id: str
    service: str
    event_id: str
    operator: str
    reason: str


@dataclass(frozen=True, slots=True)
class InputBuried(SystemEvent, topic="{service}.dead-letters"):
    """A copy of a dead input for tools outside; ``cut`` says that ``raw`` is only its beginning."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"ser_json_bytes": "base64", "val_json_bytes": "base64"}
    order_id: str
    event_id: str
    raw: bytes
    cut: bool
    service: str | None = None
    event_type: str | None = None
    place: str | None = None
    error_class: str | None = None
    error: str | None = None
    attempts: int | None = None
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class IntakePaused(SystemEvent, topic="ops.events"):
    """The service has stopped taking new work over HTTP."""

    service: str
    cause: str


@dataclass(frozen=True, slots=True)
class IntakeResumed(SystemEvent, topic="ops.events"):
    """The service takes new work over HTTP again; ``cause`` is what had closed it."""

    service: str
    cause: str


@dataclass(frozen=True, slots=True)
class RelayRecovered(SystemEvent, topic="ops.events"):
    """The relay has scanned the outbox instead of following the log: duplicates are possible, gaps are not."""

    service: str
    cause: str
    rows: int
    took_ms: int


@dataclass(frozen=True, slots=True)
class ServiceSilent(SystemEvent, topic="ops.events"):
    """Three canaries of a service in a row were missed; ``since_at`` is the time of its last one."""

    service: str
    silent: str
    since_at: datetime


@dataclass(frozen=True, slots=True)
class ServiceHeard(SystemEvent, topic="ops.events"):
    """A silent service is heard again; ``since_at`` is since when it had been silent."""

    service: str
    silent: str
    since_at: datetime


@dataclass(frozen=True, slots=True)
class ProgressStalled(SystemEvent, topic="ops.events"):
    """Work lies ahead of a role (worker, relay) and nothing of it is handled; ``detail`` says where, for people."""

    service: str
    role: str
    detail: str
    since_at: datetime


@dataclass(frozen=True, slots=True)
class ProgressResumed(SystemEvent, topic="ops.events"):
    """A stall that was told is over: all that had been stalled is handled again."""

    service: str
    role: str
    since_at: datetime
    took_ms: int


@dataclass(frozen=True, slots=True)
class ReplayStarted(SystemEvent, topic="ops.events"):
    """A planned range of a topic is being read again, under its own group."""

    service: str
    operation_id: str
    mode: str
    topic: str = field()  # type: ignore[misc] # what is replayed; where it is said is ``said_on``
    records: int
    operator: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReplayEnded(SystemEvent, topic="ops.events"):
    """A replay has come to its end or was cancelled."""

    service: str
    operation_id: str
    mode: str
    topic: str = field()  # type: ignore[misc] # what is replayed; where it is said is ``said_on``
    records: int
    operator: str
    reason: str


@dataclass(frozen=True, slots=True)
class FindingRaised(SystemEvent, topic="ops.events"):
    """Something that must never be so was found to be so; no field holds personal data.

    One with a ``finding_id`` is closed by ``FindingClosed``, any other by a person.
    """

    service: str
    invariant: str
    detail: str
    order_id: str | None = None
    finding_id: str | None = None
    expected: str | None = None
    found: str | None = None
    evidence: str | None = None


@dataclass(frozen=True, slots=True)
class FindingClosed(SystemEvent, topic="ops.events"):
    """What had been found is so no more."""

    service: str
    finding_id: str
    invariant: str
    order_id: str | None = None


@dataclass(frozen=True, slots=True)
class AuditSealed(SystemEvent, topic="ops.events"):
    """The head of the service's chain of privileged actions; a chain without that row was rewritten, or cut."""

    service: str
    head: str


@dataclass(frozen=True, slots=True)
class CanaryBeat(SystemEvent):
    """Proof of life on the service's own topic: outbox, log, relay and topic work; its record's key is no field."""

    service: str
    number: int
    said_at: datetime


@dataclass(frozen=True, slots=True)
class RetryCompensation(Command, waiting=True):
    """Try an undo that failed again; one that is still being tried is tried at once."""

    order_id: str


@dataclass(frozen=True, slots=True)
class ResolveCompensation(Command, waiting=True):
    """End what a participant still owes the saga: it is written off, or was dealt with elsewhere."""

    order_id: str
    how: Literal["WRITTEN_OFF", "EXTERNAL"]
    operator: str
    evidence: str


@dataclass(frozen=True, slots=True)
class CompensationAnswered(Reply):
    """What comes of the operator's command, and where the participant stands now; NONE if it knows nothing.

    DONE: it is acknowledged. ASKED: an result of the outside decides. CHARGE_OPEN: what is to be undone has itself no
    answer yet, so that is asked for at once and nothing is resolved. STILL_FAILED: it cannot be undone now either.
    NOT_OWED: there is nothing left to undo, or nobody has asked to. UNKNOWN: the saga was never heard of here.
    """

    order_id: str
    outcome: Literal["DONE", "ASKED", "CHARGE_OPEN", "STILL_FAILED", "NOT_OWED", "UNKNOWN"]
    state: str


def not_owed(command: RetryCompensation | ResolveCompensation, state: str | None) -> CompensationAnswered:
    """Refuse a command; a saga is unknown if it has no state here and nothing of it waits."""
    known = state is not None or bool(command.waiting)
    return CompensationAnswered(command.order_id, "NOT_OWED" if known else "UNKNOWN", state or "NONE")
