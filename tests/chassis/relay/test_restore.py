"""A database that was set back to a backup is noticed: nothing is sent or done outside until a person has spoken."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import fastavro
import psycopg
import pytest

from quadrille.db.connection import Tx, connection
from quadrille.ids import event_id, uuid7
from quadrille.kafka.headers import OutboxRow
from quadrille.observability.readiness import NotReadyError
from quadrille.observability.trace_context import new_trace
from quadrille.ops.relay_actions import RelayActions
from quadrille.ops.routes import OpsRequest
from quadrille.processing.outbox import ADD_NUMBERED
from quadrille.relay import restore
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


@pytest.fixture(scope="module")
def server(stack_home: Path) -> Iterator[Stack]:
    """A Kafka and a PostgreSQL of this file's own: it is set back."""
    made = Stack(stack_home / "restore", parts=frozenset({"kafka", "postgres:inventory"}), scattered=True)
    yield made
    made.stop()


@pytest.fixture
def ground(server: Stack) -> Iterator[Ground]:
    server.start()  # what a failed test has left stopped
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


def number_on(app: Tx, ground: Ground, key: str, count: int = 1, cause: UUID | None = None) -> list[UUID]:
    """Say events as workers do, numbered in their stream; return their ids, which follow from their cause."""
    ids, trace = [], new_trace()
    with app.transaction():
        for ordinal in range(count):
            identity = event_id(ground.plan.service, cause or uuid7(), "parcel.sent", ordinal)
            body = b"\0\0\0\0\1" + identity.bytes
            app.execute(
                ADD_NUMBERED.encode(),
                {
                    "id": identity, "topic": ground.topic, "key": key, "type": "parcel.sent", "payload": body,
                    "cause": cause or uuid7(), "traceparent": trace.traceparent,
                    "parent_span": bytes.fromhex(trace.span_id),
                },
            )  # fmt: skip
            ids.append(identity)
    return ids


def set_back(server: Stack, ground: Ground, tmp_path: Path) -> tuple[UUID, list[UUID]]:
    """Say two of a stream, copy the database, say three more and one of another stream, set it back to the copy.

    The first of the three has a cause that is handled again: it is returned, with the ids of all four.
    """
    cause = uuid7()
    with ground.relaying(), connection(ground.url("app"))() as app:
        beat(ground)
        number_on(app, ground, "a", 2)
        ground.stored()
    home = stopped(server)
    copied(home, tmp_path / "backup")
    server.start()
    with ground.relaying(), connection(ground.url("app"))() as app:
        beat(ground)
        lost = number_on(app, ground, "a", 1, cause) + number_on(app, ground, "a", 2) + number_on(app, ground, "b")
        beat(ground)
        ground.stored()
    shutil.rmtree(stopped(server))
    copied(tmp_path / "backup", home)
    server.start()
    return cause, lost


@pytest.mark.parametrize("how", ["read-back", "declare-loss"])
def test_a_number_that_lies_on_a_topic_is_not_given_twice(
    ground: Ground, server: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Streams go on behind their topic; read back, the outbox has again all that lies there, under its numbers.

    A relay that ends before it has done as it was told has changed nothing: it is done again, once.
    """
    cause, lost = set_back(server, ground, tmp_path)
    relay = Relay(ground.plan)
    with connection(ground.url("app"))() as app:
        new = number_on(app, ground, "a", 1)  # before anybody has looked: it is numbered on behind what it repeats
        assert number_on(app, ground, "a", 1, cause) == lost[:1]  # handled again: it has its first number again
        with monkeypatch.context() as broken, ground.relaying(relay, until="restored"):
            broken.setattr(restore, "_END", "SELECT 1 / 0 FROM (SELECT %s, %s) one")
            ask(ground, relay, "POST", how=how)
            ground.until(lambda: "division" in reason(relay))
            assert {row.id for row in ground.committed()}.isdisjoint(lost[1:])
            with pytest.raises(Problem):
                ask(ground, relay, "POST", how="declare-loss")
        with ground.relaying():
            new += number_on(app, ground, "a", 1) + number_on(app, ground, "b", 1)
            beat(ground)
            ground.stored()
    numbered: dict[tuple[str, int], set[UUID]] = {}
    for row in ground.published():
        numbered.setdefault((row.key, row.sequence), set()).add(row.id)
    assert {place: ids for place, ids in numbered.items() if len(ids) > 1} == {}
    assert [place for place in numbered if {*new} & numbered[place]] == [("a", 6), ("a", 7), ("b", 2)]
    rows = {(row.id, row.key, row.sequence) for row in ground.committed() if row.key in ("a", "b")}
    there = {(next(iter(ids)), *place) for place, ids in numbered.items() if place[0] in ("a", "b")}
    assert {row[0] for row in there - rows} == (set() if how == "read-back" else {*lost[1:]})
    assert rows <= there
    assert ground.rows() == len(ground.committed())
    assert ground.one("SELECT how, facts, ended_at IS NOT NULL FROM relay_restore") == (how, 3, True)
    assert ground.one("SELECT count(*), count(*) FILTER (WHERE kept) FROM said_before") == (3, 3 * (how == "read-back"))


def test_a_promotion_starts_a_scan(ground: Ground, server: Stack) -> None:
    """A standby that was promoted is another history: all that is not proven published is sent, however old."""
    month = int(datetime.now(UTC).timestamp() * 1000) - 30 * 86_400_000
    with ground.relaying():
        beat(ground)
        say(ground, "a", 1)
        ground.stored()
    with ground.connect() as app:
        ground.say(app, "a", 2, at_ms=month)
    (stopped(server) / "standby.signal").touch()
    server.processes["postgres:inventory"].start()
    assert ground.one("SELECT pg_promote()") == (True,)
    with ground.relaying():
        say(ground, "a", 3)
        ground.judge()
    assert ground.one("SELECT cause FROM relay_recovery") == ("another cluster or timeline",)
    assert ground.one("SELECT count(*) FROM relay_notice") == (0,)


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
