"""Archives read again as topics are: the same verdicts, fences and refusals, whatever has gone from the topics."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from quadrille.ids import from_milliseconds, uuid7
from quadrille.kafka.topics import Topics
from quadrille.replay.archive import MANIFEST, Archive, ArchivedRecord
from quadrille.replay.runner import Range, RangeReader
from quadrille.web.problems import Problem
from quadrille_cli.archive import ArchiveWriter
from tests.chassis.replay.test_replay import LONG_AGO, NOON, contents, seen
from tests.chassis.replay.test_shadow import CAKES, heard, rebuilt
from tests.chassis.support.database import Database
from tests.chassis.support.kafka_harness import TOPICS, Kitchen
from tests.chassis.support.records import record_headers
from tests.chassis.support.replay_harness import all_read, rewinding, totals
from tests.chassis.support.sample_messages import BreadOrdered, CakeOrdered, OrderDropped, TastingBooked

ORDERS, PAYMENTS = "order.events", "payment.events"


@pytest.fixture(autouse=True)
def _alone(db: Database, kitchen: Kitchen) -> None:
    """Let nothing of another test be on the topics: what was there is cut, as retention does."""
    db.rows("TRUNCATE operation, audit")
    for topic, partition in kitchen.ends(*TOPICS):
        kitchen.cut(topic, -1, partition)
    kitchen.start_here()


def archived(kitchen: Kitchen, directory: Path, *names: str, **odd: object) -> Path:
    """Archive what is on topics now; ``odd`` replaces what the manifest says of it."""
    topics = Topics(kitchen.bootstrap)
    bounds = topics.watermarks([place for name in names for place in topics.places(name)])
    asked = {
        "topic_ids": topics.identities(list(names))[1], "since": None, "until": None,
        "read": {f"{topic}[{number}]": list(ends) for (topic, number), ends in bounds.items()},
    }  # fmt: skip
    with (
        ArchiveWriter(directory, asked | odd) as writer,
        closing(RangeReader(kitchen.bootstrap, f"{kitchen.name}.archive")) as tape,
    ):
        for place, (low, high) in bounds.items():
            for one in (one for taken in tape.play(Range(*place, low, high), 500) for one in taken):
                at, headers = from_milliseconds(one.at_ms), list(one.record.headers)
                writer.add(ArchivedRecord(*place, one.offset, at, one.key, one.record.raw, headers))
        writer.finish()
    return directory


def cut(kitchen: Kitchen, *topics: str) -> None:
    """Let retention take all there is."""
    for topic, partition in kitchen.ends(*topics):
        kitchen.cut(topic, -1, partition)


def test_an_archive_is_judged_as_its_topic_was(kitchen: Kitchen, db: Database, tmp_path: Path) -> None:
    """Each verdict, by type, with what would be said; the topic may be empty by then; nothing but the plan changes."""
    db.fill(rye=10)
    with rewinding(kitchen) as operator:
        seen(db, kitchen.tell(BreadOrdered("o-seen")))
        kitchen.tell(BreadOrdered("o-new"))
        kitchen.tell(OrderDropped("o-new"))
        kitchen.tell(BreadOrdered("o-old"), headers=record_headers(LONG_AGO, "bread.ordered"))
        kitchen.tell(BreadOrdered("o-x"), headers=record_headers(uuid7(), "canary.beat"))
        kitchen.tell(BreadOrdered("o-bad"), value=b"\0\0\0\0\7nonsense")
        all_read(kitchen, db)
        topic = operator.dry(**{"from": "beginning"})
        directory = archived(kitchen, tmp_path / "archive", ORDERS)
        cut(kitchen, ORDERS)
        before = contents(db)
        archive = operator.dry(archive=str(directory), **{"from": "beginning"})

    assert contents(db) == before
    told = [
        {name: one["progress"].get(name) for name in topic["progress"] if name != "step"} for one in (topic, archive)
    ]
    assert told[0] == told[1]
    assert totals(archive) == {"SEEN": 1, "NEW": 2, "OLD": 1, "UNHEARD": 1, "UNDECODABLE": 1}
    assert archive["plan"]["archive"] == str(directory)


def test_live_handles_what_an_archive_has_once_and_the_fence_stands(
    kitchen: Kitchen, db: Database, tmp_path: Path
) -> None:
    """New records are handled as if just heard; an effect is kept back with what follows it, until allowed by name."""
    with rewinding(kitchen) as operator:
        kitchen.tell(CakeOrdered("o-1"))
        kitchen.tell(TastingBooked("o-1", due=NOON))
        kitchen.tell(TastingBooked("o-2", due=NOON))
        all_read(kitchen, db)
        position = db.rows("SELECT * FROM position ORDER BY 1, 2")
        directory = archived(kitchen, tmp_path / "archive", PAYMENTS)
        cut(kitchen, PAYMENTS)
        plan = operator.dry(topic=PAYMENTS, archive=str(directory), **{"from": "beginning"})
        fenced = operator.live(plan, kitchen.name)
        tasks = db.rows("SELECT type, key FROM task")
        opened = operator.live(plan, kitchen.name, allow_effects=["bake_cake"])
        again = operator.live(plan, kitchen.name)

    assert totals(plan) == totals(fenced) == {"FENCED": 2, "NEW": 1}
    assert tasks == [("begin_tasting", "o-2")]
    assert (totals(opened), totals(again)) == ({"NEW": 2, "SEEN": 1}, {"SEEN": 3})
    assert db.rows("SELECT * FROM position ORDER BY 1, 2") == position


def test_a_plan_of_an_archive_has_edges_and_ends_where_the_worker_stands(
    kitchen: Kitchen, db: Database, tmp_path: Path
) -> None:
    """Offsets and times bound it; of the very log a service reads, what it has not read is its own; of another all."""
    with rewinding(kitchen) as operator:
        told = [kitchen.tell(BreadOrdered(f"o-{n}"), 4) for n in range(6)]
        all_read(kitchen, db)
        cluster, ids = Topics(kitchen.bootstrap).identities([ORDERS])
        db.rows("INSERT INTO topic VALUES (%s, %s, 12, %s) ON CONFLICT DO NOTHING", ORDERS, ids[ORDERS], cluster)
        mine = archived(kitchen, tmp_path / "mine", ORDERS)
        others = archived(kitchen, tmp_path / "others", ORDERS, topic_ids={ORDERS: "of another cluster"})
        cut(kitchen, ORDERS)
        first = told[0].offset
        edges = {"from": f"offset:{first + 1}", "to": f"offset:{first + 4}"}
        few = operator.dry(archive=str(mine), partition=4, **edges)
        times = [operator.dry(archive=str(mine), **{"from": at}) for at in ("1h", datetime.now(UTC).isoformat())]
        db.rows("UPDATE position SET next_offset = %s WHERE topic = 'order.events' AND partition = 4", first + 2)
        behind = operator.dry(archive=str(mine), **{"from": "beginning"})
        another = operator.dry(archive=str(others), **{"from": "beginning"})

    assert (few["plan"]["ranges"], few["progress"]["records"]) == ({"4": [first + 1, first + 4]}, 3)
    assert [one["progress"].get("records", 0) for one in times] == [6, 0]
    assert (behind["plan"]["ranges"]["4"], behind["plan"]["left"]) == ([first, first + 2], 4)
    assert (another["plan"]["ranges"]["4"], another["plan"]["left"]) == ([first, first + 6], 0)


def test_what_is_no_archive_is_refused_when_it_is_asked_for(kitchen: Kitchen, db: Database, tmp_path: Path) -> None:
    """Not there, not absolute, of other topics, with a manifest that was changed: by name, and nothing is stored."""
    kitchen.tell(BreadOrdered("o-1"))
    all_read(kitchen, db)
    directory = archived(kitchen, tmp_path / "archive", ORDERS)
    archived(kitchen, tmp_path / "changed", ORDERS)
    manifest = tmp_path / "changed" / MANIFEST
    manifest.write_text(manifest.read_text("utf-8").replace('"since": null', '"since": "x"'), "utf-8")
    cases = {
        "manifest.json cannot be read": {"archive": str(tmp_path / "none")},
        "absolute path": {"archive": "archive"},
        "The archive has none of it": {"archive": str(directory), "topic": PAYMENTS},
        "manifest.json is not what was written": {"archive": str(tmp_path / "changed")},
    }
    with rewinding(kitchen) as operator:
        for said, wanted in cases.items():
            with pytest.raises(Problem) as refused:
                operator.begin(**{"into": "dry", "topic": ORDERS, "from": "beginning", **wanted})
            assert said in f"{refused.value.detail} {refused.value.extra}"

    assert db.rows("SELECT 1 FROM operation") == []


def flipped(archive: Path) -> None:
    file = next(archive.glob("*.events/*.avro"))
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)


def made_anew(archive: Path) -> None:
    found = Archive(archive)
    kept = [one for topic in found.topics for one in found.records(topic)]
    archive.rename(archive.with_name("before"))
    with ArchiveWriter(archive, {**found.manifest, "files": [], "schemas": [], "note": "another"}) as writer:
        for one in kept[:-1]:
            writer.add(one)
        writer.finish()


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a bit": (flipped, ".avro is not what was written: SHA-256"),
    "another archive": (made_anew, "is not the archive it was when this was planned"),
}


@pytest.mark.parametrize(("change", "said"), CHANGES.values(), ids=CHANGES)
def test_an_archive_that_changed_after_the_plan_is_not_replayed(
    kitchen: Kitchen, db: Database, tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    """The live run ends FAILED before its first record, and says which file is not what was written."""
    db.fill(rye=10)
    with rewinding(kitchen) as operator:
        for n in range(3):
            kitchen.tell(BreadOrdered(f"o-{n}"))
        all_read(kitchen, db)
        directory = archived(kitchen, tmp_path / "archive", ORDERS)
        plan = operator.dry(archive=str(directory), **{"from": "beginning"})
        before = db.rows("TABLE hold")
        change(directory)
        ended = operator.live(plan, kitchen.name)

    assert (totals(plan), ended["state"]) == ({"NEW": 3}, "FAILED")
    assert said in ended["progress"]["failure"]
    assert db.rows("TABLE hold") == before


def test_a_shadow_begins_in_the_archive_where_retention_has_cut(kitchen: Kitchen, db: Database, tmp_path: Path) -> None:
    """Every row is rebuilt: the first records from the archive, those after its end from the topic."""
    for number in range(5):
        kitchen.tell(CakeOrdered(f"o-{number}"))
    heard(kitchen)
    directory = archived(kitchen, tmp_path / "archive", ORDERS, PAYMENTS)
    cut(kitchen, ORDERS, PAYMENTS)
    kitchen.tell(CakeOrdered("o-5"))
    heard(kitchen)
    with rewinding(kitchen, projections=[CAKES]) as operator:
        without = rebuilt(operator)
        found = rebuilt(operator, archive=str(directory))

    assert (without["progress"]["tables"], without["progress"]["records"]) == ({"cake": {"equal": 1, "partial": 5}}, 1)
    assert (found["state"], found["progress"]["tables"]) == ("DONE", {"cake": {"equal": 6}})
    assert found["progress"]["records"] == 6


def test_a_shadow_refuses_an_archive_that_does_not_fit(kitchen: Kitchen, db: Database, tmp_path: Path) -> None:
    """One with holes, one of another log, one that ends before the topic begins: each by name, nothing is rebuilt."""
    kitchen.tell(CakeOrdered("o-1"), 3)
    heard(kitchen)
    early = archived(kitchen, tmp_path / "early", PAYMENTS)
    holes = archived(kitchen, tmp_path / "holes", PAYMENTS, since="2026-01-01T00:00:00Z")
    others = archived(kitchen, tmp_path / "others", PAYMENTS, topic_ids={PAYMENTS: "of another cluster"})
    kitchen.tell(CakeOrdered("o-2"), 3)
    heard(kitchen)
    cut(kitchen, PAYMENTS)
    with rewinding(kitchen, projections=[CAKES]) as operator:
        for said, directory in (("it has holes", holes), ("is of another payment.events", others)):
            with pytest.raises(Problem) as refused:
                operator.begin(into="shadow", model="cakes", archive=str(directory))
            assert (refused.value.extra, said in str(refused.value.detail)) == ({"rule": "ARCHIVE"}, True)
        ended = rebuilt(operator, archive=str(early))

    assert ended["state"] == "FAILED"
    assert "the archive ends at" in ended["progress"]["failure"]
