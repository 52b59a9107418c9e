"""A database that was set back to a backup is noticed: nothing is sent or done outside until a person has spoken."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fastavro
import psycopg
import pytest

from quadrille.ids import uuid7
from quadrille.kafka.headers import OutboxRow
from quadrille.observability.readiness import NotReadyError
from quadrille.observability.trace_context import new_trace
from quadrille.ops.relay_actions import RelayActions
from quadrille.ops.routes import OpsRequest
from quadrille.relay.relay import Relay
from quadrille.relay.replication import Read
from quadrille.relay.restore import RestoreCheck, beat_number
from quadrille.relay.streaming import Streamer
from quadrille.tasks.leases import withheld
from quadrille.testing.relay import Ground
from quadrille.web.problems import Problem
from quadrille_cli.stack import Stack

numbers = itertools.count(1)
SCHEMA = fastavro.parse_schema(json.loads(Path("schemas/chassis/canary.beat.avsc").read_text(encoding="utf-8")))
BEAT = """
INSERT INTO outbox (id, aggregatetype, aggregateid, type, sequence, payload, causationid, traceparent, parent_span)
VALUES (%s, %s, %s, 'canary.beat', %s, %s, %s, %s, %s)"""
SAID = """
INSERT INTO canary (source, number, said_at, heard_at) VALUES (%s, 1, now(), now())
ON CONFLICT (source) DO UPDATE SET number = canary.number + 1, said_at = now() RETURNING number"""


@pytest.fixture
def server(new_stack: Callable[..., Stack]) -> Stack:
    """A Kafka and a PostgreSQL of this test's own: it is set back."""
    made = new_stack(parts={"kafka", "postgres:inventory"})
    made.start()
    return made


@pytest.fixture
def ground(server: Stack) -> Iterator[Ground]:
    made = Ground(
        f"restore{next(numbers)}", lambda role: server.database_url("inventory", role), server.kafka_bootstrap
    )
    made.make()
    yield made
    made.close()


def payload(service: str, number: int) -> bytes:
    """Return a beat as the codec writes it."""
    out = io.BytesIO(b"\0\0\0\0\1")
    out.seek(0, io.SEEK_END)
    beat = {"service": service, "number": number, "said_at": int(datetime.now(UTC).timestamp() * 1e6)}
    fastavro.schemaless_writer(out, SCHEMA, beat)
    return out.getvalue()


def beat(ground: Ground, *, counted: int = 1) -> int:
    """Say a beat, as a worker does; return its number. With ``counted`` above one, some are counted and not said."""
    with psycopg.connect(ground.url("app")) as app:
        number = 0
        for _ in range(counted):
            (number,) = app.execute(SAID, [ground.plan.service]).fetchone() or (0,)
        trace = new_trace()
        body = payload(ground.plan.service, number)
        values = [uuid7(), ground.topic, f"canary-{number % 12}", number // 12 + 1, body, uuid7(), trace.traceparent]
        app.execute(BEAT, [*values, bytes.fromhex(trace.span_id)])
    return number


def say(ground: Ground, key: str, *numbers: int) -> None:
    with ground.connect() as app:
        for n in numbers:
            ground.say(app, key, n)


def reason(relay: Relay) -> str:
    try:
        relay.ready()
    except NotReadyError as why:
        return str(why)
    return ""


def ask(ground: Ground, relay: Relay, method: str, **body: object) -> dict[str, object]:
    routes = RelayActions(ground.plan.service, ground.plan.dsn, relay).routes()
    asked = OpsRequest({}, body=body, actor="mia", reason="the backup of three o'clock")
    return dict(routes[method, "/ops/relay/restore"](asked).document)


def intents_wait(ground: Ground) -> bool:
    with ground.connect() as app:
        return withheld(app)


def stopped(server: Stack) -> Path:
    """Stop the database; return where it lies."""
    postgres = server.processes["postgres:inventory"]
    postgres.signal(signal.SIGINT)
    assert postgres.gone_within(90)
    return server.clusters["inventory"].home


def copied(source: Path, target: Path) -> None:
    """Copy a cluster's files as they are, owners too."""
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


def test_a_database_set_back_to_a_backup_sends_nothing_until_the_loss_is_declared(
    ground: Ground, server: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it lacks is named and counted; declared lost, all that is said from then on flows, and none asks again."""
    monkeypatch.setattr("quadrille.tasks.leases.LOOK_FOR", timedelta(hours=1))
    with ground.relaying():
        beat(ground)
        say(ground, "a", 1, 2)
        ground.stored()
    home = stopped(server)
    copied(home, tmp_path / "backup")
    server.start()
    with ground.relaying() as relay:  # a start like any other
        assert not intents_wait(ground)
        beat(ground)
        say(ground, "a", 3, 4, 5)
        beat(ground)
        ground.stored()
        lost = {str(row.id) for row in ground.committed() if row.sequence > 2 and row.key == "a"}
    arrived = ground.arrived()
    shutil.rmtree(stopped(server))
    copied(tmp_path / "backup", home)
    server.start()
    assert intents_wait(ground)  # before any relay has looked
    relay = Relay(ground.plan)
    with ground.relaying(relay, until="restored"):
        assert "restored: the database is older than its topics: 3 facts and 2 beats lie there" in reason(relay)
        say(ground, "b", 1)
        (found,) = list(ask(ground, relay, "GET")["restores"])  # type: ignore[call-overload] # a list of one
        assert ({one["id"] for one in found["sample"]}, found["facts"], found["ended_at"]) == (lost, 3, None)
        assert intents_wait(ground)
        assert (relay.state, ground.arrived()) == ("restored", arrived)
        assert ask(ground, relay, "POST", how="declare-loss")["facts"] == 3
        ground.until(lambda: relay.state == "streaming")
        ground.until(lambda: ground.arrived() == arrived + 1)
        assert not intents_wait(ground)
        with pytest.raises(Problem):
            ask(ground, relay, "POST", how="declare-loss")
        beat(ground)
        ground.stored()
    assert ground.one("SELECT count(*) FROM relay_notice WHERE kind = 'RESTORED'") == (1,)
    assert ground.one("SELECT actor, action FROM audit") == ("mia", "relay.declare_loss")
    stopped(server)
    server.start()
    with ground.relaying():
        beat(ground)
        ground.stored()


def test_a_crash_is_no_restore(ground: Ground, server: Stack) -> None:
    """The server killed under load and started again: the relay goes on, whatever was on its way."""
    with ground.relaying() as relay:
        for _ in range(3):
            beat(ground)
            with ground.writing():
                ground.until(lambda: ground.rows() > 0)
            postgres = server.processes["postgres:inventory"]
            postgres.kill()
            postgres.start()
            ground.until(lambda: relay.state == "streaming")
        ground.until(
            lambda: ground.one("SELECT looked_for = pg_postmaster_start_time() FROM relay_progress") == (True,)
        )
    assert ground.one("SELECT count(*) FROM relay_restore") == (0,)


def test_a_relay_that_does_not_look_says_what_contradicts_its_topic(
    ground: Ground, server: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: without the look, a database set back goes on as if nothing were; the test above would see it."""
    monkeypatch.setattr(RestoreCheck, "look", lambda *_: None)
    with ground.relaying():
        beat(ground)
        say(ground, "a", 1)
        ground.stored()
    home = stopped(server)
    copied(home, tmp_path / "backup")
    server.start()
    with ground.relaying():
        beat(ground)
        say(ground, "a", 2)
        ground.stored()
    shutil.rmtree(stopped(server))
    copied(tmp_path / "backup", home)
    server.start()
    with ground.relaying():
        say(ground, "a", 2)
        ground.stored()
    assert [row.sequence for row in ground.published() if row.key == "a"] == [1, 2, 2]


def test_a_hole_in_the_beats_starts_a_scan(ground: Ground) -> None:
    """What was committed beside a beat that did not pass is sent: the outbox is read from the last whole place."""
    with ground.relaying():
        beat(ground)
        say(ground, "a", 1)
        ground.stored()
        beat(ground)
        ground.stored()
        say(ground, "a", 2)
        ground.stored()
        beat(ground, counted=3)
        ground.until(lambda: ground.one("SELECT count(*) FROM relay_recovery") == (1,))
        beat(ground)
        say(ground, "a", 3)
        ground.judge()
    assert ground.one("SELECT cause FROM relay_recovery") == ("canary hole: beats 3 to 4 did not pass",)


class Hole:
    """A log that does not tell of rows while it is open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = False
        handle = Streamer._handle  # noqa: SLF001 - the fault is planted where rows are read

        def deaf(streamer: Streamer, read: Read) -> None:
            if not (self.open and isinstance(read, OutboxRow)):
                handle(streamer, read)

        monkeypatch.setattr(Streamer, "_handle", deaf)


@pytest.mark.parametrize("counted", [True, False])
def test_rows_that_fell_into_a_hole_are_published(
    ground: Ground,
    monkeypatch: pytest.MonkeyPatch,
    counted: bool,  # noqa: FBT001
) -> None:
    """They arrive although positions behind them were stored; planted: a relay that does not count beats loses them."""
    hole = Hole(monkeypatch)
    if not counted:
        monkeypatch.setattr(Streamer, "_beat_read", lambda *_: None)
    with ground.relaying():
        beat(ground)
        say(ground, "a", 1)
        ground.stored()
        beat(ground)
        ground.stored()
        hole.open = True
        say(ground, "a", 2, 3)
        beat(ground)
        say(ground, "a", 4)
        ground.stored()
        hole.open = False
        say(ground, "b", 1)
        ground.stored()
        beat(ground)
        ground.stored()
        if not counted:
            assert {row.sequence for row in ground.committed() - set(ground.published())} >= {2, 3, 4}
            return
        ground.until(lambda: ground.one("SELECT count(*) FROM relay_recovery") == (1,))
        assert ground.committed() == set(ground.published(len(ground.committed()), 60))
        assert list(dict.fromkeys(row.sequence for row in ground.published() if row.key == "a")) == [1, 2, 3, 4]


@pytest.mark.parametrize("number", [1, 63, 64, 300, 1 << 40])
def test_a_beat_is_read_as_it_was_written(number: int) -> None:
    """Its number is read without the codec, by the schema's own form: another order of its fields turns this red."""
    assert beat_number(payload("inventory", number)) == number
    for end in range(5, 15):
        with pytest.raises(IndexError):
            beat_number(payload("inventory", number)[:end])
