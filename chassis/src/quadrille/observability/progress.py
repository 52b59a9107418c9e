"""Watchdog: notices that work lies ahead and nothing is handled; pure, its clock is given.

Only time that was watched counts: a process that was frozen, or could not look because of an outage, has missed that
time and accuses nobody of it.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass

RENEWALS_APART = 16
"""At most this many times ``renew_after`` lies between two renewals that did not help."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How many seconds nothing may be handled before it is a stall, and before the client is made anew."""

    stalled_after: float = 30.0
    renew_after: float = 60.0

    @property
    def look_every(self) -> float:
        """How many seconds may lie between two looks."""
        return self.stalled_after / 6


class Change(enum.Enum):
    """What a look may find to have changed."""

    STALLED = "STALLED"
    RESUMED = "RESUMED"


class ProgressWatchdog:
    """Watches one consumer, partition or relay: ``look`` at it every ``Patience.look_every`` seconds or more often.

    ``seconds`` is how long work has been ahead with nothing handled, ``lasted`` how long the last stall took;
    ``stalled`` stays true until something is handled or nothing is ahead.
    """

    def __init__(self, patience: Patience, clock: Callable[[], float] = time.monotonic) -> None:
        self.patience = patience
        self.stalled = False
        self.seconds = self.lasted = 0.0
        self._clock = clock
        self._looked: float | None = None
        self._handled: object = object()  # like no other
        self._pause = self._renew_at = patience.renew_after

    def look(self, *, ahead: bool, handled: object, pace: float = 1.0) -> Change | None:
        """Note what is the case now; return the edge, if this is one.

        ``ahead`` tells whether there is work, ``handled`` is a position or count that changes when some is done;
        ``pace`` below 1 lets time pass more slowly, for work that may have to wait for its turn.
        """
        now = self._clock()
        watched = 0.0 if self._looked is None else min(now - self._looked, 2 * self.patience.look_every)
        moved = handled != self._handled
        self._looked, self._handled = now, handled
        if moved or not ahead:
            return self._go_on()
        self.seconds += watched * pace
        if self.stalled or self.seconds < self.patience.stalled_after:
            return None
        self.stalled = True
        return Change.STALLED

    def suspend(self) -> None:
        """Note an outage of what work needs: no time counts until it is over, then patience begins anew."""
        self._looked = None
        if not self.stalled:
            self.seconds = 0.0

    def renewal_due(self) -> bool:
        """Tell, once each time, that the client is to be made anew; the time between two in vain doubles."""
        if not self.stalled or self.seconds < self._renew_at:
            return False
        self._renew_at = self.seconds + self._pause
        self._pause = min(2 * self._pause, RENEWALS_APART * self.patience.renew_after)
        return True

    def _go_on(self) -> Change | None:
        change = Change.RESUMED if self.stalled else None
        self.lasted = self.seconds if self.stalled else self.lasted
        self.stalled, self.seconds = False, 0.0
        self._pause = self._renew_at = self.patience.renew_after
        return change
