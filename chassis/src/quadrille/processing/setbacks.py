"""Setbacks: what a failed input comes to, and what is told of it; all of it in the transaction of its batch.

Told on ``ops.events``: parked at the first failure, dead after the last try with a copy for tools outside on the
service's dead letters, redriven when it goes through. What only waits behind another is not told of: it never failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from quadrille.observability.trace_context import Context
from quadrille.processing import parked_retry
from quadrille.processing.envelope import Envelope, Parked, Record
from quadrille.processing.outbox import saying
from quadrille.processing.parked_retry import DEAD, ParkedRow
from quadrille.processing.unit_of_work import BEHIND, BY_ITSELF, PAYLOAD_MAX, BatchState, OutboxRecord
from quadrille.service import Service
from quadrille.system_messages import InputBuried, InputDead, InputParked, InputRedriven, SystemEvent


def judged(outcome: Parked, envelope: Envelope, history: BatchState) -> Parked:
    """Return the outcome with what becomes of its row; what waits behind another has no try of its own."""
    if outcome.error_class == BEHIND:
        return outcome
    row = history.parked.get(envelope.id, parked_retry.NEW)
    return replace(outcome, setback=parked_retry.setback(outcome.error_class, row, early=envelope.early))


def news(service: Service[Any], envelope: Envelope, outcome: Parked, history: BatchState) -> Iterator[OutboxRecord]:
    """Yield what is told of an input that failed now."""
    before, after = history.parked.get(envelope.id, parked_retry.NEW), outcome.setback
    if after is None or before.state == DEAD:
        return
    lane = history.lanes.get(envelope.lane, [])
    behind = max(0, len(lane) - 1 - (lane.index(envelope.id) if envelope.id in lane else 0))
    told = (envelope.key, service.name, str(envelope.id), outcome.error_class, outcome.reason, behind)
    if not before.failed:
        yield _said(service, envelope, InputParked(*told), before)
    if after.state == DEAD:
        yield _said(service, envelope, InputDead(*told), before)
        yield _buried(service, envelope, outcome, before)


def redriven(service: Service[Any], envelope: Envelope, history: BatchState) -> Iterator[OutboxRecord]:
    """Yield what is told of an input that went through at last."""
    row = history.parked.get(envelope.id)
    if envelope.redriven and row and row.failed:
        asked = envelope.redrive or BY_ITSELF
        fact = InputRedriven(envelope.key, service.name, str(envelope.id), asked.actor, asked.reason)
        yield _said(service, envelope, fact, row)


def _said(service: Service[Any], envelope: Envelope, fact: SystemEvent, row: ParkedRow) -> OutboxRecord:
    inside: Context = envelope.inside
    return saying(service, envelope.id, fact, row.attempts, inside)


def _place(envelope: Envelope) -> str | None:
    at = envelope.origin
    return f"{at.topic}[{at.partition}]@{at.next - 1}" if at else envelope.place


def _buried(service: Service[Any], envelope: Envelope, outcome: Parked, row: ParkedRow) -> OutboxRecord:
    """Return the copy of a dead input; one that is too long for a record is cut, and says so."""
    record = envelope.record or Record(b"")
    fingerprint = outcome.cause.fingerprint if outcome.cause else None
    fact = InputBuried(
        envelope.key, str(envelope.id), record.raw, False, service.name, envelope.type, _place(envelope),  # noqa: FBT003 - as the schema has it
        outcome.error_class, outcome.reason, row.attempts + 1, fingerprint,
    )  # fmt: skip
    while (excess := len(service.codec.encode(fact)) - PAYLOAD_MAX) > 0:
        fact = replace(fact, raw=fact.raw[: max(0, len(fact.raw) - excess)], cut=True)
    return _said(service, envelope, fact, row)
