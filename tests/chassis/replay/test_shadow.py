"""Shadow replay: a read model rebuilt beside the live one; what differs is found, and nothing but a swap changes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest

from quadrille.ids import uuid7
from quadrille.replay import shadow
from quadrille.replay.projection import ProjectedTable, Projection
from quadrille.web.problems import Problem
from tests.chassis.support.database import Database, wait_until
from tests.chassis.support.kafka_harness import TOPICS, Kitchen, Told, running
from tests.chassis.support.records import record_headers
from tests.chassis.support.replay_harness import Rewinder, rewinding
from tests.chassis.support.sample_messages import BreadOrdered, CakeOrdered, OrderDropped

CAKES = Projection("cakes", {"cake": ProjectedTable("order_id")})
SCHEMAS = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'shadow%' ORDER BY 1"
ALL = "SELECT order_id, state FROM cake ORDER BY 1"


@pytest.fixture(autouse=True)
def _alone(db: Database, kitchen: Kitchen) -> Iterator[None]:
    """Let nothing of another test be on the topics: what was there is cut, as retention does."""
    db.rows("TRUNCATE operation, audit")
    for topic, partition in kitchen.ends(*TOPICS):
        kitchen.cut(topic, -1, partition)
    kitchen.start_here()
    yield
    db.rows("SELECT shadow_sweep('{}')")


def heard(kitchen: Kitchen) -> None:
    """Let a worker handle everything there is."""
    kitchen.flush()
    with running(kitchen.worker()):
        wait_until(kitchen.caught_up, what="the worker has caught up")


def many(kitchen: Kitchen, count: int) -> None:
    """Let so many cakes have been ordered and heard of."""
    for number in range(count):
        kitchen.tell(CakeOrdered(f"o-{number}"))
        if number % 100 == 0:
            kitchen.flush()
    heard(kitchen)


def rebuilt(operator: Rewinder, **wanted: object) -> dict[str, Any]:
    """Rebuild the cakes, and return how it ended."""
    return operator.rests(operator.begin(into="shadow", model="cakes", **wanted))


def later(kitchen: Kitchen, order: str) -> Told:
    """Tell of an order whose first record retention has cut: what is there begins with its second."""
    identity = uuid7()
    kitchen.tell(CakeOrdered(order), headers=record_headers(identity, "cake.ordered", sequence=2))
    return Told("order.events", id=identity)


def schema(document: dict[str, Any]) -> str:
    """Return the name of an operation's schema."""
    return shadow.schema_of(UUID(document["operation_id"]))


def everything(db: Database) -> dict[str, list[Any]]:
    """Return what the service keeps and says, but its operations."""
    names = ("outbox", "inbox", "position", "stream", "task", "parked", "hold", "level", "cake")
    kept = {name: sorted(db.rows(f"TABLE {name}"), key=str) for name in names}
    return kept | {"outbox": [row for row in kept["outbox"] if row[1] != "ops.events"], "stream": []}


def test_a_shadow_of_what_is_right_differs_in_no_row(kitchen: Kitchen, db: Database) -> None:
    """Equal rows are counted, nothing the service keeps changes, nothing leaves, and the schema is gone after."""
    for number in range(5):
        kitchen.tell(CakeOrdered(f"o-{number}"))
    heard(kitchen)
    kitchen.tell(OrderDropped("o-9"))  # of another topic, whose order among the topics nobody keeps
    heard(kitchen)
    before = everything(db)

    with rewinding(kitchen, projections=[CAKES]) as operator:
        ended = rebuilt(operator)
        assert everything(db) == before
        again = rebuilt(operator)  # who looks for work sweeps first

    assert (ended["state"], ended["progress"]["tables"]) == ("DONE", {"cake": {"equal": 5}})
    assert (ended["progress"]["records"], ended["progress"]["unequal"]) == (6, 0)
    assert again["progress"]["tables"] == {"cake": {"equal": 5}}
    assert db.rows(SCHEMAS) == [(schema(again),)] or db.rows(SCHEMAS) == []
    said = db.rows("SELECT type FROM outbox WHERE aggregatetype = 'ops.events' ORDER BY sequence")
    assert [kind for (kind,) in said] == ["replay.started", "replay.ended"] * 2
    assert db.rows("SELECT action FROM audit ORDER BY number") == [("replay",), ("replay-end",)] * 2


def test_a_planted_difference_is_found_and_a_swap_mends_it(kitchen: Kitchen, db: Database) -> None:
    """A row changed, one lost, one whose beginning is cut: told by key and column; the swap keeps what is partial."""
    for number in range(4):
        kitchen.tell(CakeOrdered(f"o-{number}"))
    later(kitchen, "o-old")
    heard(kitchen)
    right = db.rows(ALL)
    db.rows("UPDATE cake SET state = 'READY' WHERE order_id IN ('o-1', 'o-old')")
    db.rows("DELETE FROM cake WHERE order_id = 'o-2'")
    db.rows("INSERT INTO cake VALUES ('o-ancient', 'SPOILED')")  # none of its records is on a topic any more

    with rewinding(kitchen, projections=[CAKES]) as operator:
        found = rebuilt(operator)["progress"]
        assert found["tables"] == {"cake": {"different": 1, "equal": 2, "only_shadow": 1, "partial": 2}}
        assert sorted((one["row"]["order_id"], one["verdict"], one["columns"]) for one in found["differences"]) == [
            ("o-1", "different", ["state"]), ("o-2", "only_shadow", []),
        ]  # fmt: skip
        assert db.one("SELECT state FROM cake WHERE order_id = 'o-1'") == "READY", "it was only looked at"

        swapped = rebuilt(operator, swap=True, confirm=kitchen.name)
        assert swapped["progress"]["swapped"] is True

        there: dict[str, str] = dict(db.rows(ALL))
        assert there == {**dict(right), "o-old": "READY", "o-ancient": "SPOILED"}
        before = f"{schema(swapped)}_before"
        replaced = f"SELECT state FROM {before}.cake WHERE order_id = 'o-1'"  # noqa: S608 - a name of ours
        assert db.one(replaced) == "READY"

        kitchen.tell(CakeOrdered("o-new"))
        heard(kitchen)
        assert db.one("SELECT state FROM cake WHERE order_id = 'o-new'") == "WANTED", "the service goes on in it"
        assert rebuilt(operator)["progress"]["tables"] == {"cake": {"equal": 5, "partial": 2}}


def test_a_lost_row_of_the_live_side_is_told_too(kitchen: Kitchen, db: Database) -> None:
    """A row that only the live side has, of a key whose records are all there, is a difference."""
    kitchen.tell(BreadOrdered("o-bread"))
    heard(kitchen)
    db.rows("INSERT INTO cake VALUES ('o-bread', 'READY')")
    with rewinding(kitchen, projections=[CAKES]) as operator:
        found = rebuilt(operator)["progress"]
    assert found["tables"] == {"cake": {"only_live": 1}}


def test_a_shadow_that_is_interrupted_goes_on_where_it_stood(kitchen: Kitchen, db: Database) -> None:
    """The worker ends in the middle; the next one finishes in the same schema, and no record counts twice."""
    many(kitchen, 1_500)
    with rewinding(kitchen, projections=[CAKES]) as operator:
        identity = operator.begin(into="shadow", model="cakes")
        wait_until(lambda: operator.show(identity)["progress"].get("passed", 0) > 0, what="it has begun")
    left = operator.show(identity)["state"]
    with rewinding(kitchen, projections=[CAKES]) as operator:
        ended = operator.rests(identity)
    assert left in ("RUNNING", "DONE")
    assert ended["progress"]["tables"] == {"cake": {"equal": 1_500}}


def test_a_shadow_is_compared_at_one_position_while_the_service_works(kitchen: Kitchen, db: Database) -> None:
    """Records go on coming: the comparison is of one moment, so what is right differs in no row."""
    with running(kitchen.worker()), rewinding(kitchen, projections=[CAKES]) as operator:
        for turn in range(3):
            for number in range(300):
                kitchen.tell(CakeOrdered(f"o-{turn}-{number}"))
            ended = rebuilt(operator)
            assert (ended["state"], ended["progress"]["unequal"]) == ("DONE", 0), ended
        kitchen.flush()
        wait_until(kitchen.caught_up, what="the worker has caught up")
        assert rebuilt(operator)["progress"]["tables"] == {"cake": {"equal": 900}}


def test_what_cannot_be_rebuilt_is_refused(kitchen: Kitchen, db: Database) -> None:
    """A model that is not declared, a swap not asked for twice; a table with a foreign key fails by its name."""
    bound = Projection("bound", {"nowhere": ProjectedTable("order_id")})
    with rewinding(kitchen, projections=[CAKES, bound]) as operator:
        with pytest.raises(Problem) as refused:
            operator.begin(into="shadow", model="levels")
        assert (refused.value.kind.slug, refused.value.extra["rule"]) == ("operation-refused", "NOT_REBUILDABLE")
        with pytest.raises(Problem) as unsure:
            operator.begin(into="shadow", model="cakes", swap=True, confirm="somebody")
        assert unsure.value.kind.slug == "validation-failed"
        failed = operator.rests(operator.begin(into="shadow", model="bound"))
    assert (failed["state"], failed["progress"]["failure"]) == ("FAILED", "there is no table nowhere")


def test_a_cancelled_shadow_leaves_nothing(kitchen: Kitchen, db: Database) -> None:
    """Its schema is gone with the next look, and the live rows are as they were."""
    many(kitchen, 1_500)
    with rewinding(kitchen, projections=[CAKES]) as operator:
        identity = operator.begin(into="shadow", model="cakes")
        wait_until(lambda: db.rows(SCHEMAS), what="its schema is there")
        with suppress(Problem):  # it may be done already
            operator.ask("POST", f"/ops/operations/{identity}/cancel")
        assert operator.rests(identity)["state"] in ("CANCELLED", "DONE")
        wait_until(lambda: not db.rows(SCHEMAS), what="its schema has gone")
    assert db.one("SELECT count(*) FROM cake") == 1_500
