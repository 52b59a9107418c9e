"""Archive of topics: records byte for byte in Avro container files by topic and day, and a manifest of their hashes.

A directory: ``manifest.json``, ``<topic>/<day>.avro`` (Avro object container files), ``schemas/<id>.avsc`` for each
schema that a value names. It stands under its name only when all of it is written.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, NoReturn, Self, cast

import fastavro
from confluent_kafka import Message
from fastavro.read import SchemaResolutionError

from quadrille.avro.codec import schema_id
from quadrille.avro.decoder import DecodeError
from quadrille.messages import Infrastructure
from quadrille.values import rfc3339
from quadrille_cli.event_log import EventLog, Reading, Selection, moment, raw

MANIFEST, FORMAT, VERSION = "manifest.json", "quadrille-archive", 1
HELD_MOST = 10_000
"""So many records are held in memory before they are written."""
BLOCK = 1 << 20
BYTES_OR_NONE = ["null", "bytes"]
SCHEMA = fastavro.parse_schema({
    "type": "record", "name": "ArchivedRecord", "namespace": "quadrille.archive",
    "doc": "A record as it lay on its topic; value is 0, four bytes of schema id, then Avro.",
    "fields": [
        {"name": "partition", "type": "int"},
        {"name": "offset", "type": "long"},
        {"name": "timestamp", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "key", "type": BYTES_OR_NONE},
        {"name": "value", "type": BYTES_OR_NONE},
        {"name": "headers", "type": {"type": "array", "items": {
            "type": "record", "name": "Header",
            "fields": [{"name": "name", "type": "string"}, {"name": "value", "type": BYTES_OR_NONE}],
        }}},
    ],
})  # fmt: skip
Manifest = dict[str, Any]
Times = tuple[datetime | None, datetime | None]


class ArchiveError(Exception):
    """An archive that is not what its manifest says, or that cannot be made; the text names what and where."""


@dataclass(frozen=True, slots=True)
class ArchivedRecord:
    """A record as it lay on its topic."""

    topic: str
    partition: int
    offset: int
    at: datetime
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


@dataclass(slots=True)
class ArchiveWriter:
    """Makes an archive, open as a context; left by an error it leaves nothing behind. Raises ArchiveError."""

    directory: Path
    asked: Manifest = field(default_factory=dict)
    _part: Path = field(init=False)
    _held: dict[tuple[str, str], list[ArchivedRecord]] = field(default_factory=lambda: defaultdict(list))
    _count: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    _waiting: int = 0

    def __enter__(self) -> Self:
        if self.directory.exists():
            message = f"{self.directory} is there already: name a directory that is not"
            raise ArchiveError(message)
        try:
            self.directory.parent.mkdir(parents=True, exist_ok=True)
            self._part = Path(tempfile.mkdtemp(prefix=f".{self.directory.name}.", dir=self.directory.parent))
        except OSError as refused:
            message = f"{self.directory} cannot be made: {refused.strerror}"
            raise ArchiveError(message) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._part, ignore_errors=True)

    def add(self, record: ArchivedRecord) -> None:
        """Keep a record."""
        self._held[record.topic, f"{record.at:%Y-%m-%d}"].append(record)
        self._waiting += 1
        if self._waiting >= HELD_MOST:
            self._write()

    def schema(self, number: int, text: str) -> None:
        """Keep the schema of an id."""
        (folder := self._part / "schemas").mkdir(exist_ok=True)
        (folder / f"{number}.avsc").write_text(text, "utf-8")

    def finish(self) -> Manifest:
        """Write what is held and the manifest, and let the archive stand under its name; return the manifest."""
        self._write()
        files = [
            {"path": f"{topic}/{day}.avro", "topic": topic, "day": day, "records": count,
             **_sealed(self._part / topic / f"{day}.avro")}
            for (topic, day), count in sorted(self._count.items())
        ]  # fmt: skip
        schemas = [
            {"path": f"schemas/{one.name}", "id": int(one.stem), **_sealed(one)}
            for one in sorted(self._part.glob("schemas/*.avsc"), key=lambda one: int(one.stem))
        ]
        head = {"format": FORMAT, "version": VERSION, "made_at": rfc3339(datetime.now(UTC))}
        manifest = {**head, **self.asked, "files": files, "schemas": schemas}
        text = json.dumps({**manifest, "sha256": _own_hash(manifest)}, indent=2) + "\n"
        (self._part / MANIFEST).write_text(text, "utf-8")
        self._part.chmod(0o755)
        self._part.rename(self.directory)
        return manifest

    def _write(self) -> None:
        for (topic, day), records in self._held.items():
            (folder := self._part / topic).mkdir(exist_ok=True)
            with (folder / f"{day}.avro").open("a+b") as file:
                fastavro.writer(file, SCHEMA, map(_row, records), codec="deflate")
            self._count[topic, day] += len(records)
        self._held.clear()
        self._waiting = 0


def export_to(
    directory: Path,
    log: EventLog,
    reading: Reading,
    selection: Selection,
    times: tuple[datetime | None, datetime | None],
) -> Manifest | None:
    """Write the records of a reading, those of the times alone, to an archive; None if it could not be read whole."""
    since, until = times
    asked = {
        "topics": sorted(selection.topics), "since": since and rfc3339(since), "until": until and rfc3339(until),
        "read": {f"{topic}[{number}]": list(bounds) for (topic, number), bounds in sorted(reading.ranges.items())},
    }  # fmt: skip
    with ArchiveWriter(directory, asked) as archive:
        numbers: set[int] = set()
        for message in log.read(reading, selection):
            at, topic, partition, offset = moment(message)
            if (since is None or at >= since) and (until is None or at < until):
                key, value = _bytes(message.key()), _bytes(message.value())
                archive.add(ArchivedRecord(topic, partition, offset, at, key, value, _headers(message)))
                with suppress(DecodeError):
                    numbers.add(schema_id(value or b""))
        if not reading.whole:
            return None
        missing = [number for number in sorted(numbers) if not _kept(archive, log, number)]
        archive.asked["schemas_missing"] = missing
        return archive.finish()


def _kept(archive: ArchiveWriter, log: EventLog, number: int) -> bool:
    try:
        archive.schema(number, log.ids.by_id(number).text)
    except (DecodeError, Infrastructure):
        return False
    return True


def _bytes(value: object) -> bytes | None:
    return None if value is None else raw(value)


def _headers(message: Message) -> list[tuple[str, bytes | None]]:
    return [(name, _bytes(value)) for name, value in message.headers() or ()]  # type: ignore[str-unpack]  # pairs, as librdkafka gives them


def summary(manifest: Manifest) -> str:
    """Return how much is in an archive, in words."""
    count, files = sum(one["records"] for one in manifest["files"]), len(manifest["files"])
    return f"{count:,} records in {files} files, {len(manifest['schemas'])} schemas"


def verify(directory: Path) -> Manifest:
    """Return the manifest of an archive of which every byte is as it was written; raises ArchiveError."""
    manifest = _manifest(directory)
    listed = {MANIFEST}
    for one in (*manifest["files"], *manifest["schemas"]):
        path = _within(directory, one["path"])
        listed.add(one["path"])
        if not path.is_file():
            _refuse(f"{one['path']} is in the manifest, and not there")
        if (found := _sealed(path)) != {"bytes": one["bytes"], "sha256": one["sha256"]}:
            _refuse(f"{one['path']} is not what was written: SHA-256 {found['sha256']}, wanted {one['sha256']}")
    there = {str(path.relative_to(directory).as_posix()) for path in directory.rglob("*") if path.is_file()}
    if strange := sorted(there - listed):
        _refuse(f"{strange[0]} is not in the manifest")
    for one in manifest["files"]:
        if (count := sum(1 for _ in records(directory, one))) != one["records"]:
            _refuse(f"{one['path']} holds {count} records, the manifest says {one['records']}")
    return manifest


def records(directory: Path, file: Manifest) -> Iterator[ArchivedRecord]:
    """Yield the records of one file of a manifest; raises ArchiveError."""
    try:
        with _within(directory, file["path"]).open("rb") as opened:
            for found in fastavro.reader(opened, SCHEMA):
                row = cast("dict[str, Any]", found)
                headers = [(header["name"], header["value"]) for header in row["headers"]]
                place = file["topic"], row["partition"], row["offset"]
                yield ArchivedRecord(*place, row["timestamp"], row["key"], row["value"], headers)
    except (OSError, ValueError, EOFError, KeyError, zlib.error, SchemaResolutionError) as broken:
        _refuse(f"{file['path']} cannot be read as Avro: {broken}")


def _manifest(directory: Path) -> Manifest:
    """Return a manifest whose own hash is right, in shape; raises ArchiveError."""
    try:
        found = json.loads((directory / MANIFEST).read_text("utf-8"))
    except OSError as refused:
        _refuse(f"{directory / MANIFEST} cannot be read: {refused.strerror}")
    except ValueError as broken:
        _refuse(f"{directory / MANIFEST} is no JSON: {broken}")
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        _refuse(f"{directory / MANIFEST} is no manifest of an archive")
    if found.get("version") != VERSION:
        _refuse(f"{directory / MANIFEST} has version {found.get('version')}; known here is {VERSION}")
    for name in ("files", "schemas"):
        if not isinstance(found.get(name), list):
            _refuse(f"{directory / MANIFEST} has no {name}")
    for one in (*found["files"], *found["schemas"]):
        if missing := sorted({"path", "bytes", "sha256"} - set(one)):
            _refuse(f"{directory / MANIFEST} names a file without its {', '.join(missing)}")
    told = found.pop("sha256", None)
    if told != (own := _own_hash(found)):
        _refuse(f"{MANIFEST} is not what was written: SHA-256 {own}, it says {told}")
    return found


def _within(directory: Path, path: str) -> Path:
    """Return where a file of a manifest lies; refuses one outside."""
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        _refuse(f"{path} lies outside of the archive")
    return directory / path


def _refuse(reason: str) -> NoReturn:
    raise ArchiveError(reason)


def _own_hash(manifest: Manifest) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _sealed(path: Path) -> Manifest:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _row(record: ArchivedRecord) -> dict[str, object]:
    headers = [{"name": name, "value": value} for name, value in record.headers]
    return {
        "partition": record.partition, "offset": record.offset, "timestamp": record.at, "key": record.key,
        "value": record.value, "headers": headers,
    }  # fmt: skip
