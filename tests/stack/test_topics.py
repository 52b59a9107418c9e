"""Topics as they are declared: events kept for ever, or for as long as the setting says; nothing is lost by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from quadrille.kafka.config import client_settings, producer_settings
from quadrille_cli.services import SERVICES
from quadrille_cli.stack import Stack, topics
from tests.stack.conftest import quadrille

EVENTS = {*(f"{service}.events" for service in SERVICES), "ops.events"}
MONTH = str(30 * 24 * 3600 * 1000)


@pytest.fixture
def log(stack_home: Path) -> Iterator[Stack]:
    """A broker with the declared topics."""
    with Stack(stack_home / "log", parts=("kafka", "topics"), scattered=True, settings={topics.SETTING: "30d"}) as one:
        yield one


def kept(log: Stack) -> dict[str, str]:
    """How long each topic keeps its records, in milliseconds."""
    return {
        name: str(held) for name, held in topics.retention(log.kafka_bootstrap, [t.name for t in topics.TOPICS]).items()
    }


def test_a_stacks_topics_keep_events_as_the_setting_says(log: Stack) -> None:
    """For 30 days as it was started with; brought to for ever with every record there; drift and plan tell before."""
    assert {name for name, held in kept(log).items() if held == MONTH} == EVENTS
    assert kept(log)["saga.audit"] == "-1"
    assert kept(log)["order.dead-letters"] == topics.WEEK
    producer = Producer(producer_settings(log.kafka_bootstrap))
    producer.produce("order.events", b"v", b"k", 0, timestamp=1)  # of 1970: not even the month keeps it for long
    assert producer.flush(60) == 0
    environment = {"QUADRILLE_DATA": str(log.data)}

    assert quadrille("topics", "drift", env=environment)[0] == 0, "the stack's own setting is what is wanted"
    assert quadrille("topics", "drift", "--events-retention", "forever", env=environment)[0] == 1
    asked = environment | {"QUADRILLE_EVENTS_RETENTION": "forever"}
    code, out = quadrille("topics", "apply", "--bootstrap", log.kafka_bootstrap, env=asked)
    assert (code, all(name in out for name in EVENTS)) == (0, True), out
    assert {held for name, held in kept(log).items() if name in EVENTS} == {"-1"}
    consumer = Consumer(client_settings(log.kafka_bootstrap) | {"group.id": "test"})
    assert consumer.get_watermark_offsets(TopicPartition("order.events", 0), timeout=60) == (0, 1)
    consumer.close()


@pytest.mark.parametrize("text", ["6d", "a week", "0s", "-1"])
def test_what_is_shorter_than_an_inbox_tells_is_refused(text: str, tmp_path: Path) -> None:
    """By `up --set`, and where topics are applied: exit code 2, nothing is made."""
    env = {"QUADRILLE_DATA": str(tmp_path / "data")}

    for words in (("up", "--set", f"{topics.SETTING}={text}"), ("topics", "apply", "--events-retention", text)):
        code, out = quadrille(*words, env=env)
        assert (code, "wanted forever, or 7d or more" in " ".join(out.replace("│", " ").split())) == (2, True), out
    assert not (tmp_path / "data").exists()


def test_events_are_kept_for_ever_unless_somebody_says_otherwise() -> None:
    """The declared topics, and what each way of writing the setting comes to."""
    assert {one.name for one in topics.TOPICS if one.retention_ms == "-1"} == {*EVENTS, "saga.audit"}
    assert [topics.kept(text) for text in ("", "forever", "30d", "168h")] == ["-1", "-1", MONTH, topics.WEEK]
