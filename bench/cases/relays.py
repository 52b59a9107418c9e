"""Relays that can be measured: ours as the service's own program, Debezium's engine with its outbox router."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from bench import environment, outbox
from bench.model import CannotMeasureError
from bench.parts import SERVICE
from quadrille_cli.stack import Stack, ports, shell
from quadrille_cli.stack.servers import jvm

SLOT = f"quadrille_{SERVICE}"
READY_SECONDS = 180.0
ENGINE = Path(__file__).parents[1] / "peers" / "debezium"
HEAP = ("-Xms256m", "-Xmx2g")
"""Kafka Connect's own default."""


def until(there: Callable[[], object], what: str, seconds: float = READY_SECONDS) -> None:
    """Wait for something that is to become true; raises TimeoutError that names it."""
    end = time.monotonic() + seconds
    while not there():
        if time.monotonic() > end:
            message = f"{what} not within {seconds:.0f} s"
            raise TimeoutError(message)
        time.sleep(0.01)


UNGATHERED = {"RELAY_LINGER": "0s"}


class Ours:
    """Our relay: `inventory relay`, a process a run; its stored position is set back to the backlog's beginning."""

    slot = SLOT

    def __init__(
        self, stack: Stack, session: psycopg.Connection, settings: Mapping[str, str] | None = None, name: str = "ours"
    ) -> None:
        self.name = name
        self._session, self._log = session, stack.logs / "bench-relay.log"
        named = {
            "DATABASE_URL": stack.database_url(SERVICE, "relay"),
            "KAFKA_BOOTSTRAP": stack.kafka_bootstrap,
            "REGISTRY_URL": "http://127.0.0.1:9",  # the relay asks none
            "SCHEMA_CACHE": str(stack.data / "schemas"),
            "OPS_BIND": f"127.0.0.1:{ports.scattered(['ops'])['ops']}",
        } | dict(settings or {})
        self._env = shell.program() | {f"QUADRILLE_{name}": value for name, value in named.items()}

    def first_start(self) -> None:
        """Let the relay make its slot and store its first position: a backlog comes after that."""
        with self._process():
            until(self._positioned, "the relay's first position")

    def _positioned(self) -> bool:
        found = self._session.execute("SELECT count(*) FROM relay_progress").fetchone()
        return found == (1,) and outbox.walsender(self._session, SLOT) is not None

    @contextmanager
    def running(self) -> Iterator[int]:
        """Run over the backlog from its beginning; the process's id."""
        outbox.copy_slot(self._session, SLOT)
        self._session.execute(
            "UPDATE relay_progress SET commit_lsn = (SELECT confirmed_flush_lsn FROM pg_replication_slots"
            " WHERE slot_name = %s)",
            [SLOT],
        )
        with self._process() as pid:
            yield pid
        outbox.drop_slot(self._session, SLOT)

    @contextmanager
    def _process(self) -> Iterator[int]:
        command = [sys.executable, "-I", "-X", "utf8", "-m", SERVICE, "relay"]
        with (
            self._log.open("ab") as log,
            subprocess.Popen(command, env=self._env, stdout=log, stderr=log) as process,
        ):
            try:
                yield process.pid
            finally:
                process.terminate()

    def close(self) -> None:
        """End nothing: a run ends its own."""


ENGINE_SETTINGS = {
    "name": "outbox",
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "offset.storage": "org.apache.kafka.connect.storage.MemoryOffsetBackingStore",
    "topic.prefix": "bench",
    "plugin.name": "pgoutput",
    "publication.name": "outbox",
    "publication.autocreate.mode": "disabled",
    "snapshot.mode": "no_data",
    "table.include.list": "public.outbox",
    "tombstones.on.delete": "false",
    "extended.headers.enabled": "false",
    "binary.handling.mode": "bytes",
    "transforms": "outbox",
    "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
    "transforms.outbox.route.topic.replacement": "${routedByValue}",
    "transforms.outbox.table.expand.json.payload": "false",
    "transforms.outbox.table.fields.additional.placement": (
        "id:header:ce_id,type:header:ce_type,occurred_at:header:ce_time,causationid:header:ce_causationid,"
        "sequence:header:ce_sequence,traceparent:header:traceparent"
    ),
}
TUNED = {"poll.interval.ms": "1", "max.batch.size": "8192", "max.queue.size": "32768"}
PRODUCER = {"acks": "all", "enable.idempotence": "true"}
TUNED_PRODUCER = {"linger.ms": "1", "batch.size": "131072"}


class Debezium:
    """Debezium's engine in one warm JVM; every run is a new engine over a slot of its own."""

    def __init__(self, stack: Stack, session: psycopg.Connection, *, tuned: bool) -> None:
        self.name, self.slot = ("debezium tuned", "bench_tuned") if tuned else ("debezium", "bench_default")
        self._session = session
        at = urlsplit(stack.database_url(SERVICE, "postgres"))
        database = {
            "database.hostname": str(at.hostname),
            "database.port": str(at.port),
            "database.user": str(at.username),
            "database.password": str(at.password),
            "database.dbname": at.path.strip("/"),
        }
        folder = stack.data / self.slot
        folder.mkdir()
        engine = _written(folder / "engine.properties", ENGINE_SETTINGS | database | (TUNED if tuned else {}))
        client = {"bootstrap.servers": stack.kafka_bootstrap} | PRODUCER | (TUNED_PRODUCER if tuned else {})
        path = ":".join([str(ENGINE), *map(str, environment.jars())])
        command = [jvm.binary(), *HEAP, *jvm.QUIET, "-cp", path, "OutboxEngine", engine]
        self._process = subprocess.Popen(
            [*command, _written(folder / "producer.properties", client)],
            env=jvm.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(stack.logs / f"{self.slot}.log").open("wb"),
            text=True,
        )

    @contextmanager
    def running(self) -> Iterator[int]:
        """Run an engine over the backlog from its beginning; the JVM's id."""
        outbox.copy_slot(self._session, self.slot)
        self._say(f"run {self.slot}")
        self._hear("started")
        yield self._process.pid
        self._say("stop")
        self._hear("stopped")
        outbox.drop_slot(self._session, self.slot)  # the server has four, as in production

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _hear(self, wanted: str) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if line != wanted:
            message = f"{self.name} said {line!r}, not {wanted}"
            raise RuntimeError(message)

    def close(self) -> None:
        """End the JVM."""
        self._process.terminate()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def debeziums(stack: Stack, session: psycopg.Connection, absent: dict[str, str]) -> list[Debezium]:
    """Return Debezium as it comes and tuned; who cannot run here is named in ``absent`` with the reason."""
    found: list[Debezium] = []
    for tuned in (False, True):
        try:
            found.append(Debezium(stack, session, tuned=tuned))
        except CannotMeasureError as reason:
            absent["debezium tuned" if tuned else "debezium"] = str(reason)
    return found


def _written(file: Path, settings: Mapping[str, str]) -> str:
    lines = [f"{name}={value}" for name, value in settings.items()]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    file.chmod(0o600)
    return str(file)
