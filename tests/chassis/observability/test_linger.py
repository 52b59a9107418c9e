"""Linger: a batch waits for company only while cores are scarce, as long as it may at most."""

from __future__ import annotations

import threading
import time

import pytest

from quadrille.observability import linger
from quadrille.observability.linger import FREE, LOOK_SECONDS, SCARCE, Linger

MOST, LEAST = 0.03, 0.002


class Machine:
    """A thread's times as a kernel would tell them, and the clock beside them."""

    def __init__(self) -> None:
        self.now, self.ran, self.waited = 0.0, 0, 0

    def goes_on(self, pressure: float, looks: int = 40, wait: Linger | None = None) -> float:
        """Let the thread want a core all the time, and get it for the rest of this share; the last wait."""
        seconds = 0.0
        for _ in range(looks):
            self.now += LOOK_SECONDS
            self.ran += round(LOOK_SECONDS * 1e9 * (1 - pressure))
            self.waited += round(LOOK_SECONDS * 1e9 * pressure)
            seconds = wait.seconds() if wait else 0.0
        return seconds


@pytest.fixture
def machine() -> Machine:
    """A machine nobody uses."""
    return Machine()


def of(machine: Machine, least: float = 0.0) -> Linger:
    """A linger on that machine."""
    return Linger("test", MOST, least, lambda: (machine.ran, machine.waited), lambda: machine.now)


def test_nothing_waits_while_cores_are_idle(machine: Machine) -> None:
    """A little waiting is everywhere: it is no reason to be late."""
    assert machine.goes_on(0.1, wait=of(machine)) == 0


def test_a_full_machine_makes_it_wait_and_a_free_one_ends_it(machine: Machine) -> None:
    """Up to the most, in proportion below, and back to nothing."""
    wait = of(machine)
    assert machine.goes_on(0.9, wait=wait) == MOST
    assert 0 < machine.goes_on((FREE + SCARCE) / 2, wait=wait) < MOST
    assert machine.goes_on(0.0, wait=wait) == 0


def test_one_look_is_no_judgement(machine: Machine) -> None:
    """A burst of other work does not make every batch late at once."""
    wait = of(machine)
    machine.goes_on(0.0, wait=wait)
    assert machine.goes_on(1.0, looks=1, wait=wait) < MOST / 2


def test_what_has_time_waits_always(machine: Machine) -> None:
    """The least is waited on an idle machine too, and the most is still the most."""
    wait = of(machine, LEAST)
    assert machine.goes_on(0.0, wait=wait) == LEAST
    assert machine.goes_on(1.0, wait=wait) == MOST


def test_a_thread_that_did_nothing_learns_nothing(machine: Machine) -> None:
    """What it knew of the machine stays until it has wanted a core again."""
    wait = of(machine)
    machine.goes_on(0.9, wait=wait)
    machine.now += 10
    assert wait.seconds() == MOST


def test_where_the_system_does_not_tell_nothing_lingers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No such file on other systems, or in a sandbox."""
    monkeypatch.setattr(linger, "SCHEDSTAT", "/proc/none")
    wait = Linger("test", MOST)
    assert {wait.seconds() for _ in range(3)} == {0.0}


def test_the_kernel_tells_of_the_thread_that_asks() -> None:
    """What another thread has run is not counted."""
    busy = threading.Thread(target=lambda: sum(range(3_000_000)))
    before, used = linger.schedstat(), time.thread_time_ns()
    busy.start()
    busy.join()
    after, spent = linger.schedstat(), time.thread_time_ns() - used
    assert before != (0, 0), "this system tells"
    assert after[0] - before[0] == pytest.approx(spent, abs=20_000_000)
