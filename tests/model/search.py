"""The search: every state that any order of events leads to, breadth first, so that a violation's trace is shortest."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from tests.model.actions import ACTIONS, SHARED
from tests.model.actors import Names, Raised
from tests.model.laws import Broken
from tests.model.life import Life, Step
from tests.model.scope import Scope
from tests.model.states import check_hold, check_life
from tests.model.world import World

NOWHERE = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Report:
    """What a search found; ``broken`` is empty, or the law and the story that breaks it."""

    states: int
    steps: int
    calls: int
    seconds: float
    ends: int
    edges: tuple[tuple[str, str], ...]
    broken: str = ""


class Violation(Exception):  # noqa: N818 - the name says what is the case
    """A state, by its place in the search, that may not be or from which something follows that may not."""

    def __init__(self, place: int, why: str) -> None:
        super().__init__(why)
        self.place = place


class Search:
    """One search; a state is a number made of the numbers of its stock and of its orders' lives."""

    def __init__(self, scope: Scope) -> None:
        self.world = World(scope)
        self.lives: Names[Life] = Names()
        self.bits = 63 // (scope.orders + 1)
        self.steps = 0
        self._alone: dict[int, list[int]] = {}
        self._shared: dict[int, list[int]] = {}
        self._unfair = 1 << self.bits
        first = [self.lives.of(life) for life in self.world.lives]
        self.places = {self._packed(self.world.stock, first): 0}
        self.states = array("Q", self.places)
        self.parents = array("I", [NOWHERE])
        self.fair, self.bounds = array("I"), array("Q", [0])

    def run(self) -> Report:
        """Search to the end, or to the first violation."""
        began, broken = time.monotonic(), ""
        try:
            for place, state in enumerate(self.states):  # it grows meanwhile
                self._expand(place, state)
            self._check_exits()
        except Violation as found:
            broken = self._story(found)
        calls = sum(actor.calls for actor in self.world.actors)
        ends = sum(self._quiet(state) for state in self.states) if not broken else 0
        edges = tuple(sorted(edge for actor in self.world.actors for edge in actor.exercised))
        return Report(len(self.states), self.steps, calls, time.monotonic() - began, ends, edges, broken)

    def _expand(self, place: int, state: int) -> None:
        stock, *lives = self._unpacked(state)
        mask, whole = self._unfair - 1, (1 << self.bits) - 1
        for n, life in enumerate(lives):
            shift = n * self.bits
            alone = self._alone.get(life)
            if alone is None:
                alone = self._alone[life] = self._steps(place, -1, life)
            rest = state & ~(whole << shift)
            for after in alone:
                self._reach(place, rest | (after & mask) << shift, after > mask)
            key = stock << self.bits | life
            shared = self._shared.get(key)
            if shared is None:
                shared = self._shared[key] = self._steps(place, stock, life)
            rest &= (1 << len(lives) * self.bits) - 1
            for after in shared:  # stock, unfairness, life
                moved = (after >> self.bits + 1) << len(lives) * self.bits
                self._reach(place, moved | rest | (after & mask) << shift, bool(after & self._unfair))
        self.bounds.append(len(self.fair))

    def _reach(self, place: int, state: int, unfair: bool) -> None:  # noqa: FBT001 - in the innermost loop
        self.steps += 1
        found = self.places.get(state)
        if found is None:
            found = self.places[state] = len(self.states)
            self.states.append(state)
            self.parents.append(place)
        if not unfair:
            self.fair.append(found)

    def _steps(self, place: int, stock: int, life: int) -> list[int]:
        """Return what may follow, each as one number: stock if it is shared, whether it is unfair, and the life."""
        found = []
        try:
            self._check(stock, self.lives[life])
            for step in following(self.world, stock, self.lives[life]):
                after = self.lives.of(step.life) | (0 if step.fair else self._unfair)
                found.append(after if stock < 0 else step.stock << self.bits + 1 | after)
        except (Broken, Raised) as broken:
            raise Violation(place, str(broken)) from broken
        if len(self.lives.things) > self._unfair:
            message = "more lives than a state's number has room for: ask for less in one search"
            raise OverflowError(message)
        return found

    def _check(self, stock: int, life: Life) -> None:
        if stock < 0:
            check_life(self.world, life)
        else:
            check_hold(self.world, stock, life)

    def _check_exits(self) -> None:
        """Find the states from which no fair steps lead to rest: a run that comes there never ends."""
        leads = bytearray(len(self.states))
        for place, state in enumerate(self.states):
            leads[place] = self._quiet(state)
        changed = True
        while changed:
            changed = False
            for place in range(len(self.states) - 1, -1, -1):
                if not leads[place] and any(leads[after] for after in self._fair(place)):
                    leads[place] = changed = True
        if stuck := [place for place, led in enumerate(leads) if not led]:
            last = next((place for place in stuck if set(self._fair(place)) <= {place}), stuck[0])
            raise Violation(last, f"invariant 17: nothing that is sure to happen ends this; {self._under_way(last)}")

    def _fair(self, place: int) -> array[int]:
        return self.fair[self.bounds[place] : self.bounds[place + 1]]

    def _under_way(self, place: int) -> str:
        rows = [row for life in self._unpacked(self.states[place])[1:] for row in self.lives[life].rows]
        waiting = ", ".join(self.world.messages[row.intent].type for row in rows)
        return f"waiting: {waiting}" if waiting else "no intent is waiting"

    def _quiet(self, state: int) -> bool:
        return all(self.world.at_rest(self.lives[life]) for life in self._unpacked(state)[1:])

    def _packed(self, stock: int, lives: list[int]) -> int:
        state = stock
        for life in reversed(lives):
            state = state << self.bits | life
        return state

    def _unpacked(self, state: int) -> list[int]:
        lives = []
        for _ in self.world.lives:
            lives.append(state & (1 << self.bits) - 1)
            state >>= self.bits
        return [state, *lives]

    def _story(self, found: Violation) -> str:
        """Tell how it came to a violation, a line a step."""
        path, place = [], found.place
        while place != NOWHERE:
            path.append(self.states[place])
            place = self.parents[place]
        path.reverse()
        lines = ["the order is placed" if len(self.world.lives) == 1 else "the orders are placed"]
        lines += [self._between(*pair) for pair in pairwise(path)]
        told = [f"{n}. {line}" for n, line in enumerate(lines, 1)]
        return "\n".join([*told, f"=> {found}"])

    def _between(self, state: int, after: int) -> str:
        (stock, *lives), (stock_after, *lives_after) = self._unpacked(state), self._unpacked(after)
        for life, life_after in zip(lives, lives_after, strict=True):
            for step in self._all(stock, self.lives[life]):
                moved = stock if step.stock < 0 else step.stock
                changed = life != life_after or stock != stock_after
                if changed and moved == stock_after and step.life == self.lives[life_after]:
                    return self._told(self.lives[life], step)
        return "?"

    def _all(self, stock: int, life: Life) -> Iterator[Step]:
        yield from following(self.world, -1, life)
        yield from following(self.world, stock, life)

    def _told(self, life: Life, step: Step) -> str:
        whose = f"order {self.world.name(life)}: " if len(self.world.lives) > 1 else ""
        emitted = sorted(self.world.told[step.life.told] - self.world.told[life.told])
        status = self.world.order(step.life).status
        changed = f" [{status}]" if status is not self.world.order(life).status else ""
        return whose + step.line + changed + (f", says {', '.join(emitted)}" if emitted else "")


def following(world: World, stock: int, life: Life) -> Iterator[Step]:
    """Return what may happen next to one order: alone, or with the stock if one is given."""
    if stock < 0:
        for action in ACTIONS:
            yield from action(world, life)
    else:
        for shared in SHARED:
            yield from shared(world, stock, life)
