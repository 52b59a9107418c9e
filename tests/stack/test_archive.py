"""An archive of topics: every record byte for byte, whole or not there; whatever was changed in it is named."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fastavro
import pytest
from typer.testing import CliRunner

from quadrille.replay.archive import MANIFEST, Archive, ArchivedRecord, ArchiveError, records, verify
from quadrille_cli.archive import HELD_MOST, ArchiveWriter
from quadrille_cli.commands.events import app

MIDNIGHT = datetime(2026, 11, 21, tzinfo=UTC)
SAID = [
    ArchivedRecord("order.events", 3, 7, MIDNIGHT - timedelta(milliseconds=1), b"o-1", b"\0\0\0\0\7x", [("a", b"1")]),
    ArchivedRecord("order.events", 3, 8, MIDNIGHT, None, None, [("a", None), ("a", b"\xff")]),
    ArchivedRecord("ops.events", 0, 0, MIDNIGHT, b"", b"", []),
]
DAYS = ["ops.events/2026-11-21.avro", "order.events/2026-11-20.avro", "order.events/2026-11-21.avro"]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Three records of two topics and two days, and a schema."""
    with ArchiveWriter(tmp_path / "archive", {"schemas_missing": []}) as writer:
        for record in SAID:
            writer.add(record)
        writer.schema(7, '{"type": "string"}')
        writer.finish()
    return tmp_path / "archive"


def test_what_was_written_is_read_byte_for_byte(archive: Path) -> None:
    """By topic and day in UTC; no key is not an empty one; headers keep their order, and doubles."""
    manifest = verify(archive)

    assert [one["path"] for one in manifest["files"]] == DAYS
    assert sorted((r for one in manifest["files"] for r in records(archive, one)), key=SAID.index) == SAID
    assert [(one["id"], one["path"]) for one in manifest["schemas"]] == [(7, "schemas/7.avsc")]
    assert list(archive.parent.iterdir()) == [archive], "nothing else is left behind"


def test_a_file_is_an_avro_container_that_anybody_reads(archive: Path) -> None:
    """Its schema is in it, and its hash in the manifest is the file's."""
    path = archive / DAYS[1]
    with path.open("rb") as file:
        [row] = list(fastavro.reader(file))
    found = json.loads((archive / MANIFEST).read_text("utf-8"))["files"][1]

    assert (row["offset"], row["value"]) == (7, b"\0\0\0\0\7x")  # type: ignore[call-overload, index]  # a record
    assert found["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_more_than_is_held_in_memory_is_written_to_the_same_files(tmp_path: Path) -> None:
    """A file is begun once and goes on: one container, every record."""
    with ArchiveWriter(tmp_path / "archive") as writer:
        for offset in range(2 * HELD_MOST + 5):
            writer.add(ArchivedRecord("order.events", 0, offset, MIDNIGHT, b"k", b"v", []))
        [file] = writer.finish()["files"]

    assert file["records"] == 2 * HELD_MOST + 5
    assert [r.offset for r in records(tmp_path / "archive", verify(tmp_path / "archive")["files"][0])] == list(
        range(2 * HELD_MOST + 5)
    )


def test_an_error_leaves_nothing_and_what_is_there_stays(archive: Path) -> None:
    """Half an archive is never seen; one that is there is not written into."""

    def fails(to: Path) -> None:
        with ArchiveWriter(to) as writer:
            writer.add(SAID[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails(archive.parent / "other")
    with pytest.raises(ArchiveError, match="is there already"):
        fails(archive)
    assert list(archive.parent.iterdir()) == [archive]
    verify(archive)


def manifest_of(change: Callable[[dict[str, Any]], object], *, sealed: bool = True) -> Callable[[Path], object]:
    """Write a manifest that says something else, with its own hash right if sealed."""

    def damage(archive: Path) -> None:
        told = json.loads((archive / MANIFEST).read_text("utf-8"))
        change(told)
        if sealed:
            told.pop("sha256", None)
            text = json.dumps(told, sort_keys=True, separators=(",", ":"))
            told["sha256"] = hashlib.sha256(text.encode()).hexdigest()
        (archive / MANIFEST).write_text(json.dumps(told), "utf-8")

    return damage


def flipped(archive: Path) -> None:
    data = bytearray((archive / DAYS[1]).read_bytes())
    data[-20] ^= 1
    (archive / DAYS[1]).write_bytes(data)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit": (flipped, "order.events/2026-11-20.avro is not what was written: SHA-256"),
    "a file is cut": (lambda a: (a / DAYS[0]).write_bytes(b""), f"{DAYS[0]} is not what was written"),
    "a file is gone": (lambda a: (a / DAYS[2]).unlink(), f"{DAYS[2]} is in the manifest, and not there"),
    "a file more": (lambda a: (a / "order.events" / "x.avro").write_bytes(b""), "order.events/x.avro is not in the"),
    "a schema": (lambda a: (a / "schemas" / "7.avsc").write_text("{}"), "schemas/7.avsc is not what was written"),
    "no manifest": (lambda a: (a / MANIFEST).unlink(), "manifest.json cannot be read: No such file"),
    "no JSON": (lambda a: (a / MANIFEST).write_text("{"), "manifest.json is no JSON"),
    "another's": (lambda a: (a / MANIFEST).write_text("[]"), "manifest.json is no manifest of an archive"),
    "its own hash": (manifest_of(lambda m: m.update(since="x"), sealed=False), "manifest.json is not what was written"),
    "its version": (manifest_of(lambda m: m.update(version=2)), "has version 2; known here is 1"),
    "a count": (manifest_of(lambda m: m["files"][0].update(records=9)), "holds 1 records, the manifest says 9"),
    "a place": (manifest_of(lambda m: m["files"][0].update(path="../x")), "../x lies outside of the archive"),
    "a hash is left out": (manifest_of(lambda m: m["files"][0].pop("sha256")), "names a file without its sha256"),
    "no files": (manifest_of(lambda m: m.pop("files")), "manifest.json has no files"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "said"), BROKEN.values(), ids=BROKEN)
def test_whatever_is_changed_is_named(archive: Path, damage: Callable[[Path], object], said: str) -> None:
    """Exit code 3, which file and what of it; nothing is changed by looking."""
    damage(archive)
    before = {path: path.read_bytes() for path in archive.rglob("*") if path.is_file()}

    done = CliRunner().invoke(app, ["verify", str(archive)])

    assert done.exit_code == 3
    assert said in " ".join(done.output.split())
    assert {path: path.read_bytes() for path in archive.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("seed", range(20))
def test_a_partition_is_read_in_its_order_whatever_its_days(tmp_path: Path, seed: int) -> None:
    """Clocks go back and forth: offsets ascend all the same, none is lost, in one pass and by partition."""
    chance = random.Random(seed)  # noqa: S311 - an example, drawn again from its number
    said = [
        ArchivedRecord("order.events", n % 3, n // 3, MIDNIGHT + timedelta(days=chance.randrange(4)), b"k", b"v", [])
        for n in range(60)
    ]
    with ArchiveWriter(tmp_path / "archive", {"read": {f"order.events[{n}]": [0, 20] for n in range(3)}}) as writer:
        for record in said:
            writer.add(record)
        writer.finish()
    archive = Archive(tmp_path / "archive")

    for number in range(3):
        wanted = [one for one in said if one.partition == number]
        assert [one for one in archive.records("order.events") if one.partition == number] == wanted
        assert list(archive.partition("order.events", number)) == wanted
        assert list(archive.partition("order.events", number, 7)) == wanted[7:]
    first = min(one.offset for one in said if one.partition == 1 and one.at >= MIDNIGHT + timedelta(days=2))
    at = int((MIDNIGHT + timedelta(days=2)).timestamp() * 1000)
    assert archive.since([("order.events", 1)], at)["order.events", 1][0] == first
