"""A service's digest of its own rows: what is below the watermark, what is open; a wrong question is refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest

from quadrille.context import ProcessContext
from quadrille.ids import uuid7
from quadrille.kafka.topics import Place
from quadrille.observability.readiness import NotReadyError
from quadrille.observability.tracing import Spans
from quadrille.ops.digest import digest_routes
from quadrille.ops.evidence import Ends
from quadrille.ops.routes import OpsRequest
from quadrille.service import Digest
from quadrille.settings import Settings
from quadrille.web.problems import Problem
from tests.chassis.support import sample_service
from tests.chassis.support.database import Database, chained
from tests.chassis.support.sample_messages import BreadOrdered, CakeOrdered, Mode

NOWHERE = {"database_url": "", "kafka_bootstrap": "none", "registry_url": "http://none"}
HOLDS = Digest(
    page="SELECT order_id FROM hold WHERE order_id > %(after)b ORDER BY order_id LIMIT %(limit)b",
    rows="""
SELECT order_id, age(xmin) > age(%(below)b::text::xid8::xid), jsonb_build_object('quantity', quantity)
  FROM hold WHERE order_id = ANY(%(keys)b)""",
)
PROVEN = """
INSERT INTO relay_progress (system_id, timeline, commit_lsn, committed_at, publication, proven_xid)
VALUES (1, 1, '0/0', now(), 'p', pg_snapshot_xmin(pg_current_snapshot()))
ON CONFLICT (only_one) DO UPDATE SET proven_xid = excluded.proven_xid"""
WRONG: tuple[dict[str, str], ...] = (
    {}, {"keys": "x", "below": "1"}, {"keys": str(uuid7())}, {"keys": str(uuid7()), "below": "-1"},
    {"keys": ",".join(str(uuid7()) for _ in range(201)), "below": "1"},
)  # fmt: skip


def nowhere(places: Collection[Place]) -> Mapping[Place, int]:
    """Return the ends of partitions, each at 7."""
    return dict.fromkeys(places, 7)


def ask(db: Database, path: str, /, *, ends: Ends = nowhere, **query: str) -> dict[str, Any]:
    """What a route of a digest tells."""
    context = ProcessContext(Settings.model_validate(NOWHERE), sample_service.service(), db.connect, Spans.disabled())
    routes = digest_routes(context, HOLDS, ends)
    [route] = [one for (_, pattern), one in routes.items() if pattern.partition("?")[0] == path]
    return dict(route(OpsRequest({}, query)).document)


def below(db: Database) -> str:
    """The watermark, as of now."""
    db.rows(PROVEN)
    return str(ask(db, "/ops/watermark")["below"])


def test_a_row_is_settled_once_the_watermark_has_passed_it(db: Database) -> None:
    """What was written before the mark is settled; what was written after it is not, until the next mark."""
    db.fill(bread=9)
    db.start_at()
    old, new = str(uuid7()), str(uuid7())
    first, second = chained([BreadOrdered(old, "bread", 1), BreadOrdered(new, "bread", 2)])
    db.commit(first)
    mark = below(db)
    db.commit(second)

    told = ask(db, "/ops/digest", keys=f"{old},{new}", below=mark)["digest"]
    later = ask(db, "/ops/digest", keys=new, below=below(db))["digest"]

    assert told[old] == {"settled": True, "row": {"quantity": 1}, "open": []}
    assert told[new]["settled"] is False
    assert later[new] == {"settled": True, "row": {"quantity": 2}, "open": []}


def test_what_is_open_or_parked_is_told_with_its_key(db: Database) -> None:
    """An intent under way and a parked input are open; a timer that is to come is not."""
    db.fill(bread=9)
    db.start_at()
    baked, broken, unknown = (str(uuid7()) for _ in range(3))
    db.commit(*chained([CakeOrdered(baked), BreadOrdered(broken, "bread", 1, Mode.UNLUCKY)]))

    told = ask(db, "/ops/digest", keys=f"{baked},{broken},{unknown}", below=below(db))["digest"]

    assert told[baked]["open"] == ["bake_cake"]
    assert told[broken]["open"] == ["parked bread.ordered"]
    assert unknown not in told


def test_keys_come_a_page_at_a_time(db: Database) -> None:
    """All that is kept of is told, in the order of ids, after the one that is named."""
    db.fill(bread=9)
    db.start_at()
    keys = sorted(str(uuid7()) for _ in range(3))
    db.commit(*chained([BreadOrdered(key, "bread", 1) for key in keys]))

    assert ask(db, "/ops/digest/keys", limit="2")["keys"] == keys[:2]
    assert ask(db, "/ops/digest/keys", limit="2", after=keys[1])["keys"] == keys[2:]


def test_the_watermark_tells_how_far_topics_are_read(db: Database) -> None:
    """Each partition with its position and its end; a broker that is away leaves ends open, and says why."""
    db.start_at(offset=3)

    def away(_: Collection[Place]) -> Mapping[Place, int]:
        message = "no worker runs"
        raise NotReadyError(message)

    db.rows("INSERT INTO topic (name, topic_id, partitions) VALUES ('order.events', 't', 1) ON CONFLICT DO NOTHING")
    [one] = [part for part in ask(db, "/ops/watermark")["read"] if part["topic"] == "order.events"]
    assert (one["next_offset"], one["end"]) == (3, 7)
    told = ask(db, "/ops/watermark", ends=away)
    assert {part["end"] for part in told["read"]} == {None}
    assert "no worker runs" in told["missing"]


@pytest.mark.parametrize("query", WRONG)
def test_a_question_that_is_none_is_refused(db: Database, query: dict[str, str]) -> None:
    """Ids and a transaction's number are wanted, not too many at once."""
    with pytest.raises(Problem):
        ask(db, "/ops/digest", ends=nowhere, **query)
