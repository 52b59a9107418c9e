"""The concurrency limit: what would be answered too late is refused, whatever the machine can do."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import pytest

from quadrille.web.concurrency import FEWEST, MOST, OBJECTIVE_SECONDS, ConcurrencyLimit


class Loop:
    """An event loop of which only the clock runs: what is due is called when the time is set past it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.due: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []

    def time(self) -> float:
        """The time it is."""
        return self.now

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> object:  # noqa: ANN401 - a loop's
        """Note what is to be called."""
        heapq.heappush(self.due, (when, id(callback), callback, args))
        return self

    def until(self, now: float, *, late: float = 0.0) -> None:
        """Let time pass; the loop comes so much later to whatever is due."""
        while self.due and self.due[0][0] + late <= now:
            when, _, what, arguments = heapq.heappop(self.due)
            self.now = max(self.now, when + late)
            what(*arguments)
        self.now = max(self.now, now)


@pytest.fixture
def loop() -> Loop:
    """A loop at its beginning."""
    return Loop()


def served(loop: Loop, limit: ConcurrencyLimit, rate: float, offered: float, seconds: float) -> tuple[int, list[float]]:
    """Offer commands to one who does so many a second; returns how many were refused, and how long the others took."""
    line: list[float] = []
    refused, took, free, ends = 0, [], loop.now, loop.now + seconds
    arrives = loop.now
    while arrives < ends or line:
        done = max(free, line[0]) + 1 / rate if line else ends + 1
        if arrives < ends and (arrives <= done or not line):
            loop.until(arrives)
            if limit.full:
                refused += 1
            else:
                line.append(limit.began(loop))
            arrives += 1 / offered
        else:
            loop.until(done)
            free = done
            began = line.pop(0)
            limit.ended(loop, began)
            took.append(loop.now - began)
    return refused, took


@pytest.mark.parametrize("rate", [60.0, 150.0, 600.0])
def test_under_an_overload_what_is_taken_is_answered_in_time(loop: Loop, rate: float) -> None:
    """Half as much again as can be done, for a minute: the rest is refused, and the machine is never idle for it."""
    limit = ConcurrencyLimit()

    served(loop, limit, rate, 1.5 * rate, 30)
    refused, took = served(loop, limit, rate, 1.5 * rate, 30)

    assert max(took) <= 1.5 * OBJECTIVE_SECONDS
    assert len(took) >= 0.95 * rate * 30
    assert refused >= 0.3 * 1.5 * rate * 30


def test_no_more_are_taken_than_the_most(loop: Loop) -> None:
    """However quickly they are answered."""
    limit = ConcurrencyLimit()
    served(loop, limit, 5_000.0, 20_000.0, 5)
    assert limit.limit <= MOST


def test_a_burst_that_can_be_done_in_time_is_taken_whole(loop: Loop) -> None:
    """After a trickle, which tells nothing of what can be done."""
    limit = ConcurrencyLimit()
    assert served(loop, limit, 1_000.0, 5.0, 10)[0] == 0
    assert served(loop, limit, 1_000.0, 100_000.0, 0.0019)[0] == 0


def test_a_loop_that_is_late_takes_nothing_until_it_is_not(loop: Loop) -> None:
    """What it comes late to has waited in the kernel; looked at only while somebody waits."""
    limit = ConcurrencyLimit()
    began = limit.began(loop)
    loop.until(3.0, late=2 * OBJECTIVE_SECONDS + 0.1)
    assert limit.full

    loop.until(4.0)
    assert not limit.full
    limit.ended(loop, began, told=False)
    loop.until(5.0)
    assert not loop.due


def test_what_tells_nothing_of_the_load_changes_nothing(loop: Loop) -> None:
    """An outage is waited for, and is no reason to take less afterwards."""
    limit = ConcurrencyLimit()
    before = limit.limit
    for _ in range(100):
        began = limit.began(loop)
        loop.until(loop.now + 2.0)
        limit.ended(loop, began, told=False)
    assert limit.limit == before
    for _ in range(100):
        began = limit.began(loop)
        loop.until(loop.now + 2.0)
        limit.ended(loop, began)
    assert limit.limit == FEWEST
