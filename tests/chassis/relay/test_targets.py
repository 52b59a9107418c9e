"""A relay knows which Kafka it talks to: what a stranger took at our address is sent to our own, once that is back."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined] # its stubs do not re-export

from quadrille.kafka.config import client_settings
from quadrille.observability.readiness import NotReadyError
from quadrille.relay.relay import Relay
from quadrille.relay.target import PARTITIONS, Claim, Witness
from quadrille.testing.relay import Ground
from quadrille_cli.stack import Stack
from quadrille_cli.testing import Start

numbers = itertools.count(1)


@pytest.fixture(scope="module")
def own(parts_of_the_stack: Start) -> Stack:
    return parts_of_the_stack("kafka", "postgres:inventory")


@pytest.fixture
def ground(own: Stack) -> Iterator[Ground]:
    name = f"known{next(numbers)}"
    made = Ground(name, lambda role: own.database_url("inventory", role), own.kafka_bootstrap)
    made.make()
    yield made
    own.process("kafka").start()
    made.close()


@dataclass
class Stranger:
    """Another stack's Kafka that can listen where ours does."""

    own: Stack
    stack: Stack

    @contextmanager
    def instead(self, topics: tuple[str, ...], filled: int = 0) -> Iterator[None]:
        """Let ours die and the stranger have its address, with topics of the same names, for the block."""
        self.own.process("kafka").kill()
        with self.there(topics, filled):
            yield
        self.own.process("kafka").start()

    @contextmanager
    def there(self, topics: tuple[str, ...], filled: int = 0) -> Iterator[None]:
        """Let the stranger have the address, each partition filled with so many records."""
        self.stack.start()
        wanted = [NewTopic(name, PARTITIONS, 1) for name in topics]
        admin = AdminClient(client_settings(self.stack.kafka_bootstrap))
        for made in admin.create_topics(wanted, operation_timeout=10).values():
            made.result()
        fill(self.stack.kafka_bootstrap, topics[0], filled)
        yield
        self.stack.process("kafka").kill()


@pytest.fixture
def stranger(own: Stack, new_stack: Callable[..., Stack]) -> Stranger:
    ports = {name: own.ports[name] for name in ("kafka", "kafka-controller")}
    return Stranger(own, new_stack(parts={"kafka"}, scattered=False, given=ports))


def fill(bootstrap: str, topic: str, count: int) -> None:
    """Put so many records into each partition of a topic."""
    producer = Producer(client_settings(bootstrap))  # not idempotent: its numbers would collide with a relay's
    for n in range(PARTITIONS):
        for _ in range(count):
            producer.produce(topic, b"a stranger's", partition=n)
    assert producer.flush(120) == 0


class Blind:
    """Witnesses that look at nothing while the block runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open = threading.Event()
        self._open.set()
        look = Witness._look  # noqa: SLF001 - what is delayed
        monkeypatch.setattr(Witness, "_look", lambda witness: self._open.wait() and look(witness))

    def __enter__(self) -> None:
        self._open.clear()

    def __exit__(self, *_: object) -> None:
        self._open.set()


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> Blind:
    return Blind(monkeypatch)


@pytest.fixture
def heedless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rows be handed on although the connection was lost: then the stranger does get some."""
    monkeypatch.setattr("quadrille.relay.publisher.Publisher._held", lambda _: False)


def taken(ground: Ground, count: int) -> Callable[[], bool]:
    return lambda: ground.arrived() >= count


def say(ground: Ground, key: str, *numbers: int, topic: str = "") -> None:
    with ground.connect() as app:
        for n in numbers:
            ground.say(app, key, n, topic or None)


def test_what_a_stranger_acknowledged_is_sent_to_our_own(ground: Ground, stranger: Stranger, heedless: None) -> None:
    """While the stranger has our address the relay is not ready and says why; nothing it took is called delivered."""
    del heedless
    with ground.relaying() as relay:
        say(ground, "a", 1, 2)
        ground.until(taken(ground, 2))
        with stranger.instead(ground.plan.topics):
            before = ground.one("SELECT commit_lsn FROM relay_progress")
            say(ground, "a", *range(3, 50))
            ground.until(lambda: "not the Kafka that the outbox went to" in (relay.trouble or ""))
            with pytest.raises(NotReadyError, match=r"set KAFKA_CLUSTER=\S+ \(quadrille up --set KAFKA_CLUSTER="):
                relay.ready()
            assert ground.one("SELECT commit_lsn FROM relay_progress") == before
        ground.until(lambda: relay.state == "streaming")
        ground.judge()
        assert ground.one("SELECT count(*) FROM relay_recovery") == (0,)


def test_rows_are_held_until_it_is_known_who_answers(ground: Ground, stranger: Stranger) -> None:
    """What is said after the connection was lost is not shown to whoever takes the address."""
    with ground.relaying() as relay:
        say(ground, "a", 1)
        ground.until(taken(ground, 1))
        stranger.own.process("kafka").kill()
        ground.until(lambda: not _is_ready(relay))
        say(ground, "a", *range(2, 50))
        with stranger.there(ground.plan.topics):
            ground.until(lambda: "not the Kafka that the outbox went to" in (relay.trouble or ""))
            assert ground.arrived() == 0
        stranger.own.process("kafka").start()
        assert ground.judge() <= 1  # the first, if it was not proven yet


@pytest.mark.parametrize(
    ("said_before", "filled"), [(0, 0), (3, 0), (3, 1000)], ids=["both-empty", "ours-longer", "theirs-longer"]
)
def test_a_stranger_that_came_and_went_between_two_looks(  # noqa: PLR0913, PLR0917
    ground: Ground, stranger: Stranger, blind: Blind, heedless: None, said_before: int, filled: int
) -> None:
    """Its acknowledgements lie below what we knew of our log, or past its end: all is sent again, to our own."""
    del heedless
    emitted = range(said_before + 1, said_before + 40)
    with ground.relaying() as relay:
        say(ground, "a", *range(1, said_before + 1))
        ground.until(taken(ground, said_before))
        with blind:
            with stranger.instead(ground.plan.topics, filled):
                say(ground, "a", *emitted)
                ground.until(taken(ground, filled * PARTITIONS + len(emitted)))
            assert ground.arrived() >= said_before  # ours answers again
        ground.until(lambda: relay.state == "streaming")
        ground.judge(within=60)


def test_on_a_shared_topic_a_lost_connection_voids_what_was_acknowledged(
    ground: Ground, stranger: Stranger, blind: Blind, heedless: None
) -> None:
    """Where others write too, our log has grown past the stranger's offsets meanwhile: the rows are sent again."""
    del heedless
    shared, *others = reversed(ground.plan.topics)
    with ground.relaying() as relay:
        say(ground, "a", 1)
        ground.until(taken(ground, 1))
        with blind:
            with stranger.instead((shared, *others), filled=200):
                say(ground, "b", *range(1, 6), topic=shared)
                ground.until(lambda: ground.arrived(shared) == 200 * PARTITIONS + 5)
            before = ground.arrived(shared)
            fill(ground.bootstrap, shared, 300)
        ground.until(lambda: ground.arrived(shared) >= before + 300 * PARTITIONS + 5)
        ground.until(lambda: relay.state == "streaming")


def test_a_relay_that_believes_acknowledgements_loses_rows(
    ground: Ground, stranger: Stranger, blind: Blind, heedless: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: with every claim granted, what the stranger took is stored as published, and the test above sees it."""
    del heedless
    monkeypatch.setattr(Witness, "_judge", lambda _, claim, *__: claim is None or _grant(claim))
    with ground.relaying():
        with blind:
            with stranger.instead(ground.plan.topics):
                say(ground, "a", *range(1, 40))
                ground.until(taken(ground, 39))
            assert ground.arrived() >= 0  # ours answers again
        with pytest.raises(AssertionError, match=r"\d+ of 39 rows missing"):
            ground.judge(within=5)


def _grant(claim: Claim) -> bool:
    claim.proven = True
    return True


def test_another_kafka_is_refused_until_a_person_says_it_is_ours(
    ground: Ground, new_stack: Callable[..., Stack]
) -> None:
    """A Kafka that is empty, or a stranger's, gets nothing; named in KAFKA_CLUSTER it gets what the outbox holds."""
    with ground.relaying():
        say(ground, "a", *range(1, 6))
        ground.until(taken(ground, 5))
    other = new_stack(parts={"kafka"})
    other.start()
    there = Ground(ground.plan.service, ground.url, other.kafka_bootstrap)
    there.make_topics(*ground.plan.topics)
    say(ground, "a", 6)

    def refused(accepted: str, reason: str) -> str:
        relay = Relay(replace(there.plan, accepted=accepted))
        with ground.relaying(relay, until="waiting"):
            ground.until(lambda: reason in (relay.trouble or ""))
            return relay.trouble or ""

    told = refused("", "this is not the Kafka that the outbox went to")
    refused("another", "the setting KAFKA_CLUSTER says another")
    assert there.arrived() == 0
    cluster = told.partition("set KAFKA_CLUSTER=")[2].partition(" ")[0]
    for _ in range(2):  # the setting may stay
        with ground.relaying(Relay(replace(there.plan, accepted=cluster))):
            assert there.judge() == 0
    assert ground.one("SELECT count(*), min(cause), min(rows) FROM relay_recovery") == (1, "another Kafka", 6)


def test_a_topic_that_may_lose_events_gets_none(ground: Ground) -> None:
    """Compacted, it would keep each key's newest alone: the relay says so and sends nothing; mended, it goes on."""
    ground.configure("cleanup.policy", "compact")
    say(ground, "k", 1, 2)
    with ground.relaying(until="waiting") as relay:
        ground.until(lambda: "kafka.cleanup" in (relay.trouble or ""))
        with pytest.raises(NotReadyError, match=f"cleanup.policy = compact .kafka.cleanup, topic {ground.topic}"):
            relay.ready()
        assert ground.arrived() == 0
        ground.configure("cleanup.policy", "delete")
        ground.until(lambda: _is_ready(relay))
        ground.until(taken(ground, 2))


def test_a_topic_made_anew_gets_what_the_outbox_holds(ground: Ground) -> None:
    """Deleted and made again under the stream: its events are sent again, those of other topics are not."""
    with ground.relaying() as relay:
        say(ground, "a", *range(1, 6))
        say(ground, "b", 1, topic=ground.plan.topics[1])
        ground.until(taken(ground, 5))
        ground.until(lambda: ground.arrived(ground.plan.topics[1]) == 1)
        ground.make_anew(ground.topic)
        say(ground, "a", 6)
        ground.until(lambda: ground.one("SELECT count(*) FROM relay_recovery") == (1,))
        ground.until(lambda: relay.state == "streaming")
        assert set(ground.published(6)) == ground.committed()
    assert ground.one("SELECT cause FROM relay_recovery") == (f"topic made anew: {ground.topic}",)
    assert ground.arrived(ground.plan.topics[1]) <= 2  # twice, if it was not proven yet


def test_what_was_stored_before_it_was_known_where_is_taken_over(ground: Ground) -> None:
    """A database from before the relay knew its Kafka: the one it meets is taken as its own, nothing is sent again."""
    with ground.relaying():
        say(ground, "a", 1)
        ground.until(taken(ground, 1))
    ground.one("UPDATE relay_progress SET kafka_cluster = NULL, kafka_topics = NULL RETURNING true")
    with ground.relaying():
        say(ground, "a", 2)
        assert ground.judge() == 0
    names = ground.one("SELECT array_agg(name ORDER BY name) FROM relay_progress, jsonb_object_keys(kafka_topics) name")
    assert names == (sorted(ground.plan.topics),)
    assert ground.one("SELECT count(*) FROM relay_recovery") == (0,)


def _is_ready(relay: Relay) -> bool:
    try:
        relay.ready()
    except NotReadyError:
        return False
    return True
