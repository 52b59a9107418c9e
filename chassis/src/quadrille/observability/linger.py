"""Linger: how long a batch that has begun waits for company: not at all while cores are idle, longer when scarce.

A batch costs about the same whatever is in it (commits, requests, wake-ups), so that a machine that is full does more
with fewer of them; on an idle one waiting would only be late. Which of the two it is the kernel tells: of each thread
how long it ran, and how long it was ready to run and had no core (``/proc/thread-self/schedstat``, in containers too).
The share of the second in both is the pressure. Where there is no such file, nothing lingers.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from quadrille.observability import metrics

LOOK_SECONDS = 0.05
FREE, SCARCE = 0.5, 0.8
"""No wait up to the first pressure, the longest from the second on, in between in proportion."""
SMOOTHING = 0.25
"""The weight of the newest look."""
SCHEDSTAT = "/proc/thread-self/schedstat"
Times = tuple[int, int]


def schedstat() -> Times:
    """Return how long this thread has run, and has waited for a core, in ns; zeros where the system does not tell."""
    try:
        with open(SCHEDSTAT, "rb") as file:  # noqa: PTH123 - twenty times a second: a third of Path's cost
            ran, waited, _ = file.read().split()
    except OSError:
        return 0, 0
    return int(ran), int(waited)


class Linger:
    """The wait of one thread's batches, ``least`` to ``most`` seconds; ``role`` names it in the metrics.

    ``seconds`` is called by that thread alone.
    """

    def __init__(
        self,
        role: str,
        most: float,
        least: float = 0.0,
        times: Callable[[], Times] = schedstat,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._least, self._span = least, max(0.0, most - least)
        self._times, self._clock = times, clock
        self._gauge = metrics.LINGER.labels(role)
        self._last: Times | None = None
        self._looked = -LOOK_SECONDS
        self._pressure, self._seconds = 0.0, least

    def seconds(self) -> float:
        """Return how long a batch that has begun now is to wait."""
        now = self._clock()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._look()
        return self._seconds

    def _look(self) -> None:
        now, last = self._times(), self._last
        self._last = now
        if last is None:
            return
        ran, waited = now[0] - last[0], now[1] - last[1]
        if ran + waited > 0:
            self._pressure += SMOOTHING * (waited / (ran + waited) - self._pressure)
        share = min(1.0, max(0.0, (self._pressure - FREE) / (SCARCE - FREE)))
        self._seconds = self._least + self._span * share
        self._gauge.set(self._seconds)
