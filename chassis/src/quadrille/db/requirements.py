"""Requirements of a service's Postgres: without these an event may be lost, doubled or stuck.

What mends itself while a process waits (a publication made anew, a stand-by promoted, a day's partition) is not here:
readiness tells of it, and nobody needs to start anything again.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg

from quadrille.requirements import ROLES, LooksAt, Requirements, Seen, between, named, requires

SKEW = timedelta(seconds=5)
RELAYED, WRITING, CONSUMING = ROLES - {"all"}, ROLES - {"relay"}, frozenset({"api", "worker"})
OF_POSTGRES: Requirements = {}
POSTGRES_CONF = "deploy/postgres/postgresql.conf has it: set it in yours and restart the server"
ROLES_SQL = "deploy/postgres/roles.sql has it: ALTER ROLE {role} SET {setting}"
MADE_ANEW = "initdb a new cluster with it and restore into that"


class Database:
    """A service's Postgres, through the roles that the service uses; each is connected when it is first asked."""

    def __init__(self, service: str, url: Callable[[str], str]) -> None:
        """``url`` returns where a role (app, relay, owner) connects."""
        self.service, self._url = service, url
        self._open: dict[str, psycopg.Connection[Any]] = {}

    def session(self, role: str = "app") -> psycopg.Connection[Any]:
        """Return the session of a role; raises psycopg.OperationalError when there is none to be had."""
        url = self._url(role)
        if url not in self._open:
            self._open[url] = psycopg.connect(url, autocommit=True, connect_timeout=5)
        return self._open[url]

    def rows(self, statement: str, *parameters: object, role: str = "app") -> list[tuple[Any, ...]]:
        """Return what a statement finds."""
        return self.session(role).execute(statement.encode(), parameters or None).fetchall()

    def one(self, statement: str, *parameters: object, role: str = "app") -> Any:  # noqa: ANN401 - one value of SQL
        """Return the only value a statement finds, None where it finds nothing."""
        found = self.rows(statement, *parameters, role=role)
        return found[0][0] if found else None

    def setting(self, name: str, role: str = "app") -> str:
        """Return a setting as a session of the role has it, in the server's own unit; empty where there is none."""
        return str(self.one("SELECT setting FROM pg_settings WHERE name = %s", name, role=role) or "")

    def close(self) -> None:
        """End the sessions."""
        for session in self._open.values():
            session.close()
        self._open.clear()


class Wanted(NamedTuple):
    """A setting of Postgres, which role's sessions must have it, and which values are good."""

    check: str
    setting: str
    role: str
    good: Callable[[str], bool]
    wants: str
    roles: frozenset[str] = frozenset()
    """Those of a service that refuse to start without it."""


SETTINGS = (
    Wanted("wal-level", "wal_level", "app", named("logical"), "logical: the relay reads the log", RELAYED),
    Wanted("fsync", "fsync", "app", named("on"), "on: a commit is on the disk", ROLES),
    Wanted("full-page-writes", "full_page_writes", "app", named("on"), "on: no torn pages", ROLES),
    Wanted(
        "synchronous-commit", "synchronous_commit", "app", named("on", "remote_apply"), "on: what was answered is kept",
        WRITING,
    ),
    Wanted("slot-limit", "max_slot_wal_keep_size", "app", between(64), "64 MB or more, never -1", RELAYED),
    Wanted("encoding", "server_encoding", "app", named("UTF8"), "UTF8: it holds any text", ROLES),
)  # fmt: skip


def of_setting(wanted: Wanted) -> LooksAt:
    """Return what looks at a setting."""

    def look(database: Database) -> Seen:
        value = database.setting(wanted.setting, wanted.role)
        return Seen(f"{wanted.setting} = {value or 'unknown to this server'}", wanted.good(value))

    return look


def _fix(wanted: Wanted) -> str:
    if wanted.setting == "server_encoding":
        return MADE_ANEW
    if wanted.setting == "synchronous_commit":
        return ROLES_SQL.format(role=wanted.role, setting=wanted.setting)
    return POSTGRES_CONF


for _one in SETTINGS:
    requires(OF_POSTGRES, f"postgres.{_one.check}", wants=_one.wants, fix=_fix(_one), roles=_one.roles)(
        of_setting(_one)
    )


@requires(
    OF_POSTGRES, "postgres.version", wants="18 or newer", fix="upgrade the server: pg_upgrade",
    roles=WRITING,
)  # fmt: skip
def postgres_version(database: Database, oldest: int = 180_000) -> Seen:
    """Old rows are read back from an UPDATE, which 18 brought."""
    number = int(database.setting("server_version_num"))
    return Seen(f"{number // 10_000}.{number % 10_000}", number >= oldest)


@requires(
    OF_POSTGRES, "postgres.no-default-partition", wants="none: rows in it would be of no day",
    fix="as owner: move its rows into their days, then DETACH it", roles=CONSUMING,
)  # fmt: skip
def no_default_partition(database: Database) -> Seen:
    """What falls into it is dropped by no rule and found by no floor."""
    found = database.rows("SELECT partdefid::regclass::text FROM pg_partitioned_table WHERE partdefid <> 0")
    return Seen(", ".join(name for (name,) in found) or "none", not found)


@requires(
    OF_POSTGRES, "postgres.clock", wants="within 5 s of this machine's", fix="have both machines follow NTP",
    roles=ROLES,
)  # fmt: skip
def clock_skew(database: Database, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Seen:
    """Ids carry this machine's time, due times the database's."""
    before = now()
    theirs: datetime = database.one("SELECT clock_timestamp()")
    skew = max(before - theirs, theirs - now(), timedelta())
    return Seen(f"{skew.total_seconds():.1f} s apart", skew <= SKEW)


@requires(
    OF_POSTGRES, "access.app-not-superuser", wants="no special rights", roles=WRITING,
    fix="ALTER ROLE app NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS",
)  # fmt: skip
def app_not_superuser(database: Database) -> Seen:
    """What api and worker log in as must not be able to do what migrations do."""
    rights = ("super", "createdb", "createrole", "replication", "bypassrls")
    columns = ", ".join(f"rol{right}" for right in rights)
    (found,) = database.rows(f"SELECT {columns} FROM pg_roles WHERE rolname = current_user")  # noqa: S608 - constants
    has = [right for right, given in zip(rights, found, strict=True) if given]
    return Seen(", ".join(has) or "none", not has)


MAY = "SELECT string_agg(p, ', ') FROM unnest(%s::text[]) p WHERE has_table_privilege(to_regclass(%s), p)"


@requires(
    OF_POSTGRES, "access.outbox-insert-only", wants="SELECT and INSERT alone", roles=CONSUMING,
    fix="as owner: REVOKE UPDATE, DELETE, TRUNCATE ON outbox FROM app",
)  # fmt: skip
def outbox_insert_only(database: Database) -> Seen:
    """What was committed stays as it was said."""
    more = database.one(MAY, ["UPDATE", "DELETE", "TRUNCATE"], "outbox")
    return Seen(str(more or "nothing more"), not more)
