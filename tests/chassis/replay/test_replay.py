"""Topics read again: the known is left alone, the new is handled once, and nothing leaves that nobody allowed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from quadrille.ids import uuid7
from quadrille.replay.fence import Fence
from quadrille.web.problems import Problem
from tests.chassis.support.database import Database, wait_until
from tests.chassis.support.kafka_harness import Kitchen, Told
from tests.chassis.support.records import record_headers
from tests.chassis.support.replay_harness import all_read, rewinding, totals
from tests.chassis.support.sample_messages import BreadOrdered, CakeOrdered, Mode, OrderDropped, TastingBooked

LONG_AGO, NOON = uuid7(1_000_000_000_000), datetime(2100, 1, 1, 12, tzinfo=UTC)
TABLES = ("outbox", "inbox", "inbox_old", "position", "stream", "task", "parked", "hold", "level", "cake", "audit")
PARK = """
INSERT INTO parked (id, line, state, type, topic, partition, "offset", headers, raw, error_class, error, attempts)
VALUES (%s, %s, %s, 'order.dropped', 'order.events', 0, 0, '[]', '', 'HANDLER', 'x', 1)"""


@pytest.fixture(autouse=True)
def _no_operations(db: Database) -> None:
    db.rows("TRUNCATE operation, audit")


def contents(db: Database) -> dict[str, list[Any]]:
    """Return everything a service keeps, but its operations."""
    return {table: sorted(db.rows(f"TABLE {table}"), key=str) for table in TABLES}


def seen(db: Database, *told: Told) -> None:
    """Let records have been handled."""
    for one in told:
        db.rows("INSERT INTO inbox VALUES (%s)", one.id)


def test_a_dry_run_judges_every_record_and_changes_nothing(kitchen: Kitchen, db: Database) -> None:
    """Each of the seven verdicts is given where it belongs, by type; all tables are as they were but for the plan."""
    db.fill(rye=10)
    with rewinding(kitchen) as operator:
        seen(db, kitchen.tell(BreadOrdered("o-seen")))
        kitchen.tell(BreadOrdered("o-new"))
        kitchen.tell(OrderDropped("o-new"))
        db.rows(PARK, uuid7(), "o-waits", "OPEN")
        kitchen.tell(BreadOrdered("o-waits"))
        kitchen.tell(BreadOrdered("o-old"), headers=record_headers(LONG_AGO, "bread.ordered"))
        kitchen.tell(BreadOrdered("o-x"), headers=record_headers(uuid7(), "canary.beat"))
        bad = kitchen.tell(BreadOrdered("o-bad"), value=b"\0\0\0\0\7nonsense")
        all_read(kitchen, db)
        before = contents(db)

        plan = operator.dry()

    assert contents(db) == before
    assert plan["progress"]["verdicts"] == {
        "bread.ordered": {"SEEN": 1, "NEW": 1, "PARKED": 1, "OLD": 1, "UNDECODABLE": 1},
        "order.dropped": {"NEW": 1},
        "canary.beat": {"UNHEARD": 1},
    }
    assert (plan["progress"]["orders"], plan["progress"]["facts"]) == (1, {"loaves.held": 1, "loaves.returned": 1})
    unread = plan["progress"]["unreadable"]
    assert [(u["partition"], u["offset"], u["bytes"][:10]) for u in unread] == [
        (bad.partition, bad.offset, "0000000007")
    ]
    assert plan["expires_at"] is not None


def test_live_handles_what_is_new_once_and_in_sequence(kitchen: Kitchen, db: Database) -> None:
    """New records are handled as if just heard, what is said has its own ids; a second and third run do nothing."""
    db.fill(rye=10)
    with rewinding(kitchen) as operator:
        told = [kitchen.tell(BreadOrdered(f"o-{n}")) for n in range(5)]
        dropped = kitchen.tell(OrderDropped("o-3"))
        seen(db, told[0])
        all_read(kitchen, db)
        position = db.rows("SELECT * FROM position ORDER BY 1, 2")
        plan = operator.dry()

        ended = operator.live(plan, kitchen.name)
        held = contents(db)
        again = [operator.live(plan, kitchen.name) for _ in range(2)]

    assert (ended["state"], totals(ended)) == ("DONE", {"SEEN": 1, "NEW": 5})
    assert totals(again[0]) == totals(again[1]) == {"SEEN": 6}
    assert db.one("SELECT available FROM level") == 7
    assert db.rows("SELECT * FROM position ORDER BY 1, 2") == position
    ours = {table: rows for table, rows in contents(db).items() if table not in ("outbox", "stream", "audit")}
    assert ours == {table: rows for table, rows in held.items() if table in ours}
    causes = db.rows("SELECT causationid FROM outbox WHERE aggregatetype = %s", f"{kitchen.name}.events")
    assert sorted(row[0] for row in causes) == sorted([*(one.id for one in told[1:]), dropped.id])


def test_a_live_replay_is_told_and_audited(kitchen: Kitchen, db: Database) -> None:
    """ops.events hears of start and end, the audit has who, why, ranges and verdicts; a dry run leaves neither."""
    db.fill(rye=10)
    with rewinding(kitchen) as operator:
        kitchen.tell(BreadOrdered("o-1"))
        all_read(kitchen, db)
        plan = operator.dry()
        assert db.rows("SELECT 1 FROM audit") == db.rows("SELECT 1 FROM outbox") == []
        operator.live(plan, kitchen.name)

    emitted = db.rows(
        "SELECT type, aggregateid, sequence FROM outbox WHERE aggregatetype = 'ops.events' ORDER BY sequence"
    )
    assert emitted == [("replay.started", kitchen.name, 1), ("replay.ended", kitchen.name, 2)]
    begun, ended = db.rows("SELECT actor, reason, action, before, after FROM audit ORDER BY number")
    assert begun[:3] == ("tester", "a test", "replay")
    assert begun[3]["foreseen"]["verdicts"] == {"bread.ordered": {"NEW": 1}}
    assert ended[4]["progress"]["verdicts"] == {"bread.ordered": {"NEW": 1}}
    assert begun[4]["plan"]["ranges"] == plan["plan"]["ranges"]


def test_the_fence_withholds_effects_and_what_follows_them(kitchen: Kitchen, db: Database) -> None:
    """An intent is not said and its order goes no further; allowed by name and with a reason, both are handled."""
    with rewinding(kitchen) as operator:
        kitchen.tell(CakeOrdered("o-1"))
        kitchen.tell(TastingBooked("o-1", due=NOON))
        kitchen.tell(TastingBooked("o-2", due=NOON))
        all_read(kitchen, db)
        plan = operator.dry(topic="payment.events")
        fenced = operator.live(plan, kitchen.name)
        tasks = db.rows("SELECT type, key FROM task")
        opened = operator.live(plan, kitchen.name, allow_effects=["bake_cake"])

    assert totals(plan) == totals(fenced) == {"FENCED": 2, "NEW": 1}
    assert fenced["progress"]["kept_back"] == {"bake_cake": 1}
    assert tasks == [("begin_tasting", "o-2")]
    assert totals(opened) == {"NEW": 2, "SEEN": 1}
    assert sorted(db.rows("SELECT type, key FROM task")) == [
        ("bake_cake", "o-1"), ("begin_tasting", "o-1"), ("begin_tasting", "o-2"),
    ]  # fmt: skip


def test_a_stopped_replay_goes_on_exactly_there(kitchen: Kitchen, db: Database) -> None:
    """What one process has done stays done and counted once; the next one knows which orders it had kept back."""
    db.fill(rye=1000)
    service = kitchen.service()
    with rewinding(kitchen, service, batch_max=5) as operator:
        kitchen.tell(CakeOrdered("o-kept"), 2)
        for n in range(40):
            kitchen.tell(TastingBooked(f"o-{n}", due=NOON), 2)
        kitchen.tell(TastingBooked("o-kept", due=NOON), 2)
        all_read(kitchen, db)
        plan = operator.dry(topic="payment.events")
        wanted = {"into": "live", "plan": plan["operation_id"], "confirm": kitchen.name, "rate": 5}
        identity = operator.begin(**wanted)
        wait_until(lambda: operator.show(identity)["progress"].get("records", 0) >= 10)
    halfway = db.rows("SELECT state, (progress->>'records')::int FROM operation WHERE id = %s", UUID(identity))
    done = db.one("SELECT count(*) FROM task")

    with rewinding(kitchen, service) as operator:
        ended = operator.rests(identity)

    assert halfway[0][0] == "RUNNING"
    assert halfway[0][1] < 42
    assert done == halfway[0][1] - 1
    assert totals(ended) == {"FENCED": 2, "NEW": 40}
    assert db.one("SELECT count(*) FROM task") == 40


def test_a_paused_replay_does_nothing_until_it_is_resumed(kitchen: Kitchen, db: Database) -> None:
    """Pause, resume and cancel take effect between two transactions, are audited, and say nothing twice."""
    with rewinding(kitchen, batch_max=1) as operator:
        for n in range(30):
            kitchen.tell(TastingBooked(f"o-{n}", due=NOON))
        all_read(kitchen, db)
        plan = operator.dry(topic="payment.events")
        wanted = {"into": "live", "plan": plan["operation_id"], "confirm": kitchen.name, "rate": 4}
        identity = operator.begin(**wanted)
        with pytest.raises(Problem) as running:
            operator.begin(**wanted)
        wait_until(lambda: operator.show(identity)["progress"].get("records", 0) >= 2)
        for _ in range(2):
            paused = operator.ask("POST", f"/ops/operations/{identity}/pause")
        assert db.one("SELECT count(*) FROM task") == paused["progress"]["records"]
        operator.ask("POST", f"/ops/operations/{identity}/resume")
        wait_until(lambda: operator.show(identity)["progress"]["records"] > paused["progress"]["records"])
        ended = operator.ask("POST", f"/ops/operations/{identity}/cancel")
        with pytest.raises(Problem) as over:
            operator.ask("POST", f"/ops/operations/{identity}/resume")

    assert (running.value.kind.slug, running.value.extra) == ("operation-refused", {"rule": "RUNNING"})
    assert over.value.extra == {"rule": "ENDED"}
    assert db.one("SELECT count(*) FROM task") == ended["progress"]["records"] < 30
    actions = [row[0] for row in db.rows("SELECT action FROM audit ORDER BY number")]
    assert actions == ["replay", "operation-pause", "operation-resume", "operation-cancel"]
    emitted = db.rows("SELECT type FROM outbox WHERE aggregatetype = 'ops.events' ORDER BY sequence")
    assert emitted == [("replay.started",), ("replay.ended",)]


def test_a_discarded_event_is_handled_only_if_it_is_named(kitchen: Kitchen, db: Database) -> None:
    """Its order's name is not enough; named, it is handled once and counts as redriven by whoever named it."""
    db.fill(rye=10)
    with rewinding(kitchen) as operator:
        told = kitchen.tell(BreadOrdered("o-1"))
        db.rows(PARK, told.id, "o-1", "DISCARDED")
        all_read(kitchen, db)
        by_order = operator.live(operator.dry(order="o-1"), kitchen.name)
        plan = operator.dry(events=[str(told.id)])
        state = db.one("SELECT state FROM parked")
        named = operator.live(plan, kitchen.name)
        again = operator.live(plan, kitchen.name)

    assert (totals(by_order), totals(plan), totals(named), totals(again)) == (
        {"SEEN": 1},
        {"NEW": 1},
        {"NEW": 1},
        {"SEEN": 1},
    )
    assert state == "DISCARDED"
    assert db.rows("SELECT state, ended_by FROM parked") == [("REDRIVEN", "tester")]
    assert db.one("SELECT available FROM level") == 9


def test_a_handler_that_fails_parks_and_soon_pauses_the_replay(kitchen: Kitchen, db: Database) -> None:
    """A dry run foresees it; a live one parks five records and no more, whatever else is planned."""
    db.fill(rye=100)
    with rewinding(kitchen, batch_max=1) as operator:
        for n in range(9):
            kitchen.tell(BreadOrdered(f"o-{n}", mode=Mode.UNLUCKY))
        all_read(kitchen, db)
        plan = operator.dry()
        ended = operator.live(plan, kitchen.name)

    assert (totals(plan), plan["progress"]["parked"]) == ({"PARKED": 9}, {"HANDLER": 9})
    assert (ended["state"], totals(ended)) == ("PAUSED", {"PARKED": 5})
    assert len(db.parked()) == 5


def test_what_the_database_refuses_is_found_inside_the_transaction(kitchen: Kitchen, db: Database) -> None:
    """A batch with one record the database refuses is halved within its transaction; the others are handled."""
    db.fill(rye=3)
    with rewinding(kitchen) as operator:
        kitchen.tell(BreadOrdered("o-bad", quantity=9, mode=Mode.FORCED), 1)
        for n in range(3):
            kitchen.tell(BreadOrdered(f"o-{n}"), 1)
        all_read(kitchen, db)
        plan = operator.dry()
        assert (db.one("SELECT available FROM level"), db.parked()) == (3, [])
        ended = operator.live(plan, kitchen.name)

    assert totals(plan) == totals(ended) == {"PARKED": 1, "NEW": 3}
    assert db.one("SELECT available FROM level") == 0
    assert db.parked() == [("o-bad", "HANDLER")]


def test_without_the_fence_the_effect_would_be_said(
    kitchen: Kitchen, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: a fence that lets everything through says the intent, so it is the fence that keeps it back."""
    monkeypatch.setattr(Fence, "judges", lambda *_: None)
    with rewinding(kitchen) as operator:
        kitchen.tell(CakeOrdered("o-1"))
        all_read(kitchen, db)
        ended = operator.live(operator.dry(topic="payment.events"), kitchen.name)

    assert totals(ended) == {"NEW": 1}
    assert db.rows("SELECT type FROM task") == [("bake_cake",)]
