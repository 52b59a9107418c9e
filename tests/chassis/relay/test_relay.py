"""What the relay promises while nothing dies, on a real Kafka and a real PostgreSQL."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from quadrille.db.schema import TABLES
from quadrille.kafka.config import client_settings
from quadrille.observability.readiness import NotReadyError
from quadrille.observability.tracing import Spans
from quadrille.relay import streaming
from quadrille.relay.publisher import Publisher
from quadrille.relay.relay import Relay
from quadrille.relay.replication import PgOutputDecoder, lsn_number
from quadrille.testing.relay import Ground
from quadrille_cli.stack import Stack
from tests.chassis.support.otlp_receiver import Sink

numbers = itertools.count(1)
BACKLOG = 30_000
FILL = """
INSERT INTO outbox (id, aggregatetype, aggregateid, type, sequence, payload, causationid, traceparent)
SELECT uuidv7(), %s, 'k' || n %% 50, 'parcel.sent', n / 50 + 1, '\\x0000000001', uuidv7(),
       '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00'
  FROM generate_series(%s::bigint, %s) n"""


@pytest.fixture
def ground(parts_of_the_stack: Callable[..., Stack]) -> Iterator[Ground]:
    stack = parts_of_the_stack("kafka", "postgres:inventory")
    made = Ground(f"plain{next(numbers)}", lambda role: stack.database_url("inventory", role), stack.kafka_bootstrap)
    made.make()
    yield made
    made.close()


def test_every_committed_row_is_published_once_and_in_order(ground: Ground) -> None:
    """Under concurrent writers with late commits and rollbacks each committed row arrives once, each key in order."""
    with ground.relaying():
        with ground.writing(writers=8):
            ground.until(lambda: ground.rows() > 1500)
        assert ground.judge() == 0


def test_rows_from_before_the_first_start_are_published(ground: Ground) -> None:
    """What was committed before any relay ran, and before there was a slot, is published too, in sequence."""
    with ground.connect() as app:
        for n in (1, 2, 3):
            ground.say(app, "early", n)
    with ground.relaying():
        assert ground.judge() == 0
    assert ground.one("SELECT count(*) FROM relay_recovery") == (0,)


def test_a_restart_publishes_nothing_twice(ground: Ground) -> None:
    """A relay that was told to stop has stored and acknowledged all it delivered: the next one goes on behind it."""
    with ground.connect() as app:
        for n in range(1, 4):
            with ground.relaying():
                ground.say(app, "a", n)
                ground.until(lambda n=n: ground.arrived() >= n)  # type: ignore[misc] # bound in the loop
        assert ground.judge() == 0


def test_a_stop_waits_for_what_is_on_its_way(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay that is stopped before Kafka's acknowledgement has come back takes it in, and nothing is sent twice."""
    stop, serve = threading.Event(), Publisher._serve  # noqa: SLF001 - a broker that is slow to answer

    def late(self: Publisher, producer: Producer, closed: threading.Event) -> None:
        stop.wait()
        serve(self, producer, closed)

    monkeypatch.setattr(Publisher, "_serve", late)
    relay = Relay(ground.plan)
    thread = threading.Thread(target=relay.run, args=(stop,))
    thread.start()
    ground.until(lambda: relay.state == "streaming")
    with ground.connect() as app:
        ground.say(app, "a", 1)
        ground.until(lambda: ground.arrived() >= 1)
        stop.set()
        thread.join()
        with ground.relaying():
            ground.say(app, "a", 2)
            assert ground.judge() == 0


def test_an_idle_outbox_pins_no_wal(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another table fills, the slot follows the server's WAL; at rest nothing is stored again and again."""
    monkeypatch.setattr("quadrille.relay.streaming._BEAT_SECONDS", 0.2)
    monkeypatch.setattr("quadrille.relay.streaming._IDLE_SECONDS", 2.0)
    with ground.relaying(), ground.connect("postgres") as busy:
        busy.execute("CREATE TABLE noise (a text)")
        busy.execute("INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
        ground.until(lambda: _pinned(ground) < 1 << 17)
        busy.execute("DROP TABLE noise")
        stored = ground.one("SELECT xmin::text FROM relay_progress")
        time.sleep(0.6)  # three beats: the one thing to see here is that nothing happens
        assert ground.one("SELECT xmin::text FROM relay_progress") == stored
    slot, own = ground.one("SELECT confirmed_flush_lsn, commit_lsn FROM pg_replication_slots, relay_progress")
    assert slot == own


def test_an_old_day_goes_while_the_relay_streams(ground: Ground) -> None:
    """A partition that is dropped under the stream is none of its business: no recovery, nothing lost or doubled."""
    with psycopg.connect(ground.url("owner")) as owner:
        owner.execute(
            "CREATE TABLE outbox_20260101 PARTITION OF outbox FOR VALUES FROM ('2026-01-01') TO ('2026-01-02')"
        )
    with ground.relaying(), ground.connect() as app:
        ground.say(app, "a", 1)
        ground.until(lambda: app.execute("SELECT drop_old_day(7)").fetchone() == ("outbox_20260101",))
        for n in (2, 3):
            ground.say(app, "a", n)
        assert ground.judge() == 0
    assert ground.one("SELECT count(*) FROM relay_recovery") == (0,)


def _pinned(ground: Ground) -> int:
    (behind,) = ground.one(
        "SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), confirmed_flush_lsn)::bigint FROM pg_replication_slots"
    )
    assert isinstance(behind, int)
    return behind


def test_a_dropped_publication_is_noticed_and_nothing_acknowledged(ground: Ground) -> None:
    """Rows committed while the publication is gone are not forgotten: they are published when it is back."""
    with ground.relaying() as relay, ground.connect() as app, ground.connect("owner") as owner:
        ground.say(app, "a", 1)
        ground.until(lambda: ground.arrived() == 1)
        before = ground.one("SELECT pg_current_wal_flush_lsn()")
        owner.execute("DROP PUBLICATION outbox")
        for n in range(2, 50):
            ground.say(app, "a", n)
        ground.until(lambda: "no publication outbox" in (relay.trouble or ""))
        with pytest.raises(NotReadyError, match="run the migrations"):
            relay.ready()
        assert max(ground.one("SELECT commit_lsn FROM relay_progress"), before, key=_lsn) == before
        owner.execute(_publication())
        ground.until(lambda: relay.state == "streaming")
        ground.judge()
        assert ground.one("SELECT cause, announced FROM relay_recovery") == ("publication changed", False)


def _lsn(row: tuple[object, ...]) -> int:
    return lsn_number(str(row[0]))


def _publication() -> bytes:
    return TABLES[TABLES.index("CREATE PUBLICATION") :].encode()


def test_a_publication_that_was_away_for_a_moment_is_noticed(ground: Ground) -> None:
    """Gone and back between two looks, it is another one: what fell into the hole comes before what followed it."""
    with ground.relaying():
        _hide_some_rows(ground)
        ground.judge()


def test_a_relay_that_does_not_look_lets_rows_be_overtaken(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """The promise above would break without the look at each description of the table, and its test would see it."""
    learn = PgOutputDecoder._learn  # noqa: SLF001 - the planted fault: a description says nothing
    monkeypatch.setattr(PgOutputDecoder, "_learn", lambda *told: (learn(*told), None)[1])
    with ground.relaying():
        _hide_some_rows(ground)
        with pytest.raises(AssertionError, match=r"10 follows 1|8 of 10 rows missing"):
            ground.judge(within=5)


def _hide_some_rows(ground: Ground) -> None:
    with ground.connect() as app, ground.connect("owner") as owner:
        ground.say(app, "a", 1)
        ground.until(lambda: ground.arrived() == 1)
        owner.execute("ALTER PUBLICATION outbox DROP TABLE outbox")
        for n in range(2, 10):
            ground.say(app, "a", n)
        member = _publication().split(b"WITH")[0]
        owner.execute(member.replace(b"CREATE PUBLICATION outbox FOR", b"ALTER PUBLICATION outbox ADD"))
        ground.say(app, "a", 10)


@pytest.mark.proves("F19")
def test_a_lost_slot_is_recovered_by_a_scan(ground: Ground) -> None:
    """With its slot dropped under load the relay makes a new one and loses nothing; the recovery is on record."""
    with ground.relaying() as relay:
        with ground.writing():
            ground.until(lambda: ground.arrived() > 100)
            ground.one(
                "SELECT pg_terminate_backend(active_pid), pg_sleep(0.05), pg_drop_replication_slot(slot_name)"
                " FROM pg_replication_slots"
            )
            ground.until(lambda: ground.one("SELECT count(*) FROM relay_recovery") == (1,))
        ground.until(lambda: relay.state == "streaming")
        ground.judge()


@pytest.mark.parametrize("old", [False, True])
def test_standbys_copy_the_slot(ground: Ground, old: bool) -> None:  # noqa: FBT001
    """From PostgreSQL 17 on a slot is made for failover, and one from before is altered when it is next streamed."""
    if old:
        with ground.relaying():
            pass
        slot = ground.plan.slot
        ground.one("SELECT pg_drop_replication_slot(%s)", slot)
        ground.one("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", slot)
        ground.one("UPDATE relay_progress SET commit_lsn = pg_current_wal_flush_lsn() RETURNING true")
    with ground.relaying():
        assert ground.one("SELECT failover FROM pg_replication_slots") == (True,)
    assert ground.one("SELECT count(*) FROM relay_recovery") == (0,)


def test_a_backlog_is_gathered_for_and_what_comes_after_it_is_not(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind, the relay hands on through a producer that gathers, then through one that does not: in order, once."""
    with ground.relaying():
        pass
    with ground.connect() as app:
        for first in range(0, BACKLOG, BACKLOG // 10):
            app.execute(FILL, [ground.topic, first, first + BACKLOG // 10 - 1])
    monkeypatch.setattr(streaming, "_BEHIND_US", -1)  # whatever is read is old,
    monkeypatch.setattr(streaming, "_BUSY_ROWS", 0)  # and much, however slow the machine is
    changes, gather = list[bool](), Publisher.gather

    def noted(outlet: Publisher, *, on: bool) -> None:
        changes.append(on)
        gather(outlet, on=on)

    monkeypatch.setattr(Publisher, "gather", noted)
    with ground.relaying(Relay(replace(ground.plan, producer_linger=0.04))), ground.connect() as app:
        ground.until(lambda: ground.arrived() >= BACKLOG and changes[-1:] == [False])
        for n in range(1, 4):
            ground.say(app, "after", n)
        assert ground.judge() == 0
    assert changes[0]


def test_a_relay_that_is_not_to_gather_never_does(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no time to gather for, a backlog goes as everything goes."""
    monkeypatch.setattr(streaming, "_BEHIND_US", -1)
    monkeypatch.setattr(Publisher, "gather", lambda *_, **__: pytest.fail("it gathers"))
    with ground.relaying():
        pass
    with ground.connect() as app:
        app.execute(FILL, [ground.topic, 0, BACKLOG // 2])
    with ground.relaying():
        assert ground.judge() == 0


def test_a_wrong_topic_is_waited_for(ground: Ground) -> None:
    """With a topic missing or of other partitions the relay says which, and goes on once it is as it must be."""
    admin = AdminClient(client_settings(ground.bootstrap))
    dead_letters = ground.plan.topics[1]
    for deleted in admin.delete_topics([ground.topic, dead_letters], operation_timeout=60).values():
        deleted.result()
    ground.make_topics(ground.topic, partitions=3)
    wrong = f"topic {dead_letters} does not exist; topic {ground.topic} has 3 partitions, wanted 12"
    relay, stop = Relay(ground.plan), threading.Event()
    thread = threading.Thread(target=relay.run, args=(stop,))
    thread.start()
    try:
        with ground.connect() as app:
            ground.say(app, "a", 1)
        ground.until(lambda: relay.trouble == wrong)
        assert ground.one("SELECT count(*) FROM relay_progress") == (0,)
        for deleted in admin.delete_topics([ground.topic], operation_timeout=60).values():
            deleted.result()
        ground.make_topics(ground.topic, dead_letters)
        ground.until(lambda: relay.state == "streaming")
        assert ground.judge() == 0
    finally:
        stop.set()
        thread.join()


def test_a_refused_record_stops_the_key_and_is_not_overtaken(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record Kafka refuses is not passed by its successors; once it is taken, all follow in order."""
    monkeypatch.setattr("quadrille.relay.relay.REBUILD_SECONDS", 1.0)
    with ground.relaying() as relay, ground.connect() as app:
        ground.say(app, "a", 1)
        ground.until(lambda: ground.arrived() == 1)
        ground.limit("10")
        for n in range(2, 30):
            ground.say(app, "a", n)
        ground.until(lambda: "refused" in (relay.trouble or ""))
        assert ground.arrived() < 29  # the broker may have taken some before it heard of its new limit
        ground.limit("1048588")
        assert ground.judge() == 0


def test_each_row_sent_is_a_span_below_its_handler(ground: Ground) -> None:
    """The span has the id the record's traceparent names, the handler's span as parent, and how long the row waited."""
    sink = Sink()
    spans, began = Spans("inventory", "relay", [sink.url]), time.monotonic()
    with ground.relaying(Relay(ground.plan, spans)), ground.connect() as app:
        ground.say(app, "a", 1)
        (span,) = sink.wait_for(1)
    ((traceparent, parent),) = [ground.one("SELECT traceparent, parent_span FROM outbox")]
    attributes = {a.key: a.value for a in span.attributes}
    assert f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01" == traceparent
    assert span.parent_span_id == parent
    assert (span.name, span.kind) == (f"send {ground.topic}", span.SPAN_KIND_PRODUCER)
    assert attributes["messaging.destination.name"].string_value == ground.topic
    assert 0 <= attributes["quadrille.outbox_wait_ms"].double_value <= (time.monotonic() - began) * 1000
    assert span.end_time_unix_nano >= span.start_time_unix_nano
    spans.stop()
    sink.shutdown()
    sink.server_close()


def test_a_pure_python_libpq_is_refused(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psycopg's compiled libpq wrapper the relay does not start."""
    monkeypatch.setattr(psycopg.pq, "__impl__", "python")

    with pytest.raises(RuntimeError, match="psycopg\\[binary\\]"):
        Relay(ground.plan)
