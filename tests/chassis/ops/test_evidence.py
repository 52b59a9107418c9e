"""What a service tells of a key: all places where something of it may be held, as they are in one moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from quadrille.consumer.heartbeat import KEYS
from quadrille.context import ProcessContext
from quadrille.ids import event_id, uuid7
from quadrille.kafka.partitioner import partition_of
from quadrille.kafka.topics import Place
from quadrille.observability.readiness import NotReadyError
from quadrille.observability.tracing import Spans
from quadrille.ops import evidence
from quadrille.ops.evidence import EvidenceRoutes, held
from quadrille.ops.routes import OpsRequest
from quadrille.service import Tx
from quadrille.settings import Settings
from quadrille.web.problems import Problem
from tests.chassis.support import sample_service
from tests.chassis.support.database import Database, chained, envelope_of
from tests.chassis.support.sample_messages import BreadOrdered, CakeOrdered, Mode, OrderDropped

NOWHERE = {"database_url": "", "kafka_bootstrap": "none", "registry_url": "http://none"}
LANE = "SELECT id::text FROM parked ORDER BY place"
RELAYED = """
INSERT INTO relay_progress (system_id, timeline, commit_lsn, committed_at, publication, proven_xid)
VALUES (1, 1, '0/0', %s, 'p', NULL)"""


ANSWER = """
INSERT INTO parked (id, line, state, type, raw, error_class, error, attempts)
VALUES (%s, %s, 'OPEN', 'x', '', 'HANDLER', 'e', 1)"""


def tell(db: Database, key: str, *events: object, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - parts of a witness
    """What is told of a key, as the route tells it."""
    context = ProcessContext(Settings.model_validate(NOWHERE), sample_service.service(), db.connect, Spans.disabled())
    [route] = EvidenceRoutes(context, **more).routes().values()
    query = {"events": ",".join(map(str, events))} if events else {}
    return dict(route(OpsRequest({"order_id": key}, query)).document)


def test_a_parked_lane_is_told_head_first_with_all_its_row(db: Database) -> None:
    """The head with its error, what waits behind it; handled ids are told, of those that were asked about."""
    db.fill(bread=5)
    db.start_at()
    key, other = str(uuid7()), str(uuid7())
    bad, behind = BreadOrdered(key, "bread", 1, Mode.UNLUCKY), OrderDropped(key)
    inputs = chained([BreadOrdered(other, "bread", 1), bad, behind])
    db.commit(*inputs)

    told = tell(db, key, *(one.id for one in inputs))

    assert [(row["type"], row["error_class"], row["attempts"], row["offset"]) for row in told["parked"]] == [
        ("bread.ordered", "HANDLER", 1, 1),
        ("order.dropped", "BEHIND", 0, 2),
    ]
    head = told["parked"][0]
    assert (head["error"].partition(" at ")[0], head["state"]) == ("Unlucky while handling bread.ordered", "OPEN")
    assert {"retry_at", "parked_at", "bytes", "headers"} <= head.keys()
    assert not {"raw"} & head.keys()
    assert told["handled"] == [str(inputs[0].id)]
    with db.connect() as tx:
        found = held(tx, [key, other])
    assert {lane: row["waiting"] for lane, row in found.items()} == {key: ["bread.ordered", "order.dropped"]}
    db.rows("UPDATE parked SET state = 'DISCARDED'")
    assert [row["state"] for row in tell(db, key)["parked"]] == ["DISCARDED", "DISCARDED"]
    with db.connect() as tx:
        assert held(tx, [key]) == {}


@pytest.mark.parametrize(("ahead", "published"), [(-1, False), (1, True)])
def test_an_event_said_is_published_when_the_relay_is_past_it(db: Database, ahead: int, published: bool) -> None:  # noqa: FBT001 - expected
    """By the relay's position; without any it is not."""
    db.fill(bread=5)
    key = str(uuid7())
    db.commit(envelope_of(BreadOrdered(key, "bread", 1)))
    [fact] = tell(db, key)["said"]
    assert (fact["type"], fact["sequence"], fact["published"]) == ("loaves.held", 1, False)

    db.rows(RELAYED, datetime.now(UTC) + timedelta(seconds=60 * ahead))

    assert [one["published"] for one in tell(db, key)["said"]] == [published]
    assert tell(db, key)["relay"]["stopped"] is None
    assert tell(db, key)["streams"] == {"pantry.events": 1}


def test_what_is_proven_is_published_whatever_the_clocks_say(db: Database) -> None:
    """The number of a transaction proves it, even when the relay's time lies before it."""
    db.fill(bread=5)
    key = str(uuid7())
    db.commit(envelope_of(BreadOrdered(key, "bread", 1)))
    db.rows(RELAYED, datetime.now(UTC) - timedelta(hours=1))
    db.rows("UPDATE relay_progress SET proven_xid = pg_snapshot_xmax(pg_current_snapshot())")
    assert [one["published"] for one in tell(db, key)["said"]] == [True]


def test_open_intents_are_told_with_their_tries(db: Database) -> None:
    """What is to be done outside, how often it was tried and how that failed; its body is nobody's business."""
    key = str(uuid7())
    db.commit(envelope_of(CakeOrdered(key)))
    db.rows("UPDATE task SET attempts = 3, error_class = 'TRANSIENT', error = 'Lost', leased_until = 'infinity'")
    [task] = tell(db, key)["tasks"]
    assert (task["type"], task["kind"], task["attempts"], task["error"]) == ("bake_cake", "intent", 3, "Lost")
    assert task["leased_until"] == "infinity"
    assert "body" not in task


def test_an_answer_that_is_parked_is_told_with_its_key(db: Database) -> None:
    """An answer's lane is its task's, and it is told all the same."""
    key, task = str(uuid7()), uuid7()
    db.rows("INSERT INTO task VALUES (%s, %s, 'bake_cake', '{}', now(), 'infinity', 1, NULL, NULL, '')", task, key)
    db.rows(ANSWER, event_id("pantry", task, "answer", 0), str(task))
    assert [row["line"] for row in tell(db, key)["parked"]] == [str(task)]


def ends_at(number: int) -> Callable[[Collection[Place]], Mapping[Place, int]]:
    """A broker all of whose partitions end at one offset."""
    return lambda places: dict.fromkeys(places, number)


def away(_: Collection[Place]) -> Mapping[Place, int]:
    """A broker that is not there."""
    message = "Kafka is away"
    raise NotReadyError(message)


def test_how_far_the_keys_partitions_are_read_is_told(db: Database) -> None:
    """Position and end of the one partition of each topic on which the key's records lie."""
    key = str(uuid7())
    mine = partition_of(key, 12)
    db.rows("INSERT INTO topic VALUES ('order.events', 'id', 12), ('payment.events', 'id', 12)")
    for number in range(12):
        db.start_at("order.events", number, 20 + number)
    unread = tell(db, key, ends=ends_at(40))["unread"]
    assert unread == [
        {"topic": "order.events", "partition": mine, "next_offset": 20 + mine, "end": 40},
        {"topic": "payment.events", "partition": mine, "next_offset": None, "end": 40},
    ]
    told = tell(db, key, ends=away)
    assert (told["missing"], {one["end"] for one in told["unread"]}) == ({"broker": "Kafka is away"}, {None})


def test_a_broker_that_hangs_is_not_waited_for(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is told; that there was no answer in time is too."""
    monkeypatch.setattr(evidence, "BROKER_SECONDS", 0.05)
    over = threading.Event()

    def hangs(_: Collection[Place]) -> Mapping[Place, int]:
        over.wait(60)
        return {}

    db.rows("INSERT INTO topic VALUES ('order.events', 'id', 12)")
    try:
        assert tell(db, str(uuid7()), ends=hangs)["missing"] == {"broker": "no answer within 0.05 s"}
    finally:
        over.set()


def test_a_look_that_fails_is_missing_and_nothing_else(db: Database) -> None:
    """The service's own look: what it says; one that raises, or takes too long, is named."""

    def broken(tx: Tx, key: str) -> dict[str, object]:
        return {"found": tx.execute("SELECT 1").fetchall(), key: dict[str, object]()["nothing"]}

    def slow(tx: Tx, key: str) -> dict[str, object]:
        tx.execute("SELECT pg_sleep(60)")
        return {"key": key}

    key = str(uuid7())
    assert tell(db, key, look=lambda _, asked: {"key": asked})["look"] == {"key": key}
    assert tell(db, key, look=broken)["missing"] == {"look": "KeyError"}
    assert tell(db, key, look=slow)["missing"] == {"look": "not read within 400 ms"}
    assert tell(db, key)["look"] is None


def test_what_is_no_id_is_refused(db: Database) -> None:
    """A list of what are no ids, or of too many, is the asker's mistake."""
    for events in (["a"], [uuid7() for _ in range(101)]):
        with pytest.raises(Problem) as refused:
            tell(db, str(uuid7()), *events)
        assert "events" in str(refused.value.extra)


def test_an_order_of_long_ago_is_found_too(db: Database) -> None:
    """What is said long after a key began is looked for, as its stream tells that it is missing."""
    db.fill(bread=5)
    key = str(UUID(int=uuid7().int - (40 * 60 * 1000 << 80)))
    db.commit(envelope_of(BreadOrdered(key, "bread", 1)))
    assert [fact["type"] for fact in tell(db, key)["said"]] == ["loaves.held"]


def test_partitions_are_those_of_the_producer() -> None:
    """The heartbeat's keys are chosen so that the producer's own hash spreads them over all twelve."""
    assert [partition_of(key, 12) for key in KEYS] == list(range(12))
