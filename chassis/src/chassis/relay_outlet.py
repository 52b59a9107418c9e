"""The relay's way into Kafka: one idempotent producer, a thread for its reports, and the topics it may rely on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeAlias

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from chassis import otlp
from chassis.envelope import unix_nanoseconds, uuid_text, write_headers
from chassis.kafka import producer_settings
from chassis.logs import Seldom
from chassis.pgoutput import OutboxRow
from chassis.relay_window import DeliveryFailed, Transaction
from chassis.trace import parse
from chassis.tracing import Spans

PARTITIONS = 12
LOOK_SECONDS = 10.0
_LOOK_TIMEOUT = 3.0
_FULL_SECONDS = 0.001
_SAMPLED = b"13579bdf"

Report: TypeAlias = Callable[[KafkaError | None, Message], None]


class Outlet:
    """One producer; after a failed delivery it is discarded, never used again."""

    def __init__(self, bootstrap: str, source: str, topics: Sequence[str], spans: Spans) -> None:
        self._source = source.encode()
        self._topics = topics
        self._names: dict[bytes, str] = {}
        self._troubles = Seldom()
        self._spans = spans
        self.fatal: str | None = None
        self.trouble: str | None = "Kafka has not answered yet"
        """Why the topics cannot be relied on; None once they were seen to be right."""
        self._producer = Producer({**producer_settings(bootstrap), "error_cb": self._noticed, "log_level": 0})
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="reports", daemon=True)
        self._thread.start()

    def send(self, row: OutboxRow, report: Report) -> bool:
        """Hand a row to the producer; False if its queue is full. Raises KafkaException if it takes no more."""
        topic = self._names.get(row.aggregatetype) or self._name(row.aggregatetype)
        if self._spans.on and row.traceparent[-1] in _SAMPLED:
            report = partial(self._sent, row, time.time_ns(), report)
        headers = write_headers(row, self._source)
        try:
            self._producer.produce(topic, row.payload, row.aggregateid, on_delivery=report, headers=headers)
        except BufferError:
            return False
        return True

    def push(self, row: OutboxRow, transaction: Transaction, meanwhile: Callable[[], None]) -> None:
        """Hand on a row of a transaction, however long the queue is full; ``meanwhile`` is called every millisecond."""
        transaction.handed += 1
        while not self.send(row, transaction.reported):
            time.sleep(_FULL_SECONDS)
            meanwhile()

    def check(self) -> None:
        """Raise DeliveryFailed if the producer has given up."""
        if self.fatal is not None:
            raise DeliveryFailed(self.fatal)

    def discard(self) -> None:
        """End the producer; what it has not delivered is forgotten here and read from the WAL again."""
        self._closed.set()
        self._thread.join()
        with suppress(KafkaException):  # one that failed for good says so once more
            self._producer.purge()
            self._producer.flush(1.0)

    def _serve(self) -> None:
        """Serve delivery reports as they come, and look at the topics now and then."""
        look_at = 0.0
        while not self._closed.is_set():
            if time.monotonic() >= look_at:
                self._look()
                look_at = time.monotonic() + (LOOK_SECONDS if self.trouble is None else 1.0)
            try:
                self._producer.poll(0.5)
            except KafkaException as gone:  # fatal: it delivers nothing more
                self.fatal = self.fatal or str(gone)
                return

    def _look(self) -> None:
        """Judge the topics; a broker that does not answer changes nothing, rows wait in the queue."""
        try:
            found = self._producer.list_topics(timeout=_LOOK_TIMEOUT).topics
        except KafkaException:
            return
        counts = {name: len(found[name].partitions) if name in found else 0 for name in self._topics}
        wrong = [f"{name} has {n} partitions" for name, n in counts.items() if n not in (0, PARTITIONS)]
        missing = [f"{name} does not exist" for name, n in counts.items() if n == 0]
        self.trouble = "; ".join("topic " + fault for fault in missing + wrong) or None

    def _noticed(self, error: KafkaError) -> None:
        if error.fatal():
            self.fatal = error.str()
        self._troubles.warn("relay.kafka", error.name())

    def _name(self, topic: bytes) -> str:
        name = topic.decode()
        if name not in self._topics:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, f"{name} is not this relay's to write"))
        return self._names.setdefault(topic, name)

    def _sent(self, row: OutboxRow, handed_ns: int, report: Report, error: KafkaError | None, message: Message) -> None:
        """Export the span whose id the row already names; a record sent twice is one span."""
        report(error, message)
        context = parse(row.traceparent.decode("ascii", "replace"))
        if error is not None or context is None:
            return
        topic = self._names[row.aggregatetype]
        attributes: dict[str, otlp.Value] = {
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
            f"send {topic}", context, parent, handed_ns, time.time_ns(), kind=otlp.PRODUCER, attributes=attributes
        )
