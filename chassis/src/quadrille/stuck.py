"""The clock of what waits too long: when somebody is to be told, how loud, and who owes what.

A check is a timer like any other: kept in the database, guarded by the state it finds, moved by tests at will.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from quadrille.messages import Timer

LEVELS = ("WARN", "PAGE", "ESCALATE")


@dataclass(frozen=True, slots=True)
class OrderCheck(Timer):
    """The time to look whether an order still waits for what it waited for."""

    order_id: str
    due: datetime


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an order may wait before somebody is warned, then paged, then more are called."""

    warn: timedelta = timedelta(minutes=5)
    page: timedelta = timedelta(minutes=10)
    escalate: timedelta = timedelta(minutes=30)

    def level(self, waited: timedelta) -> int:
        """Return how many of the levels are reached."""
        return sum(waited >= limit for limit in (self.warn, self.page, self.escalate))

    def next(self, since: datetime, at: datetime) -> datetime:
        """Return when to look again: at the next level, after the last one as often as that took."""
        coming = (since + limit for limit in (self.warn, self.page, self.escalate))
        return min((moment for moment in coming if moment > at), default=at + self.escalate)


@dataclass(frozen=True, slots=True)
class Waiting:
    """An order that waits: for whom and which event, since when, and how loudly that was said already.

    ``in_vain`` says that its customer has paid for what was never confirmed, and the money cannot be given back.
    """

    order_id: str
    status: str
    reason: str | None
    debts: tuple[tuple[str, str], ...]
    since: datetime
    level: int
    in_vain: bool = False

    @property
    def urgency(self) -> tuple[bool, bool, datetime]:
        """What the queue is sorted by: who paid in vain, then other failed undos; among equals who waits longest."""
        return not self.in_vain, self.status != "COMPENSATION_FAILED", self.since

    def shown(self) -> dict[str, Any]:
        """Return it as an operator sees it."""
        owed = [{"owes": owes, "fact": fact} for owes, fact in self.debts]
        level = LEVELS[self.level - 1] if self.level else None
        since = self.since.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        about = {"order_id": self.order_id, "status": self.status, "reason": self.reason}
        return {**about, "owed": owed, "since_at": since, "level": level}
