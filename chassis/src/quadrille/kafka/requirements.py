"""Requirements of a service's topics: without these a record that was acknowledged may be lost, or never be heard.

A worker looks at those it hears, a relay at those it writes; both wait, say why, and go on once it is mended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from quadrille.requirements import Requirements, Seen, requires

OF_TOPICS: Requirements = {}
WEEK_MS = 7 * 24 * 3600 * 1000
MANY = 3
"""From so many replicas on an acknowledgement must not be one broker's."""
WORKING = frozenset({"worker", "relay"})
APPLY = "quadrille topics apply"
BROKER = "deploy/kafka/server.properties has it: set it in yours and restart the broker"


class TopicSeen(NamedTuple):
    """A topic as the broker has it: its settings, those it has of the broker too, and its replicas."""

    name: str
    config: Mapping[str, str]
    replicas: int
    window_ms: int = WEEK_MS
    """How long its hearers tell duplicates."""


@requires(OF_TOPICS, "kafka.cleanup", wants="delete: a compacted topic loses events", fix=APPLY, roles=WORKING)
def cleanup_policy(topic: TopicSeen) -> Seen:
    """Compaction keeps the newest record of a key, and every event counts."""
    found = topic.config["cleanup.policy"]
    return Seen(f"cleanup.policy = {found}", found == "delete")


@requires(
    OF_TOPICS, "kafka.retention", wants="7 days or more: as long as an inbox tells", fix=APPLY,
    roles=frozenset({"worker"}),
)  # fmt: skip
def retention(topic: TopicSeen) -> Seen:
    """A worker that was away for less must find everything."""
    found = int(topic.config["retention.ms"])
    return Seen(f"retention.ms = {found}", found < 0 or found >= topic.window_ms)


@requires(OF_TOPICS, "kafka.min-insync", wants="1 of one broker, 2 of three", fix=BROKER, roles=WORKING)
def min_insync(topic: TopicSeen) -> Seen:
    """An acknowledgement of one broker of three is lost with it; more than there are is never given."""
    least = int(topic.config["min.insync.replicas"])
    return Seen(
        f"min.insync.replicas = {least} of {topic.replicas}",
        least <= topic.replicas and (topic.replicas < MANY or least > 1),
    )


@requires(
    OF_TOPICS, "kafka.unclean-election", wants="false: no acknowledged record is lost", fix=BROKER,
    roles=WORKING,
)  # fmt: skip
def unclean_election(topic: TopicSeen) -> Seen:
    """A broker that had fallen behind, and leads, forgets what the others acknowledged."""
    found = topic.config["unclean.leader.election.enable"]
    return Seen(f"unclean.leader.election.enable = {found}", found == "false")
