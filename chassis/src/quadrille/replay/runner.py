"""Replay runner: carries out one replay; its progress and its effects are one transaction, and the inbox decides.

A dry one hands every record that the inbox does not know to the same ``process_batch``, in a transaction that is
rolled back.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from quadrille.consumer.deserializer import RecordDeserializer, record_of
from quadrille.context import ProcessContext
from quadrille.db import audit
from quadrille.ids import lock_key
from quadrille.kafka import headers as record_headers
from quadrille.kafka.config import consumer_settings
from quadrille.observability import metrics
from quadrille.observability.trace_context import Context
from quadrille.observability.tracing import CONSUMER, Value
from quadrille.processing import unit_of_work
from quadrille.processing.batch import process_batch
from quadrille.processing.envelope import EffectBlocked, Envelope, OffsetRange, Outcome, Parked, Record, Unreadable
from quadrille.processing.outbox import announce
from quadrille.processing.telemetry import statement_spans
from quadrille.replay import operations
from quadrille.replay.fence import Fence
from quadrille.replay.operations import Advance, Operation
from quadrille.replay.plan import ReplayPlan, plan_of
from quadrille.replay.report import ReplayReport, report_of
from quadrille.service import Service, Tx
from quadrille.system_messages import ReplayEnded

WAIT_SECONDS = 0.2


class RecordsGoneError(Exception):
    """A part of the range is no longer on its topic."""


@dataclass(frozen=True, slots=True)
class Range:
    """What to read: a half-open interval of one partition."""

    topic: str
    partition: int
    since: int
    upto: int


@dataclass(frozen=True, slots=True)
class ReadRecord:
    """A record read again, with its place and the broker's time in milliseconds."""

    offset: int
    key: bytes | None
    record: Record
    at_ms: int


class Tape(Protocol):
    """What ranges are read from: topics, an archive, or one continued by the other."""

    def play(self, span: Range, most: int) -> Iterator[list[ReadRecord]]:
        """Yield what there is of a range, at most so many records at once, in the order of their offsets."""

    def close(self) -> None:
        """Let go of what it is read from."""


class RangeReader:
    """Reads ranges of topics; no offset of its group is ever committed."""

    def __init__(self, bootstrap: str, group: str) -> None:
        # what is wanted is there already; a fetch that waits at one partition's end would hold up the next for 500 ms
        settings = {"enable.partition.eof": True, "fetch.wait.max.ms": 10}
        self._consumer = Consumer(consumer_settings(bootstrap, group) | settings)

    def close(self) -> None:
        """Let go of the broker."""
        self._consumer.close()

    def play(self, span: Range, most: int) -> Iterator[list[ReadRecord]]:
        """Yield what there is, at most so many records at once; an empty list whenever nothing has come for a while.

        Raises RecordsGoneError when the beginning has passed retention, KafkaException for what comes back by itself.
        """
        place = TopicPartition(span.topic, span.partition, span.since)
        self._consumer.assign([place])
        at, ended = span.since, False
        while at < span.upto and not ended:
            first = self._consumer.poll(WAIT_SECONDS)
            found = [first, *self._consumer.consume(most - 1, 0)] if first else []
            records = [message for message in found if not _is_end(message)]
            taken = [_read_record(message) for message in records if at <= (message.offset() or 0) < span.upto]
            at = max([at, *(1 + (message.offset() or 0) for message in records)])
            ended = len(records) < len(found)
            yield taken
        self._consumer.unassign()


def _is_end(message: KafkaMessage) -> bool:
    """Tell whether this is the mark of a partition's end; raises for every other trouble."""
    if (error := message.error()) is None:
        return False
    if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's names
        return True
    if error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 - as above
        raise RecordsGoneError
    raise KafkaException(error)


def _read_record(message: KafkaMessage) -> ReadRecord:
    key = message.key()
    return ReadRecord(
        message.offset() or 0, key if key is None else bytes(key), record_of(message), message.timestamp()[1]
    )


KEPT = timedelta(hours=1)
READ_MOST = 500
STEPS_A_SECOND = 5
NOTE_SECONDS = 0.5
FAILING_MOST = 5
# What a replay names is no longer discarded: it is handled like any other, or the row is put back with the transaction.
LIFT = """
UPDATE parked SET state = 'REDRIVEN', ended_by = %b, reason = %b
 WHERE id = ANY(%b) AND state = 'DISCARDED' AND topic IS NOT NULL"""


@dataclass(slots=True)
class Replay:
    """One operation in this process's hand: from wherever its row says it is to its end, or until ``context.stop``.

    Raises Interrupted when the row is no longer ours, and every infrastructure error: then it goes on from the row.
    """

    context: ProcessContext
    reader: RecordDeserializer
    tx: Tx
    operation: Operation
    fence: Fence
    plan: ReplayPlan = field(init=False)
    tally: ReplayReport = field(init=False)
    _unknown: list[Envelope] = field(default_factory=list)
    _links: dict[UUID, Context] = field(default_factory=dict)
    _failed: int = 0
    _noted: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.plan, self.tally = plan_of(self.operation.plan), report_of(self.operation.progress)
        if self.dry:
            self.tally = ReplayReport(self.tally.step)  # what it had foreseen is not kept: it begins anew

    @property
    def dry(self) -> bool:
        """Whether it only looks."""
        return self.plan.mode == "dry"

    def run(self, tape: Tape) -> None:
        """Carry it out."""
        most = READ_MOST if self.dry else max(1, min(self.context.settings.batch_max, self.plan.rate // STEPS_A_SECOND))
        for partition, (since, upto) in sorted(self.plan.ranges.items()):
            at = self.tally.next.get(partition, since)
            if self._left == 0:
                break
            if since < at < upto:
                self._recall(tape, Range(self.plan.topic, partition, since, at))
            for taken in tape.play(Range(self.plan.topic, partition, at, upto), most):
                if taken:
                    self._take(partition, taken)
                self._note()
                if self._left == 0 or self.context.stop.is_set():
                    break
            self._foresee()
            if self.context.stop.is_set():
                return
        self._end()

    @property
    def _left(self) -> int | None:
        """How many records may still be looked at; None is all there are."""
        return None if self.plan.limit is None else self.plan.limit - self.tally.records - len(self._unknown)

    def _recall(self, tape: Tape, span: Range) -> None:
        """Find the keys of which something was kept back: what lies behind us and the inbox still does not know."""
        for taken in tape.play(span, READ_MOST):
            inputs = self._readable(span.partition, [one for one in taken if self._meant(one)], ReplayReport())
            seen = self._seen(inputs)
            self.fence.recall(one.key for one in inputs if one.id not in seen)
        self._links.clear()

    def _take(self, partition: int, taken: Sequence[ReadRecord]) -> None:
        """Judge records: the inbox knows most; the others are handled now, or foreseen at the partition's end."""
        self.context.retention.inform(self.tx, self.reader)
        made, chosen = self.tally.copy(), [one for one in taken if self._meant(one)][: self._left]
        inputs = self._readable(partition, chosen, made)
        seen, fresh = self._seen(inputs), list[Envelope]()
        for one in inputs:
            if one.id in seen:
                made.count(one.type, "SEEN")
            elif isinstance(one.body, Unreadable):
                self.fence.hold(one, "OLD")
                made.count(one.type, "OLD")
            else:
                fresh.append(one)
        last = chosen[-1] if self._left == len(chosen) else taken[-1]
        made.next[partition] = last.offset + 1
        if self.dry:
            self._unknown += [replace(one, record=None) for one in fresh]
            self.tally = made
        else:
            self._step(made, fresh)

    def _meant(self, taken: ReadRecord) -> bool:
        """Tell whether a record is one the plan selects."""
        plan, headers = self.plan, taken.record.headers
        if plan.order is not None and taken.key != plan.order.encode():
            return False
        if plan.type is not None and record_headers.type_of(headers) != plan.type.encode():
            return False
        return not plan.events or record_headers.read_headers(headers).id in plan.events

    def _readable(self, partition: int, taken: Sequence[ReadRecord], made: ReplayReport) -> list[Envelope]:
        """Return the records that can be read, and those that are too old; count the others."""
        inputs = []
        for one in taken:
            if self.reader.unheard(one.record):
                made.count((record_headers.type_of(one.record.headers) or b"").decode(), "UNHEARD")
                continue
            origin = OffsetRange(self.plan.topic, partition, one.offset, one.offset + 1, moves=False)
            envelope = self.reader.read(one.record, one.key, origin, one.at_ms)
            if isinstance(envelope.body, Unreadable) and envelope.body.error_class != "BELOW_FLOOR":
                made.unread(envelope.type, (partition, one.offset), envelope.body.reason, one.record.raw)
                continue
            if not self.dry:
                self._links[envelope.id] = envelope.trace
            inputs.append(replace(envelope, trace=self.context.spans.root()))
        return inputs

    def _seen(self, inputs: Sequence[Envelope]) -> set[UUID]:
        """Ask the inbox; an event the plan names is asked about by ``process_batch`` alone, its discard lifted."""
        ids = [one.id for one in inputs if one.id not in self.plan.events]
        if not ids:
            return set()
        rows = self.tx.execute(unit_of_work.SEEN_IDS, {"ids": ids, "low": min(ids), "high": max(ids)})
        return {row[0] for row in rows}

    def _step(self, made: ReplayReport, inputs: Sequence[Envelope]) -> None:
        """Handle records and note it, in one transaction; then rest, for the live service comes first."""
        began_ns, state = time.time_ns(), "RUNNING"
        with self.tx.transaction():
            batch = self._handle(inputs)
            made.envelope(batch)
            self._failed += sum(isinstance(outcome, Parked) for _, outcome in batch)
            if self._failed >= FAILING_MOST:
                state, made.failure = "PAUSED", f"{self._failed} records were parked by their handlers: see parked"
            self._advance(made, state)
        self._told(batch, began_ns)
        if state != "RUNNING":
            raise operations.Interrupted
        self.context.stop.wait(len(inputs) / self.plan.rate)

    def _handle(self, inputs: Sequence[Envelope]) -> list[tuple[Envelope, Outcome]]:
        """Give records to ``process_batch``, all keys locked in the one order; named ones each alone."""
        if inputs:
            self.tx.execute(unit_of_work.LOCK_KEYS, [sorted({lock_key(one.key) for one in inputs})])
        outcomes: list[Outcome] = []
        for named, run in itertools.groupby(inputs, lambda one: one.id in self.plan.events):
            if named:
                outcomes += [self._lift(one) for one in run]
            else:
                outcomes += process_batch(self.tx, self.context.service, list(run), guard=self.fence)
        return list(zip(inputs, outcomes, strict=True))

    def _lift(self, named: Envelope) -> Outcome:
        """Handle an event although it was discarded; kept back, it stays so."""
        with self.tx.transaction():
            by = f"replay {self.operation.id}"
            self.tx.execute(LIFT, [self.operation.actor, f"{by}: {self.operation.reason}", [named.id]])
            outcome = process_batch(self.tx, self.context.service, [named], guard=self.fence)[0]
            if isinstance(outcome, EffectBlocked):
                raise psycopg.Rollback
        return outcome

    def _foresee(self) -> None:
        """Find out what handling would come to, whole keys together, in transactions that are rolled back."""
        by_key: dict[str, list[Envelope]] = {}
        for one in self._unknown:
            by_key.setdefault(one.key, []).append(one)
        waiting = list(by_key.values())
        while waiting and not self.context.stop.is_set():
            chunk = waiting.pop()
            while waiting and len(chunk) + len(waiting[-1]) <= self.context.settings.batch_max:
                chunk += waiting.pop()
            with self.tx.transaction():
                batch = self._handle(chunk)
                raise psycopg.Rollback
            self.tally.envelope(batch)
            self._note()
        self._unknown = []

    def _note(self) -> None:
        """Let others see how far it is, and see whether it is still ours; twice a second at most."""
        if time.monotonic() - self._noted >= NOTE_SECONDS:
            self._advance(self.tally, "RUNNING")

    def _advance(self, made: ReplayReport, state: str, plan: ReplayPlan | None = None) -> None:
        """Move the row on, within whatever transaction is open; from here on ``made`` is what we know."""
        step, made.step = self.tally.step, self.tally.step + 1
        kept = KEPT if state == "PLANNED" else None
        moved = Advance(made.document(), state, None if plan is None else plan.document(), kept)
        operations.advance(self.tx, self.operation.id, step, moved)
        self.tally, self._noted = made, time.monotonic()

    def _end(self) -> None:
        """Keep a plan for its hour; end what was done with a row of the audit, and say so."""
        if self.dry:
            ranges = {n: (since, self.tally.next.get(n, since)) for n, (since, _) in self.plan.ranges.items()}
            self._advance(self.tally, "PLANNED", replace(self.plan, ranges=ranges))
            return
        with self.tx.transaction():
            self._advance(self.tally.copy(), "DONE")
            tell_end(self.tx, self.context.service, self.operation, self.tally)
            audit.record(self.tx, audit.Action(
                self.operation.actor, "replay-end", str(self.operation.id), self.operation.reason or "",
                {"plan": self.operation.plan}, {"state": "DONE", "progress": self.tally.document()},
            ))  # fmt: skip

    def _told(self, batch: Sequence[tuple[Envelope, Outcome]], began_ns: int) -> None:
        """Count, and record a span each: a trace of its own, linked to the record's."""
        ended_ns = time.time_ns()
        if self.context.spans.on:
            statement_spans(self.context.spans, [one for one, _ in batch], began_ns)
        for one, outcome in batch:
            metrics.count_outcome(one.type, outcome)
            attributes: dict[str, Value] = {
                "quadrille.order_id": one.key, "quadrille.event_type": one.type,
                "quadrille.outcome": type(outcome).__name__.lower(), "quadrille.operation_id": str(self.operation.id),
            }  # fmt: skip
            self.context.spans.record(
                f"replay {self.plan.topic}", one.inside, None, began_ns, ended_ns, kind=CONSUMER,
                attributes=attributes, links=(self._links[one.id],),
            )  # fmt: skip
        self._links.clear()


def tell_end(tx: Tx, service: Service[Any], operation: Operation, tally: ReplayReport) -> None:
    """Say that a live replay is over, inside the transaction that ends it."""
    plan = plan_of(operation.plan)
    fact = ReplayEnded(
        service.name, str(operation.id), plan.mode, plan.topic, tally.records, operation.actor, operation.reason or ""
    )
    announce(tx, service, operation.id, fact)
