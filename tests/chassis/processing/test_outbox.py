"""What the chassis says is there if what it tells of is, numbered without a gap, whoever else writes there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

import pytest

from quadrille.handlers import HandlerRegistry
from quadrille.ids import event_id, id_time, uuid7
from quadrille.processing.envelope import Handled, Parked
from quadrille.processing.outbox import announce, lock, saying, tell_recoveries, write
from quadrille.service import Service
from quadrille.system_messages import (
    CanaryBeat,
    FindingRaised,
    IntakePaused,
    OrderStuck,
    ProgressResumed,
    ProgressStalled,
    RelayRecovered,
)
from quadrille.testing.in_memory import START, PlainCodec
from tests.chassis.support import sample_service
from tests.chassis.support.database import Database, envelope_of
from tests.chassis.support.sample_messages import MealOrdered, OrderDropped, SoupServed
from tests.chassis.support.sample_service import Pantry

ROUNDS, THREADS = 25, 4


def report(dropped: OrderDropped, _: Pantry) -> tuple[SoupServed, FindingRaised]:
    """Say an event of the order on ops.events and a finding under the service's name."""
    return SoupServed(dropped.order_id), FindingRaised("pantry", "4", "money went back twice", dropped.order_id)


def blame(meal: MealOrdered, _: Pantry) -> FindingRaised:
    """Say a finding in somebody else's name."""
    return FindingRaised("bakery", "4", "not mine to say", meal.order_id)


def reporting() -> Service[Pantry]:
    """Return a pantry whose handlers raise findings."""
    on = HandlerRegistry("pantry", Pantry)
    on.learns(report)
    on.learns(blame)
    return replace(sample_service.service(), on=on)


def together(*works: Callable[[], None]) -> None:
    """Run all at once, from one starting shot; raise what one raised."""
    shot, failures = threading.Barrier(len(works)), list[BaseException]()

    def run(work: Callable[[], None]) -> None:
        try:
            shot.wait(60)
            work()
        except BaseException as failure:  # noqa: BLE001 - raised again below
            failures.append(failure)

    threads = [threading.Thread(target=run, args=[work]) for work in works]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    if failures:
        raise failures[0]


def counted(db: Database, key: str, total: int) -> None:
    """Check that a stream of ops.events is 1, 2, 3 … without a gap, and knows its last number."""
    sql = "SELECT sequence FROM outbox WHERE aggregatetype = 'ops.events' AND aggregateid = %s ORDER BY sequence"
    assert [n for (n,) in db.rows(sql, key)] == list(range(1, total + 1))
    assert db.one("SELECT sequence FROM stream WHERE topic = 'ops.events' AND key = %s", key) == total


def test_it_happens_with_what_it_tells_of_or_not_at_all(db: Database) -> None:
    """Rolled back it leaves no row and no gap; committed it has its cause, a fresh time and an id of both."""
    cause = uuid7()
    with db.connect() as tx:
        with tx.transaction():
            announce(tx, sample_service.service(), cause, IntakePaused("pantry", "DISK_GUARD"))
        with tx.transaction(force_rollback=True):
            announce(tx, sample_service.service(), cause, IntakePaused("pantry", "DISK_GUARD"), ordinal=1)
        with tx.transaction():
            announce(tx, sample_service.service(), cause, IntakePaused("pantry", "DISK_GUARD"), ordinal=2)

    rows = db.emitted("id", "type", "aggregatetype", "aggregateid", "sequence", "causationid")
    assert [row[1:] for row in rows] == [("intake.paused", "ops.events", "pantry", n, cause) for n in (1, 2)]
    first = event_id("pantry", cause, "intake.paused", 0)
    assert (rows[0][0].int & (1 << 76) - 1) == first.int & (1 << 76) - 1, "the hash is of cause, type and ordinal"
    assert id_time(rows[0][0]) > START


def test_two_facts_of_one_stream_stay_in_order(db: Database) -> None:
    """Several events at once: each in its own stream, numbered in the order said."""
    stuck = [OrderStuck("o-1", "payment", "payment.charged", START, level) for level in ("WARN", "PAGE")]
    with db.connect() as tx, tx.transaction():
        announce(tx, sample_service.service(), uuid7(), stuck[0], IntakePaused("pantry", "x"))
        announce(tx, sample_service.service(), uuid7(), stuck[1])

    assert sorted(db.emitted("aggregateid", "sequence", "type")) == [
        ("o-1", 1, "order.stuck"),
        ("o-1", 2, "order.stuck"),
        ("pantry", 1, "intake.paused"),
    ]


def test_a_canary_lies_under_a_key_of_its_own(db: Database) -> None:
    """A record whose key is no field of its body: on the service's topic, numbered like any other."""
    beat = replace(saying(sample_service.service(), uuid7(), CanaryBeat("pantry", 7, START)), key="canary-3")
    with db.connect() as tx, tx.transaction():
        lock(tx, [beat.key])
        write(tx, [beat])
    assert db.emitted("aggregatetype", "aggregateid", "sequence") == [("pantry.events", "canary-3", 1)]


def test_a_handler_may_raise_a_finding_in_its_services_name(db: Database) -> None:
    """Its key is not its cause's: it is numbered in the service's stream; in another's name it parks."""
    first, second = envelope_of(OrderDropped("o-1")), envelope_of(OrderDropped("o-2"))

    outcomes = db.commit(first, envelope_of(MealOrdered("o-3")), second, service=reporting())

    assert [type(one) for one in outcomes] == [Handled, Parked, Handled]
    rows = db.emitted("aggregateid", "aggregatetype", "type", "sequence", "id")
    assert rows[2:] == [
        ("pantry", "ops.events", "finding.raised", 1, event_id("pantry", first.id, "finding.raised", 0)),
        ("pantry", "ops.events", "finding.raised", 2, event_id("pantry", second.id, "finding.raised", 0)),
    ]
    assert {row[:4] for row in rows[:2]} == {(key, "ops.events", "soup.served", 1) for key in ("o-1", "o-2")}


def test_a_service_without_a_relay_puts_nothing_into_its_outbox(db: Database) -> None:
    """Nobody would publish it: neither events of the chassis nor a handler's, and nothing that is parked is told."""
    mute = replace(reporting(), relayed=False)

    outcomes = db.commit(envelope_of(OrderDropped("o-1")), envelope_of(MealOrdered("o-2")), service=mute)
    with db.connect() as tx, tx.transaction():
        announce(tx, mute, uuid7(), IntakePaused("pantry", "DISK_GUARD"))

    assert [type(one) for one in outcomes] == [Handled, Parked]
    assert db.emitted("type") == []
    assert db.one("SELECT count(*) FROM parked") == 1


@pytest.mark.parametrize("shared", ["o-1", None], ids=["one order", "each its own"])
def test_findings_of_several_workers_at_once_are_numbered_without_a_gap(db: Database, shared: str | None) -> None:
    """Workers and announcements on one stream, its first record included: no gap, no deadlock, nothing parked."""

    def work() -> None:
        for _ in range(ROUNDS):
            outcomes = db.commit(
                *(envelope_of(OrderDropped(shared or f"o-{uuid4()}")) for _ in range(2)), service=service
            )
            assert {type(one) for one in outcomes} == {Handled}

    def pause() -> None:
        with db.connect() as tx:
            for _ in range(ROUNDS):
                with tx.transaction():
                    stuck = OrderStuck(shared or "o-0", "payment", "payment.charged", START, "WARN")
                    announce(tx, service, uuid7(), IntakePaused("pantry", "DISK_GUARD"), stuck)

    service = reporting()
    together(*[work] * THREADS, *[pause] * 2)

    counted(db, "pantry", ROUNDS * (THREADS * 2 + 2))
    if shared:
        counted(db, shared, ROUNDS * (THREADS * 2 + 2))
    assert db.parked() == []


def test_a_recovery_of_the_relay_is_told_once(db: Database) -> None:
    """The relay may not write into the outbox: whoever looks tells of it, in milliseconds, and nobody again."""
    row = uuid7()
    db.rows("INSERT INTO relay_recovery (id, cause, rows, seconds) VALUES (%s, 'slot missing', 7, 1.25)", row)

    def look() -> None:
        with db.connect() as tx:
            tell_recoveries(tx, sample_service.service())

    together(*[look] * 4)
    look()

    [(payload, cause, key)] = db.emitted("payload", "causationid", "aggregateid")
    assert (cause, key) == (row, "pantry")
    assert PlainCodec().decode(payload, RelayRecovered) == RelayRecovered("pantry", "slot missing", 7, 1250)
    assert db.one("SELECT bool_and(announced) FROM relay_recovery")


def test_what_a_relay_noticed_is_told_once_and_in_order(db: Database) -> None:
    """A stall, its end, and what a recovery left out: each once, as the event it is, whoever looks."""
    note = (
        "INSERT INTO relay_notice (id, kind, detail, since_at, took_ms, at) VALUES (%s, %s, %s, %s, %s, now() + %s * "
        "interval '1 s')"
    )
    for n, kind in enumerate(("STALLED", "RESUMED", "LEFT_OUT")):
        db.rows(note, uuid7(), kind, f"detail {n}", START, 1_500, n)

    def look() -> None:
        with db.connect() as tx:
            tell_recoveries(tx, sample_service.service())

    together(*[look] * 4)
    look()

    stalled, resumed, left_out = [payload for (payload,) in db.emitted("payload")]
    assert PlainCodec().decode(stalled, ProgressStalled) == ProgressStalled("pantry", "relay", "detail 0", START)
    assert PlainCodec().decode(resumed, ProgressResumed) == ProgressResumed("pantry", "relay", START, 1_500)
    assert PlainCodec().decode(left_out, FindingRaised) == FindingRaised("pantry", "relay.left_out", "detail 2")
