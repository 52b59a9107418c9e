"""Consumer loop: events from Kafka into ``process_batch``, in order, from the positions in the service's database.

Kafka's group offsets are only a hint for lag tools; after a fence or an outage the positions are read again and
sought.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from quadrille.consumer.assignment import Assignment
from quadrille.consumer.brake import Brake, pause, paused
from quadrille.consumer.deserializer import RecordDeserializer, record_of
from quadrille.consumer.heartbeat import HeartbeatMonitor
from quadrille.consumer.outage import OutageGuard
from quadrille.db.connection import Session
from quadrille.kafka import headers as record_headers
from quadrille.kafka.topics import StoppedError, Topics
from quadrille.observability.degraded import Degraded
from quadrille.observability.linger import Linger
from quadrille.observability.logs import ThrottledLog
from quadrille.observability.readiness import NotReadyError, reason
from quadrille.processing import unit_of_work
from quadrille.processing.batch import OUTAGE, BrakedError, process_batch
from quadrille.processing.envelope import Envelope, Handled, OffsetRange
from quadrille.processing.suspects import Suspects
from quadrille.processing.telemetry import Observer
from quadrille.service import Service, Tx

__all__ = ["RETRIABLE", "ConsumerLoop", "ConsumerPorts"]

POLL_SECONDS = 0.5
STEP_SECONDS = 1.0
BRAKE_SECONDS = 1.0
BACKLOG_MAX = 300
"""Inputs of a batch behind a full one: what is late already is not made later by a longer commit."""
BEAT = b"canary.beat"
HINT_SECONDS = 5.0
WAITS_SECONDS = 15.0  # longer than one try that ends in a time-out
RETRIABLE = (*OUTAGE, KafkaException, TimeoutError)  # what comes back by itself
MOVING = (  # while partitions change hands
    KafkaError.STALE_MEMBER_EPOCH, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.ILLEGAL_GENERATION,
    KafkaError.REBALANCE_IN_PROGRESS, KafkaError._NO_OFFSET,  # noqa: SLF001 - librdkafka's names
)  # fmt: skip
HINT = Degraded("offsets for lag tools")
log = structlog.get_logger()


def hinted(error: KafkaError | None, partitions: Sequence[TopicPartition]) -> None:
    """Note what became of the offsets that lag tools look at; the positions are the database's."""
    failed = error or next((one.error for one in partitions if one.error), None)
    if failed is None:
        HINT.back()
    elif failed.code() not in MOVING:
        HINT.lost(failed.name())


@dataclass(frozen=True, slots=True)
class ConsumerPorts:
    """What a consumer loop works with; ``client`` makes a new consumer, a new member of the group.

    ``take`` gets what was handled, ``room`` says how many intents its owner may lease at once.
    """

    client: Callable[[], Consumer]
    topics: Topics
    reader: RecordDeserializer
    take: Callable[[Handled], None] = lambda _: None
    room: Callable[[], int] = lambda: 0
    heartbeat: HeartbeatMonitor | None = None
    batch_max: int = 100
    linger: Linger | None = None
    outages: OutageGuard | None = None


class ConsumerLoop:
    """Consumes a service's topics in one thread, and hands on what was handled."""

    def __init__(
        self,
        service: Service[Any],
        connect: Callable[[], Tx],
        ports: ConsumerPorts,
        watcher: Observer,
    ) -> None:
        self.service = service
        self._connection = Session(connect)
        self._client, self.topics, self.reader = ports.client, ports.topics, ports.reader
        self.consumer: Consumer
        self.watcher = watcher
        self._take, self._room, self.heartbeat, self._batch_max = (
            ports.take,
            ports.room,
            ports.heartbeat,
            ports.batch_max,
        )
        self._linger, self._behind, self._outages = ports.linger, False, ports.outages
        self.stop = threading.Event()
        self.assignment = Assignment(service.on.subscribed())
        self._watched = frozenset(service.on.watched())
        self.joined, self.waiting = False, "it waits for its place in the consumer group"
        self._renew = threading.Event()
        self._waits, self._waited_at = "", 0.0
        self._troubles, self._brake, self.suspects = ThrottledLog(), Brake(), Suspects()
        self._rests = False
        self._stepped = self._looked = self._hinted = self._braked = time.monotonic()

    def caught_up(self) -> bool:
        """Tell whether all partitions, others' too, are handled up to the ends seen at assignment: timers may fire."""
        return self.assignment.caught_up

    @property
    def waits(self) -> str:
        """Why what was read is not committed, as of the last tries; empty if it is, or nothing was read."""
        return self._waits if time.monotonic() - self._waited_at < WAITS_SECONDS else ""

    def ready(self) -> None:
        """Raise NotReadyError unless the group has given us partitions and what is read of them is committed."""
        if not self.joined:
            raise NotReadyError(self.waiting)
        if self.waits:
            message = f"what was read waits to be committed: {self.waits}"
            raise NotReadyError(message)

    def state(self, _: bool = False) -> str:  # noqa: FBT001, FBT002 - it looks by itself
        """Return by which state of its service's consumers this one acts."""
        return "PAUSED" if self._rests else "RUNNING"

    def renew(self) -> None:
        """Ask for a new client: the old one leaves the group, the new one joins it; any thread may call this."""
        self._renew.set()

    def run(self, stop: threading.Event) -> None:
        """Consume until told to stop; raises StoppedError when a topic is not what it was."""
        self.stop, self.waiting = stop, "it waits for its place in the consumer group"
        try:
            while not stop.is_set():
                self._listen()
        finally:
            self._connection.close()

    def _listen(self) -> None:
        """Consume with a client of its own, until told to stop or to make another."""
        self._renew.clear()
        self.consumer = self._client()
        try:
            self.consumer.subscribe(
                self.assignment.topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
            )
            while not self._ends():
                try:
                    self._round()
                    self._troubles.over("batch not committed")
                except RETRIABLE as trouble:
                    self._recover(trouble)
        finally:
            self.consumer.close()
            self.assignment.leave(
                [TopicPartition(*place) for place in self.assignment.next]
            )  # should it not have told us

    def _ends(self) -> bool:
        return self.stop.is_set() or self._renew.is_set()

    def _round(self) -> None:
        if self._rests or self._due("_braked", BRAKE_SECONDS):
            self._heed_pause()
        if self._rests:
            self._rest()
            return
        records = self._take_records()
        if records and self.suspects.left > 0:
            self._handle_carefully(records[0])
        elif inputs := self._inputs(records):
            self._commit(inputs)
        if self._rests:  # what lies between our position and what was read is not to be stepped over
            return
        if self.assignment.others and self._due("_looked", STEP_SECONDS / 4):
            self.assignment.look_at_others(self._connection())
        self.assignment.look()
        if self._due("_stepped", STEP_SECONDS) or (self.heartbeat and self.heartbeat.news):
            self._step_over_unheard()
        self._look_at_services()
        if self._due("_hinted", HINT_SECONDS):
            self._hint()

    def _look_at_services(self) -> None:
        """Beat, and see who does not: what waits for those is given up, where that is the policy."""
        if self.heartbeat:
            self.heartbeat.poll(self._connection(), self.assignment)
        if self._outages:
            self._outages.poll(self._connection(), self.assignment)

    def _take_records(self) -> list[KafkaMessage]:
        first = self.consumer.poll(self.heartbeat.rest(POLL_SECONDS) if self.heartbeat else POLL_SECONDS)
        if first is None:
            return []
        records = [first] if self.suspects.left > 0 else self._gather(first)
        for record in records:
            self._judge(record)
        if heard := [record for record in records if record.error() is None]:
            self._troubles.over("kafka trouble")
        return heard

    def _gather(self, first: KafkaMessage) -> list[KafkaMessage]:
        """Take what is there, and what comes while a batch lingers; behind a backlog, more at once."""
        most = max(self._batch_max, BACKLOG_MAX) if self._behind else self._batch_max
        records = [first, *self.consumer.consume(most - 1, 0)] if most > 1 else [first]
        if len(records) < most and self._linger and (wait := self._linger.seconds()):
            self.stop.wait(wait)
            records += self.consumer.consume(most - len(records), 0)
        self._behind = len(records) >= self._batch_max > 1
        return records

    def _judge(self, record: KafkaMessage) -> None:
        """Raise StoppedError for what no waiting mends; everything else librdkafka retries by itself."""
        if (error := record.error()) is None:
            return
        held = (record.topic(), record.partition()) in self.assignment.next  # else librdkafka's own, while we stop
        out_of_range = error.code() == KafkaError._AUTO_OFFSET_RESET and held  # noqa: SLF001 - librdkafka's names
        if out_of_range:
            self.assignment.check_bounds(self._connection(), self.topics)
            raise KafkaException(error)  # it is within them: to be sought again
        if error.fatal() or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            message = f"Kafka says {error.name()}: {error.str()}"
            raise StoppedError(message)
        self.trouble(error)

    def trouble(self, error: KafkaError) -> None:
        """Note what librdkafka meets and mends by itself, seldom in the log; what came meanwhile may be late."""
        self._troubles.warn("kafka trouble", error.name())
        self.doubt()

    def _inputs(self, records: Sequence[KafkaMessage]) -> list[Envelope]:
        inputs: list[Envelope] = []
        chained, read = dict(self.assignment.next), self.assignment.read
        for message in records:
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            if topic is None or partition is None or offset is None or (place := (topic, partition)) not in chained:
                continue  # revoked meanwhile
            if offset < read[place]:
                continue  # fetched before a seek
            read[place] = offset + 1
            record = record_of(message)
            if topic not in self._watched and not self.reader.unheard(record):
                origin = OffsetRange(topic, partition, chained[place], offset + 1)
                key = message.key()
                inputs.append(self.reader.read(record, key, origin, message.timestamp()[1]))
                chained[place] = offset + 1
            elif (
                self.heartbeat
                and offset >= self.assignment.ends[place]
                and record_headers.type_of(record.headers) == BEAT
            ):
                self.heartbeat.hear(topic, record.raw)
        return inputs

    def _handle_carefully(self, message: KafkaMessage) -> None:
        """Handle one record after a death: it is written down first, and not opened if it was so often enough."""
        topic, partition, offset = message.topic() or "", message.partition() or 0, message.offset() or 0
        record, place = record_of(message), (topic, partition)
        mine = place in self.assignment.next and offset >= self.assignment.read[place]
        if self.reader.unheard(record) or not mine:
            self._inputs([message])
            return
        if self.suspects.note(self._connection(), topic, partition, offset):
            origin = OffsetRange(topic, partition, self.assignment.next[place], offset + 1)
            self.assignment.read[place] = offset + 1
            inputs = [self.reader.unopened(record, message.key(), origin, message.timestamp()[1])]
            log.error("record quarantined", topic=topic, partition=partition, offset=offset)
        else:
            inputs = self._inputs([message])
        self._commit(inputs)
        self.suspects.clear(self._connection(), topic, partition)

    def _commit(self, inputs: Sequence[Envelope]) -> None:
        began = time.time_ns()
        try:
            outcomes = process_batch(self._connection(), self.service, inputs, self._room(), brake=self._brake.judge)
        except BrakedError as full:
            inputs = inputs[: full.upto]
            outcomes = process_batch(self._connection(), self.service, inputs)
        self.assignment.committed(inputs)
        self._waits = ""
        if cause := self._brake.note(inputs, outcomes):
            pause(self._connection(), self.service, cause)
            self._rests = True
        for outcome in outcomes:
            if isinstance(outcome, Handled) and outcome.emitted:
                self._take(outcome)
        self.watcher.handled(list(zip(inputs, outcomes, strict=True)), began)

    def _heed_pause(self) -> None:
        """Rest while the service's consumers are paused; what was read meanwhile is read again afterwards."""
        before = self._rests
        try:
            found = paused(self._connection())
        except OUTAGE:  # whoever needs the database next tells of it
            self._connection.close()
            return
        self._rests = found is not None
        if found:
            self._waits, self._waited_at = f"the consumer is paused: {found.cause}", time.monotonic()
        elif before:
            self._waits = ""
            self.assignment.seek(self._connection(), self.topics, self.consumer)

    def _rest(self) -> None:
        """Keep our place in the group, and beat, but handle nothing."""
        self.doubt()
        self.assignment.caught_up = False
        self._idle()
        if self.heartbeat:
            self.heartbeat.poll(self._connection(), self.assignment)

    def _step_over_unheard(self) -> None:
        steps, heartbeat = self.assignment.unheard(), self.heartbeat
        if not steps and not (heartbeat and heartbeat.news):
            return
        tx = self._connection()
        with tx.transaction():
            if steps and len(unit_of_work.move(tx, steps).fetchall()) != len(steps):
                message = "a position was not where this worker left it"
                raise unit_of_work.FencedError(message)
            if heartbeat and heartbeat.news:
                heartbeat.record(tx)
        self.assignment.stepped(steps)
        if heartbeat:
            heartbeat.flush()

    def doubt(self) -> None:
        """Note that records may not have reached us: nobody is called silent for that."""
        if self.heartbeat:
            self.heartbeat.suspend()

    def _hint(self) -> None:
        offsets = [TopicPartition(topic, partition, at) for (topic, partition), at in self.assignment.next.items()]
        try:
            if offsets:
                self.consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as trouble:
            HINT.lost(type(trouble).__name__)

    def _due(self, clock: str, seconds: float) -> bool:
        now = time.monotonic()
        if now - getattr(self, clock) < seconds:
            return False
        setattr(self, clock, now)
        return True

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Start where the database says; wait here for it, since an assignment without positions would lose records."""
        self.doubt()
        while not self._ends():
            try:
                ends = self.assignment.place(self._connection(), self.topics, partitions)
            except RETRIABLE as trouble:
                self._wait_for(trouble, "assignment waits")
                self._connection.close()
                self.stop.wait(POLL_SECONDS)
            else:
                consumer.incremental_assign(partitions)
                self.assignment.take(partitions, ends)
                self.joined = True
                self._troubles.over("assignment waits")
                log.info("partitions assigned", count=len(partitions))
                return

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.doubt()
        self.assignment.leave(partitions)
        consumer.incremental_unassign(partitions)
        log.info("partitions revoked", count=len(partitions))

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Note that the group goes on without us; the client joins again by itself."""
        self.joined, self.waiting = False, "it lost its place in the consumer group and joins it again"
        self._revoked(consumer, partitions)

    def _recover(self, trouble: Exception) -> None:
        """Never retry the old batch: read the positions again, as soon as the database answers, and seek to them."""
        self.doubt()
        self._wait_for(trouble, "batch not committed")
        fenced = isinstance(trouble, unit_of_work.FencedError)
        while not self._ends():
            try:
                if not fenced:
                    self._connection.close()
                    self._idle()
                self.assignment.seek(self._connection(), self.topics, self.consumer)
            except RETRIABLE as still:
                self._wait_for(still, "batch not committed")
                fenced = False
            else:
                return

    def _wait_for(self, trouble: Exception, phrase: str) -> None:
        if not isinstance(trouble, unit_of_work.FencedError):
            self._waits, self._waited_at = reason(trouble), time.monotonic()
        self._troubles.warn(phrase, type(trouble).__name__)

    def _idle(self) -> None:
        """Wait half a second without leaving the group: poll is called, and what it returns is read again after a seek.

        Nothing is paused meanwhile. A pause outlives the assignment it was made in: a partition that is revoked while
        it rests and assigned again comes back paused, and nobody would hear it any more.
        """
        self.stop.wait(POLL_SECONDS)
        if (record := self.consumer.poll(0)) is not None:
            self._judge(record)
