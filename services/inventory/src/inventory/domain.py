"""The rules of stock: what an order holds, and the equation received = available + held + committed of every SKU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NewType

from inventory.events import Line, Shortage
from quadrille import Rows

OrderId = NewType("OrderId", str)
Sku = NewType("Sku", str)
MOST = 2**31 - 1  # the largest count an event can carry


class HoldState(StrEnum):
    """Where an order's hold stands; an order never heard of has no hold."""

    RESERVED = "RESERVED"
    COMMITTED = "COMMITTED"
    REJECTED = "REJECTED"
    RELEASED = "RELEASED"
    RELEASE_FAILED = "RELEASE_FAILED"
    RESOLVED = "RESOLVED"

    @property
    def ended(self) -> bool:
        """Tell whether every further event is absorbed: what there was to say was said."""
        return self not in (HoldState.RESERVED, HoldState.COMMITTED)

    @property
    def keeps(self) -> bool:
        """Tell whether pieces are set aside or sold that may still come back."""
        return not self.ended or self is HoldState.RELEASE_FAILED


@dataclass(frozen=True, slots=True)
class Hold:
    """What one order holds, one line a SKU."""

    order_id: OrderId
    lines: tuple[Line, ...]
    state: HoldState


@dataclass(frozen=True, slots=True)
class Level:
    """The pieces of one SKU; ``sealed`` goods cannot come back once they are sold."""

    sku: Sku
    available: int = 0
    held: int = 0
    committed: int = 0
    received: int = 0
    sealed: bool = False
    version: int = 0


# transitions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """Every line is held now."""

    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Short:
    """Nothing is held: these SKUs are short."""

    shortages: tuple[Shortage, ...]


@dataclass(frozen=True, slots=True)
class Sold:
    """What was held is committed now."""


@dataclass(frozen=True, slots=True)
class Released:
    """The order holds nothing any more."""

    had_hold: bool
    returned: bool


@dataclass(frozen=True, slots=True)
class Kept:
    """Nothing came back: sealed goods among them are sold."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A person has ended it: what was held came back, what was sold stays sold."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """Nothing changed: said once already, or too late (law L11)."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The SKU stands as asked."""

    level: Level
    created: bool


@dataclass(frozen=True, slots=True)
class Changed:
    """The SKU is not at the version the asker has seen."""

    version: int


# the working set -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stock:
    """The rows a batch may touch."""

    holds: Rows[OrderId, Hold]
    levels: Rows[Sku, Level]

    def reserve(self, order_id: OrderId, lines: Iterable[Line]) -> Held | Short | Nothing:
        """Hold every line or none; an order held, ended or released before it was heard of stays as it is."""
        if self.holds.get(order_id):
            return Nothing()
        wanted = _totals(lines)
        if short := tuple(self._shortage(sku, n) for sku, n in wanted.items() if self._available(sku) < n):
            self.holds.put(order_id, Hold(order_id, (), HoldState.REJECTED))
            return Short(short)
        for sku, n in wanted.items():
            self._move(sku, available=-n, held=n)
        held = tuple(Line(sku, n) for sku, n in wanted.items())
        self.holds.put(order_id, Hold(order_id, held, HoldState.RESERVED))
        return Held(held)

    def commit(self, order_id: OrderId) -> Sold | Nothing:
        """Take what the order holds for good; only a hold can be taken."""
        hold = self.holds.get(order_id)
        if not hold or hold.state is not HoldState.RESERVED:
            return Nothing()
        for line in hold.lines:
            self._move(Sku(line.sku), held=-line.quantity, committed=line.quantity)
        self.holds.put(order_id, replace(hold, state=HoldState.COMMITTED))
        return Sold()

    def release(self, order_id: OrderId) -> Released | Kept | Nothing:
        """Give back what the order holds; an order not yet heard of will find itself released (law L4)."""
        if self.holds.get(order_id):
            return self.give_back(order_id)
        self.holds.put(order_id, Hold(order_id, (), HoldState.RELEASED))
        return Released(had_hold=False, returned=False)

    def give_back(self, order_id: OrderId) -> Released | Kept | Nothing:
        """Give back what the order holds, all lines or none; an order that holds nothing stays as it is."""
        hold = self.holds.get(order_id)
        return Nothing() if not hold or hold.state.ended else self._bring_back(hold)

    def retry(self, order_id: OrderId) -> Released | Kept | Nothing:
        """Give back what could not come back before; only a release that failed is tried again."""
        hold = self.holds.get(order_id)
        return self._bring_back(hold) if hold and hold.state is HoldState.RELEASE_FAILED else Nothing()

    def resolve(self, order_id: OrderId, *, cancelled: bool) -> Resolved | Nothing:
        """End what is owed by a person's word: what is held comes back, what is sold stays sold.

        ``cancelled``: a cancellation came and was not handled; one that was handled is owed only if its release failed.
        """
        hold = self.holds.get(order_id) or Hold(order_id, (), HoldState.RESERVED)
        if not (hold.state is HoldState.RELEASE_FAILED or (cancelled and not hold.state.ended)):
            return Nothing()
        if hold.state is HoldState.RESERVED:
            for line in hold.lines:
                self._move(Sku(line.sku), available=line.quantity, held=-line.quantity)
        self.holds.put(order_id, replace(hold, state=HoldState.RESOLVED))
        return Resolved()

    def state(self, order_id: OrderId) -> HoldState | None:
        """Return where an order's hold stands; None for an order not heard of."""
        hold = self.holds.get(order_id)
        return hold.state if hold else None

    def _bring_back(self, hold: Hold) -> Released | Kept:
        returned = hold.state is not HoldState.RESERVED
        if returned and any(self._sealed(Sku(line.sku)) for line in hold.lines):
            self.holds.put(hold.order_id, replace(hold, state=HoldState.RELEASE_FAILED))
            return Kept()
        for line in hold.lines:
            n = line.quantity
            taken = {"committed": -n} if returned else {"held": -n}
            self._move(Sku(line.sku), available=n, **taken)
        self.holds.put(hold.order_id, replace(hold, state=HoldState.RELEASED))
        return Released(had_hold=True, returned=returned)

    def set_available(self, sku: Sku, available: int, *, sealed: bool | None, version: int | None) -> Stored | Changed:
        """Set what is available; the difference is received or written off."""
        found = self.levels.get(sku)
        level = found or Level(sku)
        if version is not None and version != level.version:
            return Changed(level.version)
        stored = replace(
            level,
            available=available,
            received=level.received + available - level.available,
            sealed=level.sealed if sealed is None else sealed,
            version=level.version + 1,
        )
        self.levels.put(sku, stored)
        return Stored(stored, created=found is None)

    def _available(self, sku: Sku) -> int:
        level = self.levels.get(sku)
        return min(level.available, MOST) if level else 0

    def _sealed(self, sku: Sku) -> bool:
        level = self.levels.get(sku)
        return level is not None and level.sealed

    def _shortage(self, sku: Sku, asked: int) -> Shortage:
        return Shortage(sku, min(asked, MOST), self._available(sku))

    def _move(self, sku: Sku, *, available: int = 0, held: int = 0, committed: int = 0) -> None:
        """Move pieces inside one SKU; the three always sum to 0, so ``received`` stays."""
        level = self.levels.get(sku) or Level(sku)
        moved = replace(
            level,
            available=level.available + available,
            held=level.held + held,
            committed=level.committed + committed,
            version=level.version + 1,
        )
        self.levels.put(sku, moved)


def _totals(lines: Iterable[Line]) -> Counter[Sku]:
    """Add up the pieces per SKU: an order may name one in several lines."""
    wanted: Counter[Sku] = Counter()
    for line in lines:
        wanted[Sku(line.sku)] += line.quantity
    return wanted
