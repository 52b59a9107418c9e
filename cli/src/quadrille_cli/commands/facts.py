"""What was said of one order, read from topics or an archive, and how far that was read."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from quadrille.avro.codec import Codec
from quadrille.avro.registry import Cache, Registry, SchemaIds
from quadrille.replay.archive import Archive, ArchivedRecord
from quadrille_cli.commands.events import FACTS, opened
from quadrille_cli.commands.shared import named, the_order
from quadrille_cli.event_log import Document, Ranges, Reading, Selection, document_of


@dataclass(frozen=True, slots=True)
class FactLog:
    """The records about an order, what is to be known of how they were read, and whether that was to the end."""

    order_id: str
    found: list[Document]
    notes: list[str]
    whole: bool = True


def of_topics(data: Path | None, wanted: str) -> FactLog:
    """Return what lies on the services' topics of an order; tells of topics that have lost their beginnings."""
    with opened(data) as (stack, log):
        identity = the_order(stack, wanted)
        reading = Reading(log.ranges(FACTS, None))
        found = [log.document(message) for message in log.read(reading, Selection(FACTS, identity))]
    return FactLog(identity, found, [*_cut(reading.ranges), *reading.lines()], reading.whole)


def of_archive(directory: Path, wanted: str) -> FactLog:
    """Return what an archive has of an order, read by the schemas in it; raises ArchiveError."""
    archive = Archive(directory)
    archive.verify()
    kept: dict[str, list[ArchivedRecord]] = {}
    topics = [topic for topic in FACTS if topic in archive.topics]
    for record in (one for topic in topics for one in archive.records(topic)):
        key = (record.key or b"").decode("utf-8", "replace")
        if key.endswith(wanted):
            kept.setdefault(key, []).append(record)
    identity = named("ID", wanted, list(kept))
    with tempfile.TemporaryDirectory() as folder:
        codec = Codec((), _ids(archive, Path(folder)))
        found = [document_of(one, codec) for one in kept.get(identity, ())]
    missing = sorted(set(FACTS) - set(topics))
    notes = [f"{directory}: {', '.join(topics) or 'no events of services'}"]
    notes += [f"it has none of {', '.join(missing)}"] if missing else []
    bounds = archive.watermarks([place for topic in topics for place in archive.places(topic)])
    times = [f"{name} {archive.manifest[name]}" for name in ("since", "until") if archive.manifest.get(name)]
    return FactLog(identity, found, [*notes, *times, *_cut(bounds)])


def _ids(archive: Archive, folder: Path) -> SchemaIds:
    """Return the archive's schemas by their ids; no registry is asked for more."""
    cache = Cache(folder)
    for number, schema in archive.schemas.items():
        cache.put(number, schema)
    return SchemaIds(Registry("http://127.0.0.1:1"), cache)


def _cut(bounds: Ranges) -> list[str]:
    """Tell of topics of which the beginning is gone: what was said then is not in the answer."""
    lost = sorted({topic for (topic, _), (low, _) in bounds.items() if low > 0})
    return [f"{topic} does not begin at offset 0: what was said before is not seen here" for topic in lost]
