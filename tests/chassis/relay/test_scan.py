"""A recovery comes to its end however slow the server is and whatever it is set to, and leaves nothing out unsaid."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import pq, sql

from quadrille.relay.recovery import Scan
from quadrille.relay.replication import ask, command, conninfo
from quadrille.relay.session import RelaySession
from quadrille.testing.relay import Ground
from quadrille_cli.stack import Stack

numbers = itertools.count(1)
DAY_MS = 86_400_000
# Reading one row takes the relay so long: a table of any size is as slow as one of millions.
SLOW = """
CREATE FUNCTION slowly() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.05); RETURN true; END $$;
CREATE POLICY slow ON outbox FOR SELECT TO relay USING (slowly());
CREATE POLICY all_of_it ON outbox TO app USING (true);
ALTER TABLE outbox ENABLE ROW LEVEL SECURITY"""
DROP_SLOT = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
HOSTILE = {
    "lock_timeout": "100ms",
    "statement_timeout": "300ms",
    "transaction_timeout": "300ms",
    "idle_in_transaction_session_timeout": "100ms",
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "synchronous_commit": "off",
    "search_path": "pg_catalog",
    "client_encoding": "LATIN1",
    "row_security": "off",
    "datestyle": "German, DMY",
    "timezone": "Asia/Kolkata",
}


@pytest.fixture
def ground(parts_of_the_stack: Callable[..., Stack]) -> Iterator[Ground]:
    stack = parts_of_the_stack("kafka", "postgres:inventory")
    made = Ground(f"scan{next(numbers)}", lambda role: stack.database_url("inventory", role), stack.kafka_bootstrap)
    made.make()
    yield made
    made.close()


def say(ground: Ground, *numbers: int, key: str = "a", at_ms: int | None = None) -> None:
    with ground.connect() as app:
        for n in numbers:
            ground.say(app, key, n, at_ms=at_ms)


def lose_the_slot(ground: Ground) -> None:
    ground.until(lambda: ground.one("SELECT count(*) FROM pg_replication_slots WHERE active") == (0,))
    ground.one(DROP_SLOT)


def test_a_scan_longer_than_its_lease_comes_to_its_end(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server takes three leases to read the outbox: one recovery is enough, nobody takes the lock meanwhile."""
    monkeypatch.setattr("quadrille.relay.session.LEASE_SECONDS", 2)
    _long_scan(ground)
    with ground.relaying() as relay:
        assert ground.judge() == 0
        assert relay.state == "streaming"
    assert ground.one("SELECT count(*) FROM relay_recovery") == (0,)


def test_without_a_beat_in_between_it_never_ends(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a relay that shows only between two steps that it lives loses its lease in the first long one."""
    monkeypatch.setattr("quadrille.relay.session.LEASE_SECONDS", 2)
    monkeypatch.setattr(RelaySession, "_beat_until", lambda *_: None)
    monkeypatch.setattr("quadrille.relay.recovery.Scan._ask", _deaf)
    _long_scan(ground)
    with ground.relaying(until="recovering") as relay:
        ground.until(lambda: "PostgreSQL" in (relay.trouble or ""))
    assert ground.one("SELECT count(*) FROM relay_progress") == (0,)


def _long_scan(ground: Ground) -> None:
    say(ground, *range(1, 121))
    with psycopg.connect(ground.url("owner")) as owner:
        owner.execute(SLOW.encode())


def _deaf(scan: Scan, query: sql.Composable) -> pq.abc.PGresult:
    """Ask without a sign of life meanwhile."""
    return ask(scan._session, query.as_string(scan._session))  # noqa: SLF001 - the planted fault is in its place


@contextmanager
def hostile(ground: Ground) -> Iterator[None]:
    """A relay's role that is set to all that would end or starve a session of it."""
    with ground.connect("postgres") as superuser:
        for name, value in HOSTILE.items():
            superuser.execute(f"ALTER ROLE relay SET {name} = '{value}'".encode())
        yield
        superuser.execute("ALTER ROLE relay RESET ALL")


def test_no_setting_of_the_role_starves_a_new_slot(ground: Ground) -> None:
    """A slot waits for open transactions, longer than the role's time-outs allow; then the relay streams."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' AND wait_event_type = 'Lock'"
        " AND clock_timestamp() - query_start > interval '2 s'"
    )
    with hostile(ground), ground.connect() as app, psycopg.connect(ground.url("app")) as long:
        ground.say(long, "é🫖", 1)
        with ground.relaying(until="recovering") as relay:
            ground.until(lambda: ground.one(waiting) == (1,))
            long.commit()
            ground.until(lambda: relay.state == "streaming")
            ground.say(app, "é🫖", 2)
            assert ground.judge() == 0


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_every_setting_a_relay_relies_on_is_its_own(ground: Ground, name: str) -> None:
    """Whatever the role is set to, each of the relay's sessions has what it needs."""
    show = f"SELECT current_setting('{name}')".encode()
    with hostile(ground):
        for replication in (False, True):
            with psycopg.connect(conninfo(ground.url("relay"), replication=replication), autocommit=True) as session:
                found = session.execute(show).fetchone() if not replication else _shown(session, name)
            assert found != (HOSTILE[name],)


def _shown(session: psycopg.Connection, name: str) -> tuple[str, ...]:
    return tuple(command(session, f"SHOW {name}"))


def test_what_is_not_proven_is_sent_however_old(ground: Ground) -> None:
    """A relay that was away for longer than the window, its slot lost: no row is left out, whatever a clock says."""
    say(ground, 1)
    with ground.relaying():
        ground.until(lambda: ground.arrived() == 1)
    say(ground, 2, at_ms=1_000)
    ground.one("UPDATE outbox SET occurred_at = '2001-01-01' WHERE sequence = 2 RETURNING true")
    lose_the_slot(ground)
    with ground.relaying():
        ground.judge()
    assert ground.one("SELECT cause, rows FROM relay_recovery")[0] == "slot missing"
    assert ground.one("SELECT count(*) FROM relay_notice") == (0,)


def test_a_clock_that_was_ahead_hides_nothing(ground: Ground) -> None:
    """The position was stored with a time of next year; what is said after the clock was put right is recovered."""
    say(ground, 1)
    with ground.relaying():
        ground.until(lambda: ground.arrived() == 1)
    ground.one("UPDATE relay_progress SET committed_at = now() + interval '1 year' RETURNING true")
    say(ground, 2)
    lose_the_slot(ground)
    with ground.relaying():
        ground.judge()


def test_what_a_recovery_leaves_out_is_told(ground: Ground) -> None:
    """Sent again to a new log is what its hearers still take; of the rest number and ids are kept for the others.

    All is older than the window by the clocks, as after a service's holidays: it counts from the newest row.
    """
    now = time.time_ns() // 1_000_000 - 20 * DAY_MS
    say(ground, 1, 2, key="old", at_ms=now - 8 * DAY_MS)
    say(ground, 1, key="new", at_ms=now - 6 * DAY_MS)
    with ground.relaying():
        ground.until(lambda: ground.arrived() == 3)
        say(ground, 1, key="idle", at_ms=now)
        ground.until(lambda: _proven(ground))
    ground.make_anew(ground.topic)
    with ground.relaying():
        ground.until(lambda: ground.arrived() >= 2)
        assert {row.key for row in ground.published(2)} == {"new", "idle"}
    ids = ground.one("SELECT count(*), min(id::text), max(id::text) FROM outbox WHERE aggregateid = 'old'")
    (kind, detail) = ground.one("SELECT kind, detail FROM relay_notice")
    assert (kind, str(detail)[:7]) == ("LEFT_OUT", "2 facts")
    assert f"ids {ids[1]} to {ids[2]}" in str(detail)


def _proven(ground: Ground) -> bool:
    proven = "SELECT bool_and(age(o.xmin) > age(p.proven_xid::xid)) FROM outbox o, relay_progress p"
    query = f"{proven} WHERE aggregateid = 'old'"
    return ground.one(query) == (True,)


def test_a_person_may_have_the_outbox_read_again(ground: Ground) -> None:
    """A row that was mended in the table is sent as it is now; the request is forgotten once it was done."""
    with ground.relaying() as relay:
        say(ground, 1)
        ground.until(lambda: ground.arrived() == 1)
        ground.one("UPDATE relay_progress SET rescan = 'mended a row' RETURNING true")
        say(ground, 2)
        ground.until(lambda: ground.one("SELECT count(*) FROM relay_recovery") == (1,))
        ground.until(lambda: relay.state == "streaming")
        ground.judge()
    assert ground.one("SELECT cause, rescan FROM relay_recovery, relay_progress") == ("asked for: mended a row", None)
