"""A record that kills its worker is set aside on its third death; its neighbours are handled, nothing is skipped."""

from __future__ import annotations

from quadrille.consumer.suspects import Suspects, WorkerLife
from tests.chassis.support.database import Database, wait_until
from tests.chassis.support.kafka_harness import Kitchen
from tests.chassis.support.sample_messages import OrderDropped

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
    found = Suspects()
    with db.connect() as tx:
        assert [found.note(tx, "t", 0, 7) for _ in range(2)] == [False, False]
        assert not found.note(tx, "t", 0, 8)
        assert [found.note(tx, "t", 0, 8) for _ in range(2)] == [False, True]
