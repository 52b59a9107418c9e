"""Plans of replays: frozen offsets, and every request that is refused says by which rule."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from quadrille.ids import record_id, uuid7
from quadrille.web.problems import Problem
from tests.chassis.support.database import Database, wait_until
from tests.chassis.support.kafka_harness import Kitchen
from tests.chassis.support.records import record_headers
from tests.chassis.support.replay_harness import all_read, rewinding
from tests.chassis.support.sample_messages import BreadOrdered

LONG_AGO = uuid7(1_000_000_000_000)


@pytest.fixture(autouse=True)
def _no_operations(db: Database) -> None:
    db.rows("TRUNCATE operation, audit")


def test_a_plan_is_frozen_and_ends_where_the_worker_stands(kitchen: Kitchen, db: Database) -> None:
    """Offsets, times and partitions bound it; what the worker has not read is its own, what comes later is not in."""
    with rewinding(kitchen) as operator:
        told = [kitchen.tell(BreadOrdered(f"o-{n}"), 4) for n in range(6)]
        all_read(kitchen, db)
        first = told[0].offset
        plan = operator.dry(partition=4, **{"from": f"offset:{first + 1}", "to": f"offset:{first + 5}"})
        few = operator.dry(limit=2)
        db.rows("UPDATE position SET next_offset = %s WHERE topic = 'order.events' AND partition = 4", first + 2)
        behind = operator.dry()
        kitchen.tell(BreadOrdered("o-late"), 4)
        kitchen.flush()

    assert (plan["plan"]["ranges"], plan["progress"]["records"]) == ({"4": [first + 1, first + 5]}, 4)
    assert (few["plan"]["ranges"]["4"], few["progress"]["records"]) == ([first, first + 2], 2)
    assert (behind["plan"]["ranges"]["4"], behind["plan"]["left"]) == ([first, first + 2], 4)


@pytest.mark.parametrize(
    ("wanted", "slug", "told"),
    [
        ({"topic": "no.such"}, "validation-failed", "unknown_topic"),
        ({"from": "yesterday"}, "validation-failed", "edge"),
        ({"from": "offset:1"}, "validation-failed", "missing"),
        ({"partition": 99}, "validation-failed", "unknown_partition"),
        ({"partition": 0, "from": "offset:999999999"}, "validation-failed", "beyond_end"),
        ({"from": "end", "to": "beginning"}, "validation-failed", "before_from"),
        ({"from": "1s", "to": "2s"}, "validation-failed", "before_from"),
        ({"into": "beside"}, "validation-failed", "literal_error"),
        ({"into": "shadow", "topic": "order.events"}, "validation-failed", "missing"),
    ],
)
def test_what_cannot_be_planned_is_refused(kitchen: Kitchen, wanted: dict[str, object], slug: str, told: str) -> None:
    """Each mistake is named at its place, and nothing is stored."""
    if wanted.get("to") == "beginning":
        kitchen.tell(BreadOrdered("o-1"))
        kitchen.flush()
    with rewinding(kitchen) as operator, pytest.raises(Problem) as refused:
        operator.dry(**wanted)

    assert refused.value.kind.slug == slug
    assert told in str(refused.value.extra)
    assert kitchen.db.rows("SELECT 1 FROM operation") == []


def test_a_plan_that_must_not_run_is_refused(kitchen: Kitchen, db: Database) -> None:
    """Of another service's name, expired, reaching below the floor, unknown: refused by its rule, nothing happens."""
    with rewinding(kitchen) as operator:
        kitchen.tell(BreadOrdered("o-old"), headers=record_headers(LONG_AGO, "bread.ordered"))
        all_read(kitchen, db)
        plan = operator.dry()
        refusals = {}
        for what, wanted in {
            "name": {"confirm": "payment"},
            "floor": {},
            "unknown": {"plan": str(record_id("x", 0, 0, 0))},
        }.items():
            with pytest.raises(Problem) as refused:
                operator.begin(**{"into": "live", "plan": plan["operation_id"], "confirm": kitchen.name, **wanted})
            refusals[what] = refused.value.kind.slug, refused.value.extra.get("rule")
        db.rows("UPDATE operation SET expires_at = now() - interval '1 second'")
        with pytest.raises(Problem) as late:
            operator.begin(into="live", plan=plan["operation_id"], confirm=kitchen.name)

    assert refusals == {
        "name": ("validation-failed", None),
        "floor": ("operation-refused", "BELOW_FLOOR"),
        "unknown": ("not-found", None),
    }
    assert late.value.extra == {"rule": "PLAN_EXPIRED"}


def test_a_range_past_retention_is_refused(kitchen: Kitchen) -> None:
    """An offset that retention has taken is answered with the time of the oldest record still there."""
    told = [kitchen.tell(BreadOrdered(f"o-{n}"), 7) for n in range(3)]
    kitchen.flush()
    kitchen.cut("order.events", told[1].offset, 7)
    with rewinding(kitchen) as operator, pytest.raises(Problem) as refused:
        operator.dry(partition=7, **{"from": f"offset:{told[0].offset}"})

    assert (refused.value.status_code, refused.value.kind.slug) == (410, "past-retention")
    assert str(refused.value.extra["oldest_at"]).startswith("20")


def test_a_plan_that_retention_overtook_fails_by_name(kitchen: Kitchen, db: Database) -> None:
    """Records that went after they were planned are not passed over: the replay ends FAILED, says why, does nothing."""
    with rewinding(kitchen) as operator:
        told = [kitchen.tell(BreadOrdered(f"o-{n}"), 8) for n in range(3)]
        all_read(kitchen, db)
        plan = operator.dry(partition=8)
        kitchen.cut("order.events", told[1].offset, 8)
        ended = operator.live(plan, kitchen.name)
        operator.ask("POST", f"/ops/operations/{ended['operation_id']}/resume")
        again = operator.rests(ended["operation_id"])

    assert [one["state"] for one in (ended, again)] == ["FAILED", "FAILED"]
    assert again["progress"]["failure"] == "past retention"
    assert again["progress"].get("records", 0) == 0


@pytest.mark.parametrize("long_ago", ["999999d", "0001-01-01T00:00:00+14:00"])
def test_a_time_before_all_times_is_the_beginning(kitchen: Kitchen, db: Database, long_ago: str) -> None:
    """However far back a range begins, and in whatever zone: it begins where the topic does."""
    with rewinding(kitchen) as operator:
        told = kitchen.tell(BreadOrdered("o-1"))
        all_read(kitchen, db)
        plan = operator.dry(**{"from": long_ago})
        whole = operator.dry(**{"from": "beginning"})

    assert plan["plan"]["ranges"] == whole["plan"]["ranges"]
    assert plan["plan"]["ranges"][str(told.partition)][1] > told.offset


def test_a_wrong_word_about_an_operation_is_refused(kitchen: Kitchen) -> None:
    """A state that is none, a member nobody reads: refused where it stands, not passed over."""
    with rewinding(kitchen) as operator:
        with pytest.raises(Problem) as state:
            operator.ask("GET", "/ops/operations?state=RUNING")
        with pytest.raises(Problem) as member:
            operator.ask("POST", f"/ops/operations/{LONG_AGO}/pause", until="tomorrow")

    slugs = [refused.value.kind.slug for refused in (state, member)]
    assert slugs == ["validation-failed"] * 2
    assert "query:state" in str(state.value.extra)
    assert "/until" in str(member.value.extra)


def test_two_who_cancel_at_once_are_told_the_same(kitchen: Kitchen, db: Database) -> None:
    """Who comes second while the first is about to commit finds it cancelled: no refusal, nothing audited twice."""
    with rewinding(kitchen) as operator, db.connect() as first:
        kitchen.tell(BreadOrdered("o-1"))
        all_read(kitchen, db)
        identity = operator.dry()["operation_id"]
        with ThreadPoolExecutor(1) as pool:
            with first.transaction():
                first.execute("UPDATE operation SET state = 'CANCELLED'")
                second = pool.submit(operator.ask, "POST", f"/ops/operations/{identity}/cancel")
                wait_until(lambda: db.rows("SELECT 1 FROM pg_locks WHERE NOT granted"))
            assert second.result()["state"] == "CANCELLED"

    assert db.rows("SELECT 1 FROM audit") == []
