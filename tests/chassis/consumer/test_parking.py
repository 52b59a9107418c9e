"""What cannot be handled is set aside with its order, in sequence, and tried again; everything else goes on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from quadrille.consumer.deserializer import RecordDeserializer
from quadrille.consumer.parking import redrive_open
from quadrille.ids import event_id, milliseconds, uuid7
from quadrille.messages import Event, Message, Result, to_json
from quadrille.observability.tracing import Spans
from quadrille.processing.envelope import Duplicate, Envelope, Handled, Outcome, Parked, Record, Unreadable
from quadrille.processing.telemetry import Telemetry
from quadrille.service import Service, Tx
from quadrille.testing.in_memory import PlainCodec
from tests.chassis.support import sample_service
from tests.chassis.support.database import Database, chained, envelope_of
from tests.chassis.support.records import record_headers
from tests.chassis.support.sample_messages import (
    BeginTasting,
    BreadOrdered,
    CakeBaked,
    CakeOrdered,
    CakeReady,
    FillShelf,
    Mode,
    OrderDropped,
    TastingBegun,
    TastingBooked,
)
from tests.chassis.support.sample_service import Rules

REPAIRED = Rules(frozenset(Mode), patient=True)


def redrive(db: Database, service: Service[Any] | None = None) -> list[Outcome]:
    """Try everything again that is set aside, as a worker does when it starts."""
    wired = service or sample_service.service(rules=REPAIRED)
    with db.connect() as tx:
        return list(redrive_open(tx, wired, RecordDeserializer(wired.on.consumes(Event), PlainCodec())))


def told(bodies: Sequence[Message], partition: int = 0, since: int = 0) -> list[Envelope]:
    """Return chained inputs as a topic gives them: with the headers a redrive reads again."""
    made = []
    for one in chained(bodies, partition, since):
        assert one.record
        made.append(replace(one, record=Record(one.record.raw, record_headers(one.id, one.type))))
    return made


@pytest.mark.proves("late.line", "F20")
def test_what_follows_a_parked_fact_of_its_order_waits_behind_it(db: Database) -> None:
    """After an event that failed, later events of that order wait in sequence, in its batch and after; others flow."""
    db.fill(rye=50)
    db.start_at()
    unlucky = BreadOrdered("o-1", mode=Mode.UNLUCKY)
    first = told([unlucky, BreadOrdered("o-2"), OrderDropped("o-1")])

    assert [type(o) for o in db.commit(*first)] == [Parked, Handled, Parked]
    assert [type(o) for o in db.commit(*told([OrderDropped("o-1"), OrderDropped("o-3")], since=3))] == [Parked, Handled]

    assert db.parked("line", "error_class", "attempts", '"offset"') == [
        ("o-1", "HANDLER", 1, 0), ("o-1", "BEHIND", 0, 2), ("o-1", "BEHIND", 0, 3),
    ]  # fmt: skip
    assert (db.position(), db.emitted()) == (5, [("loaves.held", "o-2"), ("loaves.returned", "o-3")])


def test_a_parked_record_that_comes_again_is_seen(db: Database) -> None:
    """An id that waits in a line is never parked twice, from the same batch or a later one."""
    db.fill(rye=5)
    failing = envelope_of(BreadOrdered("o-1", mode=Mode.UNLUCKY))

    assert [type(o) for o in db.commit(failing, failing)] == [Parked, Duplicate]
    assert [type(o) for o in db.commit(failing)] == [Duplicate]
    assert len(db.parked()) == 1


@pytest.mark.proves("late.line")
def test_commands_do_not_wait_behind_a_parked_fact(db: Database) -> None:
    """A command under the key of a parked event goes on."""
    db.commit(envelope_of(BreadOrdered("rye", mode=Mode.UNLUCKY)))

    assert [type(o) for o in db.commit(envelope_of(FillShelf("rye", 5)))] == [Handled]


def test_an_undecodable_record_waits_with_what_follows_of_its_order(db: Database) -> None:
    """What cannot be read parks for its order alone, with its bytes and headers; the rest of the batch flows."""
    db.fill(rye=50)
    db.start_at()
    batch = told([BreadOrdered("o-1"), BreadOrdered("o-2"), OrderDropped("o-1")])
    garbled = replace(batch[0], body=Unreadable("nonsense"), record=Record(b"\xff\0", (("h", b"\xfe"),)))

    assert [type(o) for o in db.commit(garbled, *batch[1:])] == [Parked, Handled, Parked]

    assert db.parked("line", "error_class", "error", "raw")[0] == ("o-1", "UNDECODABLE", "nonsense", b"\xff\0")
    assert db.parked("headers")[0] == (b'[["h", "fe"]]',)


def test_the_log_says_why_an_input_was_parked() -> None:
    """The reason that the row has, a fixed phrase, stands in the log line."""
    envelope = envelope_of(BreadOrdered("o-1"))
    with capture_logs() as told_of:
        Telemetry(Spans.disabled()).handled([(envelope, Parked("UNDECODABLE", "header ce_type is missing"))], 0)

    assert [(line["event"], line["reason"]) for line in told_of] == [("input parked", "header ce_type is missing")]


@pytest.mark.proves("F20")
def test_a_line_goes_through_in_sequence_once_its_head_is_repaired(db: Database) -> None:
    """Held, then returned: the whole line is handled in order at the next start, with the ids of its records."""
    db.fill(rye=50)
    db.start_at()
    line = told([BreadOrdered("o-1", mode=Mode.UNLUCKY), OrderDropped("o-1"), BreadOrdered("o-2", mode=Mode.CHOKING)])
    db.commit(*line)

    assert [type(o) for o in redrive(db)] == [Handled, Handled, Parked]

    assert db.emitted("type", "causationid") == [("loaves.held", line[0].id), ("loaves.returned", line[1].id)]
    assert db.rows("SELECT line, state, ended_by FROM parked ORDER BY place") == [
        ("o-1", "REDRIVEN", "worker"), ("o-1", "REDRIVEN", "worker"), ("o-2", "OPEN", None),
    ]  # fmt: skip
    assert (db.one("SELECT available FROM level"), db.position()) == (50, 3)
    assert [type(o) for o in db.commit(envelope_of(BreadOrdered("o-1"), line[0].id))] == [Duplicate]


def test_a_line_whose_head_still_fails_stays_as_it_is(db: Database) -> None:
    """The head counts one attempt more, what is behind it is not touched, and other lines go through."""
    db.fill(rye=50)
    db.start_at()
    early, unlucky = BreadOrdered("o-3", mode=Mode.EARLY), BreadOrdered("o-1", mode=Mode.UNLUCKY)
    db.commit(*told([unlucky, OrderDropped("o-1"), early, BreadOrdered("o-2", mode=Mode.STRAY)]))

    outcomes = redrive(db, sample_service.service(rules=Rules(frozenset({Mode.EARLY}))))

    assert [type(o) for o in outcomes] == [Parked, Parked, Handled]
    assert db.parked("line", "error_class", "attempts") == [
        ("o-1", "HANDLER", 2), ("o-1", "BEHIND", 0), ("o-2", "HANDLER", 2),
    ]  # fmt: skip
    assert db.emitted() == [("loaves.held", "o-3")]


def test_two_workers_that_start_at_once_redrive_each_line_once(db: Database) -> None:
    """Both feed the same lines: each record has one effect, in sequence, and nobody parks anything anew."""
    db.fill(rye=50)
    db.start_at()
    bodies: list[Message] = []
    for n in range(20):
        bodies += [BreadOrdered(f"o-{n}", mode=Mode.UNLUCKY), OrderDropped(f"o-{n}")]
    db.commit(*told(bodies))

    with ThreadPoolExecutor(2) as pool:
        first, second = (f.result(60) for f in [pool.submit(redrive, db) for _ in range(2)])

    kinds = Counter(type(o) for o in first + second)
    assert (kinds[Handled], kinds[Parked], db.parked()) == (40, 0, [])
    assert db.one("SELECT available FROM level") == 50
    assert len(db.emitted()) == 40


def test_what_joins_a_line_while_it_is_redriven_is_not_left_behind(db: Database) -> None:
    """An event parked behind the head, while the head is being fed, goes through too."""
    db.fill(rye=50)
    db.start_at()
    head, late = told([BreadOrdered("o-1", mode=Mode.UNLUCKY), OrderDropped("o-1")])
    db.commit(head)
    wired = sample_service.service(rules=REPAIRED)

    class Late(sample_service.PantryStore):
        def load(self, tx: Tx, messages: Sequence[Message]) -> sample_service.Pantry:
            if not db.one("SELECT count(*) FROM parked WHERE id = %s", late.id):
                sql = """INSERT INTO parked (id, line, state, type, topic, headers, raw, error_class, error, attempts)
                         SELECT %s, line, state, %s, topic, %s, %s, 'BEHIND', '', 0 FROM parked"""
                assert late.record
                headers = json.dumps([(k, v.hex()) for k, v in late.record.headers]).encode()
                db.rows(sql, late.id, late.type, headers, late.record.raw)
            return super().load(tx, messages)

    assert [type(o) for o in redrive(db, replace(wired, store=Late()))] == [Handled, Handled]
    assert db.parked() == []


def test_a_line_is_redriven_in_one_batch(db: Database) -> None:
    """Head and follower fed together go through in order; a new event in the same batch does not overtake the rest."""
    db.fill(rye=50)
    db.start_at()
    line = told([BreadOrdered("o-1", mode=Mode.UNLUCKY), OrderDropped("o-1"), BreadOrdered("o-1")])
    db.commit(*line)
    head, second, third = (replace(one, origin=None, redriven=True) for one in line)
    repaired = sample_service.service(rules=REPAIRED)

    new = envelope_of(OrderDropped("o-1"))
    assert [type(o) for o in db.commit(second, head, new, head, service=repaired)] == [
        Parked,
        Handled,
        Parked,
        Duplicate,
    ]
    assert [type(o) for o in db.commit(second, third, replace(head, redriven=False), service=repaired)] == [
        Handled,
        Handled,
        Duplicate,
    ]

    assert db.parked("id", "error_class") == [(new.id, "BEHIND")]
    assert db.emitted() == [("loaves.held", "o-1"), ("loaves.returned", "o-1")]


def test_a_dead_head_keeps_its_line_until_a_person_has_looked(db: Database) -> None:
    """A start does not try a line again whose head was given up."""
    db.fill(rye=50)
    db.start_at()
    db.commit(*told([BreadOrdered("o-1", mode=Mode.UNLUCKY), OrderDropped("o-1")]))
    db.rows("UPDATE parked SET state = 'DEAD' WHERE place = 1")

    assert redrive(db) == []
    assert len(db.parked()) == 2


def test_a_discarded_fact_is_seen_for_ever(db: Database) -> None:
    """What a person discarded has no effect when it comes again; what waited behind it goes on."""
    db.fill(rye=50)
    db.start_at()
    first, second = told([BreadOrdered("o-1", mode=Mode.UNLUCKY), OrderDropped("o-1")])
    db.commit(first, second)
    db.rows("UPDATE parked SET state = 'DISCARDED' WHERE id = %s", first.id)

    assert [
        type(o) for o in db.commit(replace(first, origin=None), service=sample_service.service(rules=REPAIRED))
    ] == [Duplicate]
    assert [type(o) for o in redrive(db)] == [Handled]
    assert db.emitted() == [("loaves.returned", "o-1")]


def test_a_type_no_longer_heard_stays_parked(db: Database) -> None:
    """A handler that is gone since does not stop the worker from starting: its records stay, of every kind."""
    db.start_at()
    [old] = told([BreadOrdered("o-1", mode=Mode.CHOKING)])
    db.commit(old)
    db.rows("UPDATE parked SET headers = decode(replace(encode(headers, 'escape'), %s, %s), 'escape')",
            b"bread.ordered".hex(), b"toast.ordered".hex())  # fmt: skip
    sql = """INSERT INTO parked (id, line, state, type, raw, error_class, error, attempts)
             VALUES (%s, %s, 'OPEN', %s, %s, 'HANDLER', '', 1)"""
    db.rows(sql, uuid7(), str(uuid7()), "cake_eaten", b"{}")
    db.rows(sql, uuid7(), str(uuid7()), "cake_baked", b'{"colour": 1}')

    assert redrive(db) == [Parked("UNHEARD", "no handler here takes this body any more")] * 2 + [
        Parked("UNHEARD", "no handler here consumes this type any more")
    ]
    assert db.parked("attempts") == [(2,), (2,), (2,)]


def answered(db: Database, body: Result) -> Envelope:
    """Order a cake and return the answer to its intent as the scheduler feeds it."""
    order = envelope_of(CakeOrdered("o-1"))
    db.commit(order)
    row = event_id("pantry", order.id, "bake_cake", 0)
    db.rows("UPDATE task SET attempts = 3, leased_until = now() + interval '30 s'")
    return envelope_of(
        body, event_id("pantry", row, "answer", 0), from_task=row, attempts=3, record=Record(to_json(body))
    )


@pytest.mark.proves("late.line")
def test_an_answer_that_fails_is_parked_alone_and_its_intent_held(db: Database) -> None:
    """Its line is its task row, which nobody leases meanwhile; events of its order go on; the redrive ends both."""
    answer = answered(db, CakeBaked("o-1", odd=True))

    assert [type(o) for o in db.commit(answer, envelope_of(OrderDropped("o-1")), answer)] == [
        Parked,
        Handled,
        Duplicate,
    ]
    assert db.parked("line", "type", "raw") == [
        (str(answer.from_task), "cake_baked", answer.record and answer.record.raw)
    ]
    assert db.rows("SELECT leased_until = 'infinity', attempts FROM task") == [(True, 3)]
    assert [type(o) for o in redrive(db, sample_service.service())] == [Parked]

    assert redrive(db) == [Handled((CakeReady("o-1", 3),))]
    assert (db.parked(), db.rows("SELECT * FROM task")) == ([], [])
    assert [type(o) for o in db.commit(answer)] == [Duplicate]


def test_an_answer_whose_copy_was_discarded_is_asked_for_again(db: Database) -> None:
    """A discarded answer reopens its row when it fails once more, and has its effect when it does not."""
    answer = answered(db, CakeBaked("o-1", odd=True))
    db.commit(answer)
    db.rows("UPDATE parked SET state = 'DISCARDED', ended_by = 'ann', reason = 'odd'")

    assert [type(o) for o in db.commit(answer)] == [Parked]
    assert db.rows("SELECT state, ended_by, attempts FROM parked") == [("OPEN", None, 2)]
    db.rows("UPDATE parked SET state = 'DISCARDED'")
    assert [type(o) for o in db.commit(answer, service=sample_service.service(rules=REPAIRED))] == [Handled]
    assert db.rows("SELECT * FROM task") == []


@pytest.mark.proves("late.line")
def test_a_timer_that_fails_is_parked_alone(db: Database) -> None:
    """A due timer whose handler raises waits in a line of its own and goes through when repaired."""
    due = datetime.now(UTC) - timedelta(seconds=1)
    booked = envelope_of(TastingBooked("unlucky-1", due))
    db.commit(booked)
    timer = BeginTasting("unlucky-1", due)
    row = event_id("pantry", booked.id, "begin_tasting", 0, milliseconds(due))
    db.commit(envelope_of(timer, row, from_task=row, record=Record(to_json(timer))))

    assert db.parked("line") == [(str(row),)]
    assert redrive(db) == [Handled((TastingBegun("unlucky-1"),))]
    assert db.rows("SELECT * FROM task") == []


def test_one_id_under_two_keys_is_parked_once(db: Database) -> None:
    """A record whose id waits already under another order's key cannot stop the worker: it is not parked twice."""
    db.fill(rye=50)
    db.start_at()
    first, second = told([BreadOrdered("o-1", mode=Mode.UNLUCKY), BreadOrdered("o-2", mode=Mode.UNLUCKY)])

    db.commit(first, replace(second, id=first.id))

    assert db.position() == 2
    assert db.parked() == [("o-1", "HANDLER")]
