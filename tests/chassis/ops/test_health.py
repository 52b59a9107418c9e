"""What a role needs is asked for, and why it is not there is told without a secret."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import psycopg
import pytest
from confluent_kafka import KafkaError, KafkaException

from quadrille.kafka.topics import Topics
from quadrille.messages import Infrastructure
from quadrille.observability.readiness import NotReadyError, reason
from quadrille.ops.health import database_can_write
from quadrille.relay.replication import conninfo
from quadrille_cli.stack import Stack
from tests.chassis.support.database import Database, wait_until

SECRET = "hunter2"  # noqa: S105 - looked for in what is told


def test_a_database_that_takes_writes_is_ready(db: Database) -> None:
    """The primary, with the role's own session."""
    database_can_write(db.url("app"))


def test_a_relay_writes_whatever_the_databases_default_is(db: Database) -> None:
    """A database that is read-only by default takes the writes of a relay's sessions, which say so themselves."""
    database_can_write(conninfo(f"{db.url('app')}%20-c%20default_transaction_read_only%3Don"))


def test_a_read_only_server_is_not_ready(db: Database) -> None:
    """It answers, and would refuse every write: not ready, with the setting to look for."""
    with pytest.raises(NotReadyError, match="takes no writes: default_transaction_read_only is on"):
        database_can_write(f"{db.url('app')}%20-c%20default_transaction_read_only%3Don")


@contextlib.contextmanager
def replica(stack: Stack) -> Iterator[str]:
    """Let the stack's only server be a standby while the block lasts; yield its address."""
    server, signal = stack.process("postgres:inventory"), stack.clusters["inventory"].home / "standby.signal"
    server.stop()
    signal.touch()
    server.launch()
    try:
        yield stack.database_url("inventory", "app")
    finally:
        server.stop()
        signal.unlink()
        server.start()


def test_a_replica_is_not_ready(new_stack: Callable[..., Stack]) -> None:
    """A standby answers reads: an api on it would be ready and refuse every order."""
    with new_stack(parts={"postgres:inventory"}) as stack, replica(stack) as url:

        def told() -> str:
            with pytest.raises(NotReadyError) as why:
                database_can_write(url)
            return str(why.value)

        wait_until(lambda: "is a replica and takes no writes: promote it" in told())


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://app:{SECRET}@127.0.0.1:9/order",
        f"postgresql://app:{SECRET}@127.0.0.1:notaport/order",
        f"host=127.0.0.1 port=9 password={SECRET}",
        f"postgresql//app:{SECRET}@127.0.0.1/order",
    ],
)
def test_no_reason_holds_a_password(url: str) -> None:
    """Whatever is wrong with the address, a reason is told and the password is not in it."""
    with pytest.raises((NotReadyError, psycopg.Error)) as why:
        database_can_write(url)

    assert reason(why.value)
    assert SECRET not in reason(why.value)


def test_a_broker_that_is_away_does_not_answer() -> None:
    """Kafka away: the check raises within its time, and the reason names it."""
    with pytest.raises(KafkaException) as why:
        Topics("127.0.0.1:9").answers()
    assert reason(why.value).startswith("Kafka: ")


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (NotReadyError("the slot is lost"), "the slot is lost"),
        (Infrastructure("registry answered 503"), "registry answered 503"),
        (KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN)), "Kafka: _ALL_BROKERS_DOWN"),  # noqa: SLF001 - its name
        (psycopg.errors.ReadOnlySqlTransaction(SECRET), "the database: ReadOnlySqlTransaction (25006)"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (TimeoutError(SECRET), "no answer in time"),
        (ValueError(SECRET), "ValueError"),
    ],
)
def test_a_reason_is_ours_or_the_class_of_the_error(trouble: Exception, told: str) -> None:
    """Texts of others are not repeated: they may quote what was sent."""
    assert reason(trouble) == told
