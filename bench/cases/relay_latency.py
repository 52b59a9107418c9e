"""Commit to consumer at a steady rate: one row a commit on an open-loop clock, by the commit's own time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from bench import outbox
from bench.cases.relay_drain import Bench, bench
from bench.cases.relays import Debezium, Ours, debeziums, until
from bench.meters import Meter
from bench.model import Contestant, Ratio, Run, Size
from bench.parts import SERVICE, TOPIC
from quadrille.kafka.config import client_settings
from quadrille_cli.stack.usage import percentile

SECONDS = 60
WARM_SECONDS = 2.0
WRITER = Path(__file__).parents[1] / "floors" / "writer.py"
COMMITTED = """
SELECT id::text, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 FROM outbox WHERE occurred_at >= %b"""
UNITS = {
    "p50_ms": "commit → consumer p50, ms",
    "p99_ms": "p99, ms",
    "relay_cores": "relay CPU, % of a core",
    "broker_cores": "broker CPU, % of a core",
}


class Listener:
    """A consumer that notes when each row's record came."""

    def __init__(self, bootstrap: str, since: Sequence[int]) -> None:
        settings = client_settings(bootstrap) | {
            "group.id": "bench-listener",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 500,
        }
        self._consumer, self.came, self.order = Consumer(settings), dict[str, float](), list[tuple[str, int, bool]]()
        self._consumer.assign([TopicPartition(TOPIC, n, at) for n, at in enumerate(since)])
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._run, name="listener")
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def _note(self, at: float, event_id: str, place: tuple[str, int, bool]) -> None:
        self.came.setdefault(event_id, at)
        self.order.append(place)

    def _run(self) -> None:
        while not self._stop.is_set():
            first = self._consumer.poll(0.2)
            if first is None:
                continue
            for record in (first, *self._consumer.consume(500, 0)):
                if record.error() is None:
                    self._note(time.time(), outbox.header(record, "ce_id"), outbox.place(record))


class Steady:
    """One relay while a writer commits at a rate."""

    def __init__(self, relay: Ours | Debezium, bench: Bench, rate: int, seconds: float) -> None:
        self.name, self._relay, self._bench, self._rate, self._seconds = relay.name, relay, bench, rate, seconds

    def run(self) -> Run:
        """Warm up for two seconds, then measure."""
        session = self._bench.session
        outbox.drop_slot(session, outbox.MASTER)
        session.execute(outbox.MARK)
        with self._relay.running() as pid:
            until(lambda: outbox.walsender(session, self._relay.slot), f"{self.name}'s stream")
            warm = sum(self._bench.ends()) + int(self._rate * WARM_SECONDS)
            self._write(WARM_SECONDS)
            until(lambda: sum(self._bench.ends()) >= warm, f"{self.name}'s warm-up")
            return self._measure(pid)

    def _measure(self, pid: int) -> Run:
        rows, bench = int(self._rate * self._seconds), self._bench
        before, since = bench.ends(), bench.session.execute("SELECT clock_timestamp()").fetchone()
        listener = Listener(bench.stack.kafka_bootstrap, before)
        groups = {"relay": [pid], "broker": [bench.stack.process("kafka").pid or 0]}
        with Meter(groups) as meter:
            began = time.time()
            self._write(self._seconds)
            ended = time.time()
            idle = time.monotonic() + 10
            while len(listener.order) < rows and time.monotonic() < idle:
                time.sleep(0.05)
        listener.close()
        assert since is not None
        committed: dict[str, float] = dict(bench.session.execute(COMMITTED, [since[0]]).fetchall())
        waits = [(at - committed[row]) * 1000 for row, at in listener.came.items() if row in committed]
        wrong = outbox.verdict(listener.order, rows)
        if len(waits) != rows:
            wrong.append(f"{len(waits)} of {rows} rows came")
        spent = {f"{name}_cores": 100 * meter.between(name, began, ended) / (ended - began) for name in groups}
        return Run(self.name, {"p50_ms": percentile(waits, 0.5), "p99_ms": percentile(waits, 0.99), **spent}, wrong)

    def _write(self, seconds: float) -> None:
        task = {"rate": self._rate, "seconds": seconds, "statement": f"{outbox.ROW} FROM (SELECT %b::int n) one"}
        env = {**os.environ, "DSN": self._bench.stack.database_url(SERVICE, "app")}
        command: list[str | Path] = [sys.executable, "-I", WRITER]
        subprocess.run(command, env=env, input=json.dumps(task).encode(), check=True)


class RelayLatency:
    """A steady rate of commits of one row."""

    units, warm = UNITS, True

    def __init__(self, rate: int) -> None:
        self.name, self._rate = f"relay_latency_{rate}", rate
        self.question = f"How long from a commit to its record at a consumer, at {rate} commits a second?"
        self.ratios = [
            Ratio("p50 ÷ Debezium's", "p50_ms", "ours", "debezium", more=False),
            Ratio("p99 ÷ Debezium's", "p99_ms", "ours", "debezium", more=False, must=1 / 20),
            Ratio("p99 ÷ tuned Debezium's", "p99_ms", "ours", "debezium tuned", more=False, must=1.0, aim=0.5),
            Ratio("relay CPU ÷ tuned Debezium's", "relay_cores", "ours", "debezium tuned", more=False),
            Ratio("p99, ms", "p99_ms", "ours", "", more=False, must=7, aim=5),
        ]

    @contextmanager
    def contestants(self, size: Size, absent: dict[str, str]) -> Iterator[Sequence[Contestant]]:
        """Start the relays; each run has a slot made anew."""
        seconds = max(3.0, SECONDS * size.share)
        with bench(1, 1) as made, ExitStack() as opened:
            ours = Ours(made.stack, made.session)
            ours.first_start()
            found: list[Ours | Debezium] = [ours, *debeziums(made.stack, made.session, absent)]
            for relay in found:
                opened.callback(relay.close)
            yield [Steady(relay, made, self._rate, seconds) for relay in found]
