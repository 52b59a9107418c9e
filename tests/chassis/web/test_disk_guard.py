"""What the disk guard knows of a real database's disk: log kept for a slot, the database's size, a directory's room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from quadrille.observability import degraded
from quadrille.web.disk_guard import DiskGuard, DiskLimits, DiskMeasure, DiskReading, eased, filling
from tests.chassis.support.database import Database

KEEP = "SELECT pg_create_physical_replication_slot('archiver', true)"
DROP = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'archiver'"
GO_ON = "SELECT pg_replication_slot_advance('archiver', pg_current_wal_flush_lsn())"
WRITE = "SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000), true) FROM generate_series(1, 3)"
MEGABYTE = 10**6


@pytest.fixture
def kept(db: Database) -> Iterator[Database]:
    """A database with a slot that keeps all log from now on."""
    db.rows(KEEP)
    yield db
    db.rows(DROP)


def readings(db: Database, limits: DiskLimits) -> dict[DiskMeasure, DiskReading]:
    """What a service's own role sees."""
    with db.connect() as tx:
        return {one.measure: one for one in DiskGuard(limits).read(tx)}


def test_log_that_a_slot_keeps_is_seen_by_the_services_own_role(kept: Database) -> None:
    """It grows with what is written and is at its limit; the slot goes on, and all is well."""
    limits = DiskLimits(wal_kept=2 * MEGABYTE)
    before = readings(kept, limits)["WAL_KEPT"]
    kept.rows(WRITE)
    after = readings(kept, limits)["WAL_KEPT"]

    assert after.value - before.value >= 3 * MEGABYTE
    assert filling([after]) == after
    assert str(after).endswith("of log kept for a slot, 2.0 MB is the limit")
    kept.rows(GO_ON)
    assert eased([readings(kept, limits)["WAL_KEPT"]], "WAL_KEPT")


def test_the_size_of_the_database_is_asked_for_where_it_has_a_budget(db: Database) -> None:
    """At the budget it is filling; without one nobody counts its files."""
    size = readings(db, DiskLimits(database=1))["DATABASE_SIZE"]

    assert filling([size]) == size
    assert size.value > MEGABYTE
    assert "DATABASE_SIZE" not in readings(db, DiskLimits())


def test_a_directory_tells_its_room_and_one_that_is_gone_is_told(db: Database, tmp_path: Path) -> None:
    """What is free is measured; while the directory cannot be asked it is not known, shuts nothing and is degraded."""
    guard = DiskGuard(DiskLimits(free=1, directory=tmp_path / "disk"))
    with db.connect() as tx:
        assert [one.measure for one in guard.read(tx)] == ["WAL_KEPT"]
        assert "No such file" in str(degraded.shown()["disk guard"]["reason"])
        (tmp_path / "disk").mkdir()
        free = guard.read(tx)[1]

    assert (free.measure, free.value > 1, filling([free])) == ("DISK_FREE", True, None)
    assert "disk guard" not in degraded.shown()
    least = free.value * 2
    assert filling(readings(db, DiskLimits(free=least, directory=tmp_path)).values()) is not None
