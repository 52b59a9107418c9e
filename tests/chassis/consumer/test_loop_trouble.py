"""What a consumer loop logs of an outage of Kafka: enough to know, not a line for every error the client brings."""

from __future__ import annotations

import threading
from typing import cast

from confluent_kafka import Consumer, KafkaError, Message
from structlog.testing import capture_logs

from quadrille.consumer.deserializer import RecordDeserializer
from quadrille.consumer.loop import ConsumerLoop, ConsumerPorts
from quadrille.kafka.topics import Topics
from quadrille.observability.tracing import Spans
from quadrille.processing.telemetry import Telemetry
from quadrille.testing.in_memory import PlainCodec
from tests.chassis.support.database import Database
from tests.chassis.support.kafka_harness import Kitchen

TRANSPORT = KafkaError(KafkaError._TRANSPORT)  # noqa: SLF001 - librdkafka's name
POLLS = 50


class Away:
    """A client whose broker is away: it brings errors alone, and in the end it is enough."""

    def __init__(self, enough: threading.Event) -> None:
        self.enough, self.polls = enough, 0

    def poll(self, _: float) -> Message:
        """Return one error at once."""
        self.polls += 1
        if self.polls == POLLS:
            self.enough.set()
        return Message(topic="order.events", partition=0, error=TRANSPORT)

    def consume(self, _: int, __: float) -> list[Message]:
        """Return what else there is."""
        return [self.poll(0) for _ in range(4)]

    def subscribe(self, *_: object, **__: object) -> None:
        """Take no notice."""

    def close(self) -> None:
        """Take no notice."""


def test_an_outage_of_kafka_is_one_line_a_while(kitchen: Kitchen, db: Database) -> None:
    """A record's error, or the client's own, is told once in a while with how many there were."""
    stop = threading.Event()
    away = Away(stop)
    ports = ConsumerPorts(
        lambda: cast("Consumer", away), Topics(kitchen.bootstrap), RecordDeserializer({}, PlainCodec())
    )
    consumer_loop = ConsumerLoop(kitchen.service(), db.connect, ports, Telemetry(Spans.disabled()))
    with capture_logs() as told:
        consumer_loop.run(stop)
        consumer_loop.trouble(TRANSPORT)

    assert away.polls == POLLS
    assert told == [{"event": "kafka trouble", "log_level": "warning", "error_class": "_TRANSPORT", "count": 1}]
