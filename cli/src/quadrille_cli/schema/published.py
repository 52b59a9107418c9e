"""Every version ever published, and the proof that each reads all the others: FULL_TRANSITIVE without a registry."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from quadrille.avro import schemas
from quadrille.avro.schemas import Schema, UnsafeSchemaError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

FILE = "published.json"


@dataclass(frozen=True, slots=True)
class Published:
    """The versions of each record, oldest first; a version is never changed or removed."""

    versions: Mapping[str, tuple[Schema, ...]]

    def __iter__(self) -> Iterator[tuple[str, Schema]]:
        """Give every version with its record's name."""
        return ((name, version) for name, versions in self.versions.items() for version in versions)


def load(root: Path) -> tuple[Published, list[str]]:
    """Read ``published.json`` and say what in it is not what it was when it was written."""
    held = json.loads((root / FILE).read_text("utf-8"))
    wrong: list[str] = []
    versions: dict[str, tuple[Schema, ...]] = {}
    for name, entries in held.items():
        read = [_version(name, number, entry, wrong) for number, entry in enumerate(entries, 1)]
        versions[name] = tuple(version for version in read if version is not None)
    return Published(versions), wrong


def _version(name: str, number: int, entry: Mapping[str, object], wrong: list[str]) -> Schema | None:
    try:
        schema = schemas.of(entry["schema"])
    except UnsafeSchemaError as unsafe:
        wrong.append(f"{FILE}: {name} version {number}: {unsafe}")
        return None
    if (schema.name, schema.fingerprint) != (name, entry["fingerprint"]):
        wrong.append(f"{FILE}: {name} version {number} was changed after it was published")
    return schema


def store(root: Path, published: Published) -> None:
    """Write ``published.json``, one version a line, so that a change is a line in its history."""
    records = []
    for name, versions in sorted(published.versions.items()):
        lines = [f'  {{"fingerprint": "{v.fingerprint}",\n   "schema": {v.text}}}' for v in versions]
        records.append(f'"{name}": [\n' + ",\n".join(lines) + "\n]")
    (root / FILE).write_text("{\n" + ",\n".join(records) + "\n}\n", "utf-8")


def incompatible(versions: Sequence[Schema]) -> Iterator[str]:
    """Say which two versions cannot read each other's records, in either direction, and why."""
    for (i, old), (j, new) in combinations(enumerate(versions, 1), 2):
        for reader, writer, how in ((new, old, f"{j} cannot read {i}"), (old, new, f"{i} cannot read {j}")):
            if reasons := _unread(reader, writer):
                yield f"{old.name}: version {how}: {'; '.join(reasons)}"


def _unread(reader: Schema, writer: Schema) -> list[str]:
    from avro.compatibility import (  # noqa: PLC0415 - 0.1 s the command line's start can spare
        ReaderWriterCompatibilityChecker,
        SchemaCompatibilityType,
    )
    from avro.schema import parse  # noqa: PLC0415

    checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]  # Apache's class has no types there
    result = checker.get_compatibility(parse(reader.text), parse(writer.text))
    return [] if result.compatibility is SchemaCompatibilityType.compatible else sorted(result.messages)


def unpublished(published: Published, files: Mapping[str, Schema]) -> dict[str, Schema]:
    """Return the files whose text is not the newest published one."""
    newest = {name: versions[-1].text for name, versions in published.versions.items() if versions}
    return {name: schema for name, schema in files.items() if newest.get(name) != schema.text}


def extended(published: Published, added: Iterable[Schema]) -> Published:
    """Return what is published once these are."""
    versions = dict(published.versions)
    for schema in added:
        versions[schema.name] = (*versions.get(schema.name, ()), schema)
    return Published(versions)
