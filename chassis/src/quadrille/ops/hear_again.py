"""Hear again: an event that was handled is given to its handler once more, under an id of its own.

``POST /ops/orders/{order_id}/hear-again`` is the repair of an effect that is not there although its event was handled:
the record is read again from its topic and goes through ``process_batch`` like any input, so what the handler's rules
allow happens and nothing else. Nothing is said twice by its owner, and no other hearer hears of it. Refused, with
nothing changed, where there is nothing to repair: ``NOT_HANDLED`` (it is still to come, or set aside), ``NO_EFFECT``
(its effect is there), ``PARKED`` (its handler cannot), ``FORWARD`` (a step that reaches outside is never begun anew:
what it took last time may not be known any more). Kept in the audit with what was before and after, refused or not.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import psycopg
from confluent_kafka import KafkaException
from pydantic import Field

from quadrille.consumer.deserializer import RecordDeserializer
from quadrille.context import ProcessContext
from quadrille.db import audit
from quadrille.ids import lock_key, uuid7
from quadrille.messages import Event, Infrastructure, Intent
from quadrille.ops.actions import LOCK_KEY, PATIENCE, Look
from quadrille.ops.routes import RESOLVE, OpsRequest, OpsResponse, OpsRoutes, ScopedRoute
from quadrille.processing.batch import OUTAGE, is_outage, process_batch
from quadrille.processing.envelope import Envelope, Handled, OffsetRange, Outcome, Parked, Unreadable
from quadrille.processing.unit_of_work import SEEN_IDS
from quadrille.replay.runner import Range, RangeReader, ReadRecord, RecordsGoneError
from quadrille.service import Digest, Tx
from quadrille.web.documents import Document
from quadrille.web.problems import refuse

ACTION = "hear-again"
READ_SECONDS = 10.0
OFFSET_MOST = (1 << 62) - 1
AGAIN = frozenset({"compensates", "retryable"})
"""Roles of handlers that may be called as often as one likes: their calls to the outside are owed until answered."""
REFUSALS = {
    "NOT_HANDLED": "This event was not handled here yet: it is still to come, or set aside. Nothing to repeat.",
    "NO_EFFECT": "Its handler would change nothing: what it is for is so already.",
    "PARKED": "Its handler cannot handle it as things are, or something of its key is parked before it.",
    "FORWARD": "Its handler may begin something outside that is not to be begun anew: a person has to decide.",
}


class HearAgain(Document):
    """Which record: its place, and the id it must have there."""

    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]
    partition: Annotated[int, Field(ge=0, lt=1 << 31)]
    offset: Annotated[int, Field(ge=0, le=OFFSET_MOST)]
    event_id: UUID


def hear_again_routes(context: ProcessContext, look: Look | None, digest: Digest | None) -> OpsRoutes:
    """Return the route of a worker whose store tells of a saga by ``look``, and of its rows by ``digest``."""
    if look is None or digest is None:
        return {}
    books = _Books(look, digest)

    def do(asked: OpsRequest) -> OpsResponse:
        key, wanted = str(asked.identity("order_id")), asked.read(HearAgain)
        envelope = _envelope(context, key, wanted)
        began_ns = time.time_ns()
        outcome, said, number = _committed(context, books, (envelope, wanted.event_id), asked)
        if outcome in REFUSALS or said is None:
            refuse("operation-refused", REFUSALS[outcome], rule=outcome, audit_number=number)
        context.telemetry.handled([(envelope, said)], began_ns)
        told = [message.type for message in said.emitted] if isinstance(said, Handled) else []
        document = {"order_id": key, "action": ACTION, "outcome": outcome, "event": envelope.type, "said": told}
        return OpsResponse(200, document | {"audit_number": number}, envelope.trace)

    return {("POST", f"/ops/orders/{{order_id}}/{ACTION}"): ScopedRoute(RESOLVE, do)}


@dataclass(frozen=True, slots=True)
class _Books:
    """What is kept of a saga: for people, and its rows, by which it is told whether anything changed."""

    look: Look
    digest: Digest

    def rows(self, tx: Tx, key: str) -> list[object]:
        """Return what the rows hold."""
        return [row[2] for row in tx.execute(self.digest.rows.encode(), {"keys": [key], "below": "3"})]


def _envelope(context: ProcessContext, key: str, wanted: HearAgain) -> Envelope:
    """Return the record as an input under an id of its own; refuses what cannot be read, or is not what was named."""
    service = context.service
    if wanted.topic not in service.on.topics():
        refuse("operation-refused", f"{service.name} does not hear {wanted.topic}.", rule="NOT_HEARD")
    found = _read(context, wanted)
    if found is None:
        refuse("not-found", "There is no record at this place any more, or not yet.")
    origin = OffsetRange(wanted.topic, wanted.partition, found.offset, found.offset + 1, moves=False)
    reader = RecordDeserializer(service.on.consumes(Event), context.decoder)
    try:
        envelope = reader.read(found.record, found.key, origin, found.at_ms, old=True)
    except Infrastructure:
        refuse("dependency-unavailable", dependency="registry", retry_after=1)
    if (envelope.key, envelope.id) != (key, wanted.event_id):
        refuse("operation-refused", "Another record lies at this place.", rule="ANOTHER_RECORD")
    if isinstance(envelope.body, Unreadable):
        refuse("operation-refused", f"It cannot be heard here: {envelope.body.reason}.", rule="NOT_HEARD")
    return replace(envelope, id=uuid7(), at=datetime.now(UTC), origin=None)


def _read(context: ProcessContext, wanted: HearAgain) -> ReadRecord | None:
    """Return the record at a place, None if it is gone or does not come."""
    reader = RangeReader(context.settings.kafka_bootstrap, f"{context.service.name}.replay.{ACTION}")
    try:
        deadline = time.monotonic() + READ_SECONDS
        for taken in reader.play(Range(wanted.topic, wanted.partition, wanted.offset, wanted.offset + 1), 1):
            if taken:
                return taken[0]
            if time.monotonic() > deadline:
                refuse("dependency-unavailable", dependency="kafka", retry_after=1)
    except RecordsGoneError:
        return None
    except KafkaException:
        refuse("dependency-unavailable", dependency="kafka", retry_after=1)
    finally:
        reader.close()
    return None


def _committed(
    context: ProcessContext, books: _Books, input_: tuple[Envelope, UUID], asked: OpsRequest
) -> tuple[str, Outcome | None, int]:
    """Handle it and keep it in the audit, in one transaction; what is refused leaves its row in the audit alone."""
    try:
        tx = context.connect()
    except psycopg.OperationalError:
        refuse("dependency-unavailable", dependency="database", retry_after=1)
    with closing(tx):
        try:
            with tx.transaction():
                return _within(tx, context, books, input_, asked)
        except OUTAGE as trouble:
            if not is_outage(trouble):
                raise
            slug = "outcome-unknown" if tx.closed else "dependency-unavailable"
            refuse(slug, dependency="database", retry_after=1)


def _within(
    tx: Tx, context: ProcessContext, books: _Books, input_: tuple[Envelope, UUID], asked: OpsRequest
) -> tuple[str, Outcome | None, int]:
    envelope, event_id = input_
    tx.execute(PATIENCE)
    tx.execute(LOCK_KEY, [lock_key(envelope.key)])
    before, rows, result, after = books.look(tx, envelope.key), books.rows(tx, envelope.key), None, None
    outcome = _forbidden(tx, context, envelope, event_id)
    if not outcome:
        with tx.transaction():
            result = process_batch(tx, context.service, [envelope])[0]
            after = books.look(tx, envelope.key)
            outcome = _outcome(result, changed=rows != books.rows(tx, envelope.key))
            if outcome != "DONE":
                raise psycopg.Rollback
    kept: dict[str, Any] = {"outcome": outcome, "event": envelope.type, "event_id": str(event_id)}
    kept |= {"heard_as": str(envelope.id), "order": after} if outcome == "DONE" else {}
    row = audit.Action(asked.actor, ACTION, envelope.key, asked.reason, before and {"order": before}, kept)
    return outcome, result, audit.record(tx, row)


def _forbidden(tx: Tx, context: ProcessContext, envelope: Envelope, event_id: UUID) -> str:
    """Return why an event is not to be heard again; empty if it may be."""
    spec = context.service.on.specs[type(envelope.body)]  # type: ignore[index] # it was read as one of its classes
    if spec.role not in AGAIN and any(issubclass(one, Intent) for one in spec.emits):
        return "FORWARD"
    seen = tx.execute(SEEN_IDS, {"ids": [event_id], "low": event_id, "high": event_id}).fetchall()
    return "" if seen else "NOT_HANDLED"


def _outcome(result: Outcome, *, changed: bool) -> str:
    if isinstance(result, Parked) or not isinstance(result, Handled):
        return "PARKED"
    return "DONE" if changed or result.emitted else "NO_EFFECT"
