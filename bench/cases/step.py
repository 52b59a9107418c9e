"""A consume–commit step: order.placed handled, stock held and said so, by our worker and by two frameworks.

The handler's effects and the tables are the same: inbox, levels, holds and outbox of inventory's own database.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import fastavro
import psycopg
from confluent_kafka import Producer

from bench import environment
from bench.floors.statements import Committing
from bench.meters import Meter
from bench.model import CannotMeasureError, Contestant, Ratio, Run, Size
from quadrille.avro.registry import Registry
from quadrille.ids import uuid7
from quadrille.kafka.config import producer_settings
from quadrille_cli.stack import Stack, services
from quadrille_cli.stack.ports import scattered
from quadrille_cli.stack.processes import Process
from quadrille_cli.stack.stack import environment as settings_of
from quadrille_cli.stack.stack import migrate

BATCH = 100
FLOOR = f"floor: pgbench, batches of {BATCH}"
SERVICE, PARTS = "inventory", {"kafka", "registry", "topics", "schemas", "postgres:inventory"}
ORDERS = 100_000
PEERS_SHARE = 0.02
"""A peer is given so much of what we are, for it takes so much longer; figures are a row's."""
STALLED_SECONDS = 60.0
PLACED = "quadrille.order.OrderPlaced"
COUNT = "SELECT count(*) FROM outbox WHERE type = 'stock.reserved' AND occurred_at > %s"
COMMITTED = """
SELECT count(DISTINCT aggregateid), count(*), extract(epoch FROM min(pg_xact_commit_timestamp(xmin)))::float8,
       extract(epoch FROM max(pg_xact_commit_timestamp(xmin)))::float8
  FROM outbox WHERE type = 'stock.reserved' AND occurred_at > %s"""
SHELF = """
INSERT INTO level (sku, available, held, committed, received, sealed, version)
VALUES ('SKU-TEA', 1000000000, 0, 0, 1000000000, false, 1) ON CONFLICT DO NOTHING"""
HELD = "SELECT held, (SELECT count(*) FROM hold), (SELECT count(*) FROM inbox) FROM level WHERE sku = 'SKU-TEA'"


@dataclass(slots=True)
class Stepping:
    """One consumer on a stack of its own, which runs while it is measured; ``module`` is a peer's, ours has none."""

    name: str
    stack: Stack
    rows: int
    module: str = ""
    total: int = 0

    def run(self) -> Run:
        """Fill the topic, let the consumer empty it, and look at what it has committed."""
        with self.stack, psycopg.connect(self.stack.database_url(SERVICE, "postgres"), autocommit=True) as db:
            if not self.total:
                migrate(self.stack, SERVICE)
                db.execute("SELECT ensure_partitions(1, 1)")
                db.execute(SHELF)
            since = db.execute("SELECT clock_timestamp()").fetchone() or ()
            place_orders(self.stack, self.rows)
            self.total += self.rows
            groups = {
                "broker": [self.stack.process("kafka").pid or 0],
                "postgres": [self.stack.process(f"postgres:{SERVICE}").pid or 0],
            }
            with self._consumer() as pid, Meter(groups | {"consumer": [pid]}, families=True) as meter:
                found = self._drained(db, since)
            return self._judged(db, found, meter)

    def _judged(self, db: psycopg.Connection, found: tuple[int, int, float, float], meter: Meter) -> Run:
        orders, rows, first, last = found
        figures = {
            f"{n}_us": meter.between(n, first, last) / self.rows * 1e6 for n in ("consumer", "postgres", "broker")
        }
        figures["all_us"] = figures["consumer_us"] + figures["postgres_us"]
        figures["rows_per_s"] = rows / max(last - first, 1e-3)
        wrong = [] if orders == rows == self.rows else [f"{orders} orders and {rows} rows of {self.rows}"]
        if (books := db.execute(HELD).fetchone()) != (self.total,) * 3:
            wrong.append(f"units held, holds and inbox are {books}, not {self.total}")
        return Run(self.name, figures, wrong)

    def _drained(self, db: psycopg.Connection, since: Sequence[object]) -> tuple[int, int, float, float]:
        last, moved = 0, time.monotonic()
        while last < self.rows and time.monotonic() - moved < STALLED_SECONDS:
            time.sleep(0.25)
            count = int((db.execute(COUNT, since).fetchone() or (0,))[0])
            if count > last:
                last, moved = count, time.monotonic()
        row = db.execute(COMMITTED, since).fetchone() or (0, 0, None, None)
        return row[0], row[1], row[2] or 0.0, row[3] or 0.0

    @contextmanager
    def _consumer(self) -> Iterator[int]:
        if not self.module:
            process = _worker(self.stack)
            process.start()
            try:
                yield process.pid or 0
            finally:
                process.stop(10)
            return
        env = {
            "PATH": os.environ["PATH"],
            "KAFKA_BOOTSTRAP": self.stack.kafka_bootstrap,
            "REGISTRY_URL": self.stack.registry_url,
            "DATABASE_URL": self.stack.database_url(SERVICE, "app"),
        }
        command: list[str | Path] = [environment.python(), "-m", self.module]
        with (
            (self.stack.logs / "peer.log").open("ab") as log,
            subprocess.Popen(command, env=env, cwd=environment.ROOT, stdout=log, stderr=log) as peer,
        ):
            yield peer.pid
            peer.terminate()


def _worker(stack: Stack) -> Process:
    """Return our worker, on ports found now."""
    found = scattered([SERVICE, f"{SERVICE}-worker"])
    return services.role(SERVICE, "worker", settings_of(stack, SERVICE, "worker"), stack.logs, stack.ports | found)


def place_orders(stack: Stack, count: int) -> None:
    """Publish order.placed as order's relay would: ids, ten headers, Avro under the registry's id."""
    _, answer = Registry(stack.registry_url).ask("GET", f"/subjects/{PLACED}/versions/latest")
    schema = fastavro.parse_schema(json.loads(answer["schema"]))
    head = b"\0" + int(answer["id"]).to_bytes(4)
    line = {"sku": "SKU-TEA", "quantity": 1, "unit_price_minor": 1250}
    producer = Producer(producer_settings(stack.kafka_bootstrap) | {"queue.buffering.max.messages": count + 1})
    for _ in range(count):
        order, event = str(uuid7()), str(uuid7()).encode()
        value = io.BytesIO(head)
        value.seek(len(head))
        document = {
            "order_id": order, "customer_id": "cust_demo", "lines": [line], "amount_minor": 1250, "currency": "EUR",
            "payment_token": "tok_ok", "deadline_at": int((time.time() + 900) * 1000),
        }  # fmt: skip
        fastavro.schemaless_writer(value, schema, document)
        producer.produce("order.events", value.getvalue(), order, headers=_headers(event))
    if producer.flush(60):
        message = "the orders of the step were not taken by Kafka"
        raise TimeoutError(message)


def _headers(event: bytes) -> list[tuple[str, str | bytes | None]]:
    return [
        ("id", event),
        ("ce_id", event),
        ("ce_specversion", b"1.0"),
        ("ce_source", b"quadrille/order"),
        ("ce_type", b"order.placed"),
        ("ce_time", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()).encode()),
        ("ce_causationid", event),
        ("ce_sequence", b"1"),
        ("content-type", b"application/vnd.confluent.avro"),
        ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),
    ]


class Step:
    """One hop of the saga, a backlog of it."""

    name, warm = "step", True
    question = "How many inputs a second does one consumer handle and commit, and what does one cost?"

    def __init__(self) -> None:
        self.units = {
            "rows_per_s": "inputs/s",
            "consumer_us": "consumer CPU, µs an input",
            "postgres_us": "Postgres CPU, µs",
            "all_us": "both, µs",
            "broker_us": "broker CPU, µs",
        }
        self.ratios = [
            Ratio("inputs/s ÷ aiokafka's", "rows_per_s", "ours", "aiokafka", more=True),
            Ratio("inputs/s ÷ FastStream's", "rows_per_s", "ours", "faststream", more=True),
            Ratio("CPU an input ÷ aiokafka's", "consumer_us", "ours", "aiokafka", more=False),
            Ratio("CPU an input ÷ FastStream's", "consumer_us", "ours", "faststream", more=False),
            Ratio("Postgres' CPU ÷ aiokafka's", "postgres_us", "ours", "aiokafka", more=False),
            Ratio("CPU of both ÷ pgbench of the chassis' statements", "all_us", "ours", FLOOR, more=False, must=3.0),
        ]

    @contextmanager
    def contestants(self, size: Size, absent: dict[str, str]) -> Iterator[Sequence[Contestant]]:
        """Have a stack each; only the one that is measured runs."""
        rows = max(1000, int(ORDERS * min(1.0, 2 * size.share)))
        with ExitStack() as opened:
            ours = Stepping("ours", opened.enter_context(_stack()), rows)
            found: list[Contestant] = [ours]
            try:
                environment.python()
            except CannotMeasureError as reason:
                absent |= dict.fromkeys(("aiokafka", "faststream"), str(reason))
            else:
                found += [
                    Stepping(name, opened.enter_context(_stack()), max(200, int(rows * PEERS_SHARE)), module)
                    for name, module in (
                        ("aiokafka", "bench.peers.step_aiokafka"),
                        ("faststream", "bench.peers.step_faststream"),
                    )
                ]
            # a stack of their own: what they commit is in the books of nobody
            floor = opened.enter_context(_stack({f"postgres:{SERVICE}"}))
            with floor, psycopg.connect(floor.database_url(SERVICE, "postgres"), autocommit=True) as db:
                migrate(floor, SERVICE)
                db.execute("SELECT ensure_partitions(1, 1)")
            yield [*found, *(Committing(floor, SERVICE, n) for n in (1, BATCH))]


@contextmanager
def _stack(parts: AbstractSet[str] = PARTS) -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="quadrille-bench-step-") as home:
        Path(home).chmod(0o711)
        stack = Stack(home, parts=set(parts), scattered=True)
        try:
            yield stack
        finally:
            stack.wipe()
