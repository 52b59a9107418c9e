"""Facts from Kafka into ``commit``: whatever is there, in order, from the position the database knows.

Kafka's group offsets are only a hint for lag tools; after a fence or an outage the positions are read again and sought.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import psycopg
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from chassis import ledger
from chassis.commit import OUTAGE, commit
from chassis.inputs import Done, Entry, Input, Origin, Outcome, Record
from chassis.reading import Reader
from chassis.service import Service, Tx

Place = tuple[str, int]
POLL_SECONDS = 0.5
STEP_SECONDS = 1.0
HINT_SECONDS = 5.0
READ_POSITIONS = "SELECT topic, partition, next_offset FROM position WHERE topic = ANY(%b)"
ADD_POSITION = "INSERT INTO position VALUES (%b, %b, %b) ON CONFLICT DO NOTHING"
log = structlog.get_logger()


class Stopped(Exception):  # noqa: N818 - the name says what is the case
    """The worker must not go on: a topic is not what it was; the message says found, wanted and fix."""


class Watcher(Protocol):
    """Is told what became of every batch: spans, metrics and logs hang here."""

    def handled(self, batch: Sequence[tuple[Input, Outcome]], began_ns: int) -> None:
        """Note a committed batch."""
        ...

    def called(self, entry: Entry, began_ns: int, trouble: Exception | None = None) -> None:
        """Note a call outside that has ended."""
        ...


class Listener:
    """Hears a service's topics in one thread; ``take`` gets what was said, ``room`` says how many may be."""

    def __init__(
        self,
        service: Service[Any],
        connect: Callable[[], Tx],
        consumer: Consumer,
        reader: Reader,
        watcher: Watcher,
    ) -> None:
        self.service = service
        self.connect = connect
        self.consumer = consumer
        self.reader = reader
        self.watcher = watcher
        self.take: Callable[[Done], None] = _leave
        self.room: Callable[[], int] = lambda: 0
        self.batch_max = 100
        self.stop = threading.Event()
        self.tx: Tx | None = None
        self.next: dict[Place, int] = {}  # the database's position, as far as we know
        self.read: dict[Place, int] = {}  # one past the last record looked at
        self.ends: dict[Place, int] = {}  # the end seen at assignment
        self.joined = False
        self._stepped = self._hinted = time.monotonic()

    def caught_up(self) -> bool:
        """Tell whether every partition has been read up to the end seen at its assignment: timers may fire."""
        return bool(self.ends) and all(self.read.get(place, 0) >= end for place, end in self.ends.items())

    def ready(self) -> bool:
        """Tell whether the broker has given us partitions and the database their positions."""
        return self.joined

    def run(self, stop: threading.Event) -> None:
        """Listen until told to stop; raises Stopped when a topic is not what it was."""
        self.stop = stop
        self.consumer.subscribe(list(self.service.on.topics()), on_assign=self._assigned, on_revoke=self._revoked)
        try:
            while not stop.is_set():
                try:
                    self._round()
                except OUTAGE as trouble:
                    self._recover(trouble)
        finally:
            self.consumer.close()
            self._close()

    def _round(self) -> None:
        records = self._take_records()
        inputs = self._inputs(records)
        if inputs:
            self._commit(inputs)
        if self._due("_stepped", STEP_SECONDS):
            self._step_over_unheard()
        if self._due("_hinted", HINT_SECONDS):
            self._hint()

    def _take_records(self) -> list[KafkaMessage]:
        first = self.consumer.poll(POLL_SECONDS)
        if first is None:
            return []
        records = [first, *self.consumer.consume(self.batch_max - 1, 0)]
        for record in records:
            if error := record.error():
                _judge(error)
        return [record for record in records if record.error() is None]

    def _inputs(self, records: Sequence[KafkaMessage]) -> list[Input]:
        inputs: list[Input] = []
        chained = dict(self.next)
        for message in records:
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            if topic is None or partition is None or offset is None or (place := (topic, partition)) not in chained:
                continue  # revoked meanwhile
            if offset < self.read[place]:
                continue  # fetched before a seek
            self.read[place] = offset + 1
            record = _record(message)
            if not self.reader.unheard(record):
                origin = Origin(topic, partition, chained[place], offset + 1)
                key = message.key()
                inputs.append(self.reader.read(record, key, origin, message.timestamp()[1]))
                chained[place] = offset + 1
        return inputs

    def _commit(self, inputs: Sequence[Input]) -> None:
        began = time.time_ns()
        outcomes = commit(self._connection(), self.service, inputs, self.room())
        for origin in (i.origin for i in inputs if i.origin):
            self.next[origin.topic, origin.partition] = origin.upto
        for outcome in outcomes:
            if isinstance(outcome, Done) and outcome.said:
                self.take(outcome)
        self.watcher.handled(list(zip(inputs, outcomes, strict=True)), began)

    def _step_over_unheard(self) -> None:
        steps = [(*place, self.next[place], end) for place, end in sorted(self.read.items()) if end > self.next[place]]
        if not steps:
            return
        tx = self._connection()
        with tx.transaction():
            if len(ledger.move(tx, steps).fetchall()) != len(steps):
                message = "a position was not where this worker left it"
                raise ledger.Fenced(message)
        self.next.update({(topic, partition): upto for topic, partition, _, upto in steps})

    def _hint(self) -> None:
        offsets = [TopicPartition(topic, partition, at) for (topic, partition), at in self.next.items()]
        if offsets:
            self.consumer.commit(offsets=offsets, asynchronous=True)

    def _due(self, clock: str, seconds: float) -> bool:
        now = time.monotonic()
        if now - getattr(self, clock) < seconds:
            return False
        setattr(self, clock, now)
        return True

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Start where the database says; wait here for it, since an assignment without positions would lose records."""
        while not self.stop.is_set():
            try:
                self._place(consumer, partitions)
            except (*OUTAGE, KafkaException) as trouble:
                log.warning("assignment waits", error_class=type(trouble).__name__)
                self._close()
                self.stop.wait(POLL_SECONDS)
            else:
                self.joined = True
                log.info("partitions assigned", count=len(partitions))
                return

    def _place(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        known = self._positions()
        ends = {(p.topic, p.partition): consumer.get_watermark_offsets(p, timeout=10) for p in partitions}
        for one in partitions:
            place = one.topic, one.partition
            low, high = ends[place]
            if place not in known:
                self._connection().execute(ADD_POSITION, [*place, low])
            one.offset = known.setdefault(place, low)
            if not low <= one.offset <= high:
                message = (
                    f"{one.topic}[{one.partition}] holds {low} to {high}, the position is {one.offset}: the topic was "
                    "made anew or its retention overtook this worker; nothing is skipped silently"
                )
                raise Stopped(message)
        consumer.incremental_assign(partitions)
        for one in partitions:
            place = one.topic, one.partition
            self.next[place] = self.read[place] = one.offset
            self.ends[place] = ends[place][1]

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for one in partitions:
            for table in (self.next, self.read, self.ends):
                table.pop((one.topic, one.partition), None)
        consumer.incremental_unassign(partitions)
        log.info("partitions revoked", count=len(partitions))

    def _positions(self) -> dict[Place, int]:
        rows = self._connection().execute(READ_POSITIONS, [list(self.service.on.topics())])
        return {(topic, partition): at for topic, partition, at in rows}

    def _recover(self, trouble: Exception) -> None:
        """Never retry the old batch: read the positions again, as soon as the database answers, and seek to them."""
        log.warning("batch not committed", error_class=type(trouble).__name__)
        fenced = isinstance(trouble, ledger.Fenced)
        while not self.stop.is_set():
            try:
                if not fenced:
                    self._close()
                    self._idle()
                self._seek(self._positions())
            except (*OUTAGE, KafkaException):
                fenced = False
            else:
                return

    def _seek(self, known: dict[Place, int]) -> None:
        for place in self.next:
            self.consumer.seek(TopicPartition(*place, known[place]))
            self.next[place] = self.read[place] = known[place]

    def _idle(self) -> None:
        """Wait half a second without leaving the group: partitions rest, poll is called."""
        resting = [TopicPartition(*place) for place in self.next]
        self.consumer.pause(resting)
        self.stop.wait(POLL_SECONDS)
        if (record := self.consumer.poll(0)) is not None and (error := record.error()):
            _judge(error)
        self.consumer.resume([one for one in resting if (one.topic, one.partition) in self.next])

    def _connection(self) -> Tx:
        if self.tx is None:
            self.tx = self.connect()
        return self.tx

    def _close(self) -> None:
        tx, self.tx = self.tx, None
        if tx is not None:
            close_quietly(tx)


def close_quietly(tx: Tx) -> None:
    """Close a connection that may be broken already."""
    try:
        tx.close()
    except psycopg.Error as trouble:
        log.debug("connection was broken", error_class=type(trouble).__name__)


def _record(message: KafkaMessage) -> Record:
    headers = message.headers()
    pairs = headers.items() if isinstance(headers, dict) else headers or ()
    return Record(message.value() or b"", tuple((name, _bytes(value)) for name, value in pairs))


def _bytes(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""


def _leave(done: Done) -> None:
    """Take no intent in hand: the agenda finds them when they are due."""


def _judge(error: KafkaError) -> None:
    """Raise Stopped for what no waiting mends; everything else librdkafka retries by itself."""
    if error.fatal() or error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.TOPIC_AUTHORIZATION_FAILED):  # noqa: SLF001 - librdkafka's own error names begin so
        message = f"Kafka says {error.name()}: {error.str()}"
        raise Stopped(message)
    log.warning("kafka trouble", error_class=error.name())
