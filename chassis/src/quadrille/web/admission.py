"""Admission control: when too many sagas fail no new ones are admitted, until a few that are let in go well.

Its state is one row that every api process looks at once a second; a request costs no query. Who finds that the state
must change changes it if nobody else has, and announces it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
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
from quadrille.web.problems import Problem

AdmissionMode: TypeAlias = Literal["OPEN", "SHUT", "TRICKLE", "PAUSED"]
"""What is let in: all, nothing, one a second to try, or nothing by a person's word."""
LOOK_SECONDS = 1.0
TRICKLE_SECONDS = 1.0  # so often a process lets one in while it is tried whether things go well again
PROBES = 5
"""So many must have ended, and well, before all are let in."""
PAUSED_SECONDS = 30
CAUSES = {"SHUT": "SAGA_FAILURE_RATE", "TRICKLE": "SAGA_FAILURE_RATE", "PAUSED": "PAUSED"}
LOOK = """
SELECT i.state, i.since, clock_timestamp(), coalesce(sum(t.ended), 0)::bigint, coalesce(sum(t.failed), 0)::bigint
  FROM intake i LEFT JOIN tally t ON t.at >= i.since AND t.at >= now() - %b::interval GROUP BY i.state, i.since"""
TURN = """
UPDATE intake SET state = %b, since = clock_timestamp() WHERE state = %b AND since = %b RETURNING since"""
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """When the intake shuts, and for how long before a trickle is let in."""

    rate: float = 0.05
    minimum: int = 20
    window: timedelta = timedelta(minutes=5)
    rest: timedelta = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class AdmissionState:
    """What one look found: the state, since when, how many sagas ended since then (in the window) and how many failed.

    ``at`` is the database's time of the look.
    """

    state: AdmissionMode
    since: datetime
    at: datetime
    ended: int
    failed: int

    def next(self, limits: AdmissionLimits) -> AdmissionMode:
        """Return the state that follows from what was seen; an operator's pause ends by an operator only."""
        bad = self.failed > limits.rate * self.ended
        if self.state == "OPEN" and bad and self.ended >= limits.minimum:
            return "SHUT"
        if self.state == "SHUT" and self.at - self.since >= limits.rest:
            return "TRICKLE"
        if self.state == "TRICKLE" and bad:
            return "SHUT"
        if self.state == "TRICKLE" and self.ended >= PROBES:
            return "OPEN"
        return self.state

    def retry_after(self, limits: AdmissionLimits) -> int:
        """Return after how many seconds it is worth asking again."""
        if self.state == "PAUSED":
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
        seen = look(tx, self._limits)
        if seen and (wanted := seen.next(self._limits)) != seen.state:
            self._turn(tx, seen, wanted)
            seen = look(tx, self._limits)
        self._seen = seen
        state = seen.state if seen else "OPEN"
        metrics.set_all(metrics.INTAKE, {(mode,): float(mode == state) for mode in get_args(AdmissionMode)})

    def _turn(self, tx: Tx, seen: AdmissionState, wanted: AdmissionMode) -> None:
        service = self._context.service
        with tx.transaction():
            if not tx.execute(TURN, [wanted, seen.state, seen.since]).fetchone():
                return
            if seen.state == "OPEN":
                announce(tx, service, uuid7(), IntakePaused(service.name, CAUSES[wanted]))
            elif wanted == "OPEN":
                announce(tx, service, uuid7(), IntakeResumed(service.name, CAUSES[seen.state]))
        seconds = round((seen.at - seen.since).total_seconds(), 1)
        log.warning("intake turns", reason=f"{seen.state} to {wanted}", count=seen.failed, seconds=seconds)

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
