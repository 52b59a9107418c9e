"""The parts cells stand on: a Kafka and a database as `make demo` has them, on ports and data of their own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.admin._resource import ResourceType

from quadrille.kafka.config import client_settings
from quadrille_cli.stack import Stack
from quadrille_cli.stack.topics import PARTITIONS

SERVICE = "inventory"
TOPIC = f"{SERVICE}.events"


@contextmanager
def stack(parts: Iterable[str], **options: str) -> Iterator[Stack]:
    """Start these parts, and leave nothing behind."""
    home = Path(tempfile.mkdtemp(prefix="quadrille-bench-"))
    home.chmod(0o711)
    made = Stack(home, parts=set(parts), scattered=True, settings=options)
    try:
        with made:
            yield made
    finally:
        made.wipe()
        for left in sorted(home.glob("**/*"), reverse=True):
            left.rmdir() if left.is_dir() else left.unlink()
        if home.exists():
            home.rmdir()


@contextmanager
def superuser(made: Stack, service: str = SERVICE) -> Iterator[psycopg.Connection]:
    """Open a session that may fill, copy slots and look at everything."""
    with psycopg.connect(made.database_url(service, "postgres"), autocommit=True) as session:
        yield session


class Ends:
    """Asks where the partitions of a topic end: one request, no consumer."""

    def __init__(self, bootstrap: str, topic: str = TOPIC) -> None:
        self._admin = AdminClient({**client_settings(bootstrap), "log_level": 0})
        self._places = [TopicPartition(topic, number) for number in range(PARTITIONS)]

    def __call__(self) -> list[int]:
        """Return the offset after the last record of each partition."""
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call] # confluent's
        asked = self._admin.list_offsets(dict.fromkeys(self._places, latest), request_timeout=10)
        return [answer.result(10).offset for answer in asked.values()]


def stamped_by_broker(bootstrap: str, topic: str = TOPIC) -> None:
    """Have the broker stamp records when it appends them: one clock for every producer."""
    entry = ConfigEntry("message.timestamp.type", "LogAppendTime", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({**client_settings(bootstrap), "log_level": 0})
    for answer in admin.incremental_alter_configs([resource]).values():
        answer.result(10)
