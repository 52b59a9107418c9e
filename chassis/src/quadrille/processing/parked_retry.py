"""Ladder of a parked input: when it is tried again by itself, and after which try it is dead and waits for a person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

OPEN, DEAD = "OPEN", "DEAD"
HANDLER_DELAYS = tuple(timedelta(seconds=seconds) for seconds in (1, 5, 30))
# What no try can mend waits for a person at once; what came before its cause has a minute
# (law.md, "Late, duplicate, out of order").
DELAYS: Mapping[str, tuple[timedelta, ...]] = {
    "CAUSALITY": (timedelta(seconds=60),),
    "BELOW_FLOOR": (),
    "FATAL": (),
    "CONTRADICTS": (),
}


@dataclass(frozen=True, slots=True)
class ParkedRow:
    """A row of ``parked`` as a batch has found it; ``retries`` are the rungs it has climbed."""

    state: str
    retries: int
    attempts: int = 0

    @property
    def failed(self) -> bool:
        """Whether it has failed, and that was told; what only waited behind another has not."""
        return self.retries > 0 or self.state == DEAD


NEW = ParkedRow(OPEN, 0)


@dataclass(frozen=True, slots=True)
class Setback:
    """What a failed try makes of its row: the next try is after ``wait``, None is never by itself.

    ``early`` says that it was tried before its time, by a start or a person: the next try stays when it was to be.
    """

    state: str
    retries: int
    wait: timedelta | None = None
    early: bool = False


def setback(error_class: str, row: ParkedRow, *, early: bool = False) -> Setback:
    """Return what a failed try comes to; ``row`` is ``NEW`` for an input that was not parked before."""
    retries = row.retries
    if row.state == DEAD:
        return Setback(DEAD, retries)
    if early:
        return Setback(OPEN, retries, early=True)
    delays = DELAYS.get(error_class, HANDLER_DELAYS)
    if retries < len(delays):
        return Setback(OPEN, retries + 1, delays[retries])
    return Setback(DEAD, retries)
