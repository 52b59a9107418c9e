"""One order's part of the world: what its services know, what is under way to them, and what the processor did."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

ORDER, INVENTORY, PAYMENT, NOTIFICATION = range(4)
FAIR, CHANCE = True, False  # what happens at last, and what may or may not
OUT = -1  # a sender with a lease that has not reached the outside yet
Numbers: TypeAlias = tuple[int, ...]


class Row(NamedTuple):
    """An intent; ``hands`` are its senders: OUT, or the number of the answer they bring back."""

    service: int
    intent: int
    hands: Numbers = ()


class Left(NamedTuple):
    """How many troubles may still befall the order."""

    again: int
    parked: int
    discarded: int
    frozen: int
    commands: int


class Life(NamedTuple):
    """All that is known of one order but its stock; states and messages by number.

    ``queues``: unread events by consumer and topic, in order; ``lines``: parked ones by consumer; ``aside``: discarded
    ones; ``adrift``: intents whose senders or requests may still reach the processor though nobody waits for them;
    ``told``: what was ever said; ``seen``: what was handled, by consumer; ``charge``: the processor's stored answer;
    ``stray``: a refund landed that nobody waited for.
    """

    number: int
    states: Numbers
    queues: tuple[Numbers, ...]
    lines: tuple[Numbers, ...]
    aside: tuple[tuple[int, int], ...]
    rows: tuple[Row, ...]
    adrift: Numbers
    told: int
    seen: Numbers
    left: Left
    charge: str = ""  # processing, charged, declined
    refunded: bool = False
    late: bool = False
    timer: bool = False
    stray: bool = False

    @property
    def quiet(self) -> bool:
        """Tell whether nothing is under way: what is not so now will never be so unless somebody commands something."""
        under_way = self.rows or self.aside or self.adrift or self.timer or any(self.queues) or any(self.lines)
        return not under_way and self.charge != "processing"

    def knowing(self, service: int, state: int) -> Life:
        """Return the life with a service in another state."""
        return self._replace(states=swapped(self.states, service, state))

    def queued(self, queue: int, facts: Numbers) -> Life:
        """Return the life with another queue."""
        return self._replace(queues=(*self.queues[:queue], facts, *self.queues[queue + 1 :]))

    def lined(self, service: int, facts: Numbers) -> Life:
        """Return the life with another line of parked events."""
        return self._replace(lines=(*self.lines[:service], facts, *self.lines[service + 1 :]))

    def rowed(self, place: int, *rows: Row) -> Life:
        """Return the life with a task replaced, or gone."""
        return self._replace(rows=tuple(sorted((*self.rows[:place], *rows, *self.rows[place + 1 :]))))

    def spent(self, **troubles: int) -> Life:
        """Return the life with so many troubles of a kind left."""
        return self._replace(left=self.left._replace(**troubles))


class Step(NamedTuple):
    """What may happen next, as a line of the story; ``fair``: it happens at last, whoever commands what."""

    line: str
    fair: bool
    life: Life
    stock: int = -1  # unchanged


def swapped(numbers: Numbers, place: int, number: int) -> Numbers:
    """Return the numbers with one replaced."""
    return (*numbers[:place], number, *numbers[place + 1 :])
