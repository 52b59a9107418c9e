"""Archive of topics, read: each byte is held against the manifest's hashes before a record of it is believed.

A directory: ``manifest.json``, ``<topic>/<day>.avro`` (Avro object container files), ``schemas/<id>.avsc`` for each
schema that a value names. A partition's records come in the order they had on their topic, whatever their days.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, cast

import fastavro
from fastavro.read import SchemaResolutionError

from quadrille.avro.schemas import Schema, UnsafeSchemaError, parse
from quadrille.ids import milliseconds
from quadrille.kafka.topics import Place

MANIFEST, FORMAT, VERSION = "manifest.json", "quadrille-archive", 1
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
_PLACE = re.compile(r"(.+)\[(\d+)\]")
Manifest = dict[str, Any]


class ArchiveError(Exception):
    """An archive that is not what its manifest says, or that cannot be made or used; the text names what and where."""


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


@dataclass(frozen=True, slots=True)
class Span:
    """What a file holds of a partition: first and last offset, how many records, and the time of the oldest."""

    first: int
    last: int
    count: int
    oldest: datetime


@dataclass
class Archive:
    """An archive whose manifest is what was written; ``verify`` reads the rest. Raises ArchiveError."""

    directory: Path
    manifest: Manifest = field(init=False)
    seal: str = field(init=False)
    _spans: dict[str, list[tuple[Manifest, dict[int, Span]]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.manifest = manifest_of(self.directory)
        self.seal = own_hash(self.manifest)

    def verify(self) -> None:
        """Hold every byte against the manifest; raises ArchiveError."""
        verify(self.directory)

    @property
    def topics(self) -> list[str]:
        """The topics of which it holds a record."""
        return sorted({str(one["topic"]) for one in self.manifest["files"]})

    @property
    def schemas(self) -> dict[int, Schema]:
        """The schemas that its values name, by their ids; raises ArchiveError for one that nothing may read by."""
        found: dict[int, Schema] = {}
        for one in sorted(self.manifest["schemas"], key=lambda one: int(one["id"])):
            try:
                found[int(one["id"])] = parse(_within(self.directory, one["path"]).read_text("utf-8"))
            except UnsafeSchemaError as unsafe:
                _refuse(f"{one['path']} is no schema that is read by: {unsafe}")
        return found

    @property
    def whole(self) -> bool:
        """Whether it holds every record between the offsets it names: it was made without times."""
        return not (self.manifest.get("since") or self.manifest.get("until"))

    def topic_id(self, topic: str) -> str | None:
        """Return the id of the topic it was read from, None where an older version noted none."""
        return cast("str | None", self.manifest.get("topic_ids", {}).get(topic))

    @cached_property
    def _bounds(self) -> dict[Place, tuple[int, int]]:
        found = self.manifest.get("read")
        if not isinstance(found, dict):
            _refuse(f"{self.directory / MANIFEST} has no read")
        places = ((_PLACE.fullmatch(name), bounds) for name, bounds in found.items())
        try:
            return {(place[1], int(place[2])): (int(low), int(high)) for place, (low, high) in places if place}
        except (TypeError, ValueError):
            _refuse(f"{self.directory / MANIFEST} says in read what are no offsets")

    def places(self, name: str) -> list[Place]:
        """Return the partitions of a topic that were read, none if it was not."""
        return sorted(place for place in self._bounds if place[0] == name)

    def watermarks(self, places: Iterable[Place]) -> dict[Place, tuple[int, int]]:
        """Return the first offset and the end of each partition, as they were when it was made."""
        return {place: self._bounds[place] for place in places}

    def since(self, places: Iterable[Place], at_ms: int) -> dict[Place, tuple[int, int]]:
        """Return each partition's first record at or after a time: offset and time, both -1 where there is none."""
        wanted = dict.fromkeys(places, (-1, -1))
        for topic in sorted({topic for topic, _ in wanted}):
            for one in self.records(topic):
                place, at = (topic, one.partition), milliseconds(one.at)
                if at >= at_ms and place in wanted and not 0 <= wanted[place][0] < one.offset:
                    wanted[place] = one.offset, at
        return wanted

    def records(self, topic: str) -> Iterator[ArchivedRecord]:
        """Yield a topic's records in one pass over its files, those of a partition in the order of their offsets."""
        files = self.spans(topic)
        held: dict[int, list[tuple[int, ArchivedRecord]]] = defaultdict(list)
        for n, (file, _) in enumerate(files):
            later: dict[int, int] = {}
            for _, spans in files[n + 1 :]:
                later |= {number: min(span.first, later.get(number, span.first)) for number, span in spans.items()}
            for record in records(self.directory, file):
                waiting, coming = held[record.partition], later.get(record.partition)
                while waiting and waiting[0][0] < record.offset and (coming is None or waiting[0][0] < coming):
                    yield heapq.heappop(waiting)[1]
                if coming is None or record.offset < coming:
                    yield record
                else:  # a record of a later day came before it
                    heapq.heappush(waiting, (record.offset, record))
        for waiting in held.values():
            yield from (heapq.heappop(waiting)[1] for _ in range(len(waiting)))

    def partition(self, topic: str, number: int, since: int = 0) -> Iterator[ArchivedRecord]:
        """Yield a partition's records from an offset on, in the order of their offsets."""
        mine = [(spans[number], file) for file, spans in self.spans(topic) if number in spans]
        group: list[Manifest] = []
        last = -1
        for span, file in sorted((one for one in mine if one[0].last >= since), key=lambda one: one[0].first):
            if group and span.first > last:
                yield from self._merged(group, number, since)
                group = []
            group.append(file)
            last = max(last, span.last)
        yield from self._merged(group, number, since)

    def _merged(self, files: list[Manifest], number: int, since: int) -> Iterator[ArchivedRecord]:
        return heapq.merge(*(self._of(file, number, since) for file in files), key=attrgetter("offset"))

    def _of(self, file: Manifest, number: int, since: int) -> Iterator[ArchivedRecord]:
        return (one for one in records(self.directory, file) if one.partition == number and one.offset >= since)

    def spans(self, topic: str) -> list[tuple[Manifest, dict[int, Span]]]:
        """Return what each file of a topic holds of each partition, by day; read once."""
        if topic not in self._spans:
            files = sorted((one for one in self.manifest["files"] if one["topic"] == topic), key=lambda one: one["day"])
            self._spans[topic] = [(one, _spans(records(self.directory, one))) for one in files]
        return self._spans[topic]


def _spans(found: Iterable[ArchivedRecord]) -> dict[int, Span]:
    spans: dict[int, Span] = {}
    for one in found:
        known = spans.get(one.partition) or Span(one.offset, one.offset, 0, one.at)
        first, last = min(known.first, one.offset), max(known.last, one.offset)
        spans[one.partition] = Span(first, last, known.count + 1, min(known.oldest, one.at))
    return spans


def verify(directory: Path) -> Manifest:
    """Return the manifest of an archive of which every byte is as it was written; raises ArchiveError."""
    manifest = manifest_of(directory)
    listed = {MANIFEST}
    for one in (*manifest["files"], *manifest["schemas"]):
        path = _within(directory, one["path"])
        listed.add(one["path"])
        if not path.is_file():
            _refuse(f"{one['path']} is in the manifest, and not there")
        if (found := sealed(path)) != {"bytes": one["bytes"], "sha256": one["sha256"]}:
            _refuse(f"{one['path']} is not what was written: SHA-256 {found['sha256']}, wanted {one['sha256']}")
    there = {str(path.relative_to(directory).as_posix()) for path in directory.rglob("*") if path.is_file()}
    if strange := sorted(there - listed):
        _refuse(f"{strange[0]} is not in the manifest")
    for one in manifest["files"]:
        if (count := sum(1 for _ in records(directory, one))) != one["records"]:
            _refuse(f"{one['path']} holds {count} records, the manifest says {one['records']}")
    return manifest


def records(directory: Path, file: Manifest) -> Iterator[ArchivedRecord]:
    """Yield the records of one file of a manifest, as they were written; raises ArchiveError."""
    try:
        with _within(directory, file["path"]).open("rb") as opened:
            for found in fastavro.reader(opened, SCHEMA):
                row = cast("dict[str, Any]", found)
                headers = [(header["name"], header["value"]) for header in row["headers"]]
                place = file["topic"], row["partition"], row["offset"]
                yield ArchivedRecord(*place, row["timestamp"], row["key"], row["value"], headers)
    except (OSError, ValueError, EOFError, KeyError, zlib.error, SchemaResolutionError) as broken:
        _refuse(f"{file['path']} cannot be read as Avro: {broken}")


def manifest_of(directory: Path) -> Manifest:
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
        wanted = {"path", "bytes", "sha256"} | ({"topic", "day", "records"} if one in found["files"] else set())
        if missing := sorted(wanted - set(one)):
            _refuse(f"{directory / MANIFEST} names a file without its {', '.join(missing)}")
    told = found.pop("sha256", None)
    if told != (own := own_hash(found)):
        _refuse(f"{MANIFEST} is not what was written: SHA-256 {own}, it says {told}")
    return found


def own_hash(manifest: Manifest) -> str:
    """Return the hash that a manifest says of the rest of itself."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sealed(path: Path) -> Manifest:
    """Return a file's bytes and hash, as a manifest says them."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _within(directory: Path, path: str) -> Path:
    """Return where a file of a manifest lies; refuses one outside."""
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        _refuse(f"{path} lies outside of the archive")
    return directory / path


def _refuse(reason: str) -> NoReturn:
    raise ArchiveError(reason)
