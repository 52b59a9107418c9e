"""An operator's hand on an undo, the same at every participant: try it again, or end it with evidence (saga.md, 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from chassis.words import Command, Reply


@dataclass(frozen=True, slots=True)
class RetryUndo(Command, waiting=True):
    """Try an undo that failed again; one that is still being tried is tried at once."""

    order_id: str


@dataclass(frozen=True, slots=True)
class ResolveUndo(Command, waiting=True):
    """End what a participant still owes the order: it is written off, or was dealt with elsewhere."""

    order_id: str
    how: Literal["WRITTEN_OFF", "EXTERNAL"]
    operator: str
    evidence: str


@dataclass(frozen=True, slots=True)
class UndoAnswered(Reply):
    """What comes of the operator's wish, and where the participant stands now; NONE if it has heard nothing.

    DONE: it is acknowledged. ASKED: an answer of the outside decides. CHARGE_OPEN: what is to be undone has itself no
    answer yet, so that is asked for at once and nothing is resolved. STILL_FAILED: it cannot be undone now either.
    NOT_OWED: there is nothing left to undo, or nobody has asked to. UNKNOWN: the order was never heard of here.
    """

    order_id: str
    outcome: Literal["DONE", "ASKED", "CHARGE_OPEN", "STILL_FAILED", "NOT_OWED", "UNKNOWN"]
    state: str


def not_owed(wish: RetryUndo | ResolveUndo, state: str | None) -> UndoAnswered:
    """Refuse a wish; an order is unknown if it has no state here and nothing of it waits."""
    known = state is not None or bool(wish.waiting)
    return UndoAnswered(wish.order_id, "NOT_OWED" if known else "UNKNOWN", state or "NONE")
