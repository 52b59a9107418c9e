"""What a replay keeps back; the guarantee: nothing leaves for the outside that nobody has allowed, and no half order.

What follows a record kept back in its order is kept back too. The fence is asked inside the transaction, by what the
handler said there and then, not by what a plan foresaw.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from chassis.effects import Effects
from chassis.inputs import Input, Withheld
from chassis.ledger import History
from chassis.words import Said

FENCED, PARKED = "FENCED", "PARKED"
EARLIER = UUID(int=0)


class Fence:
    """Judges what a replay feeds to ``commit``; lets out the effects that are ``allowed``, by name."""

    def __init__(self, effects: Effects, allowed: Iterable[str] = ()) -> None:
        self.effects, self.allowed = effects, frozenset(allowed)
        self._first: dict[str, tuple[UUID, str]] = {}

    def recall(self, orders: Iterable[str]) -> None:
        """Remember orders of which something was kept back before this process took over."""
        self._first |= dict.fromkeys(orders, (EARLIER, FENCED))

    def hold(self, heard: Input, verdict: str, effects: frozenset[str] = frozenset()) -> Withheld:
        """Keep a record back, and with it all that follows of its order."""
        self._first.setdefault(heard.key, (heard.id, verdict))
        return Withheld(verdict, effects)

    def refuses(self, heard: Input, history: History) -> Withheld | None:
        """Keep back what follows a record kept back, and what would overtake its order's parked line."""
        if heard.id in history.seen:
            return None
        first, verdict = self._first.get(heard.key, (heard.id, ""))
        if first != heard.id:
            return Withheld(verdict)
        return self.hold(heard, PARKED) if history.lines.get(heard.line) else None

    def judges(self, heard: Input, said: tuple[Said, ...]) -> Withheld | None:
        """Keep back what leads to an effect that is not allowed."""
        if effects := self.effects.of(said) - self.allowed:
            return self.hold(heard, FENCED, effects)
        self._first.pop(heard.key, None)  # judged once more, in a half of its batch: now it may
        return None
