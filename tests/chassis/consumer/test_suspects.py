"""A record that kills its worker is set aside on its third death; its neighbours are handled, nothing is skipped."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import pytest

from quadrille.consumer.deserializer import RecordDeserializer
from quadrille.consumer.parked_actions import ParkedActions
from quadrille.consumer.suspects import WorkerLife
from quadrille.ids import uuid7
from quadrille.messages import Event
from quadrille.processing.envelope import Record, RedriveRequest
from quadrille.processing.suspects import Suspects
from quadrille.replay import operations
from quadrille.replay.parked_bulk import KIND
from quadrille.testing.in_memory import PlainCodec
from tests.chassis.support.database import Database, envelope_of, wait_until
from tests.chassis.support.kafka_harness import Alone, Kitchen
from tests.chassis.support.records import record_headers
from tests.chassis.support.sample_gateway import kitchen_with
from tests.chassis.support.sample_messages import BreadOrdered, CakeOrdered, Mode, OrderDropped, TastingBooked

INBOX = "SELECT count(*) FROM inbox"


def test_a_record_that_kills_the_process_is_quarantined_on_its_third_death(kitchen: Kitchen, db: Database) -> None:
    """Three workers die by SIGKILL with it in hand; the fourth parks it as FATAL, with its bytes."""
    kitchen.start_here()
    for order in ("o-1", "deadly", "o-2"):
        kitchen.tell(OrderDropped(order), partition=0)
    kitchen.flush()

    for _ in range(3):
        with kitchen.process(plant="deadly") as worker:
            assert worker.child.wait() != 0
        assert db.parked() == []

    with kitchen.process(plant="deadly"):
        wait_until(lambda: db.one(INBOX) == 2, "the neighbours are handled")
        wait_until(lambda: db.rows("SELECT * FROM suspect") == [], "nobody is suspected any more")

    assert db.parked("line", "error_class", "state") == [("deadly", "FATAL", "DEAD")]
    assert b"deadly" in db.one("SELECT raw FROM parked WHERE error_class = 'FATAL'")


OVER = "UPDATE task SET leased_until = now() - interval '1 s' WHERE leased_until < 'infinity'"


@pytest.mark.parametrize("what", ["cake_baked", "begin_tasting"])
def test_an_answer_or_a_timer_that_kills_the_process_is_quarantined(kitchen: Kitchen, db: Database, what: str) -> None:
    """Three workers die by SIGKILL with it in hand; the fourth parks it as FATAL; mended, it is redriven by hand."""
    kitchen.start_here()
    now, said = datetime.now(UTC), {"cake_baked": "cake.ready", "begin_tasting": "tasting.begun"}[what]
    orders = [CakeOrdered(o) if what == "cake_baked" else TastingBooked(o, now) for o in ("o-1", "deadly", "o-2")]
    db.commit(*map(envelope_of, orders), service=kitchen_with())

    for _ in range(3):
        with kitchen.process(plant="deadly") as worker:
            assert worker.child.wait() != 0
        assert db.parked() == []
        db.rows(OVER)

    with kitchen.process(plant="deadly"):
        wait_until(lambda: db.parked("error_class", "state", "type") == [("FATAL", "DEAD", what)], "it is set aside")
        wait_until(lambda: sorted(db.emitted("aggregateid", "type")) == [("o-1", said), ("o-2", said)], "the others")
        wait_until(lambda: db.rows("SELECT * FROM suspect") == [], "nobody is suspected any more")
    assert db.rows("SELECT key, leased_until = 'infinity' FROM task") == [("deadly", True)]

    assert redriven(kitchen) == "DONE"
    assert sorted(key for (key,) in db.emitted("aggregateid")) == ["deadly", "o-1", "o-2"]
    assert db.rows("SELECT * FROM task") == []


def parked_dearly(db: Database, *bodies: Event) -> list[str]:
    """Park inputs whose handler found the shelf empty, fill it, and return their ids."""
    db.fill(rye=0)
    for one in map(envelope_of, bodies):
        assert one.record
        db.commit(replace(one, record=Record(one.record.raw, record_headers(one.id, one.type))))
    db.rows("UPDATE level SET available = 50")
    db.rows("UPDATE parked SET topic = 'order.events', partition = 0, \"offset\" = place")
    return [str(identity) for (identity,) in db.parked("id")]


def test_a_parked_input_that_kills_every_start_is_quarantined(kitchen: Kitchen, db: Database) -> None:
    """Three workers die by SIGKILL as they try it again; the fourth sets it aside and runs; mended, it is redriven."""
    kitchen.start_here()
    parked_dearly(db, *(BreadOrdered(order, mode=Mode.FORCED) for order in ("deadly", "o-1")))

    for _ in range(3):
        with kitchen.process(plant="deadly") as worker:
            assert worker.child.wait() != 0
        assert db.parked("line", "error_class") == [("deadly", "HANDLER"), ("o-1", "HANDLER")]

    with kitchen.process(plant="deadly"):
        dead = [("deadly", "FATAL", "DEAD")]
        wait_until(lambda: db.parked("line", "error_class", "state") == dead, "it is set aside, its neighbour handled")
        wait_until(lambda: db.rows("SELECT * FROM suspect") == [], "nobody is suspected any more")

    assert redriven(kitchen) == "DONE"
    assert sorted(key for (key,) in db.emitted("aggregateid")) == ["deadly", "o-1"]


DYING = "UPDATE parked SET state = 'DEAD', retry_at = NULL WHERE error_class = 'HANDLER'"
PROGRESS = "SELECT state, progress->'outcomes' FROM operation"


def test_a_bulk_redrive_goes_on_past_an_input_that_kills_the_process(kitchen: Kitchen, db: Database) -> None:
    """Three workers die by SIGKILL as they go on with it; the fourth leaves that input parked and does the others."""
    kitchen.start_here()
    ids = parked_dearly(db, *(BreadOrdered(order, mode=Mode.FORCED) for order in ("deadly", "o-1")))
    db.rows(DYING)
    redrive_all(db, ids)

    for _ in range(3):
        with kitchen.process(plant="deadly") as worker:
            assert worker.child.wait() != 0
        assert db.rows(PROGRESS) == [("RUNNING", None)]

    with kitchen.process(plant="deadly"):
        wait_until(lambda: db.rows(PROGRESS) == [("DONE", {"PARKED": 1, "DONE": 1})], "the others are redriven")
    assert db.parked("line", "error_class", "state") == [("deadly", "FATAL", "DEAD")]
    assert db.rows("SELECT * FROM suspect") == []


def test_what_waits_behind_is_not_blamed_on_what_is_redriven(kitchen: Kitchen, db: Database) -> None:
    """The one behind kills: what was to be redriven is handled after the first death, the killer is set aside."""
    kitchen.start_here()
    ids = parked_dearly(db, BreadOrdered("deadly", mode=Mode.FORCED), OrderDropped("deadly"))
    db.rows(DYING)
    redrive_all(db, ids[:1])
    assert len(ids) == 2

    def aside() -> bool:
        return db.parked("type", "error_class", "state") == [(OrderDropped.type, "FATAL", "DEAD")]

    def over(worker: Alone) -> bool:
        return worker.child.poll() is not None or aside()

    for _ in range(5):  # the first death is the bulk's; of the others the retrier's may be one
        with kitchen.process(plant=f"deadly:{OrderDropped.type}") as worker:
            wait_until(partial(over, worker), "it dies, or has set it aside")
    assert aside()
    assert db.rows(PROGRESS) == [("DONE", {"DONE": 1})]


def redrive_all(db: Database, ids: list[str]) -> None:
    """Ask for a bulk redrive of these, as the ops port does."""
    db.rows("TRUNCATE operation")
    plan = {"mode": "redrive", "ids": ids, "rate": 100, "stop_at": 100}
    with db.connect() as tx:
        operations.add(tx, operations.new(uuid7(), KIND, plan, "tester", "it is mended"))


def redriven(kitchen: Kitchen) -> str:
    """Redrive what is parked by a program that is mended, as a person does, and return what came of it."""
    service = kitchen_with()
    reader = RecordDeserializer(service.on.consumes(Event), PlainCodec())
    [(parked,)] = kitchen.db.parked("id")
    with kitchen.db.connect() as tx:
        actions = ParkedActions(service, reader, kitchen.context().retention)
        return actions.redrive(tx, parked, RedriveRequest("tester", "it is mended")).outcome


def test_a_worker_is_careful_only_after_a_death(db: Database) -> None:
    """A life that ended as it should, or that is still lived, makes nobody careful; one whose lock is gone does."""
    living, ended, dead = (WorkerLife(db.connect) for _ in range(3))
    assert [life.begin() for life in (living, ended, dead)] == [False, False, False]
    ended.end()
    calm = WorkerLife(db.connect)
    assert not calm.begin()
    dead._connection.close()  # noqa: SLF001 - as a process that dies does

    def sees_a_death() -> bool:
        one = WorkerLife(db.connect)
        try:
            return one.begin()
        finally:
            one.end()

    wait_until(sees_a_death, "the death is seen")
    assert not sees_a_death()
    living.end()
    calm.end()


def test_another_record_in_its_place_begins_anew(db: Database) -> None:
    """Deaths are a record's own: what stands at another offset of the partition has none."""
    with db.connect() as tx:
        assert [Suspects().note(tx, "t", 0, 7) for _ in range(2)] == [False, False]
        assert not Suspects().note(tx, "t", 0, 8)
        assert [Suspects().note(tx, "t", 0, 8) for _ in range(2)] == [False, True]


def test_an_outage_is_no_death(db: Database) -> None:
    """What one life takes again and again, for it could not be committed, has killed nobody: it is handled."""
    with db.connect() as tx:
        living = Suspects()
        assert [living.note(tx, "t", 0, 7) for _ in range(9)] == [False] * 9
        assert [Suspects().note(tx, "t", 0, 7) for _ in range(2)] == [False, True]
