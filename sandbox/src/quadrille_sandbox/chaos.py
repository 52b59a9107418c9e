"""Trouble on purpose, seeded and with an end: while it lasts, some calls fail, some answers are lost."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

from quadrille_sandbox.ledger import rfc3339

Fault: TypeAlias = Literal["", "error", "lost_before", "lost_after"]
LONGEST = 86_400.0  # seconds
SHARES = ("timeouts", "errors", "mail_errors")


class InvalidChaosError(Exception):
    """A plan that cannot be followed; the text says which member is wrong."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to the processor's calls and to mails; as it stands here it is the default profile: 2 % time-outs.

    ``timeouts``, ``errors`` and ``mail_errors`` are shares of 1; of the answers lost in a time-out every second one was
    carried out. ``latency`` in seconds comes before each call, ``seconds`` is how long all of this lasts.
    """

    timeouts: float = 0.02
    errors: float = 0.0
    latency: float = 0.0
    mail_errors: float = 0.0
    seed: int = 1
    seconds: float = 60.0


class Chaos:
    """The plan being followed, if any; used from one thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin in peace; ``clock`` returns Unix seconds."""
        self._clock = clock
        self._plan: Plan | None = None
        self._until = 0.0
        self._random = random.Random()  # noqa: S311 -- repeatable trouble, no secret
        self.done: Counter[str] = Counter()

    def begin(self, plan: Plan) -> None:
        """Follow a plan from now on, instead of any other; the same seed does the same to the same calls."""
        self._plan, self._until = plan, self._clock() + plan.seconds
        self._random.seed(plan.seed)
        self.done.clear()

    def end(self) -> None:
        """Let everything work again."""
        self._plan = None

    @property
    def plan(self) -> Plan | None:
        """The plan, unless it has come to its end."""
        if self._clock() >= self._until:
            self._plan = None
        return self._plan

    @property
    def latency(self) -> float:
        """Seconds before each call."""
        return plan.latency if (plan := self.plan) else 0.0

    def call(self) -> Fault:
        """Say what happens to the next call of the processor."""
        if not (plan := self.plan):
            return ""
        self.done["calls"] += 1
        drawn = self._random.random()
        fault: Fault = ""
        if drawn < plan.errors:
            fault = "error"
        elif drawn < plan.errors + plan.timeouts:
            fault = "lost_before" if drawn < plan.errors + plan.timeouts / 2 else "lost_after"
        self.done.update([fault] if fault else [])
        return fault

    def mail(self) -> bool:
        """Say whether the next mail is put off."""
        if not (plan := self.plan) or self._random.random() >= plan.mail_errors:
            return False
        self.done["mail"] += 1
        return True

    def document(self) -> Mapping[str, object]:
        """Return the plan and what it has done so far, as JSON shows it."""
        if not (plan := self.plan):
            return {"on": False, "done": dict(self.done)}
        shown = {field.name: getattr(plan, field.name) for field in fields(Plan)}
        return {"on": True, **shown, "until": rfc3339(self._until), "done": dict(self.done)}


def plan_of(sent: object) -> Plan:
    """Return the plan of a JSON document, what it leaves out by default; raises InvalidChaosError."""
    if not isinstance(sent, dict):
        why = "the body is an object"
        raise InvalidChaosError(why)
    known = {field.name: field.default for field in fields(Plan)}
    for name, value in sent.items():
        highest = 1.0 if name in SHARES else LONGEST
        if name not in known:
            why = f"{name}: known are {', '.join(known)}"
            raise InvalidChaosError(why)
        wanted = (int,) if name == "seed" else (int, float)
        if isinstance(value, bool) or not isinstance(value, wanted) or not 0 <= value <= highest:
            why = f"{name} is a number from 0 to {highest:g}"
            raise InvalidChaosError(why)
    plan = Plan(**sent)
    if plan.timeouts + plan.errors > 1:
        why = "timeouts and errors are shares of 1, together too"
        raise InvalidChaosError(why)
    return plan
