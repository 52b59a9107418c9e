"""Floors of a relay: the server's own client to nowhere, and a producer that has every record in memory already."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from confluent_kafka import Producer

from bench import outbox
from bench.meters import Meter
from bench.model import Run
from bench.parts import SERVICE, TOPIC
from quadrille.kafka.config import producer_settings
from quadrille_cli.stack.servers import postgres

if TYPE_CHECKING:
    from bench.cases.relay_drain import Bench

SLOT = "bench_floor"
QUEUE = 10_000


class Receiving:
    """`pg_recvlogical` over the backlog to /dev/null: what decoding and the protocol cost without anybody's work."""

    name = "floor: pg_recvlogical to null"

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def run(self) -> Run:
        """Receive all that lies in the log now."""
        bench = self._bench
        outbox.copy_slot(bench.session, SLOT)
        end = bench.session.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone() or ("",)
        dsn = bench.stack.database_url(SERVICE, "postgres")
        command: list[str | Path] = [
            postgres.binaries() / "bin" / "pg_recvlogical",
            "-d",
            dsn,
            "--slot",
            SLOT,
            "--start",
            "--no-loop",
        ]
        command += ["-f", "/dev/null", "--endpos", end[0], "-o", "proto_version=1", "-o", "publication_names=outbox"]
        began = time.time()
        with (
            subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process,
            Meter({"relay": [process.pid]}) as meter,
        ):
            _, said = process.communicate()
        ended = time.time()
        outbox.drop_slot(bench.session, SLOT)
        wrong = [f"pg_recvlogical ended with {process.returncode}: {said[-200:]}"] if process.returncode else []
        rows = bench.backlog.rows
        figures = {"rows_per_s": rows / (ended - began), "relay_us": meter.between("relay", began, ended) / rows * 1e6}
        return Run(self.name, figures, wrong)


class Producing:
    """librdkafka under Python with a relay's settings, every record in memory: what sending alone costs."""

    name = "floor: librdkafka from memory"

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def run(self) -> Run:
        """Send as many records as the backlog has rows, with ten headers and 304 bytes."""
        bench, rows = self._bench, self._bench.backlog.rows
        settings = producer_settings(bench.stack.kafka_bootstrap) | {"queue.buffering.max.messages": QUEUE}
        before, producer = bench.ends(), Producer(settings)
        headers, value = _headers(), bytes(304)
        broker = bench.stack.process("kafka").pid or 0
        with Meter({"broker": [broker]}) as meter:
            spent = time.process_time()
            for number in range(rows):
                key = outbox.key_of(number)
                while len(producer) >= QUEUE - 1:
                    producer.poll(0.01)
                sequence = b"%d" % (number // outbox.KEYS + 1)
                producer.produce(TOPIC, value, key, headers=[*headers, ("ce_sequence", sequence)])
            producer.flush()
            spent = time.process_time() - spent
        seen = bench.reader.judge(before, bench.ends(), rows)
        took = max(seen.last - seen.first, 1e-3)
        figures = {
            "rows_per_s": rows / took,
            "relay_us": spent / rows * 1e6,
            "broker_us": meter.between("broker", seen.first, seen.last) / rows * 1e6,
        }
        return Run(self.name, figures, seen.wrong)


def _headers() -> list[tuple[str, str | bytes | None]]:
    event = b"01a22ccb-9d50-7202-b864-cfe6ea1b1040"
    return [
        ("id", event),
        ("ce_id", event),
        ("ce_specversion", b"1.0"),
        ("ce_source", b"quadrille/inventory"),
        ("ce_type", b"stock.reserved"),
        ("ce_time", b"2026-11-30T14:11:11.312Z"),
        ("ce_causationid", event),
        ("content-type", b"application/vnd.confluent.avro"),
        ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),
    ]
