"""An address alone says how a database is reached: no variable of a shell, nor what the server speaks, changes it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg.pq import Conninfo

from quadrille.db import migrations
from quadrille.db.connection import connection
from quadrille.db.conninfo import pinned, settled, unhear
from quadrille.relay.replication import command, connect
from quadrille.web.api import Pool
from quadrille_cli.stack import Stack

HOSTILE = {
    "PGAPPNAME": "x", "PGCHANNELBINDING": "require", "PGCLIENTENCODING": "LATIN1", "PGCONNECT_TIMEOUT": "nonsense",
    "PGDATABASE": "nowhere", "PGDATESTYLE": "German", "PGGEQO": "off", "PGHOST": "nowhere.invalid",
    "PGHOSTADDR": "192.0.2.1", "PGLOADBALANCEHOSTS": "random", "PGMAXPROTOCOLVERSION": "9.9", "PGOPTIONS": "-c x.y",
    "PGPASSFILE": "/nonexistent", "PGPASSWORD": "wrong", "PGPORT": "1", "PGREQUIREAUTH": "none",
    "PGREQUIREPEER": "stranger", "PGSSLCERT": "/nonexistent", "PGSSLCERTMODE": "require", "PGSSLMODE": "verify-full",
    "PGSSLNEGOTIATION": "direct", "PGSSLROOTCERT": "/nonexistent", "PGTARGETSESSIONATTRS": "standby",
    "PGTZ": "Asia/Kolkata", "PGUSER": "stranger", "PGMINPROTOCOLVERSION": "9.9", "PGSSLMINPROTOCOLVERSION": "TLSv1.3",
    "PGSERVICE": "nowhere", "PGSERVICEFILE": "/nonexistent",
}  # fmt: skip
SAID = "tea ☕ for José, 東京"
AT = datetime(2026, 11, 29, 12, 30, tzinfo=UTC)


@pytest.fixture
def url(parts_of_the_stack: Callable[..., Stack]) -> Callable[[str], str]:
    """How each role reaches a database."""
    stack = parts_of_the_stack("postgres:inventory", "kafka", "topics")
    return lambda role: stack.database_url("inventory", role)


def speaks(tx: psycopg.Connection) -> bool:
    """Whether a session tells any text and time as they are."""
    query = "SELECT %s::text, '2026-11-29 12:30Z'::timestamptz, interval '1 day 2 hours'::text, %s::timestamptz = %s"
    with tx.cursor(binary=False) as cursor:
        row = cursor.execute(query, [SAID, AT, "2026-11-29 12:30+00"]).fetchone()
    return row == (SAID, AT, "1 day 02:00:00", True)


@pytest.mark.parametrize("variable", [*HOSTILE, "all of them"])
def test_no_variable_changes_how_a_database_is_reached(
    url: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Worker, API and migration reach the address, in Unicode and UTC, with each variable set and with all at once."""
    hostile = HOSTILE if variable == "all of them" else {variable: HOSTILE[variable]}
    for name, value in hostile.items():
        monkeypatch.setenv(name, value)

    with connection(url("app"))() as tx, migrations.login(url("owner")) as owner:
        assert speaks(tx)
        assert speaks(owner)


def test_every_variable_that_the_client_library_knows_is_tried() -> None:
    """A variable that a later client library hears shows up here, so that somebody thinks about it."""
    known = {option.envvar.decode() for option in Conninfo.get_defaults() if option.envvar}
    harmless = {"PGKRBSRVNAME", "PGGSSLIB", "PGGSSDELEGATION", "PGGSSENCMODE", "PGSSLCOMPRESSION", "PGSSLKEY"}
    harmless |= {"PGSSLCRL", "PGSSLCRLDIR", "PGSSLSNI", "PGSSLMAXPROTOCOLVERSION"}  # of TLS, which needs sslmode

    assert known - {*HOSTILE} == harmless


def test_relays_streams_are_reached_and_read_as_the_workers_are(
    url: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay's sessions, the stream's too, hear no variable; what a server is set to speak is overruled."""
    for name in ("PGCLIENTENCODING", "PGOPTIONS", "PGSSLMODE", "PGHOSTADDR", "PGREQUIREAUTH"):
        monkeypatch.setenv(name, HOSTILE[name])

    with connect(url("relay")) as stream:
        assert command(stream, "SHOW DateStyle")[0].startswith("ISO")
        assert command(stream, "SHOW TimeZone") == ["UTC"]
        assert stream.info.parameter_status("client_encoding") == "UTF8"


def test_what_a_server_speaks_by_default_is_overruled(url: Callable[[str], str]) -> None:
    """A role that was given another zone, date style and interval style: our sessions speak as ever."""
    spoken = {"TimeZone": "Asia/Kolkata", "DateStyle": "German", "IntervalStyle": "iso_8601"}
    admin = url("postgres")
    with psycopg.connect(admin, autocommit=True) as db:
        for name, value in spoken.items():
            db.execute(f"ALTER ROLE app SET {name} = '{value}'".encode())
    try:
        with psycopg.connect(url("app")) as plain, pytest.raises(NotImplementedError):
            speaks(plain)
        with connection(url("app"))() as tx:
            assert speaks(tx)
    finally:
        with psycopg.connect(admin, autocommit=True) as db:
            for name in spoken:
                db.execute(f"ALTER ROLE app RESET {name}".encode())


def test_what_an_address_itself_asks_for_stands(url: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Options, encryption and time-outs that stand in the address are kept; its encoding alone is always Unicode."""
    monkeypatch.setenv("PGSSLMODE", "require")
    asked = f"{url('app')}?sslmode=disable&client_encoding=LATIN1&options=-c%20work_mem%3D8MB&connect_timeout=3"

    with settled(psycopg.connect(pinned(asked))) as tx:
        assert tx.execute("SHOW work_mem").fetchone() == ("8MB",)
        assert speaks(tx)
    assert {"sslmode=disable", "connect_timeout=3"} <= set(pinned(asked).split())


def test_an_emoji_in_a_pool_of_reads(url: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One emoji in the list of orders, under PGCLIENTENCODING=LATIN1, is an emoji and no error."""
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    pool = Pool(connection(url("app")))
    try:
        assert pool.read(lambda db: db.exec_driver_sql(f"SELECT '{SAID}'").scalar()) == SAID
    finally:
        pool.close()


def test_a_process_takes_from_its_environment_what_no_address_overrules() -> None:
    """Services, time zone and planner of a shell are gone once a process of ours has begun; secrets and others stay."""
    environ = {**HOSTILE, "PATH": "/bin", "QUADRILLE_DATABASE_URL": "x"}

    unheard = unhear(environ)

    assert environ == {
        k: v for k, v in (HOSTILE | {"PATH": "/bin", "QUADRILLE_DATABASE_URL": "x"}).items() if k in environ
    }
    assert set(environ) == {"PGPASSWORD", "PGPASSFILE", "PATH", "QUADRILLE_DATABASE_URL"}
    assert unheard == sorted({*HOSTILE} - set(environ))


def test_a_role_run_by_hand_says_which_variables_it_does_not_hear(url: Callable[[str], str], tmp_path: Path) -> None:
    """`python -m inventory migrate` in a hostile shell does its work, and warns of each variable by name."""
    settings = {"DATABASE_URL": url("owner"), "KAFKA_BOOTSTRAP": "127.0.0.1:1", "REGISTRY_URL": "http://127.0.0.1:1"}
    env = {f"QUADRILLE_{name}": value for name, value in settings.items()} | HOSTILE
    env |= {"PROMETHEUS_MULTIPROC_DIR": "/nonexistent", "PATH": os.environ["PATH"]}

    done = subprocess.run(
        [sys.executable, "-m", "inventory", "migrate"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    for name in ("PGSERVICE", "PGSSLMODE", "PGTZ"):
        assert f'"setting": "{name}"' in done.stderr
