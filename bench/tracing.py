"""What tracing costs a worker at saturation: the same batches untraced and with every trace kept, in pairs.

With ``--lines``: what a log line for each input costs, of batches that are untraced (the setting ``log_events``).

On its own Postgres: ``python bench/tracing.py [--pairs 15] [--batches 40] [--size 100]``. Inventory reads orders from
the bytes of their records and commits them; a receiver in a process of its own takes the spans. In every round both are
measured in turn, so that their ratio bears a machine whose speed varies. ``own`` is this process's CPU, the exporter's
thread included; ``both`` is its and the database's, which is what bounds a machine that is saturated; ``wall`` is the
wall's, as good as the machine is quiet.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg

from inventory import store
from inventory.events import OrderPlaced, SetStock
from inventory.handlers import on
from order.events import Line
from order.events import OrderPlaced as Said
from quadrille.avro.codec import Codec
from quadrille.avro.registry import numbered
from quadrille.avro.schemas import emitted_by
from quadrille.consumer.deserializer import RecordDeserializer
from quadrille.ids import uuid7
from quadrille.observability import tracing
from quadrille.observability.logs import Sink, event_lines, release
from quadrille.observability.metrics import SPANS_DROPPED, SPANS_SENT
from quadrille.observability.trace_context import new_trace
from quadrille.observability.tracing import Spans
from quadrille.processing.batch import process_batch
from quadrille.processing.envelope import Handled, OffsetRange, Record
from quadrille.processing.telemetry import Telemetry
from quadrille.testing.postgres import Logins, OnPostgres
from quadrille_cli.stack import Stack

CLOCKS = ("own", "both", "wall")
TOPIC = "order.events"
RECEIVER = """
import http.server, sys
class Taker(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Taker)
print(server.server_port, flush=True)
server.serve_forever()
"""
"""What takes spans and looks at none of them."""


class Bench:
    """Inventory over its database, with records of orders that nobody has read yet."""

    def __init__(self, stack: Stack, home: Path) -> None:
        schemas = *emitted_by("order"), *emitted_by("inventory"), *emitted_by("chassis")
        ids = numbered(home / "ids", schemas)
        self.said, self.offsets = Codec(emitted_by("order"), ids), itertools.count()
        self.reader = RecordDeserializer({OrderPlaced.type: OrderPlaced}, Codec((), ids))
        logins = Logins(stack.database_url("inventory", "owner"), stack.database_url("inventory", "app"))
        self.inventory = OnPostgres(on, store, logins, home / "own")
        self.inventory.given(SetStock("SKU-TEA", 10**9), SetStock("SKU-CUP", 10**9))
        (backend,) = self.inventory.tx.execute("SELECT pg_backend_pid()").fetchone() or (0,)
        self.database = psutil.Process(backend)
        with psycopg.connect(stack.database_url("inventory", "postgres")) as owner:
            owner.execute("INSERT INTO position VALUES (%s, 0, 0)", [TOPIC])

    def records(self, count: int) -> list[tuple[Record, bytes]]:
        """Write records as a relay ships them."""
        return [self._record() for _ in range(count)]

    def _record(self) -> tuple[Record, bytes]:
        key, lines, now = str(uuid7()), (Line("SKU-TEA", 2, 1250), Line("SKU-CUP", 1, 990)), datetime.now(UTC)
        value = self.said.encode(Said(key, "cust_demo", lines, 3490, "EUR", "tok_ok", now))
        name = str(uuid7()).encode()
        headers = (
            ("id", name), ("ce_id", name), ("ce_specversion", b"1.0"), ("ce_source", b"quadrille/order"),
            ("ce_type", OrderPlaced.type.encode()), ("ce_time", f"{now:%Y-%m-%dT%H:%M:%S}.000Z".encode()),
            ("ce_causationid", name), ("ce_sequence", b"1"), ("content-type", b"application/vnd.confluent.avro"),
            ("traceparent", new_trace().traceparent.encode()),
        )  # fmt: skip
        return Record(value, headers), key.encode()

    def run(self, spans: Spans, batches: Sequence[Sequence[tuple[Record, bytes]]]) -> tuple[float, ...]:
        """Handle batches as the consumer loop does; return microseconds an input by each clock."""
        tracing.use(spans)
        began, count = self._clocks(), sum(map(len, batches))
        for batch in batches:
            self._handle(Telemetry(spans), batch)
        spans.stop(60)
        return tuple((now - then) / count * 1e6 for then, now in zip(began, self._clocks(), strict=True))

    def _handle(self, notes: Telemetry, batch: Sequence[tuple[Record, bytes]]) -> None:
        began_ns, inputs = time.time_ns(), []
        for record, key in batch:
            offset = next(self.offsets)
            inputs.append(self.reader.read(record, key, OffsetRange(TOPIC, 0, offset, offset + 1), 0))
        outcomes = process_batch(self.inventory.tx, self.inventory.service, inputs)
        if not all(isinstance(outcome, Handled) for outcome in outcomes):
            raise AssertionError(outcomes)
        notes.handled(list(zip(inputs, outcomes, strict=True)), began_ns)

    def _clocks(self) -> tuple[float, ...]:
        """Return the times of ``CLOCKS``, in seconds."""
        own, database = time.process_time(), self.database.cpu_times()
        return own, own + database.user + database.system, time.perf_counter()


@contextmanager
def receiver() -> Iterator[str]:
    """Take spans in a process of its own."""
    taker = subprocess.Popen([sys.executable, "-c", RECEIVER], stdout=subprocess.PIPE, text=True)
    try:
        assert taker.stdout
        yield f"http://127.0.0.1:{taker.stdout.readline().strip()}"
    finally:
        taker.kill()
        taker.wait()


def measure(bench: Bench, url: str, asked: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Measure pairs, the first of them thrown away, and sum them up."""
    pairs = []
    for round_ in range(asked.pairs + 1):
        found = {}
        for traced in ((False, True), (True, False))[round_ % 2]:
            batches = [bench.records(asked.size) for _ in range(asked.batches)]
            event_lines.on = traced and asked.lines
            spans = Spans("inventory", "worker", [url], 1.0) if traced and not asked.lines else Spans.disabled()
            found[traced] = bench.run(spans, batches)
        pairs.append(found)
    for at, clock in enumerate(CLOCKS):
        untraced, traced_ = ([pair[one][at] for pair in pairs[1:]] for one in (False, True))
        ratios = sorted(b / a for a, b in zip(untraced, traced_, strict=True))
        low, high = (ratios[len(ratios) * n // 4] for n in (1, 3))
        yield {
            "clock": clock,
            "untraced_us": round(statistics.median(untraced), 1),
            "traced_us": round(statistics.median(traced_), 1),
            "ratio": round(statistics.median(ratios), 3),
            "quartiles": [round(low, 3), round(high, 3)],
        }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    for name, default in (("pairs", 15), ("batches", 40), ("size", 100)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    arguments.add_argument("--lines", action="store_true")
    asked = arguments.parse_args()
    home = Path(tempfile.mkdtemp(prefix="quadrille-bench-"))
    home.chmod(0o711)
    stack = Stack(home, parts={"postgres:inventory"}, scattered=True)
    log = Sink(home.with_suffix(".log").open("w", encoding="utf-8"))
    event_lines.begin(log, {"service": "inventory", "role": "worker", "release": release()}, wanted=False)
    with stack, receiver() as url:
        for line in measure(Bench(stack, home), url, asked):
            print(json.dumps({"size": asked.size, **line}))
    sent, lost = (next(iter(counter.collect())).samples[0].value for counter in (SPANS_SENT, SPANS_DROPPED))
    print(
        json.dumps({"sent": sent, "lost": lost, "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024})
    )
    stack.wipe()


if __name__ == "__main__":
    main()
