"""Faults of a running stack: what each does, to what, how it heals, and who cannot do his work while it lasts."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field

import psutil
import psycopg

from quadrille_cli.chaos.proxy import HARMS, Harm, Proxy
from quadrille_cli.client import Client, NoAnswerError, ProblemError
from quadrille_cli.services import CONSOLE, SERVICES
from quadrille_cli.stack import Stack
from quadrille_cli.stack.ports import ROLES as NAMES

ROLES = tuple(f"{service}-{name}" for service in SERVICES for name in NAMES)
DATABASES = tuple(f"postgres:{service}" for service in SERVICES)
WORLD = ("sandbox", "smtp")
SERVERS = (*DATABASES, "kafka", "registry", *WORLD)
"""What stands behind a proxy, where a stack has them."""
PUBLICATION = """
SELECT format('CREATE PUBLICATION outbox FOR TABLE outbox (%s) WITH (publish = ''insert'', publish_via_partition_root)',
              array_to_string(attnames, ', '))
  FROM pg_publication_tables WHERE pubname = 'outbox'"""
SLOTS = "SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'logical'"
DROP_SLOT = """
SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = %(slot)s AND active;
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %(slot)s AND NOT active"""
SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN ('app', 'relay')"
TRIES, TRY_SECONDS = 100, 0.2
DEAD, UNSURE, WELL = "dead", "unsure", "well"


@dataclass(slots=True)
class Arena:
    """What there is to break: a stack, and the proxies before its servers, if it has any."""

    stack: Stack
    proxies: Mapping[str, Proxy] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def sql(self, target: str, statement: str, values: Mapping[str, object] | None = None) -> list[tuple[object, ...]]:
        """Say something to a database (``postgres:order``) as its superuser, past every proxy; give what it answers."""
        with self.session(target) as db:
            db.autocommit = True
            cursor = db.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def session(self, target: str) -> psycopg.Connection:
        """Return a superuser's session at a database, which may still be starting after the last fault."""
        url = self.stack.database_url(target.removeprefix("postgres:"), "postgres")
        for _ in range(TRIES):
            try:
                return psycopg.connect(url, connect_timeout=10)
            except psycopg.OperationalError:
                if self.stop.wait(TRY_SECONDS):
                    break
        return psycopg.connect(url, connect_timeout=10)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: on which targets, what it does, and how often it is drawn beside the others.

    ``server`` tells how the target stands for who needs it: dead, unsure, or well as before.
    """

    name: str
    targets: tuple[str, ...]
    act: Callable[[Arena, str], AbstractContextManager[None]]
    server: str = DEAD
    often: int = 2
    proxied: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault on one target."""

    kind: str
    target: str

    def __str__(self) -> str:
        return f"{self.target} {self.kind}"

    @property
    def part(self) -> str:
        """What it must have to itself: no two faults are on one process at once."""
        return "sandbox" if self.target in WORLD else self.target

    def on(self, arena: Arena) -> AbstractContextManager[None]:
        """Return the fault itself: it lasts as long as the block."""
        return KINDS[self.kind].act(arena, self.target)

    def standing(self, role: str) -> str:
        """Return how a role stands while this lasts: dead to its work, unsure, or well."""
        how = KINDS[self.kind].server
        if self.target == role or self.target in _needs(role):
            exempt = self.kind == "read-only" and role.endswith(
                "-relay"
            )  # its sessions write whatever the default says
            return WELL if exempt else how
        return WELL


def _needs(role: str) -> frozenset[str]:
    """Return the servers without which a role cannot do its work; nobody needs registry or processor all the time."""
    service, _, name = role.partition("-")
    return frozenset({f"postgres:{service}"} | (set() if name == "api" else {"kafka"}))


def kinds(*, proxied: bool) -> list[Kind]:
    """Return the kinds of fault that can be brought about, those of links only where servers are behind proxies."""
    return [kind for kind in KINDS.values() if proxied or not kind.proxied]


@contextmanager
def _killed(arena: Arena, target: str) -> Iterator[None]:
    arena.stack.process(target).kill()
    try:
        yield
    finally:
        arena.stack.process(target).launch()


@contextmanager
def _stopped(arena: Arena, target: str) -> Iterator[None]:
    arena.stack.process(target).stop()
    try:
        yield
    finally:
        arena.stack.process(target).launch()


@contextmanager
def _frozen(arena: Arena, target: str) -> Iterator[None]:
    signalled(arena.stack, target, signal.SIGSTOP)
    try:
        yield
    finally:
        signalled(arena.stack, target, signal.SIGCONT)


def signalled(stack: Stack, target: str, number: signal.Signals) -> None:
    """Signal a process and all it started: a server's sessions are processes of their own."""
    if (process := stack.process(target)).running:
        with suppress(psutil.NoSuchProcess):
            head = psutil.Process(process.pid)
            for one in (head, *head.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    one.send_signal(number)


@contextmanager
def _read_only(arena: Arena, target: str) -> Iterator[None]:
    arena.sql(target, "ALTER SYSTEM SET default_transaction_read_only = on")
    arena.sql(target, "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        writable(arena, target)


def writable(arena: Arena, target: str) -> None:
    """Have a database take writes again."""
    arena.sql(target, "ALTER SYSTEM RESET default_transaction_read_only")
    arena.sql(target, "SELECT pg_reload_conf()")


@contextmanager
def _sessions_ended(arena: Arena, target: str) -> Iterator[None]:
    arena.sql(target, SESSIONS)
    yield


@contextmanager
def _outbox_locked(arena: Arena, target: str) -> Iterator[None]:
    """Hold the lock that a careless migration takes."""
    with arena.session(target) as db:
        db.execute("SET lock_timeout = '20s'")
        db.execute("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE")
        yield
        with suppress(psycopg.OperationalError):  # ended meanwhile: so is the lock
            db.rollback()


@contextmanager
def _slot_dropped(arena: Arena, target: str) -> Iterator[None]:
    """Drop the relay's slot under it; it makes one anew and scans."""
    for (slot,) in arena.sql(target, SLOTS):
        for _ in range(TRIES):  # the relay takes it again at once: whoever is first
            for statement in DROP_SLOT.split(";"):
                with suppress(psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
                    arena.sql(target, statement, {"slot": slot})
            if (slot,) not in arena.sql(target, SLOTS) or arena.stop.wait(0.01):
                break
    yield


@contextmanager
def _publication_dropped(arena: Arena, target: str) -> Iterator[None]:
    """Take the publication away, and give it back as it was: a gap that Postgres 18 tells nobody of."""
    made = str(arena.sql(target, PUBLICATION)[0][0])
    arena.sql(target, "DROP PUBLICATION outbox")
    try:
        yield
    finally:
        arena.sql(target, f"SET ROLE owner; {made}")


@contextmanager
def _publication_made_anew(arena: Arena, target: str) -> Iterator[None]:
    """Take the publication away and give it back within a moment, between two checks."""
    with _publication_dropped(arena, target):
        arena.stop.wait(0.3)
    yield


@contextmanager
def _table_unpublished(arena: Arena, target: str) -> Iterator[None]:
    """Have the publication without its table."""
    made = str(arena.sql(target, PUBLICATION)[0][0]).partition(" FOR ")[2].partition(" WITH ")[0]
    arena.sql(target, "ALTER PUBLICATION outbox DROP TABLE outbox")
    try:
        yield
    finally:
        arena.sql(target, f"ALTER PUBLICATION outbox ADD {made}")


@contextmanager
def _retention_cut(arena: Arena, target: str) -> Iterator[None]:
    """Give the services' topics a retention of a minute, which the next look of the broker would act upon."""
    del target
    _retain(arena, "60000")
    try:
        yield
    finally:
        _retain(arena, None)


def _retain(arena: Arena, milliseconds: str | None) -> None:
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415 - Kafka's client is loaded when it is wanted
    from confluent_kafka.admin._config import (  # noqa: PLC0415 - typed here, re-exported untyped
        AlterConfigOpType,
        ConfigEntry,
        ConfigResource,
    )
    from confluent_kafka.admin._resource import ResourceType  # noqa: PLC0415 - as above

    from quadrille_cli.stack.topics import TOPICS  # noqa: PLC0415 - as above

    admin = AdminClient({"bootstrap.servers": arena.stack.kafka_bootstrap, "log_level": 0})
    asked = []
    for topic in TOPICS:
        if topic.name.endswith(".events"):
            value = milliseconds or topic.config["retention.ms"]
            entry = ConfigEntry("retention.ms", value, incremental_operation=AlterConfigOpType.SET)
            asked.append(ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=[entry]))
    for done in admin.incremental_alter_configs(asked, request_timeout=30).values():
        done.result(60)


@contextmanager
def _troubled(arena: Arena, target: str) -> Iterator[None]:
    """Have the processor and the mailbox fail and lose answers for a while."""
    plan = {"errors": 0.3, "timeouts": 0.3, "seconds": 600}
    _outside(arena, target, plan)
    try:
        yield
    finally:
        _outside(arena, target, None)


def _outside(arena: Arena, target: str, plan: Mapping[str, float] | None) -> None:
    with Client(arena.stack.url(target)) as outside, suppress(NoAnswerError, ProblemError):
        if plan:
            outside.demand("PUT", "/chaos", plan)
        else:
            outside.demand("DELETE", "/chaos")


def _harmed(harm: Harm) -> Callable[[Arena, str], AbstractContextManager[None]]:
    @contextmanager
    def harmed(arena: Arena, target: str) -> Iterator[None]:
        proxy = arena.proxies[target]
        proxy.inflict(harm)
        try:
            yield
        finally:
            proxy.heal()

    return harmed


OURS = {name: tuple(f"{service}-{name}" for service in SERVICES) for name in NAMES}
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        *(Kind(f"{name} killed", targets, _killed, often=3) for name, targets in OURS.items()),
        *(Kind(f"{name} frozen", targets, _frozen, often=3) for name, targets in OURS.items()),
        Kind("worker stopped", OURS["worker"], _stopped),
        Kind("console killed", (CONSOLE,), _killed, often=1),
        Kind("database killed", DATABASES, _killed, often=3),
        Kind("database frozen", DATABASES, _frozen),
        Kind("database stopped", DATABASES, _stopped),
        Kind("read-only", DATABASES, _read_only),
        Kind("sessions ended", DATABASES, _sessions_ended, UNSURE),
        Kind("outbox locked", DATABASES, _outbox_locked, UNSURE, 1),
        Kind("slot dropped", DATABASES, _slot_dropped, UNSURE, 3),
        Kind("publication dropped", DATABASES, _publication_dropped, UNSURE),
        Kind("publication made anew", DATABASES, _publication_made_anew, UNSURE),
        Kind("table unpublished", DATABASES, _table_unpublished, UNSURE),
        Kind("broker killed", ("kafka",), _killed, often=3),
        Kind("broker frozen", ("kafka",), _frozen),
        Kind("retention cut", ("kafka",), _retention_cut, WELL, 1),
        Kind("registry killed", ("registry",), _killed, often=1),
        Kind("registry frozen", ("registry",), _frozen, often=1),
        Kind("outside killed", ("sandbox",), _killed),
        Kind("outside frozen", ("sandbox",), _frozen),
        Kind("outside in trouble", ("sandbox",), _troubled),
        Kind("link slow", SERVERS, _harmed(HARMS["slow"]), WELL, proxied=True),
        Kind("link partitioned", SERVERS, _harmed(HARMS["partitioned"]), proxied=True),
        Kind("link deaf", SERVERS, _harmed(HARMS["deaf"]), often=1, proxied=True),
        Kind("link dumb", SERVERS, _harmed(HARMS["dumb"]), often=1, proxied=True),
        Kind("link half-open", SERVERS, _harmed(HARMS["half-open"]), UNSURE, proxied=True),
        Kind("link reset", SERVERS, _harmed(HARMS["reset"]), proxied=True),
        Kind("link cut", SERVERS, _harmed(HARMS["cut"]), UNSURE, proxied=True),
        Kind("link lossy", ("kafka",), _harmed(HARMS["lossy"]), UNSURE, 1, proxied=True),
    )
}
