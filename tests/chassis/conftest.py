"""The pantry's database on a real cluster: made once a session, emptied for every test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from quadrille.db.connection import connection
from quadrille.ids import uuid7
from quadrille_cli.stack import Stack
from tests.chassis.support.database import TRUNCATE, Database
from tests.chassis.support.kafka_harness import Kitchen


@pytest.fixture(scope="session")
def pantry_stack(parts_of_the_stack: Callable[..., Stack]) -> Stack:
    """Postgres and Kafka, real ones."""
    return parts_of_the_stack("postgres:inventory", "kafka", "topics")


@pytest.fixture(scope="session")
def pantry_database(pantry_stack: Stack) -> Iterator[Database]:
    """A database beside inventory's own; one superuser plays every role in it."""
    made = empty_database(pantry_stack, "pantry")
    made.migrate()
    yield made
    made.close()


def empty_database(stack: Stack, name: str) -> Database:
    """Return a new database without any table."""
    cluster = stack.database_url("inventory", "postgres")
    with connection(cluster)() as tx:
        tx.execute(f'CREATE DATABASE "{name}" OWNER owner'.encode())
    return Database(lambda role: f"{cluster.rpartition('/')[0]}/{name}?options=-c%20role%3D{role}")


@pytest.fixture
def old_database(pantry_stack: Stack) -> Iterator[Database]:
    """A database of this test's own with the tables of version 4, whose table of tasks was called ``agenda``."""
    made = empty_database(pantry_stack, f"pantry_{uuid7().hex}")
    made.migrate(1, 2, 3, 4)
    yield made
    made.close()


@pytest.fixture
def db(pantry_database: Database) -> Database:
    """The database, empty but for the tables."""
    pantry_database.rows(TRUNCATE)
    return pantry_database


@pytest.fixture
def kitchen(pantry_stack: Stack, db: Database) -> Kitchen:
    """The broker, the empty database, and a consumer group of this test's own."""
    return Kitchen(pantry_stack.kafka_bootstrap, db)
