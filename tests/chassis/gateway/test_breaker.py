"""A sick outside is called no more than it can bear, and comes back by exactly as many probes as it should."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from quadrille.gateway.breaker import Breaker, CircuitOpenError, Limits, State

THREADS = 20


class Sick(Exception):  # noqa: N818 - the name says what is the case
    """The outside's failure in these tests."""


@dataclass
class World:
    """A breaker whose clock the test moves."""

    limits: Limits = field(default_factory=Limits)
    now: float = 1000.0
    changes: list[State] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.breaker = Breaker(self.limits, (Sick,), lambda: self.now, self.changes.append)

    def state(self) -> State:
        """Return the breaker's state."""
        return self.breaker.state

    def calls(self, *, failing: bool, times: int = 1) -> None:
        """Make calls, one after the other."""
        for _ in range(times):
            with self.breaker.call() as call:
                call.failed = failing

    def opened(self) -> World:
        """Return this world with its breaker open."""
        self.calls(failing=True, times=self.limits.window)
        return self


def test_it_opens_when_half_of_the_window_failed() -> None:
    """Nineteen failures decide nothing, the twentieth call decides: half of twenty is too much, nine are borne."""
    world = World()
    world.calls(failing=True, times=9)
    world.calls(failing=False, times=11)
    assert world.state() is State.CLOSED

    world = World()
    world.calls(failing=True, times=10)
    world.calls(failing=False, times=9)
    assert world.state() is State.CLOSED
    world.calls(failing=False)
    assert world.state() is State.OPEN


def test_an_open_breaker_lets_nothing_through() -> None:
    """A refused call does not run, until the pause is over to the second."""
    world = World().opened()
    for passed in (0.0, 5.0, 4.9):
        world.now += passed
        with pytest.raises(CircuitOpenError), world.breaker.call():
            pytest.fail("ran")


@pytest.mark.parametrize(("failures", "then"), [(0, State.CLOSED), (1, State.CLOSED), (2, State.OPEN), (3, State.OPEN)])
def test_the_probes_decide_by_majority(failures: int, then: State) -> None:
    """After the pause three probes are made; half of them or more failing opens it again."""
    world = World().opened()
    world.now += 10

    for probe in range(3):
        world.calls(failing=probe < failures)

    assert world.state() is then
    assert world.changes == [State.OPEN, State.HALF_OPEN, then]


def test_only_what_counts_counts() -> None:
    """An exception of the outside is a failure, any other one says nothing, and both go on to the caller."""
    world = World()
    for _ in range(40):
        with pytest.raises(KeyError), world.breaker.call():
            raise KeyError
    assert world.state() is State.CLOSED

    for _ in range(20):
        with pytest.raises(Sick), world.breaker.call():
            raise Sick
    assert world.state() is State.OPEN


def test_a_probe_that_says_nothing_gives_its_place_back() -> None:
    """A bug in our own code during a probe does not leave the breaker half open for ever."""
    world = World().opened()
    world.now += 10
    for _ in range(10):
        with pytest.raises(KeyError), world.breaker.call():
            raise KeyError

    world.calls(failing=False, times=3)

    assert world.state() is State.CLOSED


def test_a_call_of_an_earlier_state_decides_nothing() -> None:
    """A call that began before the breaker opened and ends during the probes is not taken for one."""
    world = World()
    with world.breaker.call() as old:
        world.opened()
        world.now += 10
        world.calls(failing=False, times=2)
        old.failed = True
    assert world.state() is State.HALF_OPEN

    world.calls(failing=False)
    assert world.state() is State.CLOSED


def test_a_full_bulkhead_refuses_after_its_wait() -> None:
    """With every place taken a further call waits its half second and is not made; a place given back is taken."""
    world = World(Limits(at_once=2, wait=0.05))
    with world.breaker.call(), world.breaker.call(), pytest.raises(CircuitOpenError), world.breaker.call():
        pytest.fail("ran")

    with world.breaker.call(), world.breaker.call():
        pass


def test_a_waiting_call_takes_the_place_that_becomes_free() -> None:
    """Whoever waits for a place goes on as soon as one is given back."""
    world = World(Limits(at_once=1, wait=30))
    with ThreadPoolExecutor(1) as pool:
        with world.breaker.call():
            waiting = pool.submit(world.calls, failing=False)
            assert not waiting.done()
        waiting.result(60)


@settings(max_examples=40, deadline=None, phases=(Phase.generate,))  # a failure takes its seconds: no shrinking
@given(st.lists(st.booleans(), min_size=3, max_size=3))
def test_twenty_threads_get_three_probes(failing: list[bool]) -> None:
    """However many rush in when the pause is over, exactly three calls are made, and their majority decides."""
    world = World(Limits(at_once=THREADS)).opened()
    world.now += 10
    outcomes = iter(failing)
    rush, refused = threading.Barrier(THREADS), threading.Semaphore(0)
    all_refused = threading.Barrier(3, action=lambda: wait_for_all(refused))

    def attempt() -> bool:
        rush.wait(60)
        try:
            with world.breaker.call() as call:
                all_refused.wait(20)  # a fourth probe would break this barrier
                call.failed = next(outcomes)
        except CircuitOpenError:
            refused.release()
            return False
        return True

    with ThreadPoolExecutor(THREADS) as pool:
        made = [attempt_.result(60) for attempt_ in [pool.submit(attempt) for _ in range(THREADS)]]

    assert sum(made) == 3
    assert world.state() is (State.OPEN if sum(failing) >= 2 else State.CLOSED)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(("ok", "fail", "bug", "pause")), max_size=80))
def test_it_does_what_the_plain_model_does(events: list[str]) -> None:
    """Over any history of calls and pauses it admits and refuses exactly as the sentence in its docstring says."""
    limits = Limits(window=6, probes=3)
    world, model = World(limits), Model(limits)
    for event in events:
        if event == "pause":
            world.now += limits.open_for
        assert admitted(world, event) is model.admits(event), (events, event)
        assert world.state() is model.state


def admitted(world: World, event: str) -> bool:
    """Make one call that ends as the event says, and tell whether it was made."""
    try:
        with world.breaker.call() as call:
            if event == "bug":
                bug()
            call.failed = event == "fail"
    except KeyError:
        return True
    except CircuitOpenError:
        return False
    return True


def wait_for_all(refused: threading.Semaphore) -> None:
    """Wait until every caller but three was refused."""
    for _ in range(THREADS - 3):
        assert refused.acquire(timeout=60)


def bug() -> None:
    """Fail without telling anything about the outside."""
    raise KeyError


class Model:
    """The breaker in plain words, for one caller."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.state = limits, State.CLOSED
        self.results: list[bool] = []

    def admits(self, event: str) -> bool:
        """Tell whether a call after this event is made, and live through its end."""
        if self.state is State.OPEN:
            if event != "pause":
                return False
            self._turn(State.HALF_OPEN)
        if event != "bug":
            self.results = [*self.results, event == "fail"][-self.limits.window :]
        enough = self.limits.probes if self.state is State.HALF_OPEN else self.limits.window
        if len(self.results) >= enough:
            if sum(self.results) >= enough / 2:
                self._turn(State.OPEN)
            elif self.state is State.HALF_OPEN:
                self._turn(State.CLOSED)
        return True

    def _turn(self, state: State) -> None:
        self.state, self.results = state, []
