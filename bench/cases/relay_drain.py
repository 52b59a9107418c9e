"""A backlog drained: rows a second and CPU a row of our relay and of Debezium, over the same WAL to the same topic."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

import psycopg

from bench import outbox, parts
from bench.cases.relays import UNGATHERED, Debezium, Ours, debeziums, until
from bench.floors.relaying import Producing, Receiving
from bench.meters import Meter, peak_rss
from bench.model import Contestant, Ratio, Run, Size
from quadrille_cli.stack import Stack
from quadrille_cli.stack.stack import migrate

ROWS = 1_000_000
STALLED_SECONDS = 60.0
UNITS = {
    "rows_per_s": "rows/s",
    "relay_us": "relay CPU, µs a row",
    "walsender_us": "walsender CPU, µs a row",
    "broker_us": "broker CPU, µs a row",
    "rss_mb": "most memory, MB",
}


@dataclass(frozen=True, slots=True)
class Bench:
    """The parts a relay is measured on."""

    stack: Stack
    session: psycopg.Connection
    ends: parts.Ends
    reader: outbox.Reader
    backlog: outbox.Backlog


class Draining:
    """One relay over the backlog."""

    def __init__(self, relay: Ours | Debezium, bench: Bench) -> None:
        self.name, self._relay, self._bench = relay.name, relay, bench

    def run(self) -> Run:
        """Drain once; the broker's own stamps say from when to when."""
        bench, rows = self._bench, self._bench.backlog.rows
        before = bench.ends()
        with self._relay.running() as pid:
            sender = self._walsender()
            groups = {"relay": [pid], "walsender": [sender], "broker": [bench.stack.process("kafka").pid or 0]}
            with Meter(groups) as meter:
                after = self._drained(before)
            memory = peak_rss(pid)
        seen = bench.reader.judge(before, after, rows)
        took = max(seen.last - seen.first, 1e-3)
        figures = {f"{name}_us": meter.between(name, seen.first, seen.last) / rows * 1e6 for name in groups}
        return Run(self.name, {"rows_per_s": rows / took, **figures, "rss_mb": memory}, seen.wrong)

    def _walsender(self) -> int:
        until(self._pid, f"{self.name}'s stream")
        return self._pid() or 0

    def _pid(self) -> int | None:
        return outbox.walsender(self._bench.session, self._relay.slot)

    def _drained(self, before: Sequence[int]) -> list[int]:
        """Wait until as many records have come as there are rows, or none has for long."""
        wanted = sum(before) + self._bench.backlog.rows
        last, moved = sum(before), time.monotonic()
        while True:
            now = self._bench.ends()
            if sum(now) > last:
                last, moved = sum(now), time.monotonic()
            if last >= wanted or time.monotonic() - moved > STALLED_SECONDS:
                time.sleep(0.3)  # what comes too much comes now
                return self._bench.ends()
            time.sleep(0.1)


@contextmanager
def bench(rows: int, per_transaction: int) -> Iterator[Bench]:
    """Start Kafka and a database with the outbox of a service in it."""
    with ExitStack() as opened:
        stack = opened.enter_context(parts.stack({"kafka", "topics", f"postgres:{parts.SERVICE}"}))
        migrate(stack, parts.SERVICE)
        session = opened.enter_context(parts.superuser(stack))
        session.execute("SELECT ensure_partitions(1, 1)")
        parts.stamped_by_broker(stack.kafka_bootstrap)
        reader = opened.enter_context(closing(outbox.Reader(stack.kafka_bootstrap)))
        ends = parts.Ends(stack.kafka_bootstrap)
        yield Bench(stack, session, ends, reader, outbox.Backlog(rows, per_transaction))


class RelayDrain:
    """A backlog of rows, in transactions of so many."""

    units, warm = UNITS, True

    def __init__(self, per_transaction: int, must: float, aim: float) -> None:
        self.name, self._per = f"relay_drain_{per_transaction}", per_transaction
        self.question = f"How fast is a backlog relayed, {per_transaction} rows a commit, and what does a row cost?"
        self.ratios = [
            Ratio("rows/s ÷ Debezium's", "rows_per_s", "ours", "debezium", more=True, must=must, aim=aim),
            Ratio("rows/s ÷ tuned Debezium's", "rows_per_s", "ours", "debezium tuned", more=True),
            Ratio("relay CPU a row ÷ Debezium's", "relay_us", "ours", "debezium", more=False, must=1 / 3, aim=1 / 5),
            Ratio("relay CPU a row ÷ tuned", "relay_us", "ours", "debezium tuned", more=False),
            Ratio("broker CPU a row ÷ Debezium's", "broker_us", "ours", "debezium", more=False, must=1.0, aim=0.7),
            Ratio("broker CPU a row ÷ tuned", "broker_us", "ours", "debezium tuned", more=False),
            Ratio("rows/s ÷ ungathered", "rows_per_s", "ours", "ours, ungathered", more=True),
            Ratio("broker CPU a row ÷ ungathered", "broker_us", "ours", "ours, ungathered", more=False),
            Ratio("rows/s ÷ pg_recvlogical to null", "rows_per_s", "ours", Receiving.name, more=True),
            Ratio("relay CPU a row ÷ librdkafka from memory", "relay_us", "ours", Producing.name, more=False),
            Ratio("memory ÷ Debezium's", "rss_mb", "ours", "debezium", more=False, must=1 / 8, aim=1 / 10),
        ]

    @contextmanager
    def contestants(self, size: Size, absent: dict[str, str]) -> Iterator[Sequence[Contestant]]:
        """Write the backlog once; every relay drains the same."""
        rows = max(10_000, int(ROWS * size.share))
        with bench(rows, self._per) as made, ExitStack() as opened:
            ours = Ours(made.stack, made.session)
            ours.first_start()
            outbox.fill(made.session, made.backlog)
            ungathered = Ours(made.stack, made.session, UNGATHERED, "ours, ungathered")
            found: list[Ours | Debezium] = [ours, ungathered, *debeziums(made.stack, made.session, absent)]
            for relay in found:
                opened.callback(relay.close)
            yield [*(Draining(relay, made) for relay in found), Receiving(made), Producing(made)]
