"""The pantry's database on a real cluster: made once a session, emptied for every test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from quadrille.db.connection import connection
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
    cluster = pantry_stack.database_url("inventory", "postgres")
    with connection(cluster)() as tx:
        tx.execute("CREATE DATABASE pantry OWNER owner")

    def url(role: str) -> str:
        return f"{cluster.rpartition('/')[0]}/pantry?options=-c%20role%3D{role}"

    made = Database(url)
    made.migrate()
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
