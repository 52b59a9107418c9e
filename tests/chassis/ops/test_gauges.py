"""Gauges kept in the database: what is unpublished, who was heard when; events counted once they are committed."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from prometheus_client import REGISTRY

from quadrille.messages import Emitted
from quadrille.observability import metrics
from quadrille.observability.tracing import Spans
from quadrille.ops import gauges
from quadrille.processing.envelope import Duplicate, Handled, Parked
from quadrille.processing.telemetry import Telemetry
from tests.chassis.support.database import Database, envelope_of, wait_until
from tests.chassis.support.sample_messages import BreadOrdered, LoavesHeld

POSITION = """
INSERT INTO relay_progress (system_id, timeline, commit_lsn, committed_at, publication) VALUES (1, 1, '0/1', %s, 'x')"""


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def test_what_is_not_published_is_counted_with_its_age(db: Database) -> None:
    """Rows newer than the relay's position, and how old the oldest is; all of them while no relay ever stored one."""
    db.fill(rye=50)
    for order in ("o-1", "o-2", "o-3"):
        db.commit(envelope_of(BreadOrdered(order)))
    with db.connect() as tx:
        gauges.outbox(tx, None)
        assert value("quadrille_outbox_unpublished_rows") == db.one("SELECT count(*) FROM outbox") >= 3
        assert (value("quadrille_outbox_unpublished_age_seconds") or 0) > 0

        newest = db.one("SELECT max(occurred_at) FROM outbox")
        db.rows(POSITION, newest - timedelta(microseconds=1))
        gauges.outbox(tx, None)
        assert value("quadrille_outbox_unpublished_rows") == 1
        db.rows("UPDATE relay_progress SET committed_at = %s", newest)
        gauges.outbox(tx, None)

    assert value("quadrille_outbox_unpublished_rows") == value("quadrille_outbox_unpublished_age_seconds") == 0


def test_what_is_parked_is_counted_by_what_and_why(db: Database) -> None:
    """By type, error class and state; a type that is no name is one kind, whatever bytes it has; ended ones are not."""
    add = """INSERT INTO parked (id, line, state, type, raw, error_class, error, attempts, parked_at)
             SELECT gen_random_uuid(), 'o-1', %s, %s, '', %s, 'x', 1, now() - interval '90 s'
               FROM generate_series(1, %s)"""
    for state, kind, error, count in (
        ("OPEN", "meal.ordered", "HANDLER", 3), ("DEAD", "meal.ordered", "HANDLER", 2),
        ("OPEN", "<b>\nx", "HANDLER", 1),
        ("OPEN", None, "UNDECODABLE", 1), ("DISCARDED", "meal.ordered", "HANDLER", 5),
    ):  # fmt: skip
        db.rows(add, state, kind, error, count)

    with db.connect() as tx:
        gauges.parked(tx, None)
        told = [
            value("quadrille_parked_inputs", type=kind, error_class=error, state=state)
            for kind, error, state in (
                ("meal.ordered", "HANDLER", "OPEN"), ("meal.ordered", "HANDLER", "DEAD"),
                ("unknown", "HANDLER", "OPEN"), ("unknown", "UNDECODABLE", "OPEN"),
                ("meal.ordered", "HANDLER", "DISCARDED"),
            )
        ]  # fmt: skip
        assert told == [3, 2, 1, 1, None]
        assert 90 <= (value("quadrille_parked_age_seconds", state="DEAD") or 0) < 3600
        db.rows("UPDATE parked SET state = 'REDRIVEN'")
        gauges.parked(tx, None)

    assert value("quadrille_parked_inputs", type="meal.ordered", error_class="HANDLER", state="DEAD") == 0
    assert value("quadrille_parked_age_seconds", state="DEAD") == 0


def test_whose_heartbeat_was_heard_when(db: Database) -> None:
    """Each service that is heard has its age, and whether it is called silent; one's own beat is nobody's proof."""
    db.rows("TRUNCATE canary")
    db.rows("INSERT INTO canary VALUES ('bakery', 1, now(), now() - interval '40 s', now())")
    db.rows("INSERT INTO canary VALUES ('pantry', 1, now(), now(), NULL), ('mill', 1, now(), now(), NULL)")

    with db.connect() as tx, gauges.Gauges(db.connect, [gauges.heartbeats("pantry")]) as reader:
        wait_until(lambda: (value("quadrille_gauges_read_timestamp_seconds") or 0) > time.time() - 60)
        gauges.heartbeats("pantry")(tx, None)
        assert (value("quadrille_service_heard_age_seconds", source="bakery") or 0) >= 40
        assert [value("quadrille_service_silent", source=name) for name in ("bakery", "mill", "pantry")] == [1, 0, None]
        db.rows("DELETE FROM canary WHERE source = 'bakery'")
        reader.read()

    assert value("quadrille_service_silent", source="bakery") == 0


def test_a_gauge_forgets_what_is_no_more() -> None:
    """What a look no longer finds is told as none, in the same labels; what it finds is told anew."""
    gauge = metrics.Gauge("quadrille_test_loaves", "For this test", ["kind", "shelf"], registry=None)
    metrics.set_all(gauge, {("rye", "1"): 3, ("spelt", "2"): 4})
    metrics.set_all(gauge, {("rye", "1"): 5})

    [told] = gauge.collect()
    assert {tuple(s.labels.values()): s.value for s in told.samples} == {("rye", "1"): 5, ("spelt", "2"): 0}


@pytest.mark.parametrize("outcome", [Parked("HANDLER", "it raised"), Duplicate()])
def test_only_what_was_said_is_counted(outcome: Parked | Duplicate) -> None:
    """Events count by type once their batch is committed, and the service's own meter is told of each."""
    told: list[Emitted] = []
    held, before = LoavesHeld("o-1", 2), value("quadrille_events_total", type="loaves.held") or 0
    telemetry, envelope = Telemetry(Spans.disabled(), None, told.append), envelope_of(BreadOrdered("o-1"))

    telemetry.handled([(envelope, Handled((held,))), (envelope, outcome)], 0)

    assert (value("quadrille_events_total", type="loaves.held") or 0) - before == 1
    assert told == [held]
