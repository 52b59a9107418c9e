"""Admission control: when too many sagas fail no new ones are admitted, until a few that are let in go well.

Nor are any while the disk of the database is filling (``disk_guard``), until there is room again.

Its state is one row that every api process looks at once a second; a request costs no query. Who finds that the state
must change changes it if nobody else has, and announces it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, TypeAlias, get_args

import structlog

from quadrille.context import ProcessContext
from quadrille.db.connection import Session
from quadrille.ids import uuid7
from quadrille.observability import metrics
from quadrille.observability.logs import ThrottledLog
from quadrille.processing.batch import OUTAGE
from quadrille.processing.outbox import announce
from quadrille.service import Tx
from quadrille.system_messages import IntakePaused, IntakeResumed
from quadrille.web.disk_guard import DiskGuard, DiskLimits, DiskReading, eased, filling
from quadrille.web.problems import Problem

AdmissionMode: TypeAlias = Literal["OPEN", "SHUT", "TRICKLE", "PAUSED", "GUARDED"]
"""What is let in: all, nothing, one a second to try, nothing by a person's word, or nothing while the disk fills."""
LOOK_SECONDS = 1.0
TRICKLE_SECONDS = 1.0  # so often a process lets one in while it is tried whether things go well again
PROBES = 5
"""So many must have ended, and well, before all are let in."""
PAUSED_SECONDS = 30
CAUSES = {"SHUT": "SAGA_FAILURE_RATE", "TRICKLE": "SAGA_FAILURE_RATE", "PAUSED": "PAUSED", "GUARDED": "DISK_GUARD"}
LOOK = """
SELECT i.state, i.since, clock_timestamp(), coalesce(sum(t.ended), 0)::bigint, coalesce(sum(t.failed), 0)::bigint,
       i.measure
  FROM intake i LEFT JOIN tally t ON t.at >= i.since AND t.at >= now() - %b::interval
 GROUP BY i.state, i.since, i.measure"""
TURN = """
UPDATE intake SET state = %b, since = clock_timestamp(), measure = %b, detail = %b
 WHERE state = %b AND since = %b RETURNING since"""
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """When the intake shuts, and for how long before a trickle is let in, or all after the disk was filling."""

    rate: float = 0.05
    minimum: int = 20
    window: timedelta = timedelta(minutes=5)
    rest: timedelta = timedelta(seconds=30)
    disk: DiskLimits = field(default_factory=DiskLimits)


@dataclass(frozen=True, slots=True)
class AdmissionState:
    """What one look found: the state, since when, how many sagas ended since then (in the window) and how many failed.

    ``at`` is the database's time of the look, ``measure`` what the disk guard holds for.
    """

    state: AdmissionMode
    since: datetime
    at: datetime
    ended: int
    failed: int
    measure: str | None = None

    def next(self, limits: AdmissionLimits, disk: Sequence[DiskReading] = ()) -> AdmissionMode:
        """Return the state that follows from what was seen; an operator's pause ends by an operator only."""
        if self.state != "PAUSED" and filling(disk):
            return "GUARDED"
        rested = self.at - self.since >= limits.rest
        if self.state == "GUARDED":
            return "OPEN" if rested and eased(disk, self.measure) else "GUARDED"
        bad = self.failed > limits.rate * self.ended
        if self.state == "OPEN" and bad and self.ended >= limits.minimum:
            return "SHUT"
        if self.state == "SHUT":
            return "TRICKLE" if rested else "SHUT"
        if self.state == "TRICKLE" and (bad or self.ended >= PROBES):
            return "SHUT" if bad else "OPEN"
        return self.state

    def retry_after(self, limits: AdmissionLimits) -> int:
        """Return after how many seconds it is worth asking again."""
        if self.state in ("PAUSED", "GUARDED"):
            return PAUSED_SECONDS
        left = (limits.rest - (self.at - self.since)).total_seconds() if self.state == "SHUT" else 0
        return max(1, math.ceil(left))


def look(tx: Tx, limits: AdmissionLimits) -> AdmissionState | None:
    """Return how things stand; None without a row, which counts as open."""
    row = tx.execute(LOOK, [limits.window]).fetchone()
    return AdmissionState(*row) if row else None


class AdmissionControl:
    """Whether this process takes new work; open it as a context while serving."""

    def __init__(
        self, context: ProcessContext, limits: AdmissionLimits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._context, self._clock, self._limits = context, clock, limits
        self._seen: AdmissionState | None = None
        self._disk = DiskGuard(limits.disk)
        self._looked = False
        self._trickled = -math.inf
        self._connection, self._troubles = Session(context.connect), ThrottledLog()
        self._stop, self._looking = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._run, name="gate", daemon=True)

    def open(self) -> None:
        """Begin to look, once before anybody is let in."""
        self._once()
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()
        self._connection.close()

    @property
    def shut(self) -> bool:
        """Whether not all are let in; asked first, for ``refusal`` lets one of the trickle in."""
        return self._seen is not None and self._seen.state != "OPEN"

    def refusal(self) -> Problem | None:
        """Return why new work is not taken now; None lets it in, as one of the trickle if there is but that."""
        seen = self._seen
        if seen is None or seen.state == "OPEN":
            return None
        if seen.state == "TRICKLE" and (now := self._clock()) - self._trickled >= TRICKLE_SECONDS:
            self._trickled = now
            return None
        return Problem(slug="overloaded", cause=CAUSES[seen.state], retry_after=seen.retry_after(self._limits))

    def state(self, look: bool = False) -> str:  # noqa: FBT001, FBT002 - a look or none
        """Return the mode by which this process lets in, after a look if asked; empty before its first one."""
        if look and not self._stop.is_set():
            self._once()
        if self._seen is None:
            return "OPEN" if self._looked else ""
        return self._seen.state

    def judge(self, tx: Tx) -> None:
        """Look, and turn the state if it must be and nobody else has."""
        seen, disk = look(tx, self._limits), self._disk.read(tx)
        if seen and (wanted := seen.next(self._limits, disk)) != seen.state:
            self._turn(tx, seen, wanted, filling(disk) if wanted == "GUARDED" else None)
            seen = look(tx, self._limits)
        self._seen = seen
        state = seen.state if seen else "OPEN"
        metrics.set_all(metrics.INTAKE, {(mode,): float(mode == state) for mode in get_args(AdmissionMode)})

    def _turn(self, tx: Tx, seen: AdmissionState, wanted: AdmissionMode, disk: DiskReading | None) -> None:
        service, detail = self._context.service, str(disk) if disk else ""
        with tx.transaction():
            values = [wanted, disk and disk.measure, detail, seen.state, seen.since]
            if not tx.execute(TURN, values).fetchone():
                return
            if wanted == "OPEN":
                announce(tx, service, uuid7(), IntakeResumed(service.name, CAUSES[seen.state]))
            elif CAUSES[wanted] != CAUSES.get(seen.state):
                announce(tx, service, uuid7(), IntakePaused(service.name, CAUSES[wanted]))
        seconds = round((seen.at - seen.since).total_seconds(), 1)
        reason = f"{seen.state} to {wanted}" + f": {detail}" * bool(detail)
        log.warning("intake turns", reason=reason, count=seen.failed, seconds=seconds)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            self._once()

    def _once(self) -> None:
        """Look once; while the database is away what was seen last holds."""
        with self._looking:
            try:
                self.judge(self._connection())
                self._looked = True
                self._troubles.over()
            except OUTAGE as trouble:
                self._troubles.warn("gate waits", type(trouble).__name__)
                self._connection.close()
