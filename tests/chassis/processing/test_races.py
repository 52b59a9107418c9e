"""Two of everything at once: zombies, lost answers, absent rows, hot shelves; one effect, no deadlock, no leak."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from quadrille.messages import Message
from quadrille.processing.batch import process_batch
from quadrille.processing.envelope import Duplicate, Envelope, Handled
from quadrille.processing.unit_of_work import FencedError
from quadrille.service import Tx
from tests.chassis.support import sample_service
from tests.chassis.support.database import Database, chained, envelope_of
from tests.chassis.support.sample_messages import BreadOrdered, MealOrdered, OrderDropped

SKUS = [f"sku-{n}" for n in range(8)]
NEW = "SELECT next_offset FROM position WHERE topic = 'order.events' AND partition = 0"


def together(work: Callable[[int], object], count: int) -> None:
    """Run the same work in several threads, let go at one instant; raises what one of them raised."""
    gate = threading.Barrier(count)

    def run(number: int) -> None:
        gate.wait(60)
        work(number)

    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(run, n) for n in range(count)]:
            done.result(200)


def test_two_processes_on_one_partition_have_each_effect_once(db: Database) -> None:
    """A zombie reads the same partition from the same start: 300 records once each; the loser is fenced."""
    db.fill(rye=1000)
    db.start_at()
    records = chained([BreadOrdered(f"o-{n}") for n in range(300)])
    done: Counter[type] = Counter()

    def listen(_: int) -> None:
        with db.connect() as tx:
            at = 0
            while at < 300:
                try:
                    done.update(type(o) for o in process_batch(tx, sample_service.service(), records[at : at + 7]))
                    at = min(at + 7, 300)
                except (FencedError, psycopg.OperationalError) as refused:
                    done[type(refused)] += 1
                    row = tx.execute(NEW).fetchone()
                    at = row[0] if row else 0

    together(listen, 2)

    assert (done[Handled], done[Duplicate]) == (300, 0)
    assert done[FencedError] > 0
    assert (db.position(), len(db.emitted())) == (300, 300)
    assert db.one("SELECT available FROM level") == 700


def test_a_lost_commit_answer_is_a_fence_at_the_next_try(db: Database) -> None:
    """The COMMIT arrived, its answer did not: the old batch is refused whole, the position tells where to go on."""
    db.fill(rye=5)
    db.start_at()
    batch = chained([BreadOrdered("o-1"), BreadOrdered("o-2")])
    db.commit(*batch)

    with pytest.raises(FencedError):
        db.commit(*batch)

    assert (db.position(), len(db.emitted()), db.one("SELECT available FROM level")) == (2, 2, 3)


def test_place_and_drop_of_an_absent_order_leak_nothing(db: Database) -> None:
    """Four workers race place against drop of orders nobody knows yet: every loaf is back, nothing is parked."""
    db.fill(rye=10_000)
    orders = [f"o-{n}" for n in range(60)]

    def work(number: int) -> None:
        kind = BreadOrdered if number % 2 else OrderDropped
        with db.connect() as tx:
            for order in orders:
                process_batch(tx, sample_service.service(), [envelope_of(kind(order))])

    together(work, 4)

    assert db.one("SELECT available FROM level") == 10_000
    assert db.one("SELECT count(*) FROM hold WHERE quantity <> 0") == 0
    assert (db.parked(), db.one("SELECT count(*) FROM hold")) == ([], 60)


def hot_shelves(
    db: Database, size: int, seconds: float, store: sample_service.PantryStore | None = None
) -> Counter[str]:
    """Let four workers commit batches over eight shelves, up to the first trouble; count what became of it."""
    db.fill(**dict.fromkeys(SKUS, 100_000))
    seen: Counter[str] = Counter()
    service = sample_service.service(store=store)
    stop = threading.Event()
    timer = threading.Timer(seconds, stop.set)
    timer.start()

    def work(number: int) -> None:
        rng, made = random.Random(number), itertools.count()  # noqa: S311 - a load, the same every time
        with db.connect() as tx:
            while not stop.is_set():
                batch = _orders(rng, f"{number}-{next(made)}", size)
                try:
                    seen.update(type(o).__name__ for o in process_batch(tx, service, batch))
                except psycopg.OperationalError as trouble:
                    seen[type(trouble).__name__] += 1
                    stop.set()  # there is nothing more to learn

    together(work, 4)
    timer.cancel()
    return seen


def _orders(rng: random.Random, name: str, size: int) -> list[Envelope]:
    bodies: list[Message] = []
    for number in range(size):
        order = f"{name}-{number // 2}"
        bodies.append(OrderDropped(order) if number % 2 else BreadOrdered(order, rng.choice(SKUS), rng.randint(1, 3)))
    return [envelope_of(body) for body in bodies]


def on_the_shelves(db: Database) -> int:
    """Return all loaves: on the shelves and held."""
    return int(db.one("SELECT (SELECT sum(available) FROM level) + (SELECT coalesce(sum(quantity), 0) FROM hold)"))


@pytest.mark.parametrize(("size", "seconds"), [(1, 1.0), (20, 1.5), (100, 1.5)])
def test_hot_shelves_make_no_deadlock(db: Database, size: int, seconds: float) -> None:
    """Four workers over eight shelves, half of it drops: no deadlock at any batch size, every loaf accounted for."""
    seen = hot_shelves(db, size, seconds)

    assert set(seen) == {"Handled"}, seen
    assert on_the_shelves(db) == 800_000
    assert db.one("SELECT count(*) FROM inbox") == seen["Handled"]


def test_shelves_locked_in_any_order_do_deadlock(db: Database) -> None:
    """The same load without the one lock order: the test above would see it."""

    class Unsorted(sample_service.PantryStore):
        levels_sql = "SELECT l.sku, l.available FROM unnest(%b::text[]) n(sku) JOIN LATERAL (SELECT * FROM level l WHERE l.sku = n.sku FOR UPDATE) l ON true"  # noqa: E501 - one statement

        def order(self, skus: set[str]) -> list[str]:
            return random.sample(sorted(skus), len(skus))

    assert hot_shelves(db, 6, 120, Unsorted())["DeadlockDetected"] > 0


def sequences_without_gap(db: Database) -> bool:
    """Tell whether every key's events carry the numbers 1, 2, 3 and so on."""
    numbered: dict[tuple[str, str], list[int]] = {}
    for topic, key, sequence in db.emitted("aggregatetype", "aggregateid", "sequence"):
        numbered.setdefault((topic, key), []).append(sequence)
    return all(sorted(found) == list(range(1, len(found) + 1)) for found in numbered.values())


def test_facts_of_one_order_are_numbered_without_gap(db: Database) -> None:
    """Four workers say events for the same three orders: each key's carry 1, 2, 3 …, each number once."""

    def work(_: int) -> None:
        with db.connect() as tx:
            for number in range(40):
                process_batch(tx, sample_service.service(), [envelope_of(MealOrdered(f"o-{number % 3}"))])

    together(work, 4)

    assert len(db.emitted()) == 480
    assert sequences_without_gap(db)


class Counting(sample_service.PantryStore):
    """A store that counts how often it loads: once a batch, unless the database refused one."""

    def __init__(self) -> None:
        self.loads = itertools.count()

    def load(self, tx: Tx, messages: Sequence[Message]) -> sample_service.Pantry:
        """Count, then load."""
        next(self.loads)
        return super().load(tx, messages)


def test_the_same_event_by_four_at_once_has_one_effect(db: Database) -> None:
    """Sixty events fed by four workers in any order: sixty effects, all others Seen, and no batch was refused."""
    db.fill(rye=1000)
    inputs, store, seen = [envelope_of(BreadOrdered(f"o-{n}")) for n in range(60)], Counting(), Counter[str]()
    service = sample_service.service(store=store)

    def work(number: int) -> None:
        mine = inputs[number * 3 :] + inputs[: number * 3]
        with db.connect() as tx:
            for at in range(0, 60, 5):
                seen.update(type(o).__name__ for o in process_batch(tx, service, mine[at : at + 5]))

    together(work, 4)

    assert seen == {"Handled": 60, "Duplicate": 180}
    assert next(store.loads) == 48
    assert (db.one("SELECT available FROM level"), db.parked()) == (940, [])
