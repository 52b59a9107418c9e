"""The watchdog: a stall is called once, after its time, and never for time that nobody watched."""

from __future__ import annotations

import pytest

from quadrille.observability.progress import Change, Patience, ProgressWatchdog

PATIENCE = Patience(stalled_after=30, renew_after=60)


class Watched:
    """Something watched by a clock of its own."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.dog = ProgressWatchdog(PATIENCE, lambda: self.now)
        self.dog.look(ahead=True, handled=7)

    def wait(self, seconds: int, handled: int = 7, *, ahead: bool = True, pace: float = 1.0) -> list[Change]:
        """Let time pass, a look a second; return the edges."""
        edges = []
        for _ in range(seconds):
            self.now += 1
            edges.append(self.dog.look(ahead=ahead, handled=handled, pace=pace))
        return [edge for edge in edges if edge]


@pytest.fixture
def watched() -> Watched:
    """Something that has work ahead."""
    return Watched()


def test_a_stall_is_called_once_and_so_is_its_end(watched: Watched) -> None:
    """Nothing handled for thirty seconds; then one record is."""
    assert watched.wait(29) == []
    assert watched.wait(100) == [Change.STALLED]
    assert watched.dog.seconds == 129
    assert watched.wait(10, handled=8) == [Change.RESUMED]
    assert (watched.dog.stalled, watched.dog.lasted) == (False, 129)


def test_nothing_ahead_is_no_stall(watched: Watched) -> None:
    """Who has nothing to do may rest as long as it likes, and a stall with nothing left ahead is over."""
    assert watched.wait(100, ahead=False) == []
    assert watched.wait(31) == [Change.STALLED]
    assert watched.wait(1, ahead=False) == [Change.RESUMED]


def test_slow_is_not_stalled(watched: Watched) -> None:
    """One record in 29 seconds is progress."""
    assert [watched.wait(29, handled=n) for n in range(8, 20)] == [[]] * 12


def test_a_turn_to_wait_for_takes_longer(watched: Watched) -> None:
    """At a tenth of the pace it takes ten times as long until it is a stall."""
    assert watched.wait(290, pace=0.1) == []
    assert watched.wait(20, pace=0.1) == [Change.STALLED]


def test_time_that_nobody_watched_does_not_count(watched: Watched) -> None:
    """A process frozen for an hour: what it finds is no stall yet."""
    watched.wait(15)
    watched.now += 3600
    assert watched.wait(1) == []
    assert watched.dog.seconds <= 15 + 2 * PATIENCE.look_every


def test_an_outage_gives_patience_anew_but_ends_no_stall(watched: Watched) -> None:
    """What could not be handled is not called stalled; what was stalled before the outage still is after it."""
    watched.wait(29)
    watched.dog.suspend()
    assert watched.wait(30) == []
    assert watched.wait(1) == [Change.STALLED]
    watched.dog.suspend()
    assert watched.wait(10) == []
    assert watched.dog.stalled
    assert watched.wait(1, handled=8) == [Change.RESUMED]


def test_a_new_client_is_due_at_times_further_and_further_apart(watched: Watched) -> None:
    """At 60 s, then after 60, 120, 240 more in vain; progress begins the count anew."""
    due = []
    for second in range(1, 500):
        watched.wait(1)
        if watched.dog.renewal_due():
            due.append(second)
    assert due == [60, 120, 240, 480]

    watched.wait(1, handled=8)
    assert not watched.dog.renewal_due()
    watched.wait(60, handled=8)
    assert watched.dog.renewal_due()
    assert not watched.dog.renewal_due()
