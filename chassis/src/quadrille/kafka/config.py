"""Kafka client settings, in one place with their reasons: order survives retries, nothing is dropped."""

from __future__ import annotations

from typing import TypeAlias

ClientSettings: TypeAlias = dict[str, str | int | float | bool]

QUEUE_MESSAGES = 1_000
"""Most records a producer holds: what a crash can double and a woken zombie can append."""

BACKLOG_MESSAGES = 5_000
"""The same while it gathers: a request is as large as the share of this that one partition has."""

GATHER_BYTES = 262_144
"""As much as is worth an answer at once, however long a fetch may wait."""

_CLIENT: ClientSettings = {
    "socket.keepalive.enable": True,
    "socket.timeout.ms": 10_000,  # a network that loses one direction is noticed
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 1_000,  # back within a second of the broker
    "allow.auto.create.topics": False,  # topics are declared
    "enable.metrics.push": False,  # nothing leaves unasked
    "log_level": 2,  # a broker that is away is said once by us, not by every connection of every client
}

_PRODUCER: ClientSettings = {
    "enable.idempotence": True,
    "acks": "all",
    "max.in.flight": 5,
    "enable.gapless.guarantee": True,  # a record refused for good stops the producer before a later one overtakes it
    "message.timeout.ms": 0,  # a finite one turns an outage into a gap
    "partitioner": "murmur2_random",  # as Java and Debezium hash
    "linger.ms": 0,  # each hop would be so much later; behind a backlog see producer_settings (adr/0011-relay.md)
    "queue.buffering.max.messages": QUEUE_MESSAGES,
    "queue.buffering.max.kbytes": 16_384,
    "message.max.bytes": 1_000_000,  # a payload has at most 262,144: the table's CHECK
}

_CONSUMER: ClientSettings = {
    "group.protocol": "consumer",  # KIP-848; no group.instance.id: a replacement would wait for the dead
    "group.remote.assignor": "uniform",
    "enable.auto.commit": False,  # the position is in Postgres
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",  # a new group starts from an explicit position row
    "check.crcs": True,
    "queued.min.messages": 1_000,
    "queued.max.messages.kbytes": 8_192,
    "fetch.queue.backoff.ms": 20,  # 1,000 by default: a full second of rest for a full queue
    "fetch.error.backoff.ms": 100,
    "max.poll.interval.ms": 60_000,
}


def client_settings(bootstrap: str) -> ClientSettings:
    """Return what every client has in common, admin clients included."""
    return {"bootstrap.servers": bootstrap, **_CLIENT}


def producer_settings(bootstrap: str, linger: float = 0.0) -> ClientSettings:
    """Return the settings of a relay's producer; behind a backlog it gathers for so many seconds for each request."""
    gathering: ClientSettings = {"linger.ms": int(linger * 1000), "queue.buffering.max.messages": BACKLOG_MESSAGES}
    return {**client_settings(bootstrap), **_PRODUCER, **(gathering if linger else {})}


def consumer_settings(bootstrap: str, group: str, gather: float = 0.0) -> ClientSettings:
    """Return the settings of a worker's consumer; the broker gathers for so many seconds before it answers a fetch.

    A fetch costs the broker more than what it carries: whoever is in no hurry asks seldom.
    """
    wait: ClientSettings = {"fetch.min.bytes": GATHER_BYTES, "fetch.wait.max.ms": int(gather * 1000)} if gather else {}
    return {**client_settings(bootstrap), **_CONSUMER, **wait, "group.id": group}
