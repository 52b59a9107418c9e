"""Intents: what is done outside, by one function a type with its retry policy, never with a transaction open (L10)."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar, get_type_hints

from quadrille.handlers import BASES
from quadrille.messages import Intent, Result

T = TypeVar("T", bound=Intent)
C = TypeVar("C")
A = TypeVar("A", bound=Result)


class TransientError(Exception):
    """Nothing is known of the outcome: the intent is tried again after the next delay of its retry policy.

    Its text is a phrase for people, kept with the task: no secret, nothing of a person's. ``address`` is whom was
    called, as host:port; raised from the exception that says what went wrong, that is kept too.
    """

    def __init__(self, phrase: str = "", *, address: str = "") -> None:
        super().__init__(phrase)
        self.address = address


class Decision(enum.Enum):
    """What is to become of an intent about to be leased."""

    PROCEED = "GO"
    DEFER = "WAIT"
    CANCEL = "DROP"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When something is tried again: the delays between tries, each taken ± 50 %, the last one repeating.

    What is given up at all is given up after the last delay, and not before all of them together have passed.
    """

    delays: tuple[timedelta, ...]

    def delay(self, tries: int) -> timedelta:
        """Return how long to wait after so many tries."""
        return self.delays[min(tries, len(self.delays)) - 1]

    def is_exhausted(self, tries: int, age: timedelta) -> bool:
        """Tell whether enough was tried; tries in quick succession, when a breaker closes, do not use it up."""
        return tries > len(self.delays) and age >= self.max_age

    @property
    def max_age(self) -> timedelta:
        """How long something is tried before it is given up."""
        return sum(self.delays, timedelta())


@dataclass(frozen=True, slots=True)
class IntentPolicy:
    """How one type of intent is carried out.

    ``call`` takes the intent and the client of the outside and returns a result; ``precondition`` judges the intent
    against the working set, and ``cancelled`` gives the result when that is CANCEL. Without ``exhausted`` it is tried
    without an end. ``look_up`` asks what became of an intent that is old: a result, or None where the outside knows
    nothing of it. ``continues``: an intent emitted because of a result goes on with the delays where the tries that led
    to that result stopped, so that intents which lead to one another share their retries.
    """

    call: Callable[[Any, Any], Result]
    precondition: Callable[[Any, Any], Decision] | None
    retry: RetryPolicy
    exhausted: Callable[[Any], Result] | None
    cancelled: Callable[[Any], Result] | None = None
    look_up: Callable[[Any, Any], Result | None] | None = None
    continues: bool = False


# law.md, "Clocks"
DELAYED = RetryPolicy(tuple(timedelta(seconds=s) for s in (1, 5, 30, 120, 600)))
FOR_A_DAY = RetryPolicy((*DELAYED.delays, *(timedelta(minutes=15) for _ in range(95))))
"""Tries of what may take a day: quickly at first, then every 15 min up to 24 h."""
INQUIRY = RetryPolicy(
    (
        *(timedelta(seconds=s) for s in (0.5, 1, 2, 4)),
        *(timedelta(seconds=5) for _ in range(60)),
        timedelta(minutes=2),
    )
)
"""Waits between questions that have no end: soon, then every 5 s for 5 min, then every 2 min."""
OLD = timedelta(hours=20)
"""From this age on an intent is looked up before it acts: an outside that forgets its keys does so after a day."""


class Gateway:
    """The way of one service to the outside: which function carries out which intent."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.policies: dict[type[Intent], IntentPolicy] = {}

    def executes(
        self,
        intent: type[T],
        *,
        precondition: Callable[[T, Any], Decision] | None = None,
        retry: RetryPolicy = DELAYED,
        exhausted: Callable[[T], Result] | None = None,
        cancelled: Callable[[T], Result] | None = None,
    ) -> Callable[[Callable[[T, C], A]], Callable[[T, C], A]]:
        """Register the function that carries out an intent; raises TypeError for a second one or a wrong annotation."""
        if intent in self.policies or intent in BASES:
            message = f"{self.service}: {intent.__name__} is carried out already, or names no intent"
            raise TypeError(message)

        def register(call: Callable[[T, C], A]) -> Callable[[T, C], A]:
            if next(iter(get_type_hints(call).values())) is not intent:
                message = f"{self.service}: the first parameter must be {intent.__name__}"
                raise TypeError(message)
            self.policies[intent] = IntentPolicy(call, precondition, retry, exhausted, cancelled)
            return call

        return register

    def looks_up(self, intent: type[T]) -> Callable[[Callable[[T, C], A | None]], Callable[[T, C], A | None]]:
        """Register what is asked before an intent is carried out that is ``OLD`` by the time in its row's id.

        It returns the answer the outside has already, or None where it knows nothing; then the intent is carried out.
        A restored or long paused service so never repeats what was done. Raises TypeError like ``executes``.
        """
        if intent not in self.policies or self.policies[intent].look_up:
            message = f"{self.service}: {intent.__name__} is not carried out, or is looked up already"
            raise TypeError(message)

        def register(call: Callable[[T, C], A | None]) -> Callable[[T, C], A | None]:
            if next(iter(get_type_hints(call).values())) is not intent:
                message = f"{self.service}: the first parameter must be {intent.__name__}"
                raise TypeError(message)
            self.policies[intent] = replace(self.policies[intent], look_up=call)
            return call

        return register

    def share_retries(self, *intents: type[Intent]) -> None:
        """Let intents that lead to one another share their retries; raises KeyError for one not carried out."""
        self.policies |= {intent: replace(self.policies[intent], continues=True) for intent in intents}
