"""The code a process runs: a digest of its package's and the chassis' files, so that edited code is seen."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

CHASSIS = "quadrille"
SUFFIXES = frozenset({".py", ".html", ".css", ".js", ".json", ".svg", ".avsc"})


def files(package: str) -> Iterator[Path]:
    """Yield a package's own files, wherever it is installed, and the chassis'; none of one that is not installed."""
    for name in sorted({package, CHASSIS}):
        found = importlib.util.find_spec(name)
        for folder in found.submodule_search_locations or () if found else ():
            yield from sorted(path for path in Path(folder).rglob("*") if path.suffix in SUFFIXES)


def digest(package: str) -> str:
    """Return what changes with any of these files; nothing else than what is in them counts."""
    whole = hashlib.sha256()
    for path in files(package):
        whole.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()[:16]


def edited(package: str, since: float) -> list[str]:
    """Return the names of the files that were written after a time, the latest first."""
    found = sorted(((path.stat().st_mtime, path.name) for path in files(package)), reverse=True)
    return [name for at, name in found if at > since]
