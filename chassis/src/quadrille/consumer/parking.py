"""Parked inputs, the dead letters of other systems: read back with their bytes, and redriven through their handler.

A parked input is not given up: it and what follows of its key wait in the key's lane, and go on in sequence.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from quadrille.consumer.deserializer import RecordDeserializer
from quadrille.messages import Message, Result, Timer, from_json
from quadrille.observability.trace_context import new_trace, parse
from quadrille.processing import compensation
from quadrille.processing.batch import process_batch
from quadrille.processing.envelope import Duplicate, Envelope, Handled, Outcome, Record, Unreadable, due_of
from quadrille.service import Service, Tx

# A lane whose head is dead waits for a person. A result's or timer's lane is the id of its task row.
OPEN_ROWS = """
SELECT p.id, p.line, p.type, p.topic, p.headers, p.raw, p.parked_at, a.key, a.attempts, a.traceparent, a.type
  FROM parked p LEFT JOIN task a ON p.topic IS NULL AND a.id::text = p.line
 WHERE p.state = 'OPEN'
   AND NOT EXISTS (SELECT FROM parked d WHERE d.line = p.line AND d.state = 'DEAD' AND d.place < p.place)
 ORDER BY p.line, p.place"""
Row = tuple[Any, ...]


def redrive_open(tx: Tx, service: Service[Any], reader: RecordDeserializer) -> Iterator[Outcome]:
    """Redrive every open lane from its head until one fails again; what waits behind a failed head stays in place.

    What joins a lane meanwhile is redriven too: its head may be gone by then, and nobody else would look at it.
    """
    tried: set[UUID] = set()
    stuck: set[str] = set()
    while rows := [r for r in tx.execute(OPEN_ROWS).fetchall() if r[0] not in tried and r[1] not in stuck]:
        for lane, waiting in itertools.groupby(rows, key=lambda row: str(row[1])):
            for row in waiting:
                tried.add(row[0])
                outcome = process_batch(tx, service, [_input(service, reader, row)])[0]
                yield outcome
                if not isinstance(outcome, Handled | Duplicate):
                    stuck.add(lane)
                    break


def _input(service: Service[Any], reader: RecordDeserializer, row: Row) -> Envelope:
    identity, lane, kind, topic, headers, raw, parked_at, *_ = row
    if topic is None:
        return _from_inside(service, row)
    record = Record(bytes(raw), tuple((k, bytes.fromhex(v)) for k, v in json.loads(bytes(headers))))
    envelope = reader.read(record, lane.encode(), None, int(parked_at.timestamp() * 1000))
    return Envelope(identity, lane, envelope.body, envelope.at, kind, record, redriven=True, trace=envelope.trace)


def _from_inside(service: Service[Any], row: Row) -> Envelope:
    """Return the envelope of a result or timer: its key, attempts and place in a trace are its task row's."""
    identity, lane, kind, _, _, raw, _, key, tries, traceparent, asked = row
    classes: dict[str, type[Message]] = {**service.on.consumes(Result), **service.on.consumes(Timer)}
    body: Message | Unreadable
    try:
        body = from_json(classes[kind], bytes(raw))
    except (KeyError, ValidationError):
        body = Unreadable("no handler here takes this body any more", "UNHEARD")
    at = due_of(body, identity) if isinstance(body, Timer) else datetime.now(UTC)
    record, trace = Record(bytes(raw)), parse(traceparent) or new_trace()
    return Envelope(identity, key or lane, body, at, kind, record, None, UUID(lane), redriven=True,
                 attempts=tries or 1, compensates=_undoes(service, asked, body), trace=trace)  # fmt: skip


def _undoes(service: Service[Any], asked: str | None, body: Message | Unreadable) -> str | None:
    """Return the step that a result compensates; ``asked`` is the type of its task row."""
    intent = next((cls for cls in service.outside.policies if cls.type == asked), None)
    return compensation.step_of(service.on, intent, type(body)) if intent and isinstance(body, Result) else None
