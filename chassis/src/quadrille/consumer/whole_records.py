"""Whole records: every record of a topic as one kind of message, for a service that keeps what others say.

Nothing is parked for what it is: what cannot be read comes with its bytes and the reason. Left out are proofs of life,
and what is older than the inbox can tell: whoever keeps records keeps them no longer than that.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, cast
from uuid import UUID

from quadrille.avro.decoder import DecodeError
from quadrille.consumer.deserializer import KEY_MAX, RecordDeserializer
from quadrille.ids import from_milliseconds, id_milliseconds, id_time, milliseconds, record_id
from quadrille.kafka import headers as record_headers
from quadrille.kafka.headers import CloudEvent, MalformedHeadersError
from quadrille.messages import AnyRecord, Event, Infrastructure
from quadrille.observability.trace_context import new_trace, parse
from quadrille.observability.tracing import reading, recorder
from quadrille.processing.envelope import Envelope, OffsetRange, Record
from quadrille.service import Decoder, Service
from quadrille.system_messages import CanaryBeat

AHEAD = timedelta(hours=12)  # an id from later than that is nobody's, and has no place in the inbox
VALUE_MAX = 262_144  # what an outbox lets out
SCHEMA_ID_END = 5


class BodyReader(Protocol):
    """Reads a record's body without a class of one's own; ``quadrille.avro.codec`` does."""

    def look(self, value: bytes) -> tuple[object, dict[str, Any]]:
        """Return the schema and the body as plain values; raises DecodeError, or Infrastructure."""
        ...


class WholeRecordReader(RecordDeserializer):
    """Reads any record as an AnyRecord."""

    def __init__(self, bodies: BodyReader) -> None:
        super().__init__({}, cast("Decoder", bodies))
        self._bodies = bodies

    def unheard(self, record: Record) -> bool:
        """Tell whether the record is a proof of life, or older than the inbox can tell."""
        if record_headers.type_of(record.headers) == CanaryBeat.type.encode():
            return True
        identity = record_headers.read_headers(record.headers).id
        return identity is not None and self._too_old(identity) and not self._ahead(identity)

    def read(
        self,
        record: Record,
        key: bytes | None,
        origin: OffsetRange | None,
        at_ms: int,
        *,
        old: bool = False,  # noqa: ARG002 - what is too old is never parked here, so it is never let in
    ) -> Envelope:
        """Return the input of a record; one that cannot be read has an id made of its place."""
        headers = record_headers.read_headers(record.headers)
        at = from_milliseconds(max(at_ms, self.horizon_ms, 0))
        place = (origin.topic, origin.partition, origin.next - 1) if origin else ("", 0, 0)
        trace = recorder().joined(parse(headers.traceparent) or new_trace())
        with reading(trace):
            body, fault = self._look(record, headers)
        sound = headers if isinstance(headers, CloudEvent) else None
        identity = sound.id if sound and fault is None else record_id(*place, milliseconds(at))
        text = (key or b"").decode("utf-8", "replace").replace("\0", "\ufffd")[:KEY_MAX]
        message = AnyRecord(
            text, identity, *place, headers.type or "", sound.source if sound else "",
            sound.sequence if sound else None, sound.causation if sound else None,
            trace.trace_id if headers.traceparent else "", _schema_id(record.raw), body, fault,
            record.headers, record.raw,
        )  # fmt: skip
        time = sound.time if sound else at
        return Envelope(identity, text, message, time, AnyRecord.type, record, origin, trace=trace)

    def _look(
        self, record: Record, headers: CloudEvent | MalformedHeadersError
    ) -> tuple[dict[str, Any] | None, str | None]:
        """Return the body, or why there is none."""
        if isinstance(headers, MalformedHeadersError):
            return None, headers.reason
        if self._ahead(headers.id):
            return None, "header ce_id is of a time to come"
        if len(record.raw) > VALUE_MAX:
            return None, "larger than a payload may be"
        try:
            return self._bodies.look(record.raw)[1], None
        except DecodeError as wrong:
            return None, str(wrong)
        except Infrastructure:
            raise
        except Exception as bug:  # noqa: BLE001 - a decoder's bug is this record's alone, as a handler's is
            return None, f"{type(bug).__name__} while decoding"

    def _too_old(self, identity: UUID) -> bool:
        return id_milliseconds(identity) < self.horizon_ms and _day(identity) not in self.kept

    def _ahead(self, identity: UUID) -> bool:
        return id_milliseconds(identity) > milliseconds(datetime.now(UTC) + AHEAD)


def reader_of(service: Service[Any], decoder: Decoder) -> RecordDeserializer:
    """Return what reads the records of a service: as its own classes, or whole."""
    if service.on.record_topics:
        return WholeRecordReader(cast("BodyReader", decoder))
    return RecordDeserializer(service.on.consumes(Event), decoder)


def _day(identity: UUID) -> object:
    return id_time(identity).date()


def _schema_id(raw: bytes) -> int | None:
    """Return the id of the schema a value names; a registry's ids are positive and of 32 bits, others are no ids."""
    named = len(raw) >= SCHEMA_ID_END and raw[0] == 0 and raw[1] <= 0x7F  # noqa: PLR2004 - the sign bit
    return int.from_bytes(raw[1:SCHEMA_ID_END]) if named else None
