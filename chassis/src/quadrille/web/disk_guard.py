"""Disk guard: no new work is admitted while the disk of the database is filling, so that what runs can finish.

A process knows of that disk what Postgres tells by SQL, which is how much log its slots keep and how large the database
is, and how much is free where it can see a directory on the same disk itself. Nothing else of it is known.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from quadrille.observability import metrics
from quadrille.observability.degraded import Degraded
from quadrille.service import Tx

DiskMeasure: TypeAlias = Literal["WAL_KEPT", "DATABASE_SIZE", "DISK_FREE"]
"""What is measured: log kept for the slot that is furthest behind, size of the database, room that is left."""
EASED = 0.8
"""The guard holds until no pressure is above this: what hovers at its limit does not open and shut it all the time."""
WAL_KEPT = """
SELECT coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)), 0)::bigint FROM pg_replication_slots"""
DATABASE_SIZE = "SELECT pg_database_size(current_database())"
WORDS = {
    "WAL_KEPT": "{value} of log kept for a slot, {limit} is the limit",
    "DATABASE_SIZE": "a database of {value}, {limit} is the limit",
    "DISK_FREE": "{value} free on the disk, {limit} is the least",
}


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """At how many bytes no new work is taken; 0 is no limit.

    ``directory`` lies on the disk of the database; without one the free space is not known.
    """

    wal_kept: int = 1_500_000_000
    database: int = 0
    free: int = 256_000_000
    directory: Path | None = None


@dataclass(frozen=True, slots=True)
class DiskReading:
    """One measurement, in bytes, and its limit."""

    measure: DiskMeasure
    value: int
    limit: int

    @property
    def pressure(self) -> float:
        """How near the limit is: 1 is at it, 0 is without any."""
        if not self.limit:
            return 0.0
        return self.limit / max(self.value, 1) if self.measure == "DISK_FREE" else self.value / self.limit

    def __str__(self) -> str:
        return WORDS[self.measure].format(value=_shown(self.value), limit=_shown(self.limit))


class DiskGuard:
    """Measures; a directory that cannot be asked is told as degraded, and its disk is not known."""

    def __init__(self, limits: DiskLimits) -> None:
        self._limits, self._degraded = limits, Degraded("disk guard")

    def read(self, tx: Tx) -> Sequence[DiskReading]:
        """Return what can be known now, and tell it as metrics."""
        limits = self._limits
        [(kept,)] = tx.execute(WAL_KEPT).fetchall()
        found = [DiskReading("WAL_KEPT", kept, limits.wal_kept)]
        if limits.database:
            [(size,)] = tx.execute(DATABASE_SIZE).fetchall()
            found.append(DiskReading("DATABASE_SIZE", size, limits.database))
        if limits.directory and (free := self._free(limits.directory)) is not None:
            found.append(DiskReading("DISK_FREE", free, limits.free))
        metrics.set_all(metrics.DISK, {(one.measure,): one.value for one in found})
        metrics.set_all(metrics.DISK_PRESSURE, {(one.measure,): one.pressure for one in found})
        return found

    def _free(self, directory: Path) -> int | None:
        """Return the bytes that are left for others than root, who has a reserve that Postgres may not use."""
        try:
            told = os.statvfs(directory)
        except OSError as trouble:
            self._degraded.lost(f"{directory}: {trouble.strerror}")
            return None
        self._degraded.back()
        return told.f_bavail * told.f_frsize


def filling(found: Iterable[DiskReading]) -> DiskReading | None:
    """Return the measurement that is worst, if one is at its limit."""
    worst = max(found, key=lambda one: one.pressure, default=None)
    return worst if worst and worst.pressure >= 1 else None


def eased(found: Sequence[DiskReading], measure: str | None) -> bool:
    """Whether all is well again; never by a process that does not see what the guard holds for."""
    seen = {one.measure for one in found} | {"DATABASE_SIZE", None}
    return measure in seen and all(one.pressure <= EASED for one in found)


def _shown(size: int) -> str:
    unit, name = next((one for one in ((10**9, "GB"), (10**6, "MB")) if size >= one[0]), (1, "B"))
    return f"{size / unit:.1f} {name}" if unit > 1 else f"{size} B"
