"""From Kafka into commit: everything heard once and in order, whatever comes, stops or moves in between."""

from __future__ import annotations

from chassis.tests.kitchen import Kitchen, running
from chassis.tests.pantry_words import BreadOrdered, CakeOrdered, OrderDropped
from chassis.tests.workbench import Database, wait_until


def test_what_is_on_the_topics_is_heard_from_the_position_on(kitchen: Kitchen, db: Database) -> None:
    """Orders before the position are left alone; those after it are held, in order, and the positions reach the end."""
    db.fill(rye=1000)
    kitchen.tell(BreadOrdered("before"))
    kitchen.flush()
    kitchen.start_here()
    for n in range(300):
        kitchen.tell(BreadOrdered(f"o-{n}"))
        kitchen.tell(OrderDropped(f"o-{n}"))
        kitchen.tell(CakeOrdered(f"o-{n}"))
    kitchen.flush()

    with running(kitchen.worker()):
        wait_until(lambda: db.one("SELECT count(*) FROM inbox") == 900)
        wait_until(kitchen.caught_up)

    assert db.one("SELECT available FROM level") == 1000
    assert db.rows("SELECT count(*), min(sequence), max(sequence) FROM outbox") == [(600, 1, 2)]
