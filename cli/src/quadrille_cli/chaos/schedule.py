"""Schedule of a run: which fault on what, for how long, drawn from a seed; the same seed is the same schedule."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from quadrille_cli.chaos.faults import DATABASES, DEAD, Fault, Kind

LANES = 2
"""Faults at once at most: each lane has one after the other."""
REST_SECONDS = (0.3, 4.0)
HOLD_SECONDS = (0.5, 7.0)
MISSED = (*DATABASES, "kafka")
TOLD = 0.2
"""The share of their outages that last until everyone who cannot work has said so."""


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault of a lane: after a rest it lasts so many seconds, or until it has been told by all who must."""

    number: int
    lane: int
    rest: float
    hold: float
    told: bool
    fault: Fault

    def document(self) -> dict[str, Any]:
        """Return it as JSON shows it."""
        return asdict(self) | {"fault": str(self.fault)}

    def __str__(self) -> str:
        until = " until all have said so" if self.told else ""
        return (
            f"{self.number:>4}  lane {self.lane + 1}  {self.rest:4.1f} s later  {self.fault} {self.hold:.1f} s{until}"
        )


def schedule(seed: int, menu: Sequence[Kind], seconds: float | None = None, count: int | None = None) -> list[Strike]:
    """Return the strikes of a run of so many seconds, or so many of them; lanes in turn, each by its own draw."""
    lanes = [_lane(seed, lane, menu) for lane in range(LANES)]
    spent, found = [0.0] * LANES, list[Strike]()
    for strike in _by_time(lanes, spent):
        over = seconds is not None and max(0.0, spent[strike.lane]) > seconds
        if over or (count is not None and len(found) == count):
            break
        found.append(strike)
    return [replace(strike, number=number) for number, strike in enumerate(found, start=1)]


def _by_time(lanes: Sequence[Iterator[Strike]], spent: list[float]) -> Iterator[Strike]:
    while True:
        lane = min(range(len(lanes)), key=lambda one: spent[one])
        strike = next(lanes[lane])
        spent[lane] += strike.rest + strike.hold
        yield strike


def _lane(seed: int, lane: int, menu: Sequence[Kind]) -> Iterator[Strike]:
    rng = random.Random(f"{seed}/{lane}")  # noqa: S311 - a repeatable schedule
    bag = list[Kind]()
    while True:
        if not bag:  # every kind comes, as often as it weighs, before any comes again
            bag = [kind for kind in menu for _ in range(kind.often)]
            rng.shuffle(bag)
        kind = bag.pop()
        fault = Fault(kind.name, rng.choice(kind.targets))
        rest, hold = round(rng.uniform(*REST_SECONDS), 1), round(rng.uniform(*HOLD_SECONDS), 1)
        yield Strike(0, lane, rest, hold, fault.target in MISSED and kind.server == DEAD and rng.random() < TOLD, fault)
