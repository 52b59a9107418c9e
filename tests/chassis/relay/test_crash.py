"""What the relay promises while processes die or freeze at any moment, on a real Kafka and a real PostgreSQL."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from quadrille.observability.readiness import NotReadyError
from quadrille.relay.relay import Relay
from quadrille.relay.streaming import UNSTORED_ROWS
from quadrille.testing.relay import Ground, Row
from quadrille_cli.stack import Stack

A_TRANSACTION = 4  # rows at most, of these writers
BEHIND = "SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), {})::int FROM {}"
numbers = itertools.count(1)
CHILD = """
import os, sys, threading
from quadrille.relay.relay import Relay, RelayConfig, topics_of
{plant}
service, bootstrap = sys.argv[1:]
Relay(RelayConfig(service, os.environ["DSN"], bootstrap, topics_of(service))).run(threading.Event())
"""
ACKNOWLEDGED_EARLY = """
from quadrille.relay.publisher import Publisher
Publisher.push = lambda *_: None
"""


@pytest.fixture
def pair(parts_of_the_stack: Callable[..., Stack]) -> Stack:
    return parts_of_the_stack("kafka", "postgres:inventory")


@pytest.fixture
def ground(pair: Stack, parts_of_the_stack: Callable[..., Stack]) -> Iterator[Ground]:
    made = Ground(f"crash{next(numbers)}", lambda role: pair.database_url("inventory", role), pair.kafka_bootstrap)
    made.make()
    yield made
    parts_of_the_stack(*pair.parts)
    made.close()


@contextmanager
def child(ground: Ground, plant: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A relay in a process of its own, killed at the end of the block."""
    command = [sys.executable, "-c", CHILD.format(plant=plant), ground.plan.service, ground.bootstrap]
    process = subprocess.Popen(command, env={**os.environ, "DSN": ground.plan.dsn}, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def ready(relay: Relay) -> bool:
    try:
        relay.ready()
    except NotReadyError:
        return False
    return True


def streams(ground: Ground) -> bool:
    """Tell whether a relay streams from this ground: the slot of one that was killed before is active for a while."""
    return ground.one(
        "SELECT count(*) FROM pg_replication_slots WHERE active AND slot_name = %s", ground.plan.slot
    ) == (1,)


@pytest.mark.proves("F18")
def test_a_killed_relay_loses_nothing(ground: Ground) -> None:
    """SIGKILL at random moments under load: every row arrives, first copies in order, what was stored not again."""
    kills, moments = 4, random.Random(7)  # noqa: S311 - a schedule
    stored: list[set[Row]] = []
    with ground.writing():
        for _ in range(kills):
            with child(ground) as process:
                stored.append(ground.stored())
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(moments.random())
    with ground.relaying():
        assert ground.judge() <= kills * (UNSTORED_ROWS + A_TRANSACTION)
        told = ground.copies()
    for row, copies in told.items():
        assert copies <= 1 + sum(row not in before for before in stored), row


def test_a_crashed_postgres_doubles_nothing(ground: Ground, pair: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the postmaster killed the slot goes back, the relay's own position does not: nothing is lost or doubled."""
    monkeypatch.setattr(
        "quadrille.relay.streaming.DRAIN_SECONDS", 60.0
    )  # however busy: what was on its way is waited for
    server = pair.process("postgres:inventory")
    with ground.relaying() as relay:
        with ground.writing():
            for n in range(1, 4):
                ground.until(lambda n=n: ground.arrived() > n * 150)  # type: ignore[misc] # bound in the loop
                server.kill()
                server.start()
                ground.until(lambda: relay.state == "streaming")
        assert ground.judge() == 0


@pytest.mark.parametrize("forgotten", [False, True], ids=["stored", "planted: the position is forgotten"])
def test_postgres_and_relay_killed_together_lose_nothing(ground: Ground, pair: Stack, forgotten: bool) -> None:  # noqa: FBT001
    """What is stored in the database survives both: the next relay goes on from there, nothing before is sent again."""
    server = pair.process("postgres:inventory")
    with ground.writing(), child(ground) as process:
        ground.until(lambda: ground.rows() > 200)
        stored = ground.stored()
        process.kill()
        server.kill()
        server.start()
    if forgotten:
        ground.one("DELETE FROM relay_progress RETURNING 1")
    with ground.relaying():
        ground.judge()
        told = ground.copies()
    assert bool([row for row in stored if told[row] > 1]) == forgotten


def test_kafka_may_be_gone_for_a_while(ground: Ground, pair: Stack) -> None:
    """While the broker is down rows wait in the WAL, more than the queue holds; when it is back all arrive in order."""
    broker = pair.process("kafka")
    with ground.relaying() as relay:
        with ground.writing(writers=1, seed=2):  # to the end; the crowd would keep the broker from starting
            with ground.writing(writers=7):
                ground.until(lambda: ground.arrived() > 100)
                broker.kill()
                down = ground.rows()
                ground.until(lambda: ground.rows() > down + 1_500)
                assert relay.state == "streaming"
                ground.until(lambda: not ready(relay))
                with pytest.raises(NotReadyError, match="does not answer"):
                    relay.ready()
            broker.start()
        ground.judge()
        ground.until(lambda: ready(relay))


def test_a_relay_whose_database_is_frozen_is_not_ready_and_says_why(ground: Ground, pair: Stack) -> None:
    """Its session hangs, and ends neither way: it must not say ready for what nobody can know; then it goes on."""
    with ground.relaying() as relay, ground.connect() as app:
        ground.until(lambda: ready(relay))
        ground.say(app, "a", 1)
        server = psutil.Process(pair.process("postgres:inventory").pid)
        whole = [server, *server.children(recursive=True)]
        for process in whole:
            process.suspend()
        try:
            ground.until(lambda: not ready(relay))
            with pytest.raises(NotReadyError, match="PostgreSQL has not answered for "):
                relay.ready()
        finally:
            for process in whole:
                process.resume()
        ground.until(lambda: ready(relay))
        ground.say(app, "a", 2)
        ground.judge()


@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_a_relay_without_its_broker_is_not_ready_and_says_why(ground: Ground, pair: Stack, fault: str) -> None:
    """Even with nothing to deliver; what is said meanwhile arrives when the broker is back, and it is ready again."""
    broker = pair.process("kafka")
    with ground.relaying() as relay, ground.connect() as app:
        assert ready(relay)
        (broker.kill if fault == "killed" else broker.freeze)()
        ground.until(lambda: not ready(relay))
        with pytest.raises(NotReadyError, match=rf"Kafka at {ground.bootstrap} does not answer: "):
            relay.ready()
        for n in range(1, 20):
            ground.say(app, "a", n)
        (broker.start if fault == "killed" else broker.thaw)()
        ground.judge()
        ground.until(lambda: ready(relay))


@pytest.mark.parametrize(("plant", "lost"), [("", False), (ACKNOWLEDGED_EARLY, True)])
def test_what_is_not_delivered_is_not_acknowledged(ground: Ground, pair: Stack, plant: str, lost: bool) -> None:  # noqa: FBT001
    """Rows handed on while Kafka is down survive the relay's death; a relay that acknowledges them early loses them."""
    broker = pair.process("kafka")
    with child(ground, plant), ground.connect() as app:
        ground.until(lambda: streams(ground))
        broker.kill()
        for n in range(1, 51):
            ground.say(app, "a", n)
        ground.until(lambda: ground.one(BEHIND.format("sent_lsn", "pg_stat_replication")) < (500,))
        if plant:
            ground.until(lambda: ground.one(BEHIND.format("confirmed_flush_lsn", "pg_replication_slots")) < (500,))
    broker.start()
    with ground.relaying():
        if lost:
            with pytest.raises(AssertionError, match="50 of 50 rows missing"):
                ground.judge(within=2)
        else:
            ground.judge()


@pytest.mark.proves("F18")
def test_a_stand_by_takes_over_from_a_killed_relay(ground: Ground) -> None:
    """The lock is free as soon as its holder is dead: the other one streams, and only ever one of them did."""
    standby = Relay(ground.plan)
    with child(ground) as process, ground.connect() as app:
        ground.until(lambda: streams(ground))
        with ground.relaying(standby, until="standby"):
            ground.say(app, "a", 1)
            ground.until(lambda: ground.arrived() == 1)
            standby.ready()
            process.kill()
            ground.until(lambda: standby.state == "streaming")
            ground.say(app, "a", 2)
            ground.judge()


def test_a_stand_by_takes_over_from_a_frozen_relay(ground: Ground) -> None:
    """While the first is frozen the other one streams; the frozen one, woken, stands by and overtakes nothing."""
    standby = Relay(ground.plan)
    with child(ground) as process:
        ground.until(lambda: streams(ground))
        with ground.relaying(standby, until="standby"):
            with ground.writing():
                ground.until(lambda: ground.arrived() > 50)
                process.send_signal(signal.SIGSTOP)
                ground.until(lambda: standby.state == "streaming")
                before = ground.arrived()
                process.send_signal(signal.SIGCONT)
                ground.until(lambda: ground.arrived() > before + 500)
            assert standby.state == "streaming"
            ground.judge()


def test_postgres_stops_while_a_relay_streams(ground: Ground, pair: Stack) -> None:
    """The server's fast shutdown is not held up by a relay that has rows on their way to a broker that is down."""
    server, broker = pair.process("postgres:inventory"), pair.process("kafka")
    with ground.relaying(), ground.connect() as app:
        broker.kill()
        ground.say(app, "a", 1)
        server.signal(signal.SIGINT)
        assert server.gone_within(90)  # held up, it would wait for the broker
        server.start()
        broker.start()
        ground.judge()


ROWS = int(os.environ.get("QUADRILLE_BACKLOG_ROWS", "100000"))
"""How large a backlog is; a million by hand: what is measured is memory, whose bound is the same."""
MOST_KIB = 80 * 1024
BACKLOG = """
INSERT INTO outbox SELECT uuidv7(), %s, n::text, 'stock.reserved', 1, decode(repeat('00', 300), 'hex'), uuidv7(),
                          '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00'
                     FROM generate_series(%s::int, %s::int) n"""


def peak_kib(process: subprocess.Popen[bytes]) -> int:
    """Return how much memory a process has had at most, in KiB."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    (peak,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return peak


def test_a_huge_transaction_passes_in_small_memory(ground: Ground) -> None:
    """100,000 rows in one transaction are handed on as they are read: the relay stays below 80 MiB."""
    with child(ground) as process, ground.connect() as app:
        ground.until(lambda: streams(ground))
        app.execute(BACKLOG.encode(), [ground.topic, 1, 100_000])
        assert ground.judge() == 0
        assert peak_kib(process) < MOST_KIB


@pytest.mark.timeout(3_000)
@pytest.mark.parametrize("by", ["log", "scan"])
def test_a_backlog_passes_in_small_memory(ground: Ground, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows wait, in transactions of 1,000 in the log or in an outbox never read: it stays below 80 MiB."""
    monkeypatch.setattr("quadrille.testing.relay.PATIENCE_SECONDS", 2_400.0)
    if by == "log":
        with ground.relaying():
            pass
    with ground.connect() as app:
        for first in range(1, ROWS + 1, 1_000):
            app.execute(BACKLOG.encode(), [ground.topic, first, first + 999])
    with child(ground) as process:
        ground.until(lambda: ground.arrived() >= ROWS)
        ground.until(lambda: ground.one("SELECT count(*) FROM relay_progress") == (1,))
        assert ground.arrived() == ROWS
        assert peak_kib(process) < MOST_KIB
