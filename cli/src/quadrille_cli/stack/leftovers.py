"""Leftovers: what a killed start, server or machine left behind, found by proof and cleared; data is never touched.

A process is a stack's own by the mark in its environment, a server's child by the data directory it works in; a lock
file is stale only where the process that wrote it is provably another.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from quadrille_cli.stack.errors import CannotRun

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

MARK = "STARTED_BY_QUADRILLE"
PATIENCE = 5.0
"""Seconds a dead server's children are given to notice; usually they take some milliseconds."""
POLL = 0.02
SEGMENT = 6  # the line of postmaster.pid that names its shared memory: key and id
GONE = (psutil.NoSuchProcess, psutil.AccessDenied, OSError)


def marked(log: Path) -> dict[str, str]:
    """The mark of a process, for its environment: its log, after those of the processes it descends from."""
    return {MARK: "\n".join(filter(None, (os.environ.get(MARK), str(log))))}


def strays(logs: Path, known: Collection[int]) -> list[psutil.Process]:
    """The processes that were started for these logs but neither are known nor descend from one that is."""
    return [p for p in psutil.process_iter() if _marked_below(p, logs) and _line(p).isdisjoint(known)]


def _marked_below(process: psutil.Process, logs: Path) -> bool:
    try:
        marks = process.environ().get(MARK, "")
    except GONE:
        return False
    return any(Path(mark).parent.resolve() == logs.resolve() for mark in marks.split("\n") if mark)


def _line(process: psutil.Process) -> set[int]:
    """A process and all it descends from, by pid."""
    with suppress(*GONE):
        return {process.pid, *(parent.pid for parent in process.parents())}
    return {process.pid}


def end(processes: Sequence[psutil.Process], within: float) -> None:
    """Ask exactly these processes to end, and kill those that do not."""
    for process in processes:
        with suppress(*GONE):
            process.terminate()
    _killed(psutil.wait_procs(processes, within)[1])


def _killed(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(*GONE):
            process.kill()
    psutil.wait_procs(processes, PATIENCE)


def clear(home: Path) -> None:
    """Have a cluster's directory free for its server: the last one's children gone, and no lock file that lies.

    A killed postmaster's children end as soon as they notice, and as long as one works no server can start. One that
    does not notice is killed: its work was never committed, and the server recovers the rest from its log.
    """
    lock = home / "postmaster.pid"
    if not lock.exists():
        return
    if (server := _alive(_holder(lock))) is not None and _works_in(server, home):
        raise CannotRun(
            what=f"{home} is served already, by {server.name()} (pid {server.pid})",
            fix=f"kill {server.pid}, then run it again",
        )
    _killed(psutil.wait_procs(list(_children(home)), PATIENCE)[1])
    if _alive(_holder(lock)) is not None and not _attached(lock):
        lock.unlink(missing_ok=True)  # its pid is another program's by now, which the server would take for itself


def _children(home: Path) -> Iterator[psutil.Process]:
    """Who works in the cluster's directory: a postmaster's children do, and nobody else of the server's user."""
    return (process for process in psutil.process_iter() if _works_in(process, home))


def _works_in(process: psutil.Process, home: Path) -> bool:
    try:
        return process.name().startswith("postgres") and Path(process.cwd()) == home.resolve()
    except GONE:
        return False


def _holder(lock: Path) -> int:
    try:
        return int(lock.read_text(encoding="utf-8").split("\n", 1)[0])
    except (OSError, ValueError):
        return 0


def _alive(pid: int) -> psutil.Process | None:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid) if pid > 0 else None
    return None


def _attached(lock: Path) -> bool:
    """Whether any process still uses the shared memory that the lock file names."""
    with suppress(OSError, ValueError, IndexError):
        segment = int(lock.read_text(encoding="utf-8").splitlines()[SEGMENT].split()[1])
        rows = (row.split() for row in Path("/proc/sysvipc/shm").read_text(encoding="utf-8").splitlines()[1:])
        return any(int(row[1]) == segment and int(row[6]) > 0 for row in rows)
    return False


def unlocked(part: str, file: Path) -> None:
    """Wait until nobody locks a server's file, which a killed one does a moment longer; raises CannotRun."""
    deadline = time.monotonic() + PATIENCE
    while file.exists():
        with file.open("r+b") as probe, suppress(BlockingIOError, PermissionError):
            fcntl.lockf(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if time.monotonic() > deadline:
            raise CannotRun(
                what=f"{part}: another process uses {file}",
                fix=f"find it with: fuser {file}; end it, then run it again",
            )
        time.sleep(POLL)
