"""Topics as the broker has them: whether those a service consumes are what they were, and what they hold.

Asked on a connection of its own: behind the consumer's fetches every question would wait half a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeAlias

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource  # typed there, re-exported untyped
from confluent_kafka.admin._listoffsets import OffsetSpec  # as above
from confluent_kafka.admin._resource import ResourceType  # as above

from quadrille.db.connection import Tx
from quadrille.kafka.config import client_settings
from quadrille.kafka.requirements import OF_TOPICS, WEEK_MS, TopicSeen
from quadrille.observability.readiness import NotReadyError

Place: TypeAlias = tuple[str, int]
ASK_SECONDS = 5.0
ALIVE_SECONDS = 1.5
RENEW_SECONDS = 30.0
"""A client without an answer for so long is replaced: some never have one again, though the broker is back."""
FORBIDDEN = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)
KNOWN_TOPICS = "SELECT name, topic_id, partitions, cluster_id FROM topic WHERE name = ANY(%b)"
# A row that was written before clusters were noted belongs to the cluster where its topic is found.
ADD_TOPIC = """
INSERT INTO topic (name, topic_id, partitions, cluster_id) VALUES (%b, %b, %b, %b)
ON CONFLICT (name) DO UPDATE SET cluster_id = excluded.cluster_id WHERE topic.cluster_id IS NULL"""

log = structlog.get_logger()


class StoppedError(NotReadyError):
    """The worker must not go on: a topic is not what it was; the message says found, wanted and fix."""


class Topics:
    """The broker's answers; each raises KafkaException or TimeoutError while it is away."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._admin = AdminClient(client_settings(bootstrap))
        self._answered = time.monotonic()
        self._renewing = threading.Lock()

    def answers(self) -> None:
        """Raise KafkaException unless the broker answers at once."""
        with self._asking() as admin:
            admin.list_topics(timeout=ALIVE_SECONDS)

    def check(self, tx: Tx, names: list[str]) -> None:
        """Compare cluster and topics with what they were when first read; raises StoppedError if one is another now."""
        known = {name: (found, cluster) for name, *found, cluster in tx.execute(KNOWN_TOPICS, [names])}
        with self._asking() as admin:
            cluster = cluster_of(admin, ASK_SECONDS)
        for name, (_, wanted) in known.items():
            if wanted not in (None, cluster):
                raise StoppedError(_another_cluster(self._bootstrap, cluster, wanted, name))
        with self._asking() as admin:
            asked = admin.describe_topics(TopicCollection(names), request_timeout=ASK_SECONDS)
            described = {name: answer.result(ASK_SECONDS + 1) for name, answer in asked.items()}
        for name, found in described.items():
            now = [str(found.topic_id), len(found.partitions)]
            if name in known and known[name][0] != now:
                raise StoppedError(_another_topic(name, now, known[name][0]))
            if known.get(name) != (now, cluster):
                tx.execute(ADD_TOPIC, [name, *now, cluster])

    def require(self, names: list[str], window: timedelta) -> None:
        """Raise StoppedError if a topic is such that records of it may be lost, or never be heard."""
        with self._asking() as admin:
            wrong = unmet(admin, names, "worker", ASK_SECONDS, int(window.total_seconds() * 1000))
        if wrong is not None:
            raise StoppedError(wrong)

    def identities(self, names: list[str]) -> tuple[str, dict[str, str]]:
        """Return the id of the cluster, and of each of these topics: what a log is told from another of its name by."""
        with self._asking() as admin:
            cluster = cluster_of(admin, ASK_SECONDS)
            asked = admin.describe_topics(TopicCollection(names), request_timeout=ASK_SECONDS)
            return cluster, {name: str(answer.result(ASK_SECONDS + 1).topic_id) for name, answer in asked.items()}

    def changed(self, tx: Tx, name: str) -> str | None:
        """Return why a topic is not the one first read, None where it is; raises as a question does."""
        try:
            self.check(tx, [name])
        except StoppedError as why:
            return str(why)
        return None

    def watermarks(self, places: Iterable[Place]) -> dict[Place, tuple[int, int]]:
        """Return the first offset and the end of each partition."""
        partitions = [TopicPartition(*place) for place in places]
        lows = self._offsets(partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call] # confluent's
        highs = self._offsets(partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call] # confluent's
        return {place: (low, highs[place]) for place, low in lows.items()}

    def places(self, name: str) -> list[Place]:
        """Return the partitions of a topic, none if there is no such topic."""
        with self._asking() as admin:
            found = admin.list_topics(timeout=ASK_SECONDS).topics.get(name)
        return sorted((name, number) for number in found.partitions) if found and found.error is None else []

    def since(self, places: Iterable[Place], at_ms: int) -> dict[Place, tuple[int, int]]:
        """Return each partition's first record at or after a time: offset and time, both -1 where there is none."""
        spec = OffsetSpec.for_timestamp(at_ms)
        wanted = {TopicPartition(*place): spec for place in places}
        with self._asking() as admin:
            asked = admin.list_offsets(wanted, request_timeout=ASK_SECONDS)
            answers = {(one.topic, one.partition): f.result(ASK_SECONDS + 1) for one, f in asked.items()}
        return {place: (found.offset, found.timestamp) for place, found in answers.items()}

    def _offsets(self, partitions: list[TopicPartition], spec: OffsetSpec) -> dict[Place, int]:
        if not partitions:
            return {}
        with self._asking() as admin:
            asked = admin.list_offsets(dict.fromkeys(partitions, spec), request_timeout=ASK_SECONDS)
            return {(one.topic, one.partition): f.result(ASK_SECONDS + 1).offset for one, f in asked.items()}

    @contextmanager
    def _asking(self) -> Iterator[AdminClient]:
        """Lend the client for a question; what is asked after one has been without an answer for long gets another."""
        admin = self._admin
        try:
            yield admin
        except (KafkaException, TimeoutError):
            with self._renewing:
                if admin is self._admin and time.monotonic() - self._answered >= RENEW_SECONDS:
                    self._admin, self._answered = AdminClient(client_settings(self._bootstrap)), time.monotonic()
            raise
        self._answered = time.monotonic()


def cluster_of(admin: AdminClient, seconds: float) -> str:
    """Return the id of the cluster that answers; raises KafkaException while it does not, or has no broker to name.

    Not by ``describe_cluster``: librdkafka 2.16 ends the process by an assertion when no broker is named, and a broker
    that comes back is fenced, and names none, for a moment.
    """
    return str(admin.list_topics(timeout=seconds).cluster_id)


def seen(admin: AdminClient, names: Iterable[str], seconds: float, window_ms: int = WEEK_MS) -> Iterator[TopicSeen]:
    """Yield topics as the broker has them; raises KafkaException or TimeoutError while it is away."""
    wanted = list(names)
    described = admin.describe_topics(TopicCollection(wanted), request_timeout=seconds)
    configured = admin.describe_configs(
        [ConfigResource(ResourceType.TOPIC, name) for name in wanted], request_timeout=seconds
    )
    configs = {resource.name: answer.result(seconds + 1) for resource, answer in configured.items()}
    for name in wanted:
        partitions = described[name].result(seconds + 1).partitions
        config = {key: str(entry.value) for key, entry in configs[name].items()}
        yield TopicSeen(name, config, min((len(one.replicas) for one in partitions), default=0), window_ms)


def unmet(admin: AdminClient, names: Iterable[str], role: str, seconds: float, window_ms: int = WEEK_MS) -> str | None:
    """Return why a role cannot rely on topics, None where it can, or may not look; raises while the broker is away."""
    try:
        topics = list(seen(admin, names, seconds, window_ms))
    except KafkaException as refused:
        if refused.args[0].code() not in FORBIDDEN:
            raise
        log.warning("settings of topics are not seen", reason=f"Kafka: {refused.args[0].name()}")
        return None
    wrong = [
        rule.refusal(f"topic {topic.name}", found.read)
        for rule in OF_TOPICS.values()
        if role in rule.roles
        for topic in topics
        if not (found := rule.look(topic)).good
    ]
    return "; ".join(wrong) or None


def _another_cluster(bootstrap: str, found: str, wanted: str, topic: str) -> str:
    return (
        f"KAFKA_BOOTSTRAP={bootstrap} is another Kafka cluster: found {found}, wanted {wanted}, from which {topic} "
        "was first read; correct the address, or see docs/troubleshooting.md if Kafka was replaced on purpose"
    )


def _another_topic(name: str, found: list[object], wanted: list[object]) -> str:
    if found[0] == wanted[0]:
        return (
            f"{name} has {found[1]} partitions, wanted {wanted[1]}: with another number a key's events lie on two "
            "partitions and are no longer in order; see docs/troubleshooting.md"
        )
    return (
        f"{name} is not the topic first read, it was deleted and made anew: found id {found[0]}, wanted {wanted[0]}; "
        "to hear the new one from its beginning see docs/troubleshooting.md"
    )
