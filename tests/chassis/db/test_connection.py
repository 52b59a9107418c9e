"""A transaction in one pipeline: all of it or nothing, and its COMMIT goes out with the last of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from quadrille.db.connection import BoundedConnection, Session, connection, pipelined
from quadrille.processing.batch import process_batch
from quadrille.service import Tx
from quadrille_cli.chaos.proxy import HARMS, Network
from tests.chassis.support.database import Database, envelope_of
from tests.chassis.support.kafka_harness import Kitchen
from tests.chassis.support.sample_messages import BreadOrdered

SHELF = "INSERT INTO level VALUES (%b, %b)"
PLANS = """
SELECT generic_plans, custom_plans FROM pg_prepared_statements
 WHERE statement LIKE '%FROM inbox_old%' AND statement NOT LIKE '%pg_prepared_statements%'"""
DEFERRED = "CREATE TEMP TABLE pair (sku text, a int UNIQUE DEFERRABLE INITIALLY DEFERRED)"


@pytest.fixture
def tx(db: Database) -> Iterator[Tx]:
    with db.connect() as made:
        yield made


def shelves(db: Database) -> list[str]:
    return [sku for (sku,) in db.rows("SELECT sku FROM level ORDER BY sku")]


def idle(tx: Tx) -> bool:
    return tx.info.transaction_status is TransactionStatus.IDLE


def put(tx: Tx, *skus: str | None, into: str = "level", read: bool = False, then: Exception | None = None) -> None:
    """Put things on shelves in one transaction; perhaps read what came of each, perhaps raise."""
    with pipelined(tx):
        for number, sku in enumerate(skus):
            cursor = tx.execute(f"INSERT INTO {into} VALUES (%b, %b) RETURNING 1".encode(), [sku, number // 2])  # noqa: S608 - ours
            assert not read or cursor.fetchone()
        if then:
            raise then


def test_what_the_block_queued_is_committed(db: Database, tx: Tx) -> None:
    """Nothing need be read: all that was queued is there, in one transaction, and the connection is free again."""
    with pipelined(tx):
        tx.execute(SHELF, ["rye", 1])
        tx.execute(SHELF, ["oat", 2])
        stamps = tx.execute("SELECT DISTINCT xmin::text, now() FROM level").fetchall()
        assert (len(stamps), shelves(db)) == (1, [])

    assert (shelves(db), idle(tx)) == (["oat", "rye"], True)


@pytest.mark.parametrize(
    ("sku", "raised"), [("rye", psycopg.errors.UniqueViolation), (None, psycopg.errors.NotNullViolation)]
)
def test_what_the_database_refuses_is_raised_and_nothing_stays(
    db: Database, tx: Tx, sku: str | None, raised: type[Exception]
) -> None:
    """The refused statement's own error, not that of those behind it; the connection goes on."""
    with pytest.raises(raised):
        put(tx, "rye", sku, "oat")
    assert (shelves(db), idle(tx)) == ([], True)

    put(tx, "rye")
    assert shelves(db) == ["rye"]


def test_what_the_block_raises_undoes_it(db: Database, tx: Tx) -> None:
    """Sent or not, read or not: nothing stays."""
    for read in (False, True):
        with pytest.raises(LookupError):
            put(tx, "rye", read=read, then=LookupError())
        assert (shelves(db), idle(tx)) == ([], True)


def test_a_refused_commit_is_raised(db: Database, tx: Tx) -> None:
    """What is judged at the COMMIT itself fails there, and nothing stays."""
    tx.execute(DEFERRED.encode())
    with pytest.raises(psycopg.errors.UniqueViolation):
        put(tx, "rye", "oat", into="pair", read=True)

    assert tx.execute("SELECT count(*) FROM pair").fetchone() == (0,)
    assert idle(tx)


def test_inside_a_transaction_it_is_a_part_of_it(db: Database, tx: Tx) -> None:
    """A failing part is undone alone; the whole is the caller's to commit or not."""
    with tx.transaction():
        put(tx, "rye")
        with pytest.raises(psycopg.errors.UniqueViolation):
            put(tx, "oat", "rye")
        assert shelves(db) == []
    assert shelves(db) == ["rye"]

    with tx.transaction(force_rollback=True):
        put(tx, "oat")
    assert shelves(db) == ["rye"]


def test_a_lost_connection_is_an_outage(db: Database) -> None:
    """Lost before, or while the block runs: the error says so, and a session's next connection is another."""
    session = Session(db.connect)

    def lost() -> None:
        with pipelined(session()):
            session().execute(SHELF, ["rye", 1])
            db.rows("SELECT pg_terminate_backend(%s, 5000)", session().info.backend_pid)
            session().execute("SELECT 1").fetchone()

    for _ in range(2):
        with pytest.raises(psycopg.OperationalError):
            lost()
    session.close()
    put(session(), "oat")
    session.close()

    assert shelves(db) == ["oat"]


@contextmanager
def psycopgs(tx: Tx) -> Iterator[None]:
    with tx.pipeline(), tx.transaction():
        yield


@pytest.mark.parametrize(("way", "waits"), [(pipelined, 2), (psycopgs, 5)])
def test_it_waits_for_no_more_than_it_must(
    tx: Tx, tmp_path: Path, way: Callable[[Tx], AbstractContextManager[None]], waits: int
) -> None:
    """One answer that the block reads, one for all the rest and its COMMIT; planted, psycopg's own waits for more."""
    with (tmp_path / "wire").open("wb") as wire:
        tx.pgconn.trace(wire.fileno())
        with way(tx):
            assert tx.execute("SELECT 1", prepare=False).fetchone()
            tx.execute(SHELF, ["rye", 1], prepare=False)
        tx.pgconn.untrace()
    emitted = (tmp_path / "wire").read_text("latin-1").splitlines()
    turns = [line.split()[2] for line in emitted if line.split()[2] in ("F", "B")]

    assert sum(one == "B" and before == "F" for before, one in pairwise(turns)) == waits


def test_a_session_is_made_when_it_is_needed(db: Database) -> None:
    """One connection for all calls, none before the first, another one after it was closed."""
    made: list[Tx] = []

    def connect() -> Tx:
        made.append(db.connect())
        return made[-1]

    session = Session(connect)
    session.close()
    assert made == []
    first = session()
    assert (session(), len(made)) == (first, 1)
    session.close()
    assert (first.closed, session() is first) == (True, False)
    session.close()


def test_a_session_plans_what_it_repeats_once(kitchen: Kitchen, db: Database) -> None:
    """After the first batches no statement of a commit is planned again, not even over all days of the inbox."""
    session = Session(db.connect)
    db.fill(rye=100)
    for number in range(12):
        process_batch(session(), kitchen.service(), [envelope_of(BreadOrdered(f"o-{number}"))])
    plans = session().execute(PLANS).fetchall()
    session.close()

    assert plans == [(12, 0)]


def test_a_connection_that_is_swallowed_is_given_up(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies between acknowledges our bytes and delivers none: the wait ends with an error, and so does the session.

    The next one is another connection, and works.
    """
    monkeypatch.setattr(BoundedConnection, "answer_seconds", 0.2)
    told = conninfo_to_dict(db.url("app"))
    with Network() as network:
        proxy = network.proxy(lambda: int(str(told["port"])))
        session = Session(connection(make_conninfo(db.url("app"), host="127.0.0.1", port=proxy.port)))
        assert session().execute("SELECT 1").fetchone() == (1,)
        proxy.inflict(HARMS["half-open"])
        first = session()
        with pytest.raises(psycopg.OperationalError), pipelined(first):
            first.execute("SELECT 2")
        assert first.closed
        session.close()
        assert session().execute("SELECT 3").fetchone() == (3,)
        session.close()


def test_a_statement_that_takes_its_time_is_waited_for(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is on one wait, not on a connection's life or a transaction of many statements."""
    monkeypatch.setattr(BoundedConnection, "answer_seconds", 2.0)
    with connection(db.url("app"))() as tx, tx.transaction():
        for _ in range(3):
            tx.execute("SELECT pg_sleep(0.9)")
        assert tx.execute("SELECT 1").fetchone() == (1,)
