"""The clients' settings: librdkafka takes each, and what matters for order is what it runs with."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer, KafkaException, Producer

from quadrille.kafka.config import client_settings, consumer_settings, producer_settings

NOWHERE = "127.0.0.1:9"


def test_order_survives_retries() -> None:
    """The producer is idempotent, waits for all replicas, five in flight, and never gives a record up by time."""
    settings = producer_settings(NOWHERE)

    wanted = {
        "enable.idempotence": True,
        "acks": "all",
        "max.in.flight": 5,
        "message.timeout.ms": 0,
        "partitioner": "murmur2_random",
        "queue.buffering.max.messages": 1_000,
        "queue.buffering.max.kbytes": 16_384,
        "allow.auto.create.topics": False,
    }
    assert settings.items() >= wanted.items()
    assert "transactional.id" not in settings
    assert 0 <= float(settings["linger.ms"]) <= 1


def test_progress_is_never_the_brokers() -> None:
    """The consumer stores and commits no offset by itself and starts nowhere by itself."""
    settings = consumer_settings(NOWHERE, "inventory")

    wanted = {
        "group.id": "inventory",
        "group.protocol": "consumer",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "check.crcs": True,
        "fetch.queue.backoff.ms": 20,
    }
    assert settings.items() >= wanted.items()
    assert not {"group.instance.id", "session.timeout.ms"} & set(settings)


def test_librdkafka_takes_every_setting() -> None:
    """Clients are made with exactly these settings; an unknown name or an impossible pair would be refused here."""
    Producer(producer_settings(NOWHERE))
    Consumer(consumer_settings(NOWHERE, "inventory")).close()
    Producer(client_settings(NOWHERE))


@pytest.mark.parametrize(("name", "value"), [("enable.idempotnce", True), ("acks", "1"), ("max.in.flight", 6)])
def test_librdkafka_refuses_what_would_break_order(name: str, value: str | int) -> None:
    """A misspelt name, fewer acknowledgements or more in flight do not make a client beside idempotence."""
    with pytest.raises(KafkaException):
        Producer({**producer_settings(NOWHERE), name: value})
