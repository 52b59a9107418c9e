"""Publisher of the relay: one idempotent producer, a thread for its reports, and the topics it may rely on."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from quadrille.kafka.config import producer_settings
from quadrille.kafka.headers import OutboxRow, unix_nanoseconds, uuid_text, write_headers
from quadrille.kafka.partitioner import partition_of
from quadrille.kafka.topics import Place
from quadrille.observability import tracing
from quadrille.observability.logs import ThrottledLog, event_lines
from quadrille.observability.readiness import NotReadyError
from quadrille.observability.trace_context import parse
from quadrille.observability.tracing import Spans
from quadrille.relay.replication import Position
from quadrille.relay.target import PARTITIONS, Claim, Target, Witness
from quadrille.system_messages import CanaryBeat


class DeliveryFailedError(Exception):
    """Kafka refused a record for good: the producer is discarded, the stream starts at the last contiguous position."""


class UnprovenError(DeliveryFailedError):
    """What was acknowledged is not proven to lie in our log: it is sent again."""


class Transaction:
    """One committed transaction: counted by two threads, each of which writes a counter of its own."""

    __slots__ = ("_window", "check", "delivered", "end", "handed")

    def __init__(self, window: InFlight) -> None:
        self._window = window
        self.check = window.check
        self.handed = 0
        self.delivered = 0
        self.end: Position | None = None

    @property
    def done(self) -> bool:
        """Whether all of its records have been handed on and delivered."""
        return self.end is not None and self.delivered == self.handed

    def reported(self, error: KafkaError | None, message: Message) -> None:
        """Take a delivery report, on the thread that serves them; an undelivered record is never produced again.

        A record that does not lie behind the one before it is not in our log, whoever has acknowledged it.
        """
        if error is not None:
            self._window.failure = self._window.failure or error
            return
        offsets, place, offset = self._window.offsets, (message.topic(), message.partition()), message.offset()
        if offset is None or offset <= offsets.get(place, -1):  # type: ignore[arg-type] # a delivered one has a place
            self._window.astray = f"{place[0]} [{place[1]}] acknowledged {offset} after {offsets.get(place, -1)}"  # type: ignore[arg-type]
            return
        offsets[place] = offset  # type: ignore[index]
        self.delivered += 1


class InFlight:
    """The transactions between the last acknowledged position and what was handed on last, in commit order."""

    def __init__(self, position: Position, offsets: dict[tuple[str, int], int] | None = None) -> None:
        self._position = position
        self._line: deque[Transaction] = deque()
        self.offsets = {} if offsets is None else offsets
        """The last acknowledged offset of each partition, this producer's."""
        self.astray: str | None = None
        """An acknowledgement that cannot be our log's."""
        self.failure: KafkaError | None = None
        """The first delivery that failed: nothing after it may count, the stream starts again."""

    def begin(self) -> Transaction:
        """Open the next transaction of the stream."""
        transaction = Transaction(self)
        self._line.append(transaction)
        return transaction

    def settle(self) -> tuple[Position, int]:
        """Return the last contiguous position, and how many records became part of it now."""
        records = 0
        while self._line and self._line[0].done:
            ended = self._line.popleft()
            self._position = ended.end or self._position
            records += ended.handed
        return self._position, records

    def idle_until(self, position: Position) -> None:
        """Move on over WAL that holds nothing for us; only with nothing in flight, and never backwards."""
        if self.idle and position > self._position:
            self._position = position

    def check(self) -> None:
        """Raise DeliveryFailedError if a delivery did."""
        if self.failure is not None:
            raise DeliveryFailedError(self.failure.str())
        if self.astray is not None:
            raise UnprovenError(self.astray)

    @property
    def sound(self) -> bool:
        """Whether no delivery has failed."""
        return self.failure is None and self.astray is None

    @property
    def front(self) -> int:
        """How many records of the first transaction past the position were delivered."""
        return self._line[0].delivered if self._line else 0

    @property
    def idle(self) -> bool:
        """Whether nothing is open or on its way."""
        return not self._line

    @property
    def in_flight(self) -> int:
        """Records handed on and not yet reported."""
        return sum(t.handed - t.delivered for t in self._line)

    @property
    def unsettled(self) -> int:
        """Records handed on past the position: handed on again if the stream starts there."""
        return sum(t.handed for t in self._line)


# What a producer raises that has failed for good; the second, if its client calls a report with the first one pending.
_GIVEN_UP = KafkaException, SystemError
_FULL_SECONDS = 0.001
_HELD_SECONDS = 0.02
_SAMPLED = b"13579bdf"
_BEAT = CanaryBeat.type.encode()  # one every two seconds is no news
_PUBLISHED = "order_id", "event_id", "event_type", "topic", "partition", "offset", "trace_id", "sequence", "ms"
_ROWS_FAULT = frozenset(
    KafkaError(code).str()
    for code in (
        KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_TIMESTAMP,
        KafkaError.INVALID_RECORD, KafkaError._INVALID_ARG, KafkaError._BAD_MSG,  # noqa: SLF001 - so named
    )
)  # fmt: skip
"""What a broker or the client finds wrong with one record, in words: a producer that fails for good tells no code.

Whatever else is refused, others would be too.
"""
_REPEATED = re.compile(r"ProduceRequest for .* failed: (.*) \(broker .*")
_SILENT = logging.getLogger("quadrille.relay.silent")  # what it would print beside our log, we say
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False

Report: TypeAlias = Callable[[KafkaError | None, Message], None]


class ElsewhereError(NotReadyError):
    """The topics are not those that the records so far went to: the producer is discarded, nothing of it counts."""


class RefusedRowError(DeliveryFailedError):
    """One row is refused, and which; ``own`` says that it is the row's fault, not one that others would share."""

    def __init__(self, row: OutboxRow, reason: str, *, own: bool = True) -> None:
        key, topic = (text.decode("utf-8", "replace") for text in (row.aggregateid, row.aggregatetype))
        super().__init__(
            f"row {uuid_text(row.id).decode()} of {topic}, key {key[:64]}, {len(row.payload)} bytes: {reason}"
        )
        self.row, self.reason, self.own = row, reason, own


@dataclass(slots=True)
class Care:
    """What is remembered of a refusal until the row that is refused was delivered, or is no longer to be sent.

    While ``left`` rows are, they are handed on one by one: then it is known which one it is.
    """

    reason: str | None = None
    row: bytes | None = None
    left: int = 0

    def refused(self, failed: DeliveryFailedError, unsettled: int) -> None:
        """Remember a refusal, and how many rows are to be watched one by one."""
        self.reason = f"refused: {failed}; what to do: docs/troubleshooting.md"
        self.row, self.left = failed.row.id if isinstance(failed, RefusedRowError) else None, max(unsettled, 1)

    def delivered(self, row: OutboxRow) -> None:
        """Note a row that was refused by nobody."""
        self.left = max(1, self.left - 1) if self.row else self.left - 1
        if self.row == row.id or self.left <= 0:
            self.forget()

    def forget(self) -> None:
        """Note that nothing is left that could be refused."""
        self.reason, self.row, self.left = None, None, 0


class Publisher:
    """One producer at a time; after a failed delivery it is discarded, never used again."""

    def __init__(  # noqa: PLR0913, PLR0917 - where to, whose, of what, and how
        self, bootstrap: str, service: str, topics: Sequence[str], spans: Spans, care: Care, linger: float = 0.0
    ) -> None:
        self._bootstrap, self._linger = bootstrap, linger
        self._source = f"quadrille/{service}".encode()
        self._topics = topics
        self._names: dict[bytes, str] = {}
        self._published: list[tuple[OutboxRow, int | None, int | None, int]] = []
        self._troubles = ThrottledLog()
        self._spans = spans
        self._care = care
        self._losses = 0
        self.fatal: str | None = None
        self.offsets: dict[Place, int] = {}
        """The last acknowledged offset of each partition."""
        self._witness = Witness(bootstrap, topics, self.offsets, service)
        self._witness.losses = lambda: self._losses
        self.gathering = False
        """Whether each request waits for company: for a backlog, whose rows are late already."""
        self._connect()
        self.look, self.seen, self.prove = self._witness.look, self._witness.seen, self._witness.prove

    @property
    def can_gather(self) -> bool:
        """Whether there is a time to gather for."""
        return self._linger > 0

    def gather(self, *, on: bool) -> None:
        """Have what follows gathered, or sent at once; only with nothing in flight, for another producer sends it."""
        self.gathering = on
        self._closed.set()  # its thread ends by itself: there is nothing it could still report
        self._connect()

    def _connect(self) -> None:
        """Start a producer and the thread that serves its reports."""
        closed = self._closed = threading.Event()
        settings = producer_settings(self._bootstrap, self._linger if self.gathering else 0.0)
        self._warm: dict[bytes, set[int]] = {}
        """Of each topic, the partitions that have taken a record of this producer."""
        self._producer = Producer({**settings, "error_cb": partial(self._noticed, closed)}, logger=_SILENT)
        self._thread = threading.Thread(target=self._serve, args=(self._producer, closed), name="reports", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str | None:
        """Why the topics cannot be relied on; None once they were seen to be right."""
        return self._witness.trouble

    @property
    def away(self) -> str | None:
        """That Kafka does not answer, while it does not."""
        return self._witness.away

    def check_topics(self) -> None:
        """Raise NotReadyError if the topics are not as they must be."""
        if self._witness.trouble is not None:
            raise NotReadyError(self._witness.trouble)

    @property
    def target(self) -> Target:
        """Which Kafka this is; raises NotReadyError before it has answered."""
        if self._witness.target is None:
            raise NotReadyError(self.away or self.trouble or "Kafka has not answered yet")
        return self._witness.target

    def send(self, row: OutboxRow, report: Report) -> bool:
        """Hand a row to the producer; False if its queue is full, or if it may have been connected to another Kafka.

        Raises RefusedRowError for a row that cannot be sent.
        """
        if self._held():
            return False
        topic = self._names.get(row.aggregatetype) or self._name(row)
        if event_lines.on and row.type != _BEAT:
            report = partial(self._noted, row, report)
        if self._spans.on and row.traceparent[-1:] in _SAMPLED:
            report = partial(self._sent, row, time.time_ns(), report)
        try:
            headers = write_headers(row, self._source)
        except (ValueError, OverflowError) as unfit:  # a time past the year 9999
            raise RefusedRowError(row, f"its headers cannot be written: {unfit}") from None
        try:
            self._producer.produce(topic, row.payload, row.aggregateid, on_delivery=report, headers=headers)
        except BufferError:
            return False
        except KafkaException as refused:
            self.check()  # a producer that has given up refuses every row
            if refused.args[0].code() == KafkaError._FATAL:  # noqa: SLF001 - so named
                raise DeliveryFailedError(_words(refused)) from None
            raise RefusedRowError(
                row, _words(refused), own=KafkaError(refused.args[0].code()).str() in _ROWS_FAULT
            ) from None
        return True

    def push(
        self,
        row: OutboxRow,
        transaction: Transaction,
        meanwhile: Callable[[], None],
        on_its_way: Callable[[], None] | None = None,
    ) -> None:
        """Hand on a row of a transaction, however long the queue is full; ``meanwhile`` is called all the while.

        The first row of a partition is waited for, ``on_its_way`` called all the while; after a refusal every row is,
        and RefusedRowError raised with the row that is refused.
        """
        on_its_way = on_its_way or meanwhile
        transaction.handed += 1
        try:
            while not self.send(row, transaction.reported):
                time.sleep(_HELD_SECONDS if self._held() else _FULL_SECONDS)
                meanwhile()
        except RefusedRowError:
            transaction.handed -= 1  # it is not on its way: nobody is to wait for it
            raise
        cold = self._cold(row)
        if cold is None and not self._care.left:
            return
        try:
            while transaction.delivered < transaction.handed:
                time.sleep(_FULL_SECONDS)
                on_its_way()
        except UnprovenError:
            raise
        except DeliveryFailedError as failed:
            if not self._care.left:
                raise
            raise RefusedRowError(row, str(failed), own=_words(failed) in _ROWS_FAULT) from None
        if cold is not None:
            self._warm.setdefault(row.aggregatetype, set()).add(cold)
        if self._care.left:
            self._care.delivered(row)

    def _cold(self, row: OutboxRow) -> int | None:
        """Return a row's partition if nothing of this producer lies on it yet; None where something does.

        A broker takes any number from a producer it does not know: were the first record there refused, one that was
        sent behind it would be taken. So the first one is waited for.
        """
        warm = self._warm.get(row.aggregatetype, ())
        if len(warm) == PARTITIONS:
            return None
        place = partition_of(row.aggregateid.decode(), PARTITIONS)
        return None if place in warm else place

    def caught_up(self) -> None:
        """Note that all there is was delivered: what had been refused is gone."""
        self._care.forget()

    def check(self) -> None:
        """Raise DeliveryFailedError if the producer has given up, and as ``check_log``."""
        self.check_log()
        if self.fatal is not None:
            raise DeliveryFailedError(self.fatal)

    def check_log(self) -> None:
        """Raise ElsewhereError if the topics are not what they were, UnprovenError if they lack what was said."""
        if self._witness.elsewhere is not None:
            raise ElsewhereError(self._witness.elsewhere)
        if self._witness.lost is not None:
            raise UnprovenError(self._witness.lost)

    def await_proof(self, claim: Claim, meanwhile: Callable[[], None]) -> None:
        """Wait until a claim holds; ``meanwhile`` is called all the while and may raise."""
        self.prove(claim)
        while not claim.proven:
            time.sleep(_FULL_SECONDS)
            meanwhile()

    def discard(self) -> None:
        """End the producer; what it has not delivered is forgotten here and read from the WAL again."""
        self._witness.close()
        self._closed.set()
        with suppress(KafkaException):  # at once: what answers may be another Kafka
            self._producer.purge()
        self._thread.join()
        with suppress(*_GIVEN_UP):  # one that failed for good says so once more
            self._producer.flush(1.0)
        if self._published:
            self._tell()

    def _held(self) -> bool:
        """Tell whether a connection was lost since the topics were last seen to be ours."""
        return self._losses != self._witness.calm

    def _serve(self, producer: Producer, closed: threading.Event) -> None:
        """Serve delivery reports as they come."""
        while not closed.is_set():
            try:
                producer.poll(0.5)
                if closed.is_set():  # what is told from here on is another's
                    return
                if self._published:
                    self._tell()
                if not self._held():
                    self._troubles.over()
            except _GIVEN_UP as gone:  # fatal: it delivers nothing more
                if not closed.is_set():
                    self.fatal = self.fatal or _words(gone)
                return

    def _noticed(self, closed: threading.Event, error: KafkaError) -> None:
        """Hold what is to be sent until it is known who answers now."""
        if closed.is_set():
            return
        if error.fatal():
            self.fatal = error.str()
        self._losses += 1
        self._witness.look()
        self._troubles.warn("relay.kafka", error.name())

    def _name(self, row: OutboxRow) -> str:
        name = row.aggregatetype.decode()
        if name not in self._topics:
            raise RefusedRowError(row, f"{name} is not this relay's to write")
        return self._names.setdefault(row.aggregatetype, name)

    def _noted(self, row: OutboxRow, report: Report, error: KafkaError | None, message: Message) -> None:
        """Keep what a row's line is made of, once it is acknowledged."""
        report(error, message)
        if error is None:
            self._published.append((row, message.partition(), message.offset(), time.time_ns()))

    def _tell(self) -> None:
        """Write a line for each event that was acknowledged since."""
        told, self._published = self._published, []
        event_lines.write("event published", _PUBLISHED, map(self._line, told))

    def _line(self, told: tuple[OutboxRow, int | None, int | None, int]) -> tuple[object, ...]:
        row, partition, offset, at_ns = told
        trace = row.traceparent[3:35].decode("ascii", "replace")
        waited = round((at_ns - unix_nanoseconds(row.occurred_at)) / 1e6, 1)
        return (
            row.aggregateid.decode("utf-8", "replace"), uuid_text(row.id).decode(), row.type.decode("utf-8", "replace"),
            self._names[row.aggregatetype], partition, offset, trace, int.from_bytes(row.sequence, signed=True), waited,
        )  # fmt: skip

    def _sent(self, row: OutboxRow, handed_ns: int, report: Report, error: KafkaError | None, message: Message) -> None:
        """Export the span whose id the row already names; a record sent twice is one span."""
        report(error, message)
        context = parse(row.traceparent.decode("ascii", "replace"))
        if error is not None or context is None:
            return
        topic = self._names[row.aggregatetype]
        attributes: dict[str, tracing.Value] = {
            "messaging.system": "kafka",
            "messaging.operation.type": "send",
            "messaging.destination.name": topic,
            "messaging.destination.partition.id": str(message.partition()),
            "messaging.kafka.offset": message.offset() or 0,
            "messaging.kafka.message.key": row.aggregateid.decode("utf-8", "replace"),
            "messaging.message.id": uuid_text(row.id).decode(),
            "quadrille.type": row.type.decode("utf-8", "replace"),
            "quadrille.outbox_wait_ms": round((handed_ns - unix_nanoseconds(row.occurred_at)) / 1e6, 3),
        }
        parent = row.parent_span.hex() if row.parent_span else None
        self._spans.record(
            f"send {topic}", context, parent, handed_ns, time.time_ns(), kind=tracing.PRODUCER, attributes=attributes
        )


def _words(refusal: BaseException) -> str:
    """Return what was refused, in the client's words or, where it repeats them, the broker's."""
    first = refusal.args[0] if refusal.args else None
    text = str(first.str()) if isinstance(first, KafkaError) else f"{first or type(refusal).__name__}"
    return _REPEATED.sub(r"\1", text)
