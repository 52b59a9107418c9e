"""Java artifacts by exact coordinate and sha256: fetched once, checked always, never resolved transitively."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quadrille_cli.stack import paths
from quadrille_cli.stack.errors import CannotRun

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jgo.maven import Artifact, MavenContext

KAFKA = "kafka/jars.lock"
REGISTRY = "registry/artifact.lock"
SHOWN = 10
ATTEMPTS = 3
TIME_OUT = 20
"""Seconds without a byte."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a lock file."""

    coordinate: str
    sha256: str
    size: int

    @property
    def path(self) -> Path:
        """Its place below the repository cache, as Maven lays it out."""
        group, artifact, version, *rest = self.coordinate.split(":")
        classifier, packaging = rest or ("", "jar")
        name = f"{artifact}-{version}" + (f"-{classifier}" if classifier else "")
        return Path(*group.split("."), artifact, version, f"{name}.{packaging}")


def entries(lock: str) -> list[Entry]:
    """The artifacts a lock file names."""
    lines = paths.template(lock).read_text(encoding="utf-8").splitlines()
    split = [line.split() for line in lines if line and not line.startswith("#")]
    return [Entry(coordinate, digest, int(size)) for coordinate, digest, size in split]


def digest(lock: str) -> str:
    """A short name for exactly this set of artifacts."""
    return hashlib.sha256(paths.template(lock).read_bytes()).hexdigest()[:12]


def repository() -> Path:
    """Where fetched artifacts lie."""
    return paths.cache_dir() / "maven"


def missing(lock: str) -> list[Entry]:
    """What a fetch of this lock file would have to bring: absent, cut or changed files."""
    known = _stamps(lock)
    return [e for e in entries(lock) if known.get(e.coordinate) != _stamp(e)]


def bring(locks: Sequence[str], said: Callable[[str], None] = lambda _: None) -> str:
    """Have every artifact of these lock files on disk, hashed; raises CannotRun naming what could not be had."""
    if not any(missing(lock) for lock in locks):
        return "cached"
    with paths.locked(paths.usable(paths.cache_dir()) / "maven.lock"):
        wanted = [entry for lock in locks for entry in entries(lock)]
        absent = [entry for entry in wanted if not _sound(entry)]
        _bring(absent, said)
        for lock in locks:
            stamps = {entry.coordinate: _stamp(entry) for entry in entries(lock)}
            _stamps_file(lock).write_text(json.dumps(stamps), encoding="utf-8")
    return f"{len(absent)} fetched, {_megabytes(absent)}"


def fetch(lock: str) -> list[Path]:
    """The artifacts of a lock file, on disk and hashed."""
    bring([lock])
    return [repository() / entry.path for entry in entries(lock)]


def unpacked(archive: Path, name: str) -> Path:
    """The archive's content in the cache, unpacked once and then left alone."""
    return paths.made_once(paths.cache_dir() / name, lambda to: _unpack(archive, to))


def _unpack(archive: Path, to: Path) -> None:
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(to, filter="data")
        else:  # Python before 3.11.4; the sha256 has vouched for the content
            tar.extractall(to)  # noqa: S202


def _bring(wanted: list[Entry], said: Callable[[str], None]) -> None:
    if not wanted:
        return
    said(f"fetching {len(wanted)} artifacts, {_megabytes(wanted)}")
    from jgo.maven import MavenContext  # noqa: PLC0415 - 0.2 s nobody needs once the cache is full

    logging.getLogger("jgo").setLevel(logging.CRITICAL)
    context = MavenContext(repo_cache=repository(), timeout=TIME_OUT)
    given_up = threading.Event()
    with ThreadPoolExecutor(8) as pool:
        problems = [p for p in pool.map(lambda entry: _fetch(context, entry, given_up), wanted) if p]
    if problems:
        raise _offline([entry for entry in wanted if not _sound(entry)], problems[0])


def _fetch(context: MavenContext, entry: Entry, given_up: threading.Event) -> str:
    """Bring one artifact; the reason when it could not be had, after which no other is begun."""
    group, artifact, version, *rest = entry.coordinate.split(":")
    classifier, packaging = rest or ("", "jar")
    wanted: Artifact = context.project(group, artifact).at_version(version).artifact(classifier, packaging)
    path = repository() / entry.path
    problem = ""
    for _ in range(ATTEMPTS):
        if given_up.is_set():
            break
        path.unlink(missing_ok=True)  # jgo streams straight into the final name: what is here is cut or changed
        try:
            wanted.resolve()
        except (RuntimeError, OSError) as refused:  # jgo's own, and those of requests
            problem = f"{type(refused).__name__}: {refused}"
            continue
        if _sound(entry):
            return ""
        problem = "its sha256 differs from the lock file"
    given_up.set()
    path.unlink(missing_ok=True)
    return f"{entry.coordinate}: {problem}" if problem else ""


def _offline(absent: list[Entry], first: str) -> CannotRun:
    listed = tuple(f"{entry.coordinate}  {_megabytes([entry])}" for entry in sorted(absent, key=lambda e: -e.size))
    shown = listed if len(listed) <= SHOWN else (*listed[:SHOWN], f"... and {len(listed) - SHOWN} smaller ones")
    reason = first.split("(Caused by", 1)[0][:200]
    return CannotRun(
        what=f"{len(absent)} artifacts ({_megabytes(absent)}) are missing and cannot be fetched: {reason}",
        fix="connect to the network once (later starts work from the cache), or set QUADRILLE_CACHE to a filled one",
        tail=shown,
    )


def _megabytes(wanted: list[Entry]) -> str:
    return f"{sum(entry.size for entry in wanted) / 1e6:.1f} MB"


def _sound(entry: Entry) -> bool:
    path = repository() / entry.path
    if not path.exists() or path.stat().st_size != entry.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256


def _stamp(entry: Entry) -> list[int | str]:
    path = repository() / entry.path
    if not path.exists():
        return []
    stat = path.stat()
    return [entry.sha256, stat.st_size, stat.st_mtime_ns]


def _stamps_file(lock: str) -> Path:
    return paths.cache_dir() / f"{lock.split('/', maxsplit=1)[0]}-{digest(lock)}.json"


def _stamps(lock: str) -> dict[str, list[int | str]]:
    file = _stamps_file(lock)
    try:
        known: dict[str, list[int | str]] = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return known


def room(where: Path, need: int) -> None:
    """Refuse, before anything starts, a disk that cannot hold what is coming (bytes)."""
    existing = next(p for p in (where, *where.parents) if p.exists())
    have = shutil.disk_usage(existing).free
    if have < need:
        raise CannotRun(
            what=f"the disk of {where} is too full: needs {need / 1e6:.0f} MB, has {have / 1e6:.0f} MB",
            fix="free space, or choose another disk: quadrille up --data DIR, QUADRILLE_CACHE=DIR",
        )
