"""Health checks that every role shares: what it needs is there, or why not; no reason holds a secret."""

from __future__ import annotations

import psycopg
from psycopg.conninfo import conninfo_to_dict

from quadrille.db.conninfo import pinned
from quadrille.gateway.breaker import Guarded, State, shown
from quadrille.observability.readiness import NotReadyError

CONNECT_SECONDS = 2
CAN_WRITE = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::bool"
PUBLISHED = "SELECT extract(epoch FROM now() - committed_at)::float FROM relay_progress"
PARKED = "SELECT count(*) FROM parked WHERE state IN ('OPEN', 'DEAD')"
QUIET_SECONDS = 15.0  # a worker beats every two seconds: with a relay at work nothing is older


def database_can_write(url: str) -> None:
    """Raise NotReadyError unless the database of ``url`` answers and takes writes: a replica would refuse every one."""
    try:
        with psycopg.connect(pinned(url, connect_timeout=CONNECT_SECONDS)) as tx:
            [(replica, read_only)] = tx.execute(CAN_WRITE).fetchall()
    except psycopg.OperationalError as away:
        raise NotReadyError(_said_by_server(url, away)) from None
    except psycopg.ProgrammingError:  # its text quotes the address, password and all
        message = "DATABASE_URL is no address that PostgreSQL's library understands: correct it"
        raise NotReadyError(message) from None
    if replica:
        message = "the database is a replica and takes no writes: promote it, or let DATABASE_URL name the primary"
        raise NotReadyError(message)
    if read_only:
        message = "the database takes no writes: default_transaction_read_only is on; turn it off where it was set"
        raise NotReadyError(message)


def relay_publishes(url: str) -> None:
    """Raise NotReadyError if the relay has published nothing for a while: what is said here waits in the outbox."""
    with psycopg.connect(pinned(url, connect_timeout=CONNECT_SECONDS)) as tx:
        found = tx.execute(PUBLISHED).fetchone()
    if found is None or found[0] > QUIET_SECONDS:
        since = "yet" if found is None else f"for {found[0]:.0f} s"
        message = (
            f"the relay has published nothing {since}: Kafka or the relay is away; what is said waits in the outbox"
        )
        raise NotReadyError(message)


def nothing_parked(url: str) -> None:
    """Raise NotReadyError with the number of inputs that are parked: their sagas wait for a person."""
    with psycopg.connect(pinned(url, connect_timeout=CONNECT_SECONDS)) as tx:
        [(count,)] = tx.execute(PARKED).fetchall()
    if count:
        message = "1 parked input waits for a person" if count == 1 else f"{count} parked inputs wait for a person"
        raise NotReadyError(message)


def breaker_closed(client: object) -> None:
    """Raise NotReadyError while calls to the outside are refused, for a client that has a breaker."""
    if isinstance(client, Guarded) and client.breaker.state is not State.CLOSED:
        message = f"the breaker of the outside is {client.breaker.state.value}: its calls wait"
        raise NotReadyError(message)


def registry_asked() -> None:
    """Raise NotReadyError while the registry is not asked: what is known by the cache goes on, what is new waits."""
    state = shown().get("registry", {}).get("state", State.CLOSED.value)
    if state != State.CLOSED.value:
        message = f"the breaker of the registry is {state}: known schemas go on, unknown ones wait"
        raise NotReadyError(message)


def _said_by_server(url: str, away: psycopg.OperationalError) -> str:
    """Return the first line of libpq's report, without the password, should a server ever repeat it."""
    told = (str(away).splitlines() or [type(away).__name__])[0]
    for secret in filter(None, (conninfo_to_dict(url).get("password"),)):
        told = told.replace(str(secret), "***")
    return f"the database does not answer: {told}"
