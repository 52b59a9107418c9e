"""The states of admission control: when each turns into which."""

from __future__ import annotations

from datetime import timedelta

import pytest

from quadrille.testing import START
from quadrille.web.admission import PROBES, AdmissionLimits, AdmissionMode, AdmissionState
from quadrille.web.disk_guard import DiskLimits, DiskReading

LIMITS = AdmissionLimits()


@pytest.mark.parametrize(
    ("state", "seconds", "ended", "failed", "wanted"),
    [
        ("OPEN", 9, 20, 1, "OPEN"),  # 5 % is not above 5 %
        ("OPEN", 9, 20, 2, "SHUT"),
        ("OPEN", 9, 19, 19, "OPEN"),  # too few to judge by
        ("SHUT", 29, 0, 0, "SHUT"),
        ("SHUT", 30, 50, 50, "TRICKLE"),
        ("TRICKLE", 1, PROBES - 1, 0, "TRICKLE"),
        ("TRICKLE", 1, PROBES, 0, "OPEN"),
        ("TRICKLE", 1, 9, 1, "SHUT"),
        ("TRICKLE", 99, 0, 0, "TRICKLE"),
        ("PAUSED", 9999, 100, 0, "PAUSED"),
    ],
)
def test_when_the_state_turns(
    state: AdmissionMode, seconds: int, ended: int, failed: int, wanted: AdmissionMode
) -> None:
    """More than 5 % of at least 20; half a minute's rest; five good ones; never out of a person's pause."""
    assert AdmissionState(state, START, START + timedelta(seconds=seconds), ended, failed).next(LIMITS) == wanted


FULL, HOVERS, EASY = (
    DiskReading("WAL_KEPT", 100, 100),
    DiskReading("WAL_KEPT", 81, 100),
    DiskReading("WAL_KEPT", 80, 100),
)
CRAMPED, SCARCE, ROOMY = (DiskReading("DISK_FREE", free, 100) for free in (100, 124, 125))


@pytest.mark.parametrize(
    ("state", "seconds", "measure", "disk", "wanted"),
    [
        *[(state, 0, None, [FULL], "GUARDED") for state in ("OPEN", "SHUT", "TRICKLE")],
        ("OPEN", 0, None, [HOVERS, SCARCE], "OPEN"),
        ("OPEN", 0, None, [EASY, CRAMPED], "GUARDED"),
        ("PAUSED", 99, None, [FULL], "PAUSED"),
        ("GUARDED", 99, "WAL_KEPT", [HOVERS], "GUARDED"),
        ("GUARDED", 29, "WAL_KEPT", [EASY], "GUARDED"),
        ("GUARDED", 30, "WAL_KEPT", [EASY], "OPEN"),
        ("GUARDED", 99, "WAL_KEPT", [EASY, SCARCE], "GUARDED"),
        ("GUARDED", 99, "DISK_FREE", [EASY], "GUARDED"),  # by a process that does not see that disk
        ("GUARDED", 99, "DISK_FREE", [EASY, ROOMY], "OPEN"),
        ("GUARDED", 99, "DATABASE_SIZE", [EASY], "OPEN"),  # its budget was taken away
        ("GUARDED", 99, "WAL_KEPT", [DiskReading("WAL_KEPT", 100, 0)], "OPEN"),  # and so was this limit
    ],
)
def test_when_the_disk_guard_turns_it(
    state: AdmissionMode, seconds: int, measure: str | None, disk: list[DiskReading], wanted: AdmissionMode
) -> None:
    """It shuts at a limit, but for a pause; 20 % better, after half a minute, who sees what held it opens it."""
    seen = AdmissionState(state, START, START + timedelta(seconds=seconds), 0, 0, measure)
    assert seen.next(LIMITS, disk) == wanted


def test_no_limit_is_no_pressure_and_defaults_trip_nothing_that_is_well() -> None:
    """0 bytes is no limit; an hour's hiccup of a relay and a disk with half a gigabyte left are no alarm."""
    limits = DiskLimits()
    well = [DiskReading("WAL_KEPT", 10**9, limits.wal_kept), DiskReading("DISK_FREE", 5 * 10**8, limits.free)]

    assert (limits.directory, DiskReading("DATABASE_SIZE", 10**15, limits.database).pressure) == (None, 0)
    assert AdmissionState("OPEN", START, START, 0, 0).next(LIMITS, well) == "OPEN"
    assert str(DiskReading("WAL_KEPT", 1_600_000_000, limits.wal_kept)) == (
        "1.6 GB of log kept for a slot, 1.5 GB is the limit"
    )
