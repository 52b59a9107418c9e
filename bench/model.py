"""What a bench consists of: cells of contestants, what one run of a contestant gave, and the ratios that are held."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

OURS = "ours"


class CannotMeasureError(Exception):
    """A contestant that cannot run here, with the reason the report names."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A figure of one contestant over another's, and what it must reach; ``more`` is better, or less is.

    With nobody ``under`` it, it is the figure itself: a goal, which depends on the machine and so is in no baseline.
    ``must`` and ``aim`` are None where it is only watched.
    """

    name: str
    figure: str
    over: str
    under: str
    more: bool
    must: float | None = None
    aim: float | None = None

    def of(self, round_: Mapping[str, Run]) -> float | None:
        """Return the ratio of one round, None where a side is missing, invalid or nothing."""
        over, under = round_.get(self.over), round_.get(self.under or self.over)
        if over is None or under is None or over.wrong or under.wrong:
            return None
        if not self.under:
            return over.figures.get(self.figure)
        above, below = over.figures.get(self.figure), under.figures.get(self.figure)
        return above / below if above is not None and below else None


@dataclass(slots=True)
class Run:
    """One run of one contestant: its figures by name, and what was wrong with it, which makes it invalid."""

    contestant: str
    figures: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles of what several runs gave."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Return the spread of these values, None of none."""
        if not values:
            return None
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high, len(values))

    def overlaps(self, other: Spread) -> bool:
        """Tell whether the quartiles of both share a value."""
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True, slots=True)
class Size:
    """How much a profile measures: ``repeats`` rounds after the warm-up, ``share`` of a cell's whole amount."""

    name: str
    repeats: int
    share: float
    warm_seconds: float


SIZES = {
    "smoke": Size("smoke", 1, 0.02, 0.0),
    "ci": Size("ci", 3, 0.1, 5.0),
    "full": Size("full", 5, 1.0, 60.0),
}


class Contestant(Protocol):
    """Something that is measured; ``run`` does the cell's work once and holds it against the oracle."""

    @property
    def name(self) -> str: ...  # noqa: D102

    def run(self) -> Run:
        """Do the work once, measure it, and tell what was wrong."""
        ...


class Cell(Protocol):
    """A case: its name and question, how its figures are called, what is held, and its contestants on their parts."""

    @property
    def name(self) -> str: ...  # noqa: D102 - as above
    @property
    def question(self) -> str: ...  # noqa: D102
    @property
    def units(self) -> Mapping[str, str]: ...  # noqa: D102
    @property
    def ratios(self) -> Sequence[Ratio]: ...  # noqa: D102
    @property
    def warm(self) -> bool:
        """Whether contestants stay warm from run to run: one that is started anew for each warms itself."""
        ...

    def contestants(self, size: Size, absent: dict[str, str]) -> AbstractContextManager[Sequence[Contestant]]:
        """Start the parts, yield who is measured on them, end everything; who cannot run goes into ``absent``."""
        ...


@dataclass(slots=True)
class Result:
    """All runs of a cell, round by round, and who could not run with the reason."""

    cell: str
    rounds: list[dict[str, Run]] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    measured: str = ""
    """When, and at which commit."""

    def spread(self, contestant: str, figure: str) -> Spread | None:
        """Return how a contestant's figure came out in its valid runs."""
        return Spread.of([r.figures[figure] for r in self.runs(contestant) if not r.wrong and figure in r.figures])

    def ratio(self, wanted: Ratio) -> Spread | None:
        """Return how a ratio came out, round by round."""
        found = [wanted.of(round_) for round_ in self.rounds]
        return Spread.of([value for value in found if value is not None])

    def runs(self, contestant: str) -> Iterator[Run]:
        """Yield a contestant's runs."""
        return (round_[contestant] for round_ in self.rounds if contestant in round_)

    def names(self) -> list[str]:
        """Return who ran, in the order of the rounds."""
        return list(dict.fromkeys(name for round_ in self.rounds for name in round_))

    def invalid(self) -> list[str]:
        """Return what was wrong, a line each."""
        return [
            f"{self.cell}, {run.contestant}: {what}" for r in self.rounds for run in r.values() for what in run.wrong
        ]
