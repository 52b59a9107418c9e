"""A range of a partition, read again under a group of its own; the guarantee: all of it, in order, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from chassis.inputs import Record
from chassis.kafka import consumer_settings
from chassis.listener import record_of

WAIT_SECONDS = 0.2


class Gone(Exception):  # noqa: N818 - the name says what is the case
    """A part of the range is no longer on its topic."""


@dataclass(frozen=True, slots=True)
class Range:
    """What to read: a half-open interval of one partition."""

    topic: str
    partition: int
    since: int
    upto: int


@dataclass(frozen=True, slots=True)
class Taken:
    """A record read again, with its place and the broker's time in milliseconds."""

    offset: int
    key: bytes | None
    record: Record
    at_ms: int


class Tape:
    """Reads ranges; no offset of its group is ever committed."""

    def __init__(self, bootstrap: str, group: str) -> None:
        # what is wanted is there already; a fetch that waits at one partition's end would hold up the next for 500 ms
        settings = {"enable.partition.eof": True, "fetch.wait.max.ms": 10}
        self._consumer = Consumer(consumer_settings(bootstrap, group) | settings)

    def close(self) -> None:
        """Let go of the broker."""
        self._consumer.close()

    def play(self, span: Range, most: int) -> Iterator[list[Taken]]:
        """Yield what there is, at most so many records at once; an empty list whenever nothing has come for a while.

        Raises Gone when the beginning has passed retention, KafkaException for what comes back by itself.
        """
        place = TopicPartition(span.topic, span.partition, span.since)
        self._consumer.assign([place])
        at, ended = span.since, False
        while at < span.upto and not ended:
            first = self._consumer.poll(WAIT_SECONDS)
            found = [first, *self._consumer.consume(most - 1, 0)] if first else []
            records = [message for message in found if not _is_end(message)]
            taken = [_taken(message) for message in records if at <= (message.offset() or 0) < span.upto]
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
        raise Gone
    raise KafkaException(error)


def _taken(message: KafkaMessage) -> Taken:
    key = message.key()
    return Taken(message.offset() or 0, key if key is None else bytes(key), record_of(message), message.timestamp()[1])
