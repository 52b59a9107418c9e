"""Record deserializer: a record's bytes to an envelope; what cannot be read is parked in its order's lane."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

from confluent_kafka import Message as KafkaMessage

from quadrille.avro.decoder import DecodeError
from quadrille.ids import id_milliseconds, id_time, record_id
from quadrille.kafka import headers as record_headers
from quadrille.messages import Event, Infrastructure, Message, key_of
from quadrille.observability.trace_context import new_trace, parse
from quadrille.observability.tracing import reading, recorder
from quadrille.processing.envelope import DEADLY, TOO_OLD, Envelope, OffsetRange, Record, Unreadable
from quadrille.service import Decoder

KEY_MAX = 512
LATEST_MS = 253_402_300_799_000  # the end of the year 9999: what a datetime can say


class RecordDeserializer:
    """Reads records for one service: its event classes by wire type.

    From ``horizon_ms`` on the inbox tells every id; of the days before it, only those of the days ``kept``.
    """

    def __init__(self, classes: Mapping[str, type[Event]], decoder: Decoder) -> None:
        self.classes = classes
        self.decoder = decoder
        self.horizon_ms = 0
        self.kept: frozenset[date] = frozenset()
        self._names = frozenset(name.encode() for name in classes)

    def unheard(self, record: Record) -> bool:
        """Tell whether no handler is for this type; decided on one header, before anything is decoded."""
        named = record_headers.type_of(record.headers)
        return named is not None and named not in self._names and named != b"" and named.isascii()

    def unopened(self, record: Record, key: bytes | None, origin: OffsetRange, at_ms: int) -> Envelope:
        """Return the input of a record that kills whoever opens it: under its key, with its bytes, not decoded."""
        shut = self.read(replace(record, raw=b""), key, origin, at_ms, old=True)
        body = Unreadable(*DEADLY)
        return replace(shut, body=body, record=record)

    def read(
        self, record: Record, key: bytes | None, origin: OffsetRange | None, at_ms: int, *, old: bool = False
    ) -> Envelope:
        """Return the input of a record; its time is its header's, or ``at_ms`` (the broker's) without one.

        ``old``: a person lets in what is older than the inbox can tell.
        """
        headers, at_ms = record_headers.read_headers(record.headers), min(max(at_ms, 0), LATEST_MS)
        text = (key or b"").decode("utf-8", "replace").replace("\0", "\ufffd")  # which no text column holds
        text = text[:KEY_MAX]  # a longer one finds no place in an index, not even to be parked under
        identity = headers.id
        if identity is None:
            place = (origin.topic, origin.partition, origin.next - 1) if origin else ("", 0, 0)
            identity = record_id(*place, at_ms)
        at = (
            headers.time
            if isinstance(headers, record_headers.CloudEvent)
            else datetime.fromtimestamp(at_ms / 1000, UTC)
        )
        trace = recorder().joined(parse(headers.traceparent) or new_trace())
        with reading(trace):
            body = self._body(record, text, headers, old=old)
        return Envelope(identity, text, body, at, headers.type or "unknown", record, origin, trace=trace)

    def _body(
        self,
        record: Record,
        key: str,
        headers: record_headers.CloudEvent | record_headers.MalformedHeadersError,
        *,
        old: bool,
    ) -> Message | Unreadable:
        if isinstance(headers, record_headers.MalformedHeadersError):
            return Unreadable(headers.reason)
        if id_milliseconds(headers.id) < self.horizon_ms and id_time(headers.id).date() not in self.kept and not old:
            return Unreadable(*TOO_OLD)
        if (cls := self.classes.get(headers.type)) is None:
            return Unreadable("no handler here consumes this type any more", "UNHEARD")
        try:
            body = self.decoder.decode(record.raw, cls)
        except DecodeError as wrong:
            return Unreadable(str(wrong))
        except Infrastructure:
            raise
        except Exception as bug:  # noqa: BLE001 - a decoder's bug is this record's alone, as a handler's is
            return Unreadable(f"{type(bug).__name__} while decoding")
        return body if key_of(body) == key else Unreadable("the record's key is not its body's first field")


# For a name that is not UTF-8 the client returns a broken list with an exception set. A plain call, once specialised by
# the interpreter, would not look, and the list would end the process; a methodcaller's call is checked every time.
HEADERS_OF: Callable[[KafkaMessage], Any] = operator.methodcaller("headers")


def record_of(message: KafkaMessage) -> Record:
    """Return a record with its headers as they came; none of them if one has a name that is no text."""
    try:
        headers = HEADERS_OF(message)
    except (SystemError, UnicodeDecodeError):  # a name that is not UTF-8: without headers the record is parked
        headers = None
    pairs = headers.items() if isinstance(headers, dict) else headers or ()
    return Record(message.value() or b"", tuple((name, _bytes(value)) for name, value in pairs))


def _bytes(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""
