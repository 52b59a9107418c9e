"""What every role's /readyz says while faults last, and whether that is the truth.

The truth: a role needs its own database, writable; worker and relay need Kafka too; nobody needs the registry once
schemas are known, nor the processor, nor another service. Who lacks what it needs is not ready; everybody else is, a
while after he has it again. Time is counted in looks, a moment apart: a slow machine has as many as a fast one.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TypeAlias

from quadrille_cli.chaos.faults import DEAD, ROLES, WELL, Fault
from quadrille_cli.client import Client, NoAnswerError, Reply
from quadrille_cli.stack import Stack

PAUSE_SECONDS = 0.5
ANSWER_SECONDS = 8.0  # longer than the checks themselves may take; who is not asked in vain does not answer at all
LATE = 80
"""Looks after which a role that still says it is ready, without what it needs, has lied."""
AGAIN = 120
"""Looks after which a role that has all it needs again, and says it is not ready, has lied."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a role said, and what it gave as the reason if it is not ready."""

    ready: bool
    why: str = ""


Sample: TypeAlias = Mapping[str, Answer]
SILENT = Answer(ready=False, why="no answer")


def look(stack: Stack, but: Collection[str] = ()) -> dict[str, Answer]:
    """Ask every role at once, but those that cannot answer."""
    asked = [role for role in ROLES if role not in but]
    with ThreadPoolExecutor(len(asked)) as pool:
        return dict(zip(asked, pool.map(lambda role: _ask(stack, role), asked), strict=True))


def _ask(stack: Stack, role: str) -> Answer:
    with Client(stack.url(role), ANSWER_SECONDS) as ops:
        try:
            return _read(ops.ask("GET", "/readyz"))
        except NoAnswerError:
            return SILENT


def _read(reply: Reply) -> Answer:
    if reply.status == HTTPStatus.OK:
        return Answer(ready=True)
    checks = reply.body.get("checks", {})
    failed = {name: check.get("error") for name, check in checks.items() if not check.get("ok")}
    return Answer(ready=False, why=", ".join(f"{name} {error or 'not ok'}" for name, error in failed.items()))


@dataclass(slots=True)
class Truth:
    """Holds what is said against what is the case, look after look; ``lies`` has what was wrong, each once."""

    looks: int = 0
    lies: list[str] = field(default_factory=list)
    told_after: dict[str, int] = field(default_factory=dict)
    """The most looks it took a role to say that it is not ready."""
    _lacking: Counter[str] = field(default_factory=Counter)
    _having: Counter[str] = field(default_factory=Counter)
    _said: set[str] = field(default_factory=set)

    def note(self, faults: Collection[Fault], sample: Sample) -> None:
        """Judge a look that was taken while these faults lasted."""
        self.looks += 1
        for role, answer in sample.items():
            standings = {str(fault): fault.standing(role) for fault in faults}
            missing = " and ".join(name for name, how in standings.items() if how == DEAD)
            self._one(role, answer, missing, well=all(how == WELL for how in standings.values()))

    def _one(self, role: str, answer: Answer, missing: str, *, well: bool) -> None:
        if missing:
            self._having[role] = 0
            if not answer.ready:
                self.told_after[role] = max(self.told_after.get(role, 0), self._lacking[role])
                self._lacking[role] = 0
                self._said.add(role)
            elif role not in self._said:
                self._lacking[role] += 1
                if self._lacking[role] == LATE:
                    self.lies.append(f"{role} says it is ready with {missing}, asked {LATE} times")
            return
        self._lacking[role] = 0
        self._said.discard(role)
        self._having[role] = self._having[role] + 1 if well and not answer.ready else 0
        if self._having[role] == AGAIN:
            self.lies.append(f"{role}, which lacks nothing, says it is not ready, asked {AGAIN} times: {answer.why}")

    def untold(self, fault: Fault) -> list[str]:
        """Return who lacks something for this fault and has not said so yet, nor lied about it."""
        lacking = [role for role in ROLES if role != fault.target and fault.standing(role) == DEAD]
        return [role for role in lacking if role not in self._said and self._lacking[role] < LATE]


class Watch:
    """Looks again and again in a thread of its own, as a context manager; ``faults`` tells those that last now."""

    def __init__(self, stack: Stack, faults: set[Fault]) -> None:
        self.truth = Truth()
        self._stack, self._faults = stack, faults
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="readiness")

    def __enter__(self) -> Truth:
        """Begin to look."""
        self._thread.start()
        return self.truth

    def __exit__(self, *_: object) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_SECONDS):
            before = set(self._faults)
            sample = look(self._stack, {fault.target for fault in before})
            changed = before ^ set(self._faults)  # began or ended meanwhile: whoever it concerns said nothing certain
            sure = {
                role: answer
                for role, answer in sample.items()
                if all(fault.standing(role) == WELL for fault in changed)
            }
            self.truth.note(before - changed, sure)
