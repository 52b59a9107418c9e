"""What a listener says of an outage of Kafka: enough to know, not a line for every error the client brings."""

from __future__ import annotations

import threading
from typing import cast

from confluent_kafka import Consumer, KafkaError, Message
from structlog.testing import capture_logs

from chassis.listener import Ears, Listener
from chassis.reading import Reader
from chassis.testing import PlainCodec
from chassis.tests.kitchen import Kitchen
from chassis.tests.workbench import Database
from chassis.topics import Topics
from chassis.tracing import Spans
from chassis.worker import Notes

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
    ears = Ears(lambda: cast("Consumer", away), Topics(kitchen.bootstrap), Reader({}, PlainCodec()))
    listener = Listener(kitchen.service(), db.connect, ears, Notes(Spans.disabled()))
    with capture_logs() as told:
        listener.run(stop)
        listener.trouble(TRANSPORT)

    assert away.polls == POLLS
    assert told == [{"event": "kafka trouble", "log_level": "warning", "error_class": "_TRANSPORT", "count": 1}]
