"""Doctor: named checks of what the whole stands on; each says what it read, what it wants, and the way to mend it.

Every check is a function of what it looks at (a database, a broker, a registry, a machine) and nothing else, so that a
test can hold it against a sound one and a sick one. Those marked fatal leave nothing to promise: without them an order
may be lost, doubled or stuck.
"""

from __future__ import annotations

import stat
import zoneinfo
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psycopg

from quadrille.db.requirements import MADE_ANEW, OF_POSTGRES, POSTGRES_CONF, ROLES_SQL, Database, Wanted, of_setting
from quadrille.db.requirements import SETTINGS as REQUIRED_SETTINGS
from quadrille.kafka.requirements import BROKER, OF_TOPICS, TopicSeen
from quadrille.requirements import OF_PROCESS, LooksAt, Requirement, Requirements, Seen, between, named, numbers

LONG = timedelta(minutes=5)
ROOM_MB, FILES = 500, 1024
MEGABYTE = 2**20
ASK_SECONDS = 10.0
KEY_LOCKS = 6_400
"""Advisory locks of full batches in every worker."""
CHECKS: Requirements = {**OF_PROCESS, **OF_POSTGRES}
"""All of them, by name: those that services look at themselves, and ours below."""
F = TypeVar("F", bound=Callable[..., Seen])


def check(name: str, *, wants: str, fix: str, fatal: bool = False) -> Callable[[F], F]:
    """Declare the function below as a check of ours."""

    def declare(look: F) -> F:
        CHECKS[name] = Requirement(name, wants, fix, look, fatal)
        return look

    return declare


# what is looked at --------------------------------------------------------------------------------------------------


class Broker:
    """The brokers behind one address, and their topics."""

    def __init__(self, bootstrap: str) -> None:
        from confluent_kafka.admin import AdminClient  # noqa: PLC0415 - 0.1 s the command line's start can spare

        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, "socket.timeout.ms": 10_000})

    @cached_property
    def metadata(self) -> Any:  # noqa: ANN401 - confluent_kafka's, untyped there
        """Brokers and topics."""
        return self._admin.list_topics(timeout=ASK_SECONDS)

    @cached_property
    def settings(self) -> Mapping[str, str]:
        """The settings of the first broker."""
        from confluent_kafka.admin._resource import ResourceType  # noqa: PLC0415 - as above

        return self._config(ResourceType.BROKER, str(min(self.metadata.brokers)))

    def topic(self, name: str) -> Mapping[str, str]:
        """Return the settings of a topic."""
        from confluent_kafka.admin._resource import ResourceType  # noqa: PLC0415 - as above

        return self._config(ResourceType.TOPIC, name)

    def _config(self, kind: Any, name: str) -> Mapping[str, str]:  # noqa: ANN401 - as above
        from confluent_kafka.admin._config import ConfigResource  # noqa: PLC0415 - as above

        resource = ConfigResource(kind, name)
        found = self._admin.describe_configs([resource])[resource].result(timeout=ASK_SECONDS)
        return {key: str(entry.value) for key, entry in found.items()}

    @property
    def missing(self) -> list[str]:
        """The declared topics that are not there."""
        from quadrille_cli.stack.topics import TOPICS  # noqa: PLC0415 - as above

        return [wanted.name for wanted in TOPICS if wanted.name not in self.metadata.topics]

    def seen(self) -> Iterator[TopicSeen]:
        """Yield each declared topic that is there, as services look at theirs."""
        for wanted, config in self.declared():
            partitions = self.metadata.topics[wanted.name].partitions.values()
            yield TopicSeen(wanted.name, config, min(len(one.replicas) for one in partitions))

    def declared(self) -> Iterator[tuple[Any, Mapping[str, str]]]:
        """Yield each declared topic that is there, with its settings."""
        from quadrille_cli.stack.topics import TOPICS  # noqa: PLC0415 - as above

        for wanted in TOPICS:
            if wanted.name in self.metadata.topics:
                yield wanted, self.topic(wanted.name)


@dataclass(frozen=True)
class SchemaRegistry:
    """A registry, and the schemas that were published."""

    url: str

    @cached_property
    def client(self) -> Any:  # noqa: ANN401 - imported when it is needed
        """Its client."""
        from quadrille.avro.registry import Registry  # noqa: PLC0415 - what the command line's start can spare

        return Registry(self.url, ASK_SECONDS)


@dataclass(frozen=True)
class Machine:
    """This machine and what runs here; a test puts another clock, disk, limit or process in."""

    data: Path
    free: Callable[[Path], int]
    now: Callable[[], datetime]
    files: int
    ops: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    versions: Callable[[str], str] = version
    environment: Mapping[str, str] = field(default_factory=dict)
    known: frozenset[str] = frozenset()


# Postgres: settings, as sessions of the roles have them -------------------------------------------------------------


MORE_SETTINGS = (
    Wanted(
        "idle-slot-timeout", "idle_replication_slot_timeout", "app", named("0"), "0: a stopped relay keeps its slot"
    ),
    Wanted("sender-timeout", "wal_sender_timeout", "relay", between(1, 10_000), "at most 10 s: a frozen relay lets go"),
    Wanted("replication-slots", "max_replication_slots", "app", between(2), "2 or more: one, and a spare"),
    Wanted("wal-senders", "max_wal_senders", "app", between(2), "2 or more"),
    Wanted("connections", "max_connections", "app", between(40), "40 or more: api, worker and relay of one service"),
    Wanted("statement-timeout", "statement_timeout", "app", between(1, 60_000), "at most 60 s, not 0"),
    Wanted("transaction-timeout", "transaction_timeout", "app", between(1, 60_000), "at most 60 s, not 0"),
    Wanted("idle-in-transaction", "idle_in_transaction_session_timeout", "app", between(1, 60_000), "at most 60 s"),
    Wanted("lock-timeout", "lock_timeout", "app", between(1, 30_000), "at most 30 s, not 0"),
    Wanted("relay-transaction", "transaction_timeout", "relay", named("0"), "0: its scan is one transaction"),
    Wanted("relay-idle", "idle_in_transaction_session_timeout", "relay", named("0"), "0: its scan's snapshot is open"),
    Wanted("time-zone", "TimeZone", "app", named("UTC", "Etc/UTC"), "UTC: a day of a table is a day of UTC"),
    Wanted("log-values", "log_error_verbosity", "app", named("terse"), "terse: DETAIL quotes customers' values"),
    Wanted("log-parameters", "log_parameter_max_length_on_error", "app", named("0"), "0: no values in the log"),
    Wanted("passwords", "password_encryption", "app", named("scram-sha-256"), "scram-sha-256"),
    Wanted(
        "tcp-user-timeout", "tcp_user_timeout", "app", between(1, 60_000), "at most 60 s: half a network is noticed"
    ),
    Wanted("commit-times", "track_commit_timestamp", "app", named("on"), "on: `quadrille load` measures undoing by it"),
    Wanted("checksums", "data_checksums", "app", named("on"), "on: a rotten page is noticed"),
)
SETTINGS = REQUIRED_SETTINGS + MORE_SETTINGS
BY_ROLE = frozenset({"wal_sender_timeout", "transaction_timeout", "statement_timeout"})


def _fix(wanted: Wanted) -> str:
    if wanted.setting == "data_checksums":
        return MADE_ANEW
    if wanted.setting in BY_ROLE:
        return ROLES_SQL.format(role=wanted.role, setting=wanted.setting)
    return POSTGRES_CONF


for _one in MORE_SETTINGS:
    check(f"postgres.{_one.check}", wants=_one.wants, fix=_fix(_one))(of_setting(_one))


# Postgres: what is in it --------------------------------------------------------------------------------------------


@check("postgres.reachable", wants="a session", fix="quadrille start postgres:SERVICE; or set DATABASE_URL", fatal=True)
def postgres_reachable(database: Database) -> Seen:
    """Nothing is taken, handled or published without it."""
    try:
        return Seen("a session", database.one("SELECT 1") == 1)
    except psycopg.OperationalError as silent:
        return Seen((str(silent).strip().splitlines() or ["no answer"])[0], good=False)


@check("postgres.lock-table", wants=f"{KEY_LOCKS:,} locks: the keys of full batches", fix=POSTGRES_CONF)
def lock_table(database: Database) -> Seen:
    """Key locks are advisory locks: those of all workers' batches must fit at once."""
    room = int(database.setting("max_locks_per_transaction")) * int(database.setting("max_connections"))
    return Seen(f"{room:,} locks", room >= KEY_LOCKS)


@check("postgres.not-a-replica", wants="a primary", fix="point DATABASE_URL at the primary", fatal=True)
def not_a_replica(database: Database) -> Seen:
    """A stand-by takes no writes, and its slots are not ours."""
    replica = database.one("SELECT pg_is_in_recovery()")
    return Seen("a stand-by" if replica else "a primary", not replica)


PUBLISHED = """
SELECT pubinsert AND NOT pubupdate AND pubviaroot AND EXISTS (
         SELECT FROM pg_publication_tables t WHERE t.pubname = p.pubname AND t.tablename = 'outbox')
  FROM pg_publication p WHERE pubname = 'outbox'"""
COLUMNS = "SELECT attnames::text[] FROM pg_publication_tables WHERE pubname = 'outbox'"
SENT = frozenset(
    {
        *("id", "aggregatetype", "aggregateid", "type", "sequence", "payload", "causationid", "traceparent"),
        *("parent_span", "occurred_at"),
    }
)


@check(
    "postgres.publication", wants="outbox, inserts alone, by its root",
    fix="as owner, make it as the migrations do; then quadrille restart SERVICE", fatal=True,
)  # fmt: skip
def publication(database: Database) -> Seen:
    """Without it the relay reads nothing, and on some versions says nothing."""
    found = database.one(PUBLISHED)
    return Seen("there" if found else "missing" if found is None else "not as it should be", bool(found))


@check(
    "postgres.publication-columns", wants="every column a record is made of",
    fix="as owner: ALTER PUBLICATION outbox SET TABLE outbox (…), as the migrations do",
)  # fmt: skip
def publication_columns(database: Database) -> Seen:
    """A column that is not published is not in the record."""
    found = set(database.one(COLUMNS) or ())
    return Seen(f"without {', '.join(sorted(SENT - found))}" if SENT - found else "all", found >= SENT)


OUR_SLOT = "quadrille_{service}"
SLOTS = "SELECT slot_name, wal_status, coalesce(temporary, false) FROM pg_replication_slots"


@check("postgres.slot", wants="one logical slot of ours", fix="quadrille start SERVICE-relay, which makes it")
def slot(database: Database) -> Seen:
    """Where the relay goes on; it makes it itself."""
    names = [name for name, _, _ in database.rows(SLOTS)]
    return Seen(", ".join(names) or "none", OUR_SLOT.format(service=database.service) in names)


@check("postgres.slot-status", wants="no slot lost", fix="quadrille restart SERVICE-relay: it scans, then goes on")
def slot_status(database: Database) -> Seen:
    """A slot that fell behind what is kept is lost; its relay scans the outbox instead."""
    lost = [name for name, status, _ in database.rows(SLOTS) if status in ("lost", "unreserved")]
    return Seen(f"lost: {', '.join(lost)}" if lost else "none lost", not lost)


@check(
    "postgres.foreign-slot", wants="none but ours: it keeps the log from being recycled",
    fix="as superuser: SELECT pg_drop_replication_slot(NAME), once you know whose it is",
)  # fmt: skip
def foreign_slot(database: Database) -> Seen:
    """Somebody else reads this database's log, or has stopped to."""
    ours = OUR_SLOT.format(service=database.service)
    strange = [name for name, _, temporary in database.rows(SLOTS) if name != ours and not temporary]
    return Seen(", ".join(strange) or "none", not strange)


DAYS = """
SELECT count(*) FILTER (WHERE to_regclass(p || to_char(d, 'YYYYMMDD')) IS NULL)
  FROM unnest(ARRAY['outbox_', 'inbox_']) p,
       generate_series((now() AT TIME ZONE 'UTC')::date, (now() AT TIME ZONE 'UTC')::date + 1, interval '1 day') d"""


@check(
    "postgres.partitions-ahead", wants="a place for today and tomorrow",
    fix="quadrille start SERVICE-worker, which makes them", fatal=True,
)  # fmt: skip
def partitions_ahead(database: Database) -> Seen:
    """A day without a partition takes no row; the worker makes days ahead."""
    missing = int(database.one(DAYS))
    return Seen(f"{missing} missing" if missing else "there", not missing)


OLDEST = """
SELECT max(now() - xact_start) FROM pg_stat_activity
 WHERE datname = current_database() AND state <> 'idle' AND backend_type = 'client backend'
   AND pid <> pg_backend_pid()"""


@check(
    "postgres.oldest-transaction", wants="none older than 5 min",
    fix="find it in pg_stat_activity, then SELECT pg_terminate_backend(PID)",
)  # fmt: skip
def oldest_transaction(database: Database, most: timedelta = LONG) -> Seen:
    """It holds back the slot and what may be vacuumed."""
    ages = [database.one(OLDEST, role=role) for role in ("app", "relay", "owner")]  # each sees its own sessions alone
    age = max((one for one in ages if one is not None), default=timedelta())
    return Seen(f"{age.total_seconds():.0f} s", age <= most)


CAN = "SELECT string_agg(p, ', ') FROM unnest(%s::text[]) p WHERE has_table_privilege(%s, %s, p)"


@check(
    "access.audit-insert-only", wants="SELECT and INSERT alone",
    fix="as owner: REVOKE UPDATE, DELETE, TRUNCATE ON audit FROM app",
)  # fmt: skip
def audit_insert_only(database: Database) -> Seen:
    """Who did what is not to be edited by who does it."""
    more = database.one(CAN, ["UPDATE", "DELETE", "TRUNCATE"], "app", "audit")
    return Seen(str(more or "nothing more"), not more)


@check(
    "access.relay-role-narrow", wants="SELECT alone", fix="as owner: REVOKE INSERT, UPDATE, DELETE ON outbox FROM relay"
)
def relay_role_narrow(database: Database) -> Seen:
    """The relay reads the outbox; whatever it has to say the worker says."""
    more = database.one(CAN, ["INSERT", "UPDATE", "DELETE", "TRUNCATE"], "relay", "outbox")
    return Seen(str(more or "nothing more"), not more)


@check("access.schema-closed", wants="no", fix="as owner: REVOKE CREATE ON SCHEMA public FROM app, PUBLIC")
def schema_closed(database: Database) -> Seen:
    """A table made by the app would stand before ours in every search path."""
    may = database.one("SELECT has_schema_privilege('app', 'public', 'CREATE')")
    return Seen("app may create tables" if may else "no", not may)


@check(
    "access.audit-chain", wants="whole", fix="restore the row from a backup; which one: quadrille audit verify",
)  # fmt: skip
def audit_chain(database: Database) -> Seen:
    """Each row holds the hash of the one before it."""
    from quadrille.db import audit  # noqa: PLC0415 - what the command line's start can spare

    flaw = audit.flaw(database.session())
    return Seen(flaw or "whole", flaw is None)


# Kafka --------------------------------------------------------------------------------------------------------------


@check("kafka.reachable", wants="an answer", fix="quadrille start kafka; or set KAFKA_BOOTSTRAP", fatal=True)
def kafka_reachable(broker: Broker) -> Seen:
    """Nothing is published or heard without it."""
    from confluent_kafka import KafkaException  # noqa: PLC0415 - 0.1 s the command line's start can spare

    try:
        return Seen(f"{len(broker.metadata.brokers)} brokers", bool(broker.metadata.brokers))
    except KafkaException as silent:
        return Seen(silent.args[0].str(), good=False)


@check("kafka.topics", wants="every declared topic", fix="quadrille topics apply", fatal=True)
def topics_exist(broker: Broker) -> Seen:
    """None is made by itself."""
    return Seen(f"without {', '.join(broker.missing)}" if broker.missing else "all", not broker.missing)


@check(
    "kafka.partitions", wants="as declared: a key's partition never changes",
    fix="make the topic's next generation; it never changes in place", fatal=True,
)  # fmt: skip
def partition_count(broker: Broker) -> Seen:
    """A key would go on in another partition, before what is left of it in the old one."""
    wrong = [
        f"{wanted.name} has {count}"
        for wanted, _ in broker.declared()
        if (count := len(broker.metadata.topics[wanted.name].partitions)) != wanted.partitions
    ]
    return Seen(", ".join(wrong) or "as declared", not wrong)


def _of_topics(rule: Requirement) -> LooksAt:
    """Hold every declared topic that is there against what services require of it."""

    def look(broker: Broker) -> Seen:
        wrong = [f"{topic.name} {found.read}" for topic in broker.seen() if not (found := rule.look(topic)).good]
        return Seen(", ".join(wrong) or rule.wants.partition(":")[0], not wrong)

    return look


for _rule in OF_TOPICS.values():
    CHECKS[_rule.name] = replace(_rule, look=_of_topics(_rule))


@check("kafka.retention-bytes", wants="-1: what is old goes, not what is much", fix="quadrille topics apply")
def retention_bytes(broker: Broker) -> Seen:
    """Retention by size may overtake a worker at any load."""
    wrong = [wanted.name for wanted, config in broker.declared() if config["retention.bytes"] != "-1"]
    return Seen(f"by size: {', '.join(wrong)}" if wrong else "-1", not wrong)


def _of_broker(name: str, good: Callable[[str], bool]) -> LooksAt:
    def look(broker: Broker) -> Seen:
        value = broker.settings.get(name, "unknown to this broker")
        return Seen(f"{name} = {value}", good(value))

    return look


for _name, _setting, _good, _wants in (
    ("auto-create-off", "auto.create.topics.enable", named("false"), "false: topics are declared"),
    ("session-timeout", "group.consumer.session.timeout.ms", between(3_000, 15_000), "at most 15 s: a dead worker's"),
    ("heartbeat", "group.consumer.heartbeat.interval.ms", between(500, 5_000), "at most 5 s"),
    ("message-size", "message.max.bytes", between(1_000_000), "1,000,000 or more: a payload has 262,144"),
    ("offsets-kept", "offsets.retention.minutes", between(1_440), "a day or more: lag tools read them"),
):
    check(f"kafka.{_name}", wants=_wants, fix=BROKER)(_of_broker(_setting, _good))


# registry -----------------------------------------------------------------------------------------------------------


@check("schema.registry", wants="an answer", fix="quadrille start registry; or set REGISTRY_URL", fatal=True)
def registry_reachable(registry: SchemaRegistry) -> Seen:
    """Known ids go on without it, new ones do not."""
    from quadrille.avro.registry import RegistryUnavailableError  # noqa: PLC0415 - what a start can spare

    try:
        status, found = registry.client.ask("GET", "/subjects")
    except RegistryUnavailableError as silent:
        return Seen(str(silent), good=False)
    return Seen(f"{len(found or ())} subjects", status == 200)  # noqa: PLR2004 - HTTP


@check("schema.registered", wants="every published schema has an id", fix="quadrille schema apply", fatal=True)
def registered(registry: SchemaRegistry) -> Seen:
    """What is not registered cannot be said."""
    from quadrille_cli.schema import lifecycle, published  # noqa: PLC0415 - what the command line's start can spare

    found, _ = published.load(lifecycle.root())
    versions = [schema for schemas in found.versions.values() for schema in schemas]
    missing = sorted({schema.name for schema in versions if registry.client.id_of(schema) is None})
    return Seen(f"without {', '.join(missing[:3])}" if missing else f"{len(versions)} versions", not missing)


@check("schema.compatibility", wants="FULL_TRANSITIVE", fix="quadrille schema apply")
def compatibility(registry: SchemaRegistry) -> Seen:
    """The registry itself refuses what old or new readers could not read."""
    from quadrille_cli.schema import lifecycle  # noqa: PLC0415 - as above

    _, config = registry.client.ask("GET", "/config")
    level = str((config or {}).get("compatibilityLevel", "none"))
    return Seen(level, level == lifecycle.LEVEL)


# this machine -------------------------------------------------------------------------------------------------------


@check("host.disk-free", wants=f"{ROOM_MB} MB", fix="free some space; or on another disk: quadrille up --data DIR")
def disk_free(machine: Machine) -> Seen:
    """A full disk stops intake, then Postgres."""
    free = machine.free(machine.data) // MEGABYTE
    return Seen(f"{free:,} MB", free >= ROOM_MB)


@check("host.open-files", wants=f"{FILES:,} or more", fix="ulimit -n 4096, or LimitNOFILE= of the unit")
def open_files(machine: Machine) -> Seen:
    """Each port takes a share of them."""
    return Seen(f"{machine.files:,}", machine.files >= FILES)


@check("host.time-zones", wants="a database of them", fix="apt-get install tzdata")
def time_zones(machine: Machine) -> Seen:
    """Times are told in the operator's own."""
    name = machine.environment.get("TZ", "").lstrip(":") or "UTC"
    if name.startswith("/"):
        return Seen(name, Path(name).exists())
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError):
        return Seen(f"{name} is unknown", good=False)
    return Seen(name, good=True)


@check("host.data-private", wants="read by its owner alone", fix="chmod 600 DATA/password")
def data_private(machine: Machine) -> Seen:
    """Whoever reads the password is owner of every database."""
    secret = machine.data / "password"
    if not secret.exists():
        return Seen("no password is kept here", good=True)
    mode = stat.S_IMODE(secret.stat().st_mode)
    return Seen(f"{mode:o}", not mode & 0o077)


@check(
    "host.data-whole", wants="state.json, as `up` wrote it", fix="what runs is found by its mark: quadrille up --detach"
)
def data_whole(machine: Machine) -> Seen:
    """Without it no other command knows what runs."""
    from quadrille_cli.stack import state  # noqa: PLC0415 - what the command line's start can spare

    there = state.load(machine.data)
    return Seen("there" if there and there.ports else "missing or cut short", bool(there and there.ports))


@check("settings.names", wants="names that are known", fix="rename it, or unset it: docs/settings.md lists them")
def setting_names(machine: Machine) -> Seen:
    """A slip of a name is a setting that nobody hears."""
    names = {name.removeprefix("QUADRILLE_") for name in machine.environment if name.startswith("QUADRILLE_")}
    strange = sorted(names - machine.known)
    return Seen(", ".join(strange) or "all known", not strange)


# what we are made of ------------------------------------------------------------------------------------------------


@check("client.python", wants="3.11 or newer", fix="make PYTHON=python3.12 setup", fatal=True)
def python_version(machine: Machine) -> Seen:
    """Older ones lack what the sources use."""
    found = machine.versions("python")
    return Seen(found, numbers(found) >= (3, 11))


@check(
    "client.mail-headers",
    wants="3.11.10 or newer: before it an encoded subject may bring a header along",
    fix="a newer Python",
)
def mail_headers(machine: Machine) -> Seen:
    """Our own sanitiser stands before it all the same (notification.gateway)."""
    found = machine.versions("python")
    return Seen(found, tuple(int(part) for part in found.split(".")[:3] if part.isdecimal()) >= (3, 11, 10))


PARTS: Mapping[str, type] = {
    "postgres": Database, "access": Database, "kafka": Broker, "schema": SchemaRegistry, "host": Machine,
    "settings": Machine, "client": Machine,
}  # fmt: skip


def looks_at(name: str) -> type:
    """Return what a check of this name looks at."""
    return Machine if name in OF_PROCESS else PARTS[name.partition(".")[0]]


class Told(NamedTuple):
    """What came of a check: of which part, what was read; ``good`` is None where it could not look."""

    check: Requirement
    part: str
    read: str
    good: bool | None


def examine(part: str, it: object) -> Iterator[Told]:
    """Hold one thing against every check of its kind; what cannot be looked at is told, with why."""
    for one in CHECKS.values():
        if isinstance(it, looks_at(one.name)):
            try:
                read, good = one.look(it)
            except Exception as failed:  # noqa: BLE001 - whatever a sick part makes a client raise is what is told
                lines = str(failed).strip().splitlines() or [type(failed).__name__]
                yield Told(one, part, f"could not look: {lines[0]}", None)
            else:
                yield Told(one, part, read, good)
