"""One commit: effects once per input id, whatever comes twice, fails, or is refused by the database."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from quadrille.ids import event_id, milliseconds
from quadrille.processing.batch import process_batch
from quadrille.processing.envelope import Busy, Duplicate, Failed, Handled, OffsetRange, Parked, Replayed
from quadrille.processing.unit_of_work import FencedError
from quadrille.service import Tx
from tests.chassis.support import sample_service
from tests.chassis.support.database import Database, chained, envelope_of, once
from tests.chassis.support.sample_messages import (
    BreadOrdered,
    CakeOrdered,
    FillShelf,
    LoavesHeld,
    LoavesReturned,
    MealOrdered,
    Mode,
    OrderDropped,
    ShelfFilled,
    TastingBooked,
)


@pytest.mark.proves("late.same-id")
def test_an_input_has_its_effect_once(db: Database) -> None:
    """The same id twice in a batch, or later, is Seen: held once, said once."""
    db.fill(rye=5)
    order = envelope_of(BreadOrdered("o-1", quantity=2))

    assert db.commit(order, order) == [Handled((LoavesHeld("o-1", 2),)), Duplicate()]
    assert db.commit(order) == [Duplicate()]

    assert db.emitted() == [("loaves.held", "o-1")]
    assert db.one("SELECT available FROM level") == 3


def test_the_second_input_of_a_batch_sees_the_first(db: Database) -> None:
    """Placed and dropped in one batch: held, returned, and the shelf is as it was."""
    db.fill(rye=5)

    outcomes = db.commit(envelope_of(BreadOrdered("o-1", quantity=2)), envelope_of(OrderDropped("o-1")))

    assert outcomes == [Handled((LoavesHeld("o-1", 2),)), Handled((LoavesReturned("o-1", 2),))]
    assert db.one("SELECT available FROM level") == 5
    assert db.emitted("type", "sequence") == [("loaves.held", 1), ("loaves.returned", 2)]


@pytest.mark.proves("L4")
def test_a_cancellation_that_comes_first_leaves_a_tombstone(db: Database) -> None:
    """Dropped before it is placed, in one batch or two: the late order does nothing (law L4)."""
    db.fill(rye=5)

    db.commit(envelope_of(OrderDropped("o-1")))
    assert db.commit(envelope_of(BreadOrdered("o-1"))) == [Handled()]
    assert db.commit(envelope_of(OrderDropped("o-2")), envelope_of(BreadOrdered("o-2")))[1] == Handled()

    assert db.one("SELECT available FROM level") == 5
    assert db.emitted() == [("loaves.returned", "o-1"), ("loaves.returned", "o-2")]


def test_what_one_input_says_twice_has_two_ids(db: Database) -> None:
    """Several events of one input: an ordinal per type in the id, a sequence per topic and key, in the order said."""
    meal = envelope_of(MealOrdered("o-1"))
    db.commit(meal, envelope_of(MealOrdered("o-1")))

    rows = db.emitted("id", "type", "aggregatetype", "sequence", "causationid")[:3]
    assert rows == [
        (event_id("pantry", meal.id, "dish.served", 0), "dish.served", "pantry.events", 1, meal.id),
        (event_id("pantry", meal.id, "soup.served", 0), "soup.served", "ops.events", 1, meal.id),
        (event_id("pantry", meal.id, "dish.served", 1), "dish.served", "pantry.events", 2, meal.id),
    ]
    assert db.rows("SELECT * FROM stream ORDER BY topic") == [
        ("ops.events", "o-1", 2),
        ("pantry.events", "o-1", 4),
    ]
    assert [s for (s,) in db.emitted("sequence")] == [1, 1, 2, 3, 2, 4]


def test_a_timer_carries_its_due_time_in_its_id(db: Database) -> None:
    """A task row of a timer falls due when it says, and its id is of that instant, for the inbox's partitions."""
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    booked = envelope_of(TastingBooked("o-1", due))

    db.commit(booked)

    identity = event_id("pantry", booked.id, "begin_tasting", 0, milliseconds(due))
    assert db.rows("SELECT id, key, type, due, leased_until, attempts FROM task") == [
        (identity, "o-1", "begin_tasting", due, None, 0)
    ]


def test_the_positions_move_with_the_effects(db: Database) -> None:
    """The position is where the batch ended, in the same transaction; offsets nobody hears cost nothing."""
    db.fill(rye=5)
    db.start_at(offset=7)
    db.start_at("payment.events", 3, 0)

    db.commit(
        envelope_of(BreadOrdered("o-1"), None, OffsetRange("order.events", 0, 7, 19)),
        envelope_of(CakeOrdered("o-2"), None, OffsetRange("payment.events", 3, 0, 1)),
        envelope_of(BreadOrdered("o-3"), None, OffsetRange("order.events", 0, 19, 20)),
    )

    assert (db.position(), db.position("payment.events", 3)) == (20, 1)


def test_a_batch_from_a_position_that_moved_is_fenced_whole(db: Database) -> None:
    """A worker whose partition went on without it changes nothing at all, on its other partitions neither."""
    db.fill(rye=5)
    db.start_at(offset=4)
    db.start_at(partition=1)

    with pytest.raises(FencedError):
        db.commit(*chained([BreadOrdered("o-1")], partition=1), *chained([BreadOrdered("o-2")], since=3))

    assert (db.position(), db.position(partition=1), db.emitted()) == (4, 0, [])
    assert db.one("SELECT count(*) FROM inbox") == 0


def test_a_handler_that_raises_is_rewound_and_its_order_alone_waits(db: Database) -> None:
    """The 57th of 100 raises after it changed rows: levels are exact, its input parks, the rest commits, at once."""
    db.fill(rye=1000)
    db.start_at()
    bodies = [BreadOrdered(f"o-{n}", mode=Mode.UNLUCKY if n == 56 else Mode.PLAIN) for n in range(100)]

    outcomes = db.commit(*chained(bodies))

    assert [n for n, outcome in enumerate(outcomes) if not isinstance(outcome, Handled)] == [56]
    [parked] = [outcome for outcome in outcomes if isinstance(outcome, Parked)]
    assert re.fullmatch(r"Unlucky while handling bread\.ordered at \S+/sample_service\.py:\d+", parked.reason)
    assert db.one("SELECT available FROM level") == 901
    assert db.one("SELECT count(*) FROM hold") == len(db.emitted()) == db.one("SELECT count(*) FROM inbox") == 99
    assert (db.position(), db.parked()) == (100, [("o-56", "HANDLER")])
    assert db.one("SELECT count(*) FROM stream WHERE key = 'o-56' AND topic = 'pantry.events'") == 0


@pytest.mark.parametrize("mode", [Mode.STRAY, Mode.LARGE, Mode.FOREIGN, Mode.UNLUCKY, Mode.EARLY])
def test_what_a_failed_handler_said_is_forgotten(db: Database, mode: Mode) -> None:
    """A row nobody loaded, an event too large, one under another key, a bug, one too early: parked, nothing said."""
    db.fill(rye=5)

    outcomes = db.commit(envelope_of(BreadOrdered("o-1", mode=mode)), envelope_of(BreadOrdered("o-2")))

    wanted = "CAUSALITY" if mode is Mode.EARLY else "HANDLER"
    assert [getattr(o, "error_class", "") for o in outcomes] == [wanted, ""]
    assert (db.emitted(), db.one("SELECT available FROM level")) == ([("loaves.held", "o-2")], 4)


def test_what_the_database_refuses_is_found_by_halving(db: Database) -> None:
    """One of 100 breaks a constraint: it alone parks, and the positions of both partitions are exact."""
    db.fill(rye=1000, oat=0)
    db.start_at()
    db.start_at(partition=1, offset=500)
    ours = [BreadOrdered(f"o-{n}") for n in range(50)]
    ours[36] = BreadOrdered("o-36", "oat", mode=Mode.FORCED)
    theirs = chained([BreadOrdered(f"p-{n}") for n in range(50)], partition=1, since=500)
    batch = [one for pair in zip(chained(ours), theirs, strict=True) for one in pair]

    outcomes = db.commit(*batch)

    assert [n for n, outcome in enumerate(outcomes) if not isinstance(outcome, Handled)] == [72]
    assert (db.position(), db.position(partition=1)) == (50, 550)
    assert (db.one("SELECT available FROM level WHERE sku = 'rye'"), len(db.emitted())) == (901, 99)
    [(line, error_class, error)] = db.parked("line", "error_class", "error")
    assert (line, error_class) == ("o-36", "HANDLER")
    assert error.startswith("CheckViolation while handling bread.ordered")


def test_halving_is_silent(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Psycopg's warning about each aborted pipeline is left out; a warning that tells something is not."""
    db.fill(oat=0)
    with caplog.at_level(logging.WARNING, "psycopg"):
        db.commit(envelope_of(BreadOrdered("o-1", "oat", mode=Mode.FORCED)), envelope_of(BreadOrdered("o-2", "oat")))
        assert not caplog.records
        logging.getLogger("psycopg").warning("error ignored terminating %r: %s", "x", psycopg.OperationalError("lost"))
    assert [r.getMessage() for r in caplog.records] == ["error ignored terminating 'x': lost"]


def test_a_body_that_load_cannot_take_parks_alone(db: Database) -> None:
    """load() raises on one of eight: the other seven commit."""
    db.fill(rye=50)
    db.start_at()
    bodies = [BreadOrdered(f"o-{n}", mode=Mode.CHOKING if n == 5 else Mode.PLAIN) for n in range(8)]

    outcomes = db.commit(*chained(bodies))

    assert [n for n, outcome in enumerate(outcomes) if not isinstance(outcome, Handled)] == [5]
    assert (db.position(), len(db.emitted()), db.parked("line")) == (8, 7, [("o-5",)])


class Cut(sample_service.PantryStore):
    """A store whose session is ended by the server while it saves, once."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.cuts = 1

    def save(self, tx: Tx, work: sample_service.Pantry) -> None:
        """Lose the session, then go on as if nothing had happened."""
        if self.cuts:
            self.cuts -= 1
            self.db.rows("SELECT pg_terminate_backend(%s)", tx.info.backend_pid)
        super().save(tx, work)


def test_a_session_that_is_cut_parks_nothing(db: Database) -> None:
    """The server ends the session mid-batch: an outage, nothing happened; the same batch goes through later."""
    db.fill(rye=5)
    db.start_at()
    cut = sample_service.service(store=Cut(db))
    batch = chained([BreadOrdered("o-1"), BreadOrdered("o-2")])

    with pytest.raises(psycopg.OperationalError):
        db.commit(*batch, service=cut)
    assert (db.position(), db.emitted(), db.parked()) == (0, [], [])

    assert [type(o) for o in db.commit(*batch, service=cut)] == [Handled, Handled]
    assert db.position() == 2


def test_a_missing_column_parks_nothing(db: Database) -> None:
    """A migration that has not run is no input's fault: the batch is refused whole, nothing is parked."""
    store = sample_service.PantryStore()
    store.levels_sql = "SELECT sku, available, colour FROM level WHERE sku = ANY(%b)"
    db.start_at()
    batch = chained([BreadOrdered("o-1"), BreadOrdered("o-2")])

    with db.connect() as tx:
        with pytest.raises(psycopg.ProgrammingError):
            process_batch(tx, sample_service.service(store=store), batch)
        assert (db.position(), db.parked()) == (0, [])
        assert [type(o) for o in process_batch(tx, sample_service.service(), batch)] == [Handled, Handled]


def test_a_command_that_fails_is_answered_and_leaves_nothing(db: Database) -> None:
    """A command that raises, or that the database refuses, is Failed: never parked, its neighbours unharmed."""
    outcomes = db.commit(
        envelope_of(FillShelf("rye", 5)),
        envelope_of(FillShelf("oat", 13)),
        envelope_of(FillShelf("rice", -1)),
        envelope_of(FillShelf("u", 1)),
    )

    assert [type(o) for o in outcomes] == [Handled, Failed, Failed, Handled]
    assert outcomes[0] == Handled((ShelfFilled("rye", 5),))
    assert db.rows("SELECT * FROM level ORDER BY sku") == [("rye", 5), ("u", 1)]
    assert (db.parked(), db.one("SELECT count(*) FROM inbox")) == ([], 0)


def test_a_busy_request_waits_alone(db: Database) -> None:
    """While another transaction holds a request key its command is Busy and the rest of the batch commits."""
    held = envelope_of(FillShelf("rye", 5), request=once("key-1"))
    free = envelope_of(FillShelf("oat", 5), request=once("key-2"))
    with db.connect() as other, other.transaction():
        process_batch(other, sample_service.service(), [envelope_of(FillShelf("corn", 1), request=once("key-1"))])
        assert [type(o) for o in db.commit(held, free)] == [Busy, Handled]

    assert [type(o) for o in db.commit(held)] == [Replayed]  # by now the other one has its answer stored
    assert db.rows("SELECT * FROM level ORDER BY sku") == [("corn", 1), ("oat", 5)]


def test_a_busy_request_is_done_when_the_other_is_not(db: Database) -> None:
    """A command whose key was held by a transaction that came to nothing is handled like any other."""
    held = envelope_of(FillShelf("rye", 5), request=once("key-1"))
    with db.connect() as other, other.transaction(force_rollback=True):
        process_batch(other, sample_service.service(), [envelope_of(FillShelf("corn", 1), request=once("key-1"))])
        assert [type(o) for o in db.commit(held)] == [Busy]

    assert [type(o) for o in db.commit(held)] == [Handled]
    assert db.rows("SELECT * FROM level ORDER BY sku") == [("rye", 5)]


def test_a_lone_input_that_lost_a_race_gets_a_second_chance(db: Database) -> None:
    """A row inserted by another between load and save is no reason to park: loaded again, it is seen."""

    class Raced(sample_service.PantryStore):
        def save(self, tx: Tx, work: sample_service.Pantry) -> None:
            db.rows("INSERT INTO hold VALUES ('o-1', '', 0) ON CONFLICT DO NOTHING")
            super().save(tx, work)

    db.fill(rye=5)
    assert db.commit(envelope_of(BreadOrdered("o-1")), service=sample_service.service(store=Raced())) == [Handled()]
    assert db.one("SELECT available FROM level") == 5


def test_an_id_of_a_day_without_a_partition_parks(db: Database) -> None:
    """An id of the far future has no place in the inbox: its input is parked, the others commit, positions exact."""
    db.fill(rye=5)
    db.start_at()
    batch = chained([BreadOrdered("o-1"), BreadOrdered("o-2")])
    far = envelope_of(BreadOrdered("o-3"), UUID(int=(2**128 - 1)), OffsetRange("order.events", 0, 2, 3))

    assert [type(o) for o in db.commit(*batch, far)] == [Handled, Handled, Parked]
    assert (db.position(), db.parked("line")) == (3, [("o-3",)])


def test_an_empty_batch_is_no_work(db: Database) -> None:
    """Nothing to handle asks the database nothing."""
    assert db.commit() == []
