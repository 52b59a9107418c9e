"""Doctor: every check passes on a sound stack and is red on a sick one; each says what it read and how to mend it.

The sick ones are real: a Postgres and a Kafka started with every setting wrong, and spoilt by hand. What belongs to the
machine (clock, disk, limits, command lines) is put in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from quadrille.db.migrations import upgrade
from quadrille.db.requirements import OF_POSTGRES, Database, clock_skew, postgres_version
from quadrille.kafka.requirements import OF_TOPICS
from quadrille.kafka.topics import unmet
from quadrille.ops.start import RefusedStartError, StartChecks, of_database, of_process, this_process
from quadrille.requirements import OF_PROCESS, Seen, ThisProcess
from quadrille.settings import Settings
from quadrille_cli.commands.doctor import examined, machine
from quadrille_cli.doctor import (
    CHECKS,
    SETTINGS,
    Broker,
    Machine,
    SchemaRegistry,
    looks_at,
    oldest_transaction,
)
from quadrille_cli.stack import Process, Stack
from quadrille_cli.stack.servers.kafka import listening
from quadrille_cli.stack.servers.postgres import binaries
from tests.conftest import PATIENCE_SECONDS
from tests.stack.conftest import quadrille

PARTS = frozenset({"postgres:inventory", "kafka", "registry"})
SETTINGS_OF_SICK = {
    "wal_level": "replica", "fsync": "off", "full_page_writes": "off", "synchronous_commit": "off",
    "max_slot_wal_keep_size": "0", "idle_replication_slot_timeout": "60", "max_replication_slots": "1",
    "max_wal_senders": "1", "max_connections": "20", "statement_timeout": "0", "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": "0", "lock_timeout": "0", "TimeZone": "America/New_York",
    "log_error_verbosity": "verbose", "log_parameter_max_length_on_error": "100", "password_encryption": "md5",
    "tcp_user_timeout": "0", "track_commit_timestamp": "off", "max_locks_per_transaction": "10",
}  # fmt: skip
BROKER_OF_SICK = {
    "auto.create.topics.enable": "true", "unclean.leader.election.enable": "true",
    "group.consumer.session.timeout.ms": "45000", "group.consumer.heartbeat.interval.ms": "10000",
    "message.max.bytes": "500000", "offsets.retention.minutes": "60",
}  # fmt: skip
LETTERS = "CREATE DATABASE letters ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
SPOILT = """
ALTER ROLE app RESET ALL;
ALTER ROLE app SUPERUSER;
ALTER ROLE relay SET wal_sender_timeout = '60s';
ALTER ROLE relay SET transaction_timeout = '30s';
ALTER ROLE relay SET idle_in_transaction_session_timeout = '30s';
DROP PUBLICATION outbox;
CREATE PUBLICATION outbox FOR TABLE outbox (id, type) WITH (publish = 'insert, update', publish_via_partition_root);
GRANT UPDATE, DELETE ON outbox, audit TO app;
GRANT INSERT ON outbox TO relay;
GRANT CREATE ON SCHEMA public TO app;
CREATE TABLE outbox_default PARTITION OF outbox DEFAULT;
INSERT INTO audit VALUES (1, now(), 'nobody', 'resolve', 'it', 'because', NULL, NULL, '\\x00', '\\x00');
SELECT pg_create_physical_replication_slot('strange', true);
DO $$ BEGIN EXECUTE format('DROP TABLE inbox_%s', to_char((now() AT TIME ZONE 'UTC')::date + 1, 'YYYYMMDD')); END $$
"""


@pytest.fixture(scope="module")
def sick(stack_home: Path) -> Iterator[Stack]:
    """A Postgres and a Kafka with every setting wrong, and a registry that knows nothing."""
    stack = Stack(stack_home / "sick", parts=PARTS, scattered=True)
    with stack:
        upgrade("inventory", stack.database_url("inventory", "owner"))
        with psycopg.connect(stack.database_url("inventory", "postgres"), autocommit=True) as db:
            for statement in SPOILT.strip().split(";\n"):
                db.execute(statement.encode())
            db.execute(LETTERS)
        _with_options(stack, "postgres:inventory", [f"--{name}={value}" for name, value in SETTINGS_OF_SICK.items()])
        with psycopg.connect(stack.database_url("inventory", "postgres"), autocommit=True) as db:
            for _ in range(4):  # what the slot needs is no longer kept
                db.execute("SELECT pg_switch_wal(), pg_logical_emit_message(true, 'more', 'log')")
                db.execute("CHECKPOINT")
        config = {"cleanup.policy": "compact", "retention.ms": "1000", "retention.bytes": "1000"}
        config["min.insync.replicas"] = "2"
        admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap})
        admin.create_topics([NewTopic("order.events", 3, 1, config=config)])["order.events"].result(60)
        _with_options(stack, "kafka", [w for one in BROKER_OF_SICK.items() for w in ("--override", "=".join(one))])
        yield stack
    stack.wipe()


def _with_options(stack: Stack, name: str, options: list[str]) -> None:
    """Start a server anew with other settings, Postgres without its checksums too."""
    usual = stack.processes[name]
    usual.stop()
    if name.startswith("postgres"):
        home = Path(usual.spec.command()[2])
        as_user = {} if usual.spec.uid is None else {"user": usual.spec.uid, "group": usual.spec.gid}
        off = [str(binaries() / "bin" / "pg_checksums"), "--disable", "-D", str(home)]
        subprocess.run(off, check=True, env=dict(usual.spec.env), capture_output=True, cwd="/", **as_user)  # type: ignore[call-overload]
    sick = Process(replace(usual.spec, command=lambda: [*usual.spec.command(), *options]))
    stack.processes[name] = sick
    sick.start()


def _database(stack: Stack, service: str = "inventory") -> Database:
    return Database(service, partial(stack.database_url, service))


def _look(stack: Stack, name: str) -> Seen:
    """What a check says of the thing it looks at, of this stack."""
    kind = looks_at(name)
    if kind is Database:
        with closing(_database(stack)) as database:
            return CHECKS[name].look(database)
    if kind is Broker:
        return CHECKS[name].look(Broker(stack.kafka_bootstrap))
    return CHECKS[name].look(SchemaRegistry(stack.registry_url) if kind is SchemaRegistry else machine(stack))


@pytest.mark.parametrize("name", CHECKS)
def test_a_sound_stack_passes(stack: Stack, name: str) -> None:
    """What runs as the repository ships it is well, by every check."""
    found = _look(stack, name)
    if name != "client.mail-headers":  # this Python may be an old one, and doctor says so
        assert found.good, f"{name}: {found.read}"


def _letters(stack: Stack) -> Seen:
    def url(role: str) -> str:
        return stack.database_url("inventory", role).rpartition("/")[0] + "/letters"

    # the sandbox's rules of access name the service's database alone: only the superuser reaches another
    with closing(Database("inventory", lambda _: url("postgres"))) as letters:
        return CHECKS["postgres.encoding"].look(letters)


def _old_transaction(stack: Stack) -> Seen:
    with psycopg.connect(stack.database_url("inventory", "owner")) as long, closing(_database(stack)) as database:
        long.execute("SELECT 1")
        long.execute("DECLARE open CURSOR FOR SELECT 1")  # it stays in its transaction, and is no longer new
        return oldest_transaction(database, timedelta())


def _machine(stack: Stack, **other: object) -> Machine:
    return replace(machine(stack), **other)  # type: ignore[arg-type]  # fields of a machine


def _open_password(stack: Stack) -> Seen:
    secret = stack.data / "password"
    secret.chmod(0o644)
    try:
        return CHECKS["host.data-private"].look(_machine(stack))
    finally:
        secret.chmod(0o600)


def _nowhere(stack: Stack) -> Database:
    del stack
    return Database("inventory", lambda role: f"postgresql://{role}:x@127.0.0.1:9/inventory")


def _with(stack: Stack, look: Callable[[Database], Seen]) -> Seen:
    with closing(_database(stack)) as database:
        return look(database)


def _old_package(name: str) -> Callable[[Stack], Seen]:
    return lambda stack: CHECKS[name].look(_machine(stack, versions=lambda _: "0.9"))


HOUR = timedelta(hours=1)
NOBODY = Path("/nonexistent")
FUTURE = datetime(2200, 1, 1, tzinfo=UTC)
SAID_OTHERWISE = ("client.python", "client.mail-headers")
OTHERWISE: dict[str, Callable[[Stack], Seen]] = {
    "postgres.reachable": lambda stack: CHECKS["postgres.reachable"].look(_nowhere(stack)),
    "postgres.version": lambda stack: _with(stack, lambda it: postgres_version(it, 990_000)),
    "postgres.encoding": _letters,
    "postgres.clock": lambda stack: _with(stack, lambda it: clock_skew(it, lambda: datetime.now(UTC) + HOUR)),
    "postgres.oldest-transaction": _old_transaction,
    "kafka.reachable": lambda _: CHECKS["kafka.reachable"].look(Broker("127.0.0.1:9")),
    "schema.registry": lambda _: CHECKS["schema.registry"].look(SchemaRegistry("http://127.0.0.1:9")),
    "host.disk-free": lambda s: CHECKS["host.disk-free"].look(_machine(s, free=lambda _: 10**8)),
    "host.open-files": lambda s: CHECKS["host.open-files"].look(_machine(s, files=256)),
    "host.clock": lambda s: CHECKS["host.clock"].look(_machine(s, now=lambda: FUTURE)),
    "host.time-zones": lambda s: CHECKS["host.time-zones"].look(_machine(s, environment={"TZ": "Middle/Earth"})),
    "host.data-private": _open_password,
    "host.data-whole": lambda s: CHECKS["host.data-whole"].look(_machine(s, data=NOBODY)),
    "access.ops-port-loopback": lambda s: CHECKS["access.ops-port-loopback"].look(_machine(s, ops={"x": "0.0.0.0:81"})),
    "access.secrets-not-in-argv": lambda s: CHECKS["access.secrets-not-in-argv"].look(
        _machine(s, commands=("worker --database-url=postgresql://app:hush@db/x",), secrets=("hush",))
    ),
    "settings.names": lambda s: CHECKS["settings.names"].look(_machine(s, environment={"QUADRILLE_BATCH_MAXX": "3"})),
    "client.python": lambda s: CHECKS["client.python"].look(_machine(s, versions=lambda _: "3.10.9")),
    "client.mail-headers": lambda s: CHECKS["client.mail-headers"].look(_machine(s, versions=lambda _: "3.11.9")),
    **{
        f"client.{name}": _old_package(f"client.{name}")
        for name in ("confluent-kafka", "psycopg", "fastavro", "pydantic")
    },
}


@pytest.mark.parametrize("name", [name for name in CHECKS if name != "postgres.not-a-replica"])
def test_a_sick_one_is_told(sick: Stack, name: str) -> None:
    """Every check is red where what it looks at is wrong, and has a way out."""
    found = OTHERWISE[name](sick) if name in OTHERWISE else _look(sick, name)
    assert not found.good, f"{name}: {found.read}"
    assert found.read
    assert CHECKS[name].fix
    assert CHECKS[name].wants


def test_a_standby_is_told(sick: Stack) -> None:
    """postgres.not-a-replica: a server in recovery is no place for a service."""
    usual = sick.processes["postgres:inventory"]
    usual.stop()
    home = Path(usual.spec.command()[2])
    (home / "standby.signal").touch()
    port = next(iter(usual.spec.ports.values()))
    standby = Process(replace(usual.spec, ready=lambda: listening(port), finish=lambda: None))
    try:
        standby.start()
        with closing(Database("inventory", lambda _: sick.database_url("inventory", "postgres"))) as database:
            found = _when_it_answers(database)
    finally:
        standby.stop()
        (home / "standby.signal").unlink()
        usual.start()
    assert found == Seen("a stand-by", good=False)


def _when_it_answers(database: Database) -> Seen:
    for _ in range(1_000):
        try:
            return CHECKS["postgres.not-a-replica"].look(database)
        except psycopg.OperationalError:  # it is still starting
            database.close()
    pytest.fail("the stand-by takes no session")


ROLE_URLS = {"api": "app", "worker": "app", "all": "app", "relay": "relay"}


@pytest.mark.parametrize("role", ROLE_URLS)
def test_a_service_on_a_sound_stack_refuses_nothing(stack: Stack, role: str) -> None:
    """Each role looks at itself and at its database, and starts."""
    assert not list(of_process(role, ThisProcess()))
    assert not list(of_database(role, stack.database_url("inventory", ROLE_URLS[role])))


@pytest.mark.parametrize("name", [*OF_PROCESS, *OF_POSTGRES])
def test_what_a_process_refuses_to_start_on(sick: Stack, name: str) -> None:
    """Each requirement that is not met is refused by the roles that have it, and by no other, with the way out."""
    requirement = {**OF_PROCESS, **OF_POSTGRES}[name]
    assert requirement is CHECKS[name]
    for role, login in ROLE_URLS.items():
        told = [*of_process(role, BROKEN), *of_database(role, sick.database_url("inventory", login))]
        mine = [one for one in told if f"({name}, " in one]
        if name in SEEN_ELSEWHERE:  # this server has them right: what looks at them is held against wrong ones above
            assert not mine
        else:
            assert bool(mine) is (role in requirement.roles), told
            assert all(f"wanted {requirement.wants}; fix: {requirement.fix}" in one for one in mine)


BROKEN = ThisProcess(
    lambda _: "0.9", lambda: FUTURE, {"OPS_BIND": "0.0.0.0:8101"},
    ("worker --database-url=postgresql://app:hush@db/x",), ("hush",),
)  # fmt: skip
SEEN_ELSEWHERE = frozenset({"postgres.version", "postgres.encoding", "postgres.clock"})


@pytest.mark.parametrize("role", ["api", "worker", "relay"])
def test_a_process_ends_at_its_start(sick: Stack, tmp_path: Path, role: str) -> None:
    """On a database that loses what it committed: exit code 2, a line for each thing: found, where, wanted, the fix."""
    env = {
        "QUADRILLE_DATABASE_URL": sick.database_url("inventory", ROLE_URLS[role]), "QUADRILLE_OPS_BIND": "127.0.0.1:0",
        "QUADRILLE_KAFKA_BOOTSTRAP": sick.kafka_bootstrap, "QUADRILLE_REGISTRY_URL": sick.registry_url,
    }  # fmt: skip
    program = [sys.executable, "-m", "inventory", role]
    done = subprocess.run(program, env=os.environ | env, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "refused to start: " in done.stderr
    assert "found fsync = off (postgres.fsync, database inventory at 127.0.0.1:" in done.stderr
    assert "wanted on: a commit is on the disk; fix: deploy/postgres/postgresql.conf" in done.stderr
    assert sick.password not in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--ops-bind=0.0.0.0:8101"], "OPS_BIND on 0.0.0.0:8101 (access.ops-port-loopback, this process)"),
        (["--database-url=postgresql://app:hush@db/x"], "1 command lines with one (access.secrets-not-in-argv"),
    ],
)
def test_a_process_refuses_what_it_was_started_with(words: list[str], told: str) -> None:
    """An ops port for everybody without a key, a secret that everybody reads: refused before anything is reached."""
    common = {"QUADRILLE_DATABASE_URL": "postgresql://x", "QUADRILLE_KAFKA_BOOTSTRAP": "x"}
    env = os.environ | common | {"QUADRILLE_REGISTRY_URL": "http://127.0.0.1:9"}
    program = [sys.executable, "-m", "inventory", "worker", *words]
    done = subprocess.run(program, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr
    assert "hush" not in done.stderr


def test_a_key_or_a_wall_lets_an_ops_port_be_wide() -> None:
    """Where keys are wanted, or a container's port is published on loopback alone, it may listen for all."""
    for auth in ("keys", "off-published-on-loopback"):
        given = {"database_url": "x", "kafka_bootstrap": "x", "registry_url": "http://x", "auth": auth}
        told = Settings.model_validate({**given, "ops_bind": "0.0.0.0:8101"})
        assert not [one for one in of_process("api", this_process(told, ())) if "access." in one], auth


def test_a_database_that_was_away_is_looked_at_when_it_comes(sick: Stack) -> None:
    """The start waits for nobody; what is wrong with who comes later ends the process all the same."""
    server, stop = sick.processes["postgres:inventory"], threading.Event()
    checks = StartChecks("worker", sick.database_url("inventory", "app"), stop)
    server.stop()
    try:
        checks.begin()
        assert not stop.is_set()
        checks.verdict()
    finally:
        server.start()
    assert stop.wait(PATIENCE_SECONDS)
    with pytest.raises(RefusedStartError, match="fsync = off"):
        checks.verdict()


def test_topics_of_a_sick_broker_are_refused(stack: Stack, sick: Stack) -> None:
    """What a role cannot rely on is told of each topic; a sound broker's are taken."""
    assert unmet(AdminClient({"bootstrap.servers": stack.kafka_bootstrap}), ["order.events"], "worker", 60) is None
    for role in ("worker", "relay"):
        told = unmet(AdminClient({"bootstrap.servers": sick.kafka_bootstrap}), ["order.events"], role, 60)
        assert {name for name in OF_TOPICS if f"({name}, topic order.events)" in str(told)} == {
            name for name, rule in OF_TOPICS.items() if role in rule.roles
        }


def test_there_are_forty_and_each_is_one() -> None:
    """Every check has a name of its own, says what it wants and how to mend it; settings are checked once."""
    assert len(CHECKS) >= 40
    assert all(one.wants and one.fix and one.name == name for name, one in CHECKS.items())
    assert len({(one.setting, one.role) for one in SETTINGS}) == len(SETTINGS)
    assert {one.name.partition(".")[0] for one in CHECKS.values()} == {
        *("postgres", "access", "kafka", "schema", "host", "settings", "client")
    }


def test_the_command_says_all_is_well(stack: Stack) -> None:
    """`quadrille doctor` on a sound stack says so; --all tells each check, --only picks, -o json tells everything."""
    data = ("--data", str(stack.data))
    found = list(examined(stack))
    wrong = {one.check.name for one in found if not one.good} - {"client.mail-headers"}
    assert not wrong, [one for one in found if one.check.name in wrong]
    code, printed = quadrille("doctor", "--only", "postgres", "--only", "kafka.topics", *data)
    assert code == 0, printed
    assert "all well" in printed.splitlines()[-1]
    code, printed = quadrille("doctor", "--only", "kafka", "--all", *data)
    assert printed.count("ok     kafka.") == sum(name.startswith("kafka.") for name in CHECKS)
    assert max(map(len, printed.splitlines())) <= 80
    code, printed = quadrille("doctor", "--only", "schema.registry", "-o", "json", *data)
    assert [one["good"] for one in json.loads(printed)] == [True]
    code, printed = quadrille("doctor", "--only", "astrology", *data)
    assert code == 2
    assert "astrology is no check" in printed


def test_the_command_names_what_is_wrong_and_the_way_out(stack: Stack) -> None:
    """A foreign slot on a real database: exit code 1, what was read, what is wanted, the fix."""
    with psycopg.connect(stack.database_url("notification", "postgres"), autocommit=True) as db:
        db.execute("SELECT pg_create_physical_replication_slot('strange')")
        try:
            code, printed = quadrille("doctor", "--only", "postgres.foreign-slot", "--data", str(stack.data))
        finally:
            db.execute("SELECT pg_drop_replication_slot('strange')")
    assert code == 1
    assert "wrong  postgres.foreign-slot" in printed
    assert "read: strange" in printed
    assert "pg_drop_replication_slot" in printed
    assert "1 wrong" in printed
