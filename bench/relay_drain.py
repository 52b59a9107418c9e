"""How fast and how dear the relay is: a backlog drained, and commit to acknowledgement at a steady rate.

On its own stack: ``python bench/relay_drain.py [--rows 100000] [--rates 100,1000] [--seconds 10]``.
Rows carry 300 bytes and all ten headers; the outbox is the services' own; Kafka and PostgreSQL are the real ones.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined] # its stubs do not re-export

from quadrille.db import schema
from quadrille.kafka.config import client_settings
from quadrille.kafka.headers import POSTGRES_EPOCH
from quadrille.relay import publisher
from quadrille.relay.relay import Relay, RelayConfig, topics_of
from quadrille.relay.target import PARTITIONS
from quadrille_cli.stack import Stack

SERVICE = "inventory"
PAYLOAD = 300
PER_COMMIT = 100
WRITERS = 4
FILL = """
INSERT INTO outbox (id, aggregatetype, aggregateid, type, sequence, payload, causationid, traceparent, parent_span)
SELECT uuidv7(), 'inventory.events', uuidv7()::text, 'stock.reserved', 1, %b, uuidv7(),
       '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00', '\\x0102030405060708' FROM generate_series(1, %b)"""


class Op:
    """Alembic's ``op``, as far as the chassis' tables need it."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def execute(self, sqltext: str) -> None:
        """Run DDL."""
        self._connection.execute(sqltext.encode())


def prepare(stack: Stack) -> RelayConfig:
    with psycopg.connect(stack.database_url(SERVICE, "owner")) as owner:
        for version in schema.VERSIONS:
            schema.upgrade(Op(owner), version)
    admin = AdminClient(client_settings(stack.kafka_bootstrap))
    for made in admin.create_topics([NewTopic(t, PARTITIONS, 1) for t in topics_of(SERVICE)]).values():
        made.result()
    return RelayConfig(SERVICE, stack.database_url(SERVICE, "relay"), stack.kafka_bootstrap, topics_of(SERVICE))


@contextmanager
def running(plan: RelayConfig) -> Iterator[Relay]:
    relay, stop = Relay(plan), threading.Event()
    thread = threading.Thread(target=relay.run, args=(stop,))
    thread.start()
    try:
        yield relay
    finally:
        stop.set()
        thread.join()


def until(there: threading.Event, seconds: float = 300.0) -> None:
    if not there.wait(seconds):
        message = f"not there after {seconds} s"
        raise TimeoutError(message)


Seen = list[tuple[publisher.Transaction, float]]


@contextmanager
def reports(wanted: int) -> Iterator[tuple[threading.Event, Seen]]:
    """Watch delivery reports where the relay counts them: an event at the last one, and when each came."""
    seen, done, report = Seen(), threading.Event(), publisher.Transaction.reported

    def watched(self: publisher.Transaction, error: object, message: object) -> None:
        report(self, error, message)  # type: ignore[arg-type] # passed through
        seen.append((self, time.time()))
        if len(seen) == wanted:
            done.set()

    publisher.Transaction.reported = watched  # type: ignore[method-assign]
    yield done, seen
    publisher.Transaction.reported = report  # type: ignore[method-assign]


def drain(plan: RelayConfig, app: psycopg.Connection, rows: int) -> dict[str, float]:
    """Fill while no relay runs; then rows/s from the first to the last report, and this process' CPU per row."""
    for _ in range(rows // PER_COMMIT):
        app.execute(FILL, [os.urandom(PAYLOAD), PER_COMMIT])
    with reports(rows) as (done, seen):
        cpu = time.process_time()
        with running(plan):
            until(done)
            spent = time.process_time() - cpu
    took = seen[-1][1] - seen[0][1]
    return {"rows_per_s": round(rows / took), "cpu_us_per_row": round(spent / rows * 1e6, 1)}


def steady(plan: RelayConfig, stack: Stack, rate: int, seconds: int) -> dict[str, float]:
    """One row a commit on an open-loop clock; milliseconds from the commit record's time to the delivery report."""
    rows, dsn = rate * seconds, stack.database_url(SERVICE, "app")
    broker = psutil.Process(stack.process("kafka").pid)
    with running(plan) as relay:
        while relay.state != "streaming":
            time.sleep(0.01)
        for _ in range(2):  # the first run warms broker, producer and caches up and is thrown away
            with reports(rows) as (done, seen):
                cpu, broker_cpu = time.process_time(), _cpu(broker)
                writers = [
                    subprocess.Popen(  # noqa: S603 - ourselves
                        [sys.executable, __file__, "--write", str(rate // WRITERS), "--seconds", str(seconds)],
                        env={**os.environ, "DSN": dsn},
                    )
                    for _ in range(WRITERS)
                ]
                until(done)
                spent = time.process_time() - cpu
                for writer in writers:
                    writer.wait()
    took, broker_spent = seen[-1][1] - seen[0][1], _cpu(broker) - broker_cpu
    waits = sorted((at - t.end.committed_at / 1e6 - POSTGRES_EPOCH) * 1000 for t, at in seen if t.end)
    return {
        "rate": round(rows / took),
        "ack_ms_p50": round(statistics.median(waits), 2),
        "ack_ms_p99": round(waits[int(len(waits) * 0.99)], 2),
        "cpu_us_per_row": round(spent / rows * 1e6, 1),
        "broker_cpu_us_per_row": round(broker_spent / rows * 1e6, 1),
    }


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def write(rate: int, seconds: int) -> None:
    """Be one of the writers."""
    with psycopg.connect(os.environ["DSN"], autocommit=True) as app:
        began = time.monotonic()
        for n in range(rate * seconds):
            time.sleep(max(0.0, began + n / rate - time.monotonic()))
            app.execute(FILL, [bytes(PAYLOAD), 1])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=100_000)
    arguments.add_argument("--rates", default="100,1000")
    arguments.add_argument("--seconds", type=int, default=10)
    arguments.add_argument("--write", type=int, help="be a writer at this rate (used by the script itself)")
    arguments.add_argument("--repeats", type=int, default=3)
    asked = arguments.parse_args()
    if asked.write:
        write(asked.write, asked.seconds)
        return
    print(json.dumps({"python": platform.python_version(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}))
    home = Path(tempfile.mkdtemp(prefix="quadrille-bench-"))
    home.chmod(0o711)
    stack = Stack(home, parts={"kafka", f"postgres:{SERVICE}"}, scattered=True)
    with stack, psycopg.connect(stack.database_url(SERVICE, "app"), autocommit=True) as app:
        plan = prepare(stack)
        with running(plan) as relay:
            while relay.state != "streaming":
                time.sleep(0.01)
        for _ in range(asked.repeats):
            print(json.dumps({"case": "drain", "rows": asked.rows, **drain(plan, app, asked.rows)}))
        for rate in map(int, asked.rates.split(",")):
            print(json.dumps({"case": "steady", **steady(plan, stack, rate, asked.seconds)}))
        print(json.dumps({"rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))
    stack.wipe()


if __name__ == "__main__":
    main()
