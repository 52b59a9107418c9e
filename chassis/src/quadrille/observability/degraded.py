"""Degraded: what a process has lost and can do without; nothing fails silently.

It is logged when it is lost, seldom while that lasts, and when it is back with how long and how much was lost; it is a
gauge, and stands in /readyz and /info. It never makes a process unready: no order waits for a trace.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime

import structlog

from quadrille.observability import metrics
from quadrille.observability.logs import ThrottledLog
from quadrille.values import rfc3339

TOLD_SECONDS = 300.0
log = structlog.get_logger()
_lost: dict[str, dict[str, object]] = {}
_lock = threading.Lock()


def shown() -> Mapping[str, Mapping[str, object]]:
    """Return what is lost now: since when, why, and how many of what it was for."""
    with _lock:
        return {name: dict(found) for name, found in sorted(_lost.items())}


class Degraded:
    """One thing a process can do without, ``name`` as it is shown; used by any thread."""

    def __init__(self, name: str, seconds: float = TOLD_SECONDS) -> None:
        self.name = name
        self._troubles = ThrottledLog(seconds)
        self._since = 0.0

    def lost(self, reason: str, count: int = 1) -> None:
        """Note that ``count`` more were lost, and why."""
        with _lock:
            if self.name not in _lost:
                self._since = time.monotonic()
            since = {"since": rfc3339(datetime.now(UTC)), "lost": 0}
            found = _lost[self.name] = {**_lost.get(self.name, since), "reason": reason}
            found["lost"] = total = int(str(found["lost"])) + count
        metrics.DEGRADED.labels(self.name).set(1)
        metrics.FALLBACKS.labels(self.name).inc(count)
        if self._troubles.met(reason):
            log.warning("degraded", dependency=self.name, reason=reason, count=total)

    def back(self) -> None:
        """Note that it works; told if it did not."""
        with _lock:
            found = _lost.pop(self.name, None)
        if found:
            metrics.DEGRADED.labels(self.name).set(0)
            self._troubles.forget()
            seconds = round(time.monotonic() - self._since, 1)
            log.warning(
                "degraded no longer",
                dependency=self.name, reason=found["reason"], count=found["lost"], seconds=seconds,
            )  # fmt: skip
