"""When a relay may go on from its position, and when it must scan: judged without any server."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quadrille.observability.readiness import NotReadyError
from quadrille.relay.recovery import admit, cause
from quadrille.relay.replication import Position
from quadrille.relay.session import Cluster, Progress, Slot, Source
from quadrille.relay.target import Target

CLUSTER = Cluster(1, 1)
OURS = Target("ours", {"order.events": "a", "ops.events": "b"})
STORED = Progress(CLUSTER, Position(1000, 0), "p1", OURS)
SLOT = Slot(None, 1000)
SOUND = Source(
    wal_level="logical",
    replica=False,
    table=True,
    publication=True,
    inserts_only=True,
    via_root=True,
    members=1,
    columns=[
        *("id", "aggregatetype", "aggregateid", "type", "sequence"),
        *("payload", "causationid", "traceparent", "parent_span", "occurred_at"),
    ],
    identity="p1",
)


@pytest.mark.parametrize(
    ("stored", "cluster", "publication", "slot", "reason"),
    [
        (STORED, CLUSTER, "p1", SLOT, None),
        (STORED, CLUSTER, "p1", Slot(None, 900), None),
        (STORED, CLUSTER, "p1", Slot(4711, 1000), None),
        (STORED, CLUSTER, "p1", Slot(None, 1001), "slot moved"),
        (STORED, CLUSTER, "p1", Slot(None, None), "slot lost"),
        (STORED, CLUSTER, "p1", None, "slot missing"),
        (STORED, CLUSTER, "p2", SLOT, "publication changed"),
        (STORED, Cluster(2, 1), "p1", SLOT, "another cluster or timeline"),
        (STORED, Cluster(1, 2), "p1", SLOT, "another cluster or timeline"),
        (None, CLUSTER, "p1", None, "first start"),
        (None, CLUSTER, "p1", SLOT, "first start"),
    ],
)
def test_only_a_slot_at_or_behind_the_position_goes_on(
    stored: Progress | None, cluster: Cluster, publication: str, slot: Slot | None, reason: str | None
) -> None:
    """A crash sets a slot back, which is harmless; whatever else changed may have lost rows and is scanned for."""
    assert cause(stored, Progress(cluster, Position(0, 0), publication, OURS), slot) == reason


def test_a_sound_source_has_no_fault() -> None:
    """The publication that the migrations make is taken."""
    assert list(SOUND.faults()) == []


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (replace(SOUND, wal_level="replica"), "wal_level is replica"),
        (replace(SOUND, replica=True), "is a replica"),
        (replace(SOUND, table=False), "no table outbox"),
        (replace(SOUND, publication=False), "no publication outbox"),
        (replace(SOUND, inserts_only=False), "inserts only"),
        (replace(SOUND, via_root=False), "via the partition root"),
        (replace(SOUND, members=2), "the table outbox alone"),
        (replace(SOUND, columns=None), "without a row filter"),
        (replace(SOUND, columns=["id"]), "does not publish aggregatetype"),
    ],
)
def test_each_fault_of_a_source_is_said_in_one_line(source: Source, says: str) -> None:
    """What would lose or double rows is refused with what to do about it."""
    (fault,) = source.faults()

    assert says in fault
    assert "\n" not in fault


@pytest.mark.parametrize(
    ("found", "accepted", "reason"),
    [
        (OURS, "", None),
        (OURS, "ours", None),
        (OURS, "theirs", "the setting KAFKA_CLUSTER says theirs"),
        (Target("ours", {"order.events": "c", "ops.events": "b"}), "", None),
        (Target("ours", {"order.events": "c", "ops.events": "d"}), "", "no topic is the same"),
        (Target("ours", {"order.events": "c", "ops.events": "d"}), "ours", None),
        (Target("theirs", {"order.events": "c", "ops.events": "d"}), "", "set KAFKA_CLUSTER=theirs"),
        (Target("theirs", {"order.events": "c", "ops.events": "d"}), "theirs", None),
        (Target("theirs", {"order.events": "a", "ops.events": "b"}), "", "set KAFKA_CLUSTER=theirs"),
    ],
)
def test_another_kafka_is_admitted_by_a_person_alone(found: Target, accepted: str, reason: str | None) -> None:
    """A topic made anew in our own is a recovery's business; a Kafka with none of ours is for a person to name."""
    if reason is None:
        admit(STORED, found, accepted)
        return
    with pytest.raises(NotReadyError, match=reason):
        admit(STORED, found, accepted)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (OURS, None),
        (Target("ours", {"order.events": "c", "ops.events": "b"}), "topic made anew: order.events"),
        (Target("theirs", {"order.events": "c", "ops.events": "d"}), "another Kafka"),
        (Target("ours", {"order.events": "a", "ops.events": "b", "new.topic": "n"}), None),
    ],
)
def test_another_log_is_a_cause(found: Target, reason: str | None) -> None:
    """What a new log lacks is sent again; a topic that came to ours lacks nothing."""
    assert cause(STORED, Progress(CLUSTER, Position(0, 0), "p1", found), SLOT) == reason
