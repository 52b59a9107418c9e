"""Watches order.events from now on, so that a load run knows every order's end without asking the API for it."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from confluent_kafka import Consumer, TopicPartition

from quadrille.avro.codec import Codec
from quadrille.avro.registry import Cache, Registry, SchemaIds
from quadrille.kafka.config import client_settings
from quadrille.kafka.headers import type_of
from quadrille_cli.stack import Stack

TOPIC = "order.events"
ENDS = {b"order.confirmed": "CONFIRMED", b"order.cancelled": "CANCELLED"}


@dataclass(frozen=True, slots=True)
class End:
    """How an order ended, and when the event was read, monotonic seconds."""

    state: str
    at: float


class Observer:
    """Reads every partition of order.events in a thread; ``ends`` grows by order id."""

    def __init__(self, stack: Stack) -> None:
        self.ends: dict[str, End] = {}
        self._codec = Codec((), SchemaIds(Registry(stack.registry_url), Cache(Path(stack.data) / "schemas")))
        settings = client_settings(stack.kafka_bootstrap) | {
            "group.id": f"quadrille-load-{uuid.uuid4()}",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 5,
        }
        self._consumer = Consumer(settings)
        self._news, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="observer")

    def __enter__(self) -> Self:
        partitions = self._consumer.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions
        starts = []
        for number in partitions:
            place = TopicPartition(TOPIC, number)
            place.offset = self._consumer.get_watermark_offsets(place, timeout=10)[1]
            starts.append(place)
        self._consumer.assign(starts)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def wait(self, seconds: float) -> bool:
        """Return whether anything ended within so many seconds."""
        heard = self._news.wait(seconds)
        self._news.clear()
        return heard

    def _run(self) -> None:
        while not self._stop.is_set():
            first = self._consumer.poll(0.2)
            if first is None:
                continue
            for record in (first, *self._consumer.consume(500, 0)):
                if record.error() is None:
                    self._note(record.key(), record.value(), record.headers())

    def _note(self, key: object, value: object, headers: object) -> None:
        kind = type_of(headers)  # type: ignore[arg-type]  # librdkafka gives a list of pairs
        if kind not in ENDS or not isinstance(key, bytes) or not isinstance(value, bytes):
            return
        at, state = time.monotonic(), ENDS[kind]
        if state == "CANCELLED":
            state = f"{state} {self._codec.look(value)[1]['reason']}"
        self.ends[key.decode()] = End(state, at)
        self._news.set()
