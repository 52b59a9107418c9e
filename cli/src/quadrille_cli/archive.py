"""Archives of topics written: records byte for byte by topic and day, with a manifest of their hashes.

An archive stands under its name only when all of it is written.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import fastavro

from quadrille.avro.codec import schema_id
from quadrille.avro.decoder import DecodeError
from quadrille.messages import Infrastructure
from quadrille.replay.archive import (
    FORMAT,
    MANIFEST,
    SCHEMA,
    VERSION,
    ArchivedRecord,
    ArchiveError,
    Manifest,
    own_hash,
    sealed,
)
from quadrille.values import rfc3339
from quadrille_cli.event_log import EventLog, Reading, Selection, lying

HELD_MOST = 10_000
"""So many records are held in memory before they are written."""
Times = tuple[datetime | None, datetime | None]


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
             **sealed(self._part / topic / f"{day}.avro")}
            for (topic, day), count in sorted(self._count.items())
        ]  # fmt: skip
        schemas = [
            {"path": f"schemas/{one.name}", "id": int(one.stem), **sealed(one)}
            for one in sorted(self._part.glob("schemas/*.avsc"), key=lambda one: int(one.stem))
        ]
        head = {"format": FORMAT, "version": VERSION, "made_at": rfc3339(datetime.now(UTC))}
        manifest = {**head, **self.asked, "files": files, "schemas": schemas}
        text = json.dumps({**manifest, "sha256": own_hash(manifest)}, indent=2) + "\n"
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
    cluster, ids = log.topics.identities(list(selection.topics))
    asked = {
        "cluster": cluster, "topic_ids": ids,
        "topics": sorted(selection.topics), "since": since and rfc3339(since), "until": until and rfc3339(until),
        "read": {f"{topic}[{number}]": list(bounds) for (topic, number), bounds in sorted(reading.ranges.items())},
    }  # fmt: skip
    with ArchiveWriter(directory, asked) as archive:
        numbers: set[int] = set()
        for message in log.read(reading, selection):
            record = lying(message)
            if (since is None or record.at >= since) and (until is None or record.at < until):
                archive.add(record)
                with suppress(DecodeError):
                    numbers.add(schema_id(record.value or b""))
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


def summary(manifest: Manifest) -> str:
    """Return how much is in an archive, in words."""
    count, files = sum(one["records"] for one in manifest["files"]), len(manifest["files"])
    return f"{count:,} records in {files} files, {len(manifest['schemas'])} schemas"


def _row(record: ArchivedRecord) -> dict[str, object]:
    headers = [{"name": name, "value": value} for name, value in record.headers]
    return {
        "partition": record.partition, "offset": record.offset, "timestamp": record.at, "key": record.key,
        "value": record.value, "headers": headers,
    }  # fmt: skip
