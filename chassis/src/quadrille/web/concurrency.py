"""Concurrency limit of an API's commands: as many in flight as are answered within the objective, and no more.

Additive increase, multiplicative decrease, as TCP finds its window: what was answered too late takes a tenth of the
limit, what was answered in time while the limit was reached gives a little back. By Little's law it settles at the
commands a second the machine can do, times the objective; nobody need know either. What lies unread in the kernel waits
as long as the event loop is late, so that its lateness counts as waiting too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from quadrille.observability import metrics

OBJECTIVE_SECONDS = 0.5
FEWEST, MOST = 20, 500
FIRST = 200
DECREASE = 0.9
INCREASE = 0.2
"""So much of one more for each answer in time."""
LOOK_SECONDS = 0.05


class Loop(Protocol):
    """As much of an event loop as the limit asks."""

    def time(self) -> float:
        """Return the loop's time, in seconds."""
        ...

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> object:  # noqa: ANN401 - a loop's
        """Call back at a time of the loop's."""
        ...


class ConcurrencyLimit:
    """How many commands may be in flight; used by the event loop's thread alone."""

    def __init__(self, objective: float = OBJECTIVE_SECONDS, first: int = FIRST, most: int = MOST) -> None:
        self.in_flight = 0
        self._objective, self._most = objective, most
        self._become(min(first, most))
        self._late = 0.0
        self._lowered = -objective
        self._looking = False

    @property
    def limit(self) -> int:
        """How many may be in flight now."""
        return int(self._limit)

    @property
    def full(self) -> bool:
        """Whether one more would be answered too late, as far as can be told; a burst may make the loop late once."""
        return self.in_flight >= self.limit or self._late > 2 * self._objective

    def began(self, loop: Loop) -> float:
        """Count a command in; returns when it began."""
        self.in_flight += 1
        if not self._looking:
            self._looking = True
            self._look_at(loop, loop.time() + LOOK_SECONDS)
        return loop.time()

    def ended(self, loop: Loop, began: float, *, told: bool = True) -> None:
        """Count a command out; ``told`` says that how long it took tells of the load."""
        self.in_flight -= 1
        if not told:
            return
        now = loop.time()
        if now - began + self._late > self._objective:
            if now - self._lowered >= self._objective:  # once for all that waited in the same line
                self._lowered = now
                self._become(max(min(FEWEST, self._most), self._limit * DECREASE))
        elif self.in_flight >= self.limit // 2:
            self._become(min(self._most, self._limit + INCREASE))

    def _become(self, limit: float) -> None:
        self._limit = limit
        metrics.COMMANDS_MOST.set(limit)

    def _look_at(self, loop: Loop, due: float) -> None:
        loop.call_at(due, self._look, loop, due)

    def _look(self, loop: Loop, due: float) -> None:
        """Note how late the event loop comes to what is due; while nothing is in flight nobody asks."""
        now = loop.time()
        self._late = now - due
        self._looking = self.in_flight > 0
        if self._looking:
            self._look_at(loop, now + LOOK_SECONDS)
        else:
            self._late = 0.0
