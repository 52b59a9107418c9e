"""The head of a lane climbs its ladder by itself, is dead at its top, and each step is told once, with its cause."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from quadrille.consumer.deserializer import RecordDeserializer
from quadrille.consumer.parking import DUE_LANES, LaneFeeder, Retrier, redrive_open
from quadrille.ids import event_id
from quadrille.messages import Event, Message, to_json
from quadrille.observability.tracing import Spans
from quadrille.processing import parked_retry
from quadrille.processing.envelope import Envelope, Handled, Record, Unreadable
from quadrille.processing.telemetry import Telemetry
from quadrille.service import Service
from quadrille.testing.in_memory import PlainCodec
from tests.chassis.support import sample_service
from tests.chassis.support.database import Database, chained, envelope_of, wait_until
from tests.chassis.support.records import record_headers
from tests.chassis.support.sample_messages import BreadOrdered, CakeBaked, CakeOrdered, Mode, OrderDropped
from tests.chassis.support.sample_service import Rules

REPAIRED = Rules(frozenset(Mode), patient=True)
OURS = """
SELECT type, aggregatetype, aggregateid, sequence, convert_from(substr(payload, 6), 'UTF8') FROM outbox
 WHERE type LIKE 'input.%' ORDER BY ctid"""
STATE = "SELECT state, retries, attempts FROM parked ORDER BY place"
NEXT = "SELECT round(extract(epoch FROM retry_at - now())) FROM parked ORDER BY place"
LONG_AGO = "UPDATE parked SET retry_at = now() - interval '1 s' WHERE retry_at IS NOT NULL"


def feeder(service: Service[Any] | None = None) -> LaneFeeder:
    """Return what feeds the pantry's lanes."""
    wired = service or sample_service.service()
    return LaneFeeder(wired, RecordDeserializer(wired.on.consumes(Event), PlainCodec()))


def told(*bodies: Message, since: int = 0) -> list[Envelope]:
    """Return inputs as a topic gives them."""
    made = []
    for one in chained(bodies, since=since):
        assert one.record
        made.append(replace(one, record=Record(one.record.raw, record_headers(one.id, one.type))))
    return made


def retry(db: Database, service: Service[Any] | None = None) -> list[str]:
    """Let the wait of every lane be over and feed what is due; return the lanes that were."""
    db.rows(LONG_AGO)
    with db.connect() as tx:
        lanes = [str(lane) for (lane,) in tx.execute(DUE_LANES.encode()).fetchall()]
        for lane in lanes:
            feeder(service).feed(tx, lane)
    return lanes


def news(db: Database) -> list[tuple[str, str]]:
    """Return what was told of inputs: the type, and whom it is about."""
    return [(kind, key) for kind, _, key, _, _ in db.rows(OURS)]


@contextmanager
def retrying(db: Database, service: Service[Any] | None = None) -> Iterator[None]:
    """Try again what is parked, as a worker does, while the block lasts."""
    stop = threading.Event()
    retrier = Retrier(feeder(service), db.connect, Telemetry(Spans.disabled()).retried)
    thread = threading.Thread(target=retrier.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.proves("F20")
def test_a_broken_handler_is_tried_after_1_5_and_30_seconds_then_dead(db: Database) -> None:
    """Three tries by itself; then it waits for a person with what is behind it, and no start tries it again."""
    db.fill(rye=50)
    db.start_at()
    db.commit(*told(BreadOrdered("o-1", mode=Mode.UNLUCKY), OrderDropped("o-1")))

    waits = []
    for _ in range(3):
        waits.append(db.one(NEXT))
        assert retry(db) == ["o-1"]
    assert [int(wait) for wait in waits] == [1, 5, 30]

    assert db.rows(STATE) == [("DEAD", 3, 4), ("OPEN", 0, 0)]
    assert db.rows("SELECT retry_at FROM parked") == [(None,), (None,)]
    assert retry(db) == []
    assert news(db) == [("input.parked", "o-1"), ("input.dead", "o-1"), ("input.buried", "o-1")]


@pytest.mark.proves("late.dead", "late.unknown-order")
def test_what_came_too_early_waits_60_seconds_then_is_dead_with_its_reason(db: Database) -> None:
    """NotYet is tried once more after a minute; then it is dead, and its reason is told."""
    db.fill(rye=50)
    db.start_at()
    db.commit(*told(BreadOrdered("o-1", mode=Mode.EARLY)))

    assert int(db.one(NEXT)) == 60
    assert retry(db) == ["o-1"]

    assert db.rows("SELECT state, error_class, error FROM parked") == [
        ("DEAD", "CAUSALITY", "NotYet: came before what it refers to")
    ]
    assert news(db) == [("input.parked", "o-1"), ("input.dead", "o-1"), ("input.buried", "o-1")]


def test_what_comes_in_time_after_all_goes_through(db: Database) -> None:
    """The cause came meanwhile: the next try handles it, and what had waited behind it."""
    db.fill(rye=50)
    db.start_at()
    db.commit(*told(BreadOrdered("o-1", mode=Mode.EARLY), OrderDropped("o-1")))

    assert retry(db, sample_service.service(rules=REPAIRED)) == ["o-1"]

    assert db.emitted() == [("loaves.held", "o-1"), ("loaves.returned", "o-1")]
    assert news(db) == [("input.parked", "o-1"), ("input.redriven", "o-1")]
    assert db.rows("SELECT state, ended_by, retry_at FROM parked") == [("REDRIVEN", "worker", None)] * 2


def test_a_start_climbs_no_rung(db: Database) -> None:
    """However often a worker starts, an input keeps its tries: what is tried before its time stays when it was due."""
    db.fill(rye=50)
    db.start_at()
    db.commit(*told(BreadOrdered("o-1", mode=Mode.EARLY)))
    due = db.one("SELECT retry_at FROM parked")
    reader = RecordDeserializer(sample_service.service().on.consumes(Event), PlainCodec())

    for _ in range(5):
        with db.connect() as tx:
            list(redrive_open(tx, sample_service.service(), reader))

    assert db.rows("SELECT state, retries, attempts, retry_at FROM parked") == [("OPEN", 1, 6, due)]


def test_what_no_try_can_mend_waits_for_a_person_at_once(db: Database) -> None:
    """An event older than the inbox can tell is dead as it is parked."""
    db.start_at()
    [old] = told(BreadOrdered("o-1"))
    db.commit(replace(old, body=Unreadable("the event is older than the inbox can tell", "BELOW_FLOOR")))

    assert db.rows(STATE) == [("DEAD", 0, 1)]
    assert news(db) == [("input.parked", "o-1"), ("input.dead", "o-1"), ("input.buried", "o-1")]


def test_the_next_of_a_lane_has_tries_of_its_own(db: Database) -> None:
    """The head goes through, what was behind it fails: that is told, with those behind it, and it climbs from below."""
    db.fill(rye=50)
    db.start_at()
    early, unlucky = BreadOrdered("o-1", mode=Mode.EARLY), BreadOrdered("o-1", sku="oat", mode=Mode.STRAY)
    db.commit(*told(early, unlucky, OrderDropped("o-1")))
    db.rows("DELETE FROM hold")

    class Forgetful(sample_service.PantryStore):
        """The pantry forgets its holds, so that the second order is handled as a first one."""

        def save(self, tx: Any, work: Any) -> None:  # noqa: ANN401 - as the store's
            super().save(tx, replace(work, holds=type(work.holds)((), {})))

    half = sample_service.service(rules=Rules(frozenset({Mode.EARLY})), store=Forgetful())
    assert retry(db, half) == ["o-1"]

    assert db.rows(STATE) == [("REDRIVEN", 1, 1), ("OPEN", 1, 1), ("OPEN", 0, 0)]
    facts = [(kind, json.loads(body)) for kind, _, _, _, body in db.rows(OURS)]
    assert [(kind, body.get("behind")) for kind, body in facts] == [
        ("input.parked", 0), ("input.redriven", None), ("input.parked", 1),
    ]  # fmt: skip


def test_an_answer_that_keeps_failing_is_dead_too(db: Database) -> None:
    """A result's own lane climbs the ladder; its task stays held, so that nobody is asked again meanwhile."""
    order = envelope_of(CakeOrdered("o-1"))
    db.commit(order)
    row = event_id("pantry", order.id, "bake_cake", 0)
    body = CakeBaked("o-1", odd=True)
    db.commit(envelope_of(body, event_id("pantry", row, "answer", 0), from_task=row, record=Record(to_json(body))))

    for _ in range(3):
        assert retry(db) == [str(row)]

    assert db.rows(STATE) == [("DEAD", 3, 4)]
    assert db.rows("SELECT leased_until = 'infinity' FROM task") == [(True,)]
    assert news(db) == [("input.parked", "o-1"), ("input.dead", "o-1"), ("input.buried", "o-1")]


def test_the_cause_is_kept_without_a_value(db: Database) -> None:
    """Class, frames and fingerprint stand in the row; the exception's text, which is the order's id, nowhere."""
    db.fill(rye=50)
    db.start_at()
    secret = "o-4111111111111111"  # noqa: S105 - a value that must not be kept
    db.commit(*told(BreadOrdered(secret, mode=Mode.UNLUCKY), BreadOrdered("o-2", mode=Mode.UNLUCKY)))

    [(exception, frames, print_), (_, _, same)] = db.rows("SELECT exception, frames, fingerprint FROM parked")
    assert exception == "Unlucky"
    lines = frames.split("\n")
    assert lines[-1].startswith("tests/chassis/support/sample_service.py:")
    assert lines[-1].endswith(":hold_loaves")
    assert all(line.count(":") == 2 and not line.startswith("/") for line in lines)
    assert secret not in frames
    assert (len(print_), print_) == (12, same)


def test_what_fails_elsewhere_or_otherwise_is_another_group(db: Database) -> None:
    """The store's failure, an unreadable record and a handler's have three fingerprints."""
    db.fill(rye=50)
    db.start_at()
    batch = told(BreadOrdered("o-1", mode=Mode.UNLUCKY), BreadOrdered("o-2", mode=Mode.CHOKING), BreadOrdered("o-3"))
    db.commit(*batch[:2], replace(batch[2], body=Unreadable("nonsense")))

    assert db.one("SELECT count(DISTINCT fingerprint) FROM parked") == 3
    assert db.rows("SELECT exception, frames FROM parked WHERE line = 'o-3'") == [(None, None)]


def test_the_copy_of_a_dead_input_says_all_and_is_cut_if_it_is_too_long(db: Database) -> None:
    """Origin, error, tries, fingerprint and bytes lie on the service's dead letters; a megabyte says that it is cut."""
    db.start_at()
    short, long = told(BreadOrdered("o-1", mode=Mode.CHOKING), BreadOrdered("o-2"))
    raw = b"\xff" * 1_000_000
    db.commit(short, replace(long, body=Unreadable("nonsense"), record=Record(raw, long.record.headers)))  # type: ignore[union-attr]  # told() gives it one
    for _ in range(3):
        retry(db)

    rows = [row for row in db.rows(OURS) if row[0] == "input.buried"]
    assert [(topic, key, number) for _, topic, key, number, _ in rows] == [
        ("pantry.dead-letters", "o-1", 1), ("pantry.dead-letters", "o-2", 1),
    ]  # fmt: skip
    first, second = (json.loads(body) for *_, body in rows)
    assert short.record
    assert base64.urlsafe_b64decode(first.pop("raw")) == short.record.raw
    assert first.pop("error").startswith("ValueError while handling bread.ordered")
    assert first == {
        "order_id": "o-1", "event_id": str(short.id), "cut": False, "service": "pantry", "event_type": "bread.ordered",
        "place": "order.events[0]@0", "error_class": "HANDLER", "attempts": 4,
        "fingerprint": db.one("SELECT fingerprint FROM parked WHERE line = 'o-1'"),
    }  # fmt: skip
    assert second["cut"] is True
    assert raw.startswith(base64.urlsafe_b64decode(second["raw"]))
    assert db.one("SELECT max(octet_length(payload)) FROM outbox") <= 262_144


def test_what_is_told_is_numbered_in_its_stream(db: Database) -> None:
    """Each order's news on ops.events are 1, 2, 3, whoever told them."""
    db.fill(rye=50)
    db.start_at()
    db.commit(*told(BreadOrdered("o-1", mode=Mode.UNLUCKY)))
    for _ in range(3):
        retry(db)
    numbers = [number for _, topic, _, number, _ in db.rows(OURS) if topic == "ops.events"]

    assert numbers == [1, 2]
    assert db.one("SELECT sequence FROM stream WHERE (topic, key) = ('ops.events', 'o-1')") == 2


def test_a_worker_tries_again_while_it_runs(db: Database) -> None:
    """Nobody restarts anything: the mended handler has its event within the ladder, once, whoever else looks."""
    db.fill(rye=50)
    db.start_at()
    db.commit(*told(BreadOrdered("o-1", mode=Mode.UNLUCKY), OrderDropped("o-1")))
    mended = sample_service.service(rules=REPAIRED)

    with retrying(db, mended), retrying(db, mended):
        wait_until(lambda: len(db.emitted()) == 2)

    assert db.emitted() == [("loaves.held", "o-1"), ("loaves.returned", "o-1")]
    assert news(db) == [("input.parked", "o-1"), ("input.redriven", "o-1")]


def test_a_redriven_dead_head_that_fails_stays_dead() -> None:
    """The ladder is climbed once: whoever redrives by hand is told the outcome, and nothing runs on its own again."""
    assert parked_retry.setback("HANDLER", parked_retry.ParkedRow("DEAD", 3)) == parked_retry.Setback("DEAD", 3)
    assert parked_retry.setback("HANDLER", parked_retry.NEW) == parked_retry.Setback("OPEN", 1, timedelta(seconds=1))


def test_a_healthy_batch_costs_no_statement_more(db: Database) -> None:
    """What a batch asks and writes when nothing is parked are the statements it always was."""
    db.fill(rye=50)
    db.start_at()
    with db.connect() as tx:
        said: list[str] = []
        execute = tx.execute

        def counting(query: Any, *values: Any, **more: Any) -> Any:  # noqa: ANN401 - psycopg's
            said.append(str(query).split(maxsplit=1)[0])
            return execute(query, *values, **more)

        tx.execute = counting  # type: ignore[method-assign]  # to count
        from quadrille.processing.batch import process_batch  # noqa: PLC0415 - beside its use

        outcomes = process_batch(tx, sample_service.service(), told(BreadOrdered("o-1"), BreadOrdered("o-2")))
    assert [type(outcome) for outcome in outcomes] == [Handled, Handled]
    assert len(said) == 13, said
