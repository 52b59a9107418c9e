"""The words of the pantry: what it hears, says, asks of the oven and tells itself."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

from quadrille.messages import Command, Event, Intent, Reply, Result, Timer


class Mode(enum.StrEnum):
    """What is wrong with an order of bread."""

    PLAIN = "plain"
    UNLUCKY = "unlucky"  # the handler raises after it has changed rows
    FORCED = "forced"  # takes what is not there: only the database refuses
    STRAY = "stray"  # reads a row nobody loaded
    CHOKING = "choking"  # load() itself raises
    EARLY = "early"  # came before what it refers to
    LARGE = "large"  # says an event larger than a record may be
    FOREIGN = "foreign"  # says an event under another key


@dataclass(frozen=True, slots=True)
class BreadOrdered(Event, source="order"):
    """Somebody wants loaves."""

    order_id: str
    sku: str = "rye"
    quantity: int = 1
    mode: Mode = Mode.PLAIN


@dataclass(frozen=True, slots=True)
class OrderDropped(Event, source="order"):
    """Somebody wants nothing any more."""

    order_id: str


@dataclass(frozen=True, slots=True)
class MealOrdered(Event, source="order"):
    """Three things at once."""

    order_id: str


@dataclass(frozen=True, slots=True)
class CakeOrdered(Event, source="payment"):
    """A cake is to be baked outside."""

    order_id: str


@dataclass(frozen=True, slots=True)
class TastingBooked(Event, source="payment"):
    """A tasting at a time."""

    order_id: str
    due: datetime


@dataclass(frozen=True, slots=True)
class LoavesHeld(Event):
    """Loaves are set aside."""

    order_id: str
    quantity: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class LoavesShort(Event):
    """The shelf has not enough."""

    order_id: str


@dataclass(frozen=True, slots=True)
class LoavesReturned(Event):
    """The loaves are back; an order not heard of had none."""

    order_id: str
    quantity: int


@dataclass(frozen=True, slots=True)
class DishServed(Event):
    """One dish of a meal."""

    order_id: str
    dish: str


@dataclass(frozen=True, slots=True)
class SoupServed(Event, topic="ops.events"):
    """A dish told on another topic."""

    order_id: str


@dataclass(frozen=True, slots=True)
class CakeReady(Event):
    """The cake is there."""

    order_id: str
    tries: int


@dataclass(frozen=True, slots=True)
class CakeSpoiled(Event):
    """The cake will never be there."""

    order_id: str
    why: str


@dataclass(frozen=True, slots=True)
class TastingBegun(Event):
    """It is time."""

    order_id: str


@dataclass(frozen=True, slots=True)
class BakeCake(Intent):
    """Bake one cake, once."""

    order_id: str


@dataclass(frozen=True, slots=True)
class CakeBaked(Result):
    """The oven gave it back; ``raw`` says that it must go in again, ``odd`` that the handler chokes on it."""

    order_id: str
    raw: bool = False
    odd: bool = False


@dataclass(frozen=True, slots=True)
class CakeBurnt(Result):
    """Every try failed."""

    order_id: str


@dataclass(frozen=True, slots=True)
class BakeCakeDropped(Result):
    """Nobody wants it any more; found by its name."""

    order_id: str


@dataclass(frozen=True, slots=True)
class BeginTasting(Timer):
    """Begin at the time booked."""

    order_id: str
    due: datetime


@dataclass(frozen=True, slots=True)
class FillShelf(Command, waiting=True):
    """Put loaves on a shelf."""

    sku: str
    available: int


@dataclass(frozen=True, slots=True)
class ShelfFilled(Reply):
    """The shelf as it is now."""

    sku: str
    available: int
