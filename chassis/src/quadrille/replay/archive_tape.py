"""Archives as replays read them: a partition's records from an offset on, as if they lay on their topic still.

A topic of which retention has cut the beginning goes on where the archive ends: both together are the whole log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice, takewhile
from pathlib import Path

from quadrille.db.connection import Tx
from quadrille.ids import milliseconds
from quadrille.kafka.topics import Place, Topics
from quadrille.processing.envelope import Record
from quadrille.replay.archive import Archive, ArchivedRecord, ArchiveError
from quadrille.replay.runner import Range, ReadRecord, Tape

TOPIC_ID = "SELECT topic_id FROM topic WHERE name = %b"
Cursor = tuple[int, Iterator[ReadRecord]]


def opened(directory: str, seal: str) -> Archive:
    """Return the archive that was planned with, each byte of it as it was; raises ArchiveError."""
    archive = Archive(Path(directory))
    if archive.seal != seal:
        message = f"{directory} is not the archive it was when this was planned"
        raise ArchiveError(message)
    archive.verify()
    return archive


def same_log(tx: Tx, archive: Archive, topic: str) -> bool:
    """Tell whether an archive is of the very topic that the service reads; one that does not say is taken for it."""
    row, read = tx.execute(TOPIC_ID, [topic]).fetchone(), archive.topic_id(topic)
    return row is None or read is None or row[0] == read


class ArchiveTape:
    """Reads ranges of an archive; asked for one that begins where the last of its partition ended, it goes on there."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._cursors: dict[Place, Cursor] = {}

    def close(self) -> None:
        """Let go of the files."""
        self._cursors.clear()

    def play(self, span: Range, most: int) -> Iterator[list[ReadRecord]]:
        """Yield what there is, at most so many records at once; raises ArchiveError for what is no Avro any more."""
        place = span.topic, span.partition
        at, rest = self._cursors.pop(place, (-1, iter(())))
        if at != span.since:
            rest = map(_read, self._archive.partition(*place, span.since))
        passed: list[ReadRecord] = []

        def within(one: ReadRecord) -> bool:
            if one.offset >= span.upto:
                passed.append(one)
            return one.offset < span.upto

        mine = takewhile(within, rest)
        while taken := list(islice(mine, most)):
            yield taken
        self._cursors[place] = span.upto, _before(passed, rest)


def _before(first: list[ReadRecord], rest: Iterator[ReadRecord]) -> Iterator[ReadRecord]:
    yield from first
    yield from rest


def _read(one: ArchivedRecord) -> ReadRecord:
    record = Record(one.value or b"", tuple((name, value or b"") for name, value in one.headers))
    return ReadRecord(one.offset, one.key, record, milliseconds(one.at))


class Joined:
    """Topics, and before the beginnings that retention has left them an archive of the same log."""

    def __init__(self, archive: Archive, topics: Topics, tape: Tape) -> None:
        self._archive, self._topics, self._tape, self._before = archive, topics, tape, ArchiveTape(archive)
        self._low: dict[Place, int] = {}

    def close(self) -> None:
        """Let go of both."""
        self._before.close()
        self._tape.close()

    def places(self, name: str) -> list[Place]:
        """Return the partitions of a topic."""
        return self._topics.places(name)

    def watermarks(self, places: Iterable[Place]) -> dict[Place, tuple[int, int]]:
        """Return the first offset of each partition, here or in the archive, and its end.

        Raises ArchiveError where records between the two are nowhere.
        """
        bounds = self._topics.watermarks(places)
        for place, (low, high) in bounds.items():
            if (number := self._begins(place, low)) is not None:
                bounds[place], self._low[place] = (number, high), low
        return bounds

    def _begins(self, place: Place, low: int) -> int | None:
        """Return where a partition begins in the archive, None where that has nothing of what is cut."""
        if place not in self._archive.places(place[0]):
            return None
        since, upto = self._archive.watermarks([place])[place]
        if since >= low:
            return None
        if upto < low:
            message = (
                f"{place[0]}[{place[1]}] begins at offset {low}, the archive ends at {upto}: what is between is gone"
            )
            raise ArchiveError(message)
        return since

    def play(self, span: Range, most: int) -> Iterator[list[ReadRecord]]:
        """Yield what there is, at most so many records at once."""
        middle = min(max(self._low.get((span.topic, span.partition), 0), span.since), span.upto)
        if span.since < middle:
            yield from self._before.play(Range(span.topic, span.partition, span.since, middle), most)
        if middle < span.upto:
            yield from self._tape.play(Range(span.topic, span.partition, middle, span.upto), most)
