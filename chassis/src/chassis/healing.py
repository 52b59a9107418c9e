"""When the outside is well again, what waits for it goes on soon, and not all at once (invariant 17).

A breaker that closes makes every waiting row due within five seconds, spread; one that would let a probe through gets
a few rows to probe with, since without a call it would stay as it is until the next rung, a quarter of an hour away.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import timedelta

import structlog

from chassis import metrics
from chassis.breaker import Guarded, State
from chassis.leases import Postponed, hasten
from chassis.service import Tx

SPREAD = timedelta(seconds=4)  # and up to half a second until somebody looks
PROBE_SECONDS = 2.0
LEVELS = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}
log = structlog.get_logger()


class Healing:
    """Watches the breaker of a service's client, if it has one; ``wake`` is called when it closes, from any thread."""

    def __init__(self, service: str, client: object, types: Collection[str], wake: Callable[[], None]) -> None:
        self._service, self._types, self._wake = service, types, wake
        self._breaker = client.breaker if isinstance(client, Guarded) else None
        self._closed_at = float("-inf")
        self._closings = self._served = 0
        self._probe_at = 0.0
        if self._breaker:
            self._breaker.changed = self._changed
            metrics.BREAKER.labels(service).set(LEVELS[self._breaker.state])

    def look(self, connection: Callable[[], Tx]) -> bool:
        """Let waiting rows fall due if the outside is to be called; tell whether some may be due now."""
        if (closings := self._closings) != self._served:
            hasten(connection(), self._types, SPREAD)
            self._served = closings
            return True
        if self._breaker is None or time.monotonic() < self._probe_at or not self._breaker.wants_probe:
            return False
        hasten(connection(), self._types, timedelta(0), self._breaker.limits.probes)
        self._probe_at = time.monotonic() + PROBE_SECONDS
        return True

    def sooner(self, row: Postponed) -> Postponed:
        """Return a row to be put off, no longer than the spread if its call began before the breaker closed."""
        if row.began <= self._closed_at and row.wait > SPREAD:
            return replace(row, wait=SPREAD * random.random())  # noqa: S311 - jitter
        return row

    def _changed(self, state: State) -> None:
        """Note a new state of the breaker; the thread whose call changed it calls this."""
        metrics.BREAKER.labels(self._service).set(LEVELS[state])
        log.warning("breaker changed", reason=state.value)
        if state is State.CLOSED:
            self._closed_at = time.monotonic()
            self._closings += 1
            self._wake()
