"""Circuit breaker with a bulkhead: calls to a sick outside are refused before they are made, and so were not executed.

The bulkhead bounds how many calls are under way, with a short wait for a place; behind it the breaker looks at a
sliding window of the last calls. Half of them failed: everything is refused for a while, then exactly a few probes are
let through and their majority decides (the circuit breaker of Nygard's *Release It!*, with a count-based window).
One that has a name is told of at ``/readyz`` and in ``quadrille_dependency_breaker_state``.
"""

from __future__ import annotations

import enum
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from quadrille.observability import metrics


class CircuitOpenError(Exception):
    """The call was not made: no place was free in time, or the breaker is open."""


class State(enum.Enum):
    """Whether calls are let through."""

    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


LEVELS = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}


@dataclass(frozen=True, slots=True)
class Limits:
    """How much sickness is borne: counts are calls, times are seconds (law.md, "Clocks")."""

    window: int = 20
    failing: float = 0.5
    open_for: float = 10.0
    probes: int = 3
    at_once: int = 10
    wait: float = 0.5


class CallPermit:
    """One admitted call; set ``failed`` when the outside answered, but with a failure of its own."""

    __slots__ = ("epoch", "failed")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.failed = False


class Breaker:
    """Bulkhead and breaker of one outside system, for any number of threads.

    ``counts`` are the exceptions that mean failure of the outside; any other one says nothing about it. ``clock`` gives
    seconds that never go back. ``changed`` is told of every new state, outside the lock, in the calling thread; it may
    be set later. ``name`` is what of the outside it guards, by which operators see it.
    """

    def __init__(
        self,
        limits: Limits,
        counts: tuple[type[BaseException], ...],
        clock: Callable[[], float] = time.monotonic,
        changed: Callable[[State], None] = lambda _: None,
        name: str = "",
    ) -> None:
        self.limits, self.name = limits, name
        self._counts = counts
        self._clock = clock
        self.changed = changed
        self._places = threading.BoundedSemaphore(limits.at_once)
        self._lock = threading.Lock()
        self._state = State.CLOSED
        self._since = clock()
        self._epoch = 0  # a call begun before the last change of state tells nothing about this one
        self._results: deque[bool] = deque(maxlen=limits.window)
        self._probing = self._under_way = 0
        if name:
            _named[name] = self
            metrics.DEPENDENCY_BREAKER.labels(name).set(LEVELS[self._state])

    @property
    def state(self) -> State:
        """Whether calls are let through now."""
        return self._state

    @property
    def wants_probe(self) -> bool:
        """Tell whether the next call would be a probe: without one a breaker never closes again."""
        with self._lock:
            if self._state is State.OPEN:
                return self._paused()
            return self._state is State.HALF_OPEN and self._probing < self.limits.probes

    def told(self) -> dict[str, object]:
        """Return its state, and how many of the places of its bulkhead are taken."""
        return {"state": self._state.value, "calls": self._under_way, "places": self.limits.at_once}

    @contextmanager
    def call(self) -> Iterator[CallPermit]:
        """Make one call in this block; raises CircuitOpenError, and then the block does not run."""
        if not self._places.acquire(timeout=self.limits.wait):
            message = "no free place"
            raise CircuitOpenError(message)
        try:
            with self._lock:
                self._under_way += 1
            yield from self._guarded(self._admit())
        finally:
            with self._lock:
                self._under_way -= 1
            self._places.release()

    def _guarded(self, call: CallPermit) -> Iterator[CallPermit]:
        """Run the block and record how it ended."""
        try:
            yield call
        except self._counts:
            self._end(call, failed=True)
            raise
        except BaseException:
            self._end(call, failed=None)
            raise
        self._end(call, failed=call.failed)

    def _admit(self) -> CallPermit:
        """Let a call through, a probe if the pause is over; raises CircuitOpenError."""
        with self._lock:
            half_open = self._state is State.OPEN and self._paused()
            if half_open:
                self._become(State.HALF_OPEN)
            if self._state is State.OPEN or not self._free_probe():
                message = f"breaker {self._state.value}"
                raise CircuitOpenError(message)
            call = CallPermit(self._epoch)
        if half_open:
            self.changed(State.HALF_OPEN)
        return call

    def _paused(self) -> bool:
        return self._clock() - self._since >= self.limits.open_for

    def _free_probe(self) -> bool:
        """Take one of the probes there are in all; a closed breaker needs none."""
        if self._state is State.HALF_OPEN:
            if self._probing == self.limits.probes:
                return False
            self._probing += 1
        return True

    def _end(self, call: CallPermit, *, failed: bool | None) -> None:
        with self._lock:
            before = self._state
            if call.epoch == self._epoch:
                self._record(failed=failed)
            after = self._state
        if after is not before:
            self.changed(after)

    def _record(self, *, failed: bool | None) -> None:
        if failed is None:  # says nothing: a probe gives its place back, else half-open would never end
            self._probing -= self._state is State.HALF_OPEN
            return
        self._results.append(failed)
        judged = self.limits.probes if self._state is State.HALF_OPEN else self.limits.window
        if len(self._results) < judged:
            return
        if sum(self._results) >= self.limits.failing * judged:
            self._become(State.OPEN)
        elif self._state is State.HALF_OPEN:
            self._become(State.CLOSED)

    def _become(self, state: State) -> None:
        self._state, self._since = state, self._clock()
        if self.name:
            metrics.DEPENDENCY_BREAKER.labels(self.name).set(LEVELS[state])
        self._epoch += 1
        self._probing = 0
        self._results.clear()


_named: dict[str, Breaker] = {}


def shown() -> dict[str, dict[str, object]]:
    """Return the breakers of this process that have a name, with their states."""
    return {name: one.told() for name, one in sorted(_named.items())}


@runtime_checkable
class Guarded(Protocol):
    """A client of the outside all of whose calls go through one breaker."""

    @property
    def breaker(self) -> Breaker:
        """The breaker, of whose changes whoever works off tasks wants to be told."""
        ...
