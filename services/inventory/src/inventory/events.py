"""The words inventory hears and says: events of others, its own events, and the commands of its stock keepers."""

from __future__ import annotations

from dataclasses import dataclass

from quadrille import Command, Event, Reply

# heard ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """So many pieces of one SKU."""

    sku: str
    quantity: int


@dataclass(frozen=True, slots=True)
class OrderPlaced(Event, source="order"):
    """An order whose lines are to be held, all or none; it may name a SKU twice."""

    order_id: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class OrderConfirmed(Event, source="order"):
    """The order goes on: what it holds is sold."""

    order_id: str


@dataclass(frozen=True, slots=True)
class OrderCancellationRequested(Event, source="order"):
    """The order is to be undone, whatever the cause (law L2)."""

    order_id: str


@dataclass(frozen=True, slots=True)
class PaymentDeclined(Event, source="payment"):
    """The card was declined: the goods can go back before the cancellation arrives (the fast path)."""

    order_id: str


# said ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shortage:
    """How many pieces of a SKU were asked for and how many could have been held."""

    sku: str
    asked: int
    available: int


@dataclass(frozen=True, slots=True)
class StockReserved(Event):
    """Every line of the order is held, one line a SKU."""

    order_id: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class StockRejected(Event):
    """Nothing is held for the order, because these SKUs are short."""

    order_id: str
    shortages: tuple[Shortage, ...]


@dataclass(frozen=True, slots=True)
class StockCommitted(Event):
    """What the order held is sold."""

    order_id: str


@dataclass(frozen=True, slots=True)
class StockReleased(Event):
    """The order holds nothing; ``had_hold``: it did before, ``returned``: the goods had been sold already."""

    order_id: str
    had_hold: bool
    returned: bool


@dataclass(frozen=True, slots=True)
class StockReleaseFailed(Event):
    """The goods cannot come back: a person has to decide."""

    order_id: str
    error_class: str
    attempts: int
    error: str


@dataclass(frozen=True, slots=True)
class StockResolved(Event):
    """A person has ended what inventory still owed the order."""

    order_id: str
    how: str
    operator: str
    evidence: str


# stock keeping -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetStock(Command):
    """Set what is available of a SKU; the difference is received or written off.

    ``sealed`` None leaves the flag as it is. ``version`` is the row version the asker has seen, 0 for a SKU that is
    not to exist yet, None for whatever is there.
    """

    sku: str
    available: int
    sealed: bool | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True)
class StockSet(Reply):
    """The stock of a SKU as it stands after the command: received = available + held + committed."""

    sku: str
    available: int
    held: int
    committed: int
    received: int
    sealed: bool
    version: int
    created: bool


@dataclass(frozen=True, slots=True)
class StockChanged(Reply):
    """The SKU is not at the version the asker has seen; ``version`` is the present one, 0 if there is none."""

    sku: str
    version: int
