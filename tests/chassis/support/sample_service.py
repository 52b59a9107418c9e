"""A small service to try the chassis on: orders hold loaves of a shelf, cakes are baked outside, tastings fall due."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from quadrille.handlers import HandlerRegistry
from quadrille.intents import Decision, Gateway
from quadrille.messages import Message, NotYet
from quadrille.rows import Rows
from quadrille.service import Service, Tx
from quadrille.testing.in_memory import PlainCodec
from tests.chassis.support.sample_messages import (
    BakeCake,
    BakeCakeDropped,
    BeginTasting,
    BreadOrdered,
    CakeBaked,
    CakeBurnt,
    CakeOrdered,
    CakeReady,
    CakeSpoiled,
    DishServed,
    FillShelf,
    LoavesHeld,
    LoavesReturned,
    LoavesShort,
    MealOrdered,
    Mode,
    OrderDropped,
    ShelfFilled,
    SoupServed,
    TastingBegun,
    TastingBooked,
)

OWN_TABLES = """
CREATE TABLE hold (order_id text PRIMARY KEY, sku text NOT NULL, quantity int NOT NULL);
CREATE TABLE level (sku text PRIMARY KEY, available int NOT NULL CONSTRAINT enough CHECK (available >= 0));
CREATE TABLE cake (order_id text PRIMARY KEY, state text NOT NULL);
GRANT SELECT, INSERT, UPDATE, DELETE ON hold, level, cake TO app;
"""


@dataclass(frozen=True, slots=True)
class Hold:
    """What is set aside for an order; 0 is a tombstone."""

    order_id: str
    sku: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Level:
    """What is on a shelf."""

    sku: str
    available: int


@dataclass(frozen=True, slots=True)
class Cake:
    """A cake: WANTED, HELD_BACK, UNWANTED, READY or SPOILED."""

    order_id: str
    state: str


@dataclass(frozen=True, slots=True)
class Rules:
    """What was repaired since: modes that no longer do harm, and whether odd answers may be handled."""

    repaired: frozenset[Mode] = frozenset()
    patient: bool = False


@dataclass(frozen=True, slots=True)
class Pantry:
    """The rows a batch may touch."""

    holds: Rows[str, Hold]
    levels: Rows[str, Level]
    cakes: Rows[str, Cake]
    rules: Rules


class Unlucky(Exception):  # noqa: N818 - a name a test can look for
    """A bug in a handler."""


def hold_loaves(order: BreadOrdered, pantry: Pantry) -> LoavesHeld | LoavesShort | None:
    """Hold the loaves, or none."""
    if pantry.holds.get(order.order_id):
        return None
    mode = Mode.PLAIN if order.mode in pantry.rules.repaired else order.mode
    level = pantry.levels.get("nowhere" if mode is Mode.STRAY else order.sku)
    available = level.available if level else 0
    if available < order.quantity and mode is not Mode.FORCED:
        return LoavesShort(order.order_id)
    pantry.levels.put(order.sku, Level(order.sku, available - order.quantity))
    pantry.holds.put(order.order_id, Hold(order.order_id, order.sku, order.quantity))
    if mode is Mode.UNLUCKY:
        raise Unlucky(order.order_id)
    if mode is Mode.EARLY:
        raise NotYet(order.order_id)
    key = "somebody-else" if mode is Mode.FOREIGN else order.order_id
    return LoavesHeld(key, order.quantity, "x" * 262_200 if mode is Mode.LARGE else "")


def return_loaves(dropped: OrderDropped, pantry: Pantry) -> LoavesReturned | None:
    """Give back what is held; nothing held leaves a tombstone, and a cake is wanted no more."""
    if pantry.cakes.get(dropped.order_id):
        pantry.cakes.put(dropped.order_id, Cake(dropped.order_id, "UNWANTED"))
    hold = pantry.holds.get(dropped.order_id)
    if hold is None:
        pantry.holds.put(dropped.order_id, Hold(dropped.order_id, "", 0))
        return LoavesReturned(dropped.order_id, 0)
    if not hold.quantity:
        return None
    level = pantry.levels.get(hold.sku)
    pantry.levels.put(hold.sku, Level(hold.sku, (level.available if level else 0) + hold.quantity))
    pantry.holds.put(dropped.order_id, replace(hold, quantity=0))
    return LoavesReturned(dropped.order_id, hold.quantity)


def serve_meal(meal: MealOrdered, _: Pantry) -> tuple[DishServed, SoupServed, DishServed]:
    """Say three events, two of one type, on two topics."""
    return DishServed(meal.order_id, "bread"), SoupServed(meal.order_id), DishServed(meal.order_id, "cheese")


def want_cake(order: CakeOrdered, pantry: Pantry) -> BakeCake | None:
    """Say the intent, once an order."""
    if pantry.cakes.get(order.order_id):
        return None
    pantry.cakes.put(order.order_id, Cake(order.order_id, "WANTED"))
    return BakeCake(order.order_id)


def take_cake(answer: CakeBaked, pantry: Pantry) -> CakeReady | BakeCake:
    """Serve it, or put it back in."""
    if answer.odd and not pantry.rules.patient:
        raise Unlucky(answer.order_id)
    if answer.raw:
        return BakeCake(answer.order_id)
    pantry.cakes.put(answer.order_id, Cake(answer.order_id, "READY"))
    return CakeReady(answer.order_id, answer.attempts)


def give_up(answer: CakeBurnt, pantry: Pantry) -> CakeSpoiled:
    """Say that there will be no cake."""
    pantry.cakes.put(answer.order_id, Cake(answer.order_id, "SPOILED"))
    return CakeSpoiled(answer.order_id, "burnt")


def let_go(answer: BakeCakeDropped, pantry: Pantry) -> CakeSpoiled:
    """Say that nobody wanted it."""
    pantry.cakes.put(answer.order_id, Cake(answer.order_id, "SPOILED"))
    return CakeSpoiled(answer.order_id, "unwanted")


def book_tasting(booked: TastingBooked, _: Pantry) -> BeginTasting:
    """Remember the time."""
    return BeginTasting(booked.order_id, booked.due)


def begin_tasting(tasting: BeginTasting, pantry: Pantry) -> TastingBegun:
    """Begin when it is due."""
    if tasting.order_id.startswith("unlucky") and not pantry.rules.patient:
        raise Unlucky(tasting.order_id)
    return TastingBegun(tasting.order_id)


def fill_shelf(fill: FillShelf, pantry: Pantry) -> ShelfFilled:
    """Put loaves on a shelf; less than none is refused by the database, 13 by a bug."""
    if fill.available == 13:
        raise Unlucky(fill.sku)
    pantry.levels.put(fill.sku, Level(fill.sku, fill.available))
    return ShelfFilled(fill.sku, fill.available)


def may_bake(intent: BakeCake, pantry: Pantry) -> Decision:
    """Tell whether the cake may go into the oven now."""
    cake = pantry.cakes.get(intent.order_id)
    match cake.state if cake else "":
        case "HELD_BACK":
            return Decision.DEFER
        case "UNWANTED":
            return Decision.CANCEL
        case _:
            return Decision.PROCEED


HOLDS = "SELECT order_id, sku, quantity FROM hold WHERE order_id = ANY(%b) ORDER BY order_id FOR UPDATE"
CAKES = "SELECT order_id, state FROM cake WHERE order_id = ANY(%b) ORDER BY order_id FOR UPDATE"
LEVELS = "SELECT sku, available FROM level WHERE sku = ANY(%b) ORDER BY sku FOR UPDATE"


class PantryStore:
    """The SQL of the pantry, statement by statement, so that a test may plant a fault in one."""

    levels_sql = LEVELS

    def load(self, tx: Tx, messages: Sequence[Message]) -> Pantry:
        """Bring own rows by order, then the shelves they touch."""
        if any(isinstance(m, BreadOrdered) and m.mode is Mode.CHOKING for m in messages):
            message = "a body load() cannot take"
            raise ValueError(message)
        orders = sorted({str(getattr(m, "order_id", "")) for m in messages} - {""})
        holds = {row[0]: Hold(*row) for row in tx.execute(HOLDS, [orders])}
        cakes = {row[0]: Cake(*row) for row in tx.execute(CAKES, [orders])}
        skus = {m.sku for m in (*messages, *holds.values()) if isinstance(m, BreadOrdered | FillShelf | Hold)} - {""}
        levels = {row[0]: Level(*row) for row in tx.execute(self.levels_sql, [self.order(skus)])}
        return Pantry(Rows(orders, holds), Rows(skus, levels), Rows(orders, cakes), Rules())

    def order(self, skus: set[str]) -> list[str]:
        """Return the shelves in the global lock order."""
        return sorted(skus)

    def save(self, tx: Tx, work: Pantry) -> None:
        """Write back what changed."""
        if levels := work.levels.added:
            tx.execute("INSERT INTO level SELECT * FROM unnest(%b::text[], %b::int[])", _columns(levels))
        if levels := work.levels.changed:
            sql = "UPDATE level l SET available = n.v FROM unnest(%b::text[], %b::int[]) n(k, v) WHERE l.sku = n.k"
            tx.execute(sql, _columns(levels))
        if holds := work.holds.added:
            rows = [[h.order_id for h in holds], [h.sku for h in holds], [h.quantity for h in holds]]
            tx.execute("INSERT INTO hold SELECT * FROM unnest(%b::text[], %b::text[], %b::int[])", rows)
        if holds := work.holds.changed:
            sql = "UPDATE hold h SET quantity = n.v FROM unnest(%b::text[], %b::int[]) n(k, v) WHERE h.order_id = n.k"
            tx.execute(sql, [[h.order_id for h in holds], [h.quantity for h in holds]])
        if cakes := work.cakes.added:
            states = [[c.order_id for c in cakes], [c.state for c in cakes]]
            tx.execute("INSERT INTO cake SELECT * FROM unnest(%b::text[], %b::text[])", states)
        if cakes := work.cakes.changed:
            sql = "UPDATE cake c SET state = n.v FROM unnest(%b::text[], %b::text[]) n(k, v) WHERE c.order_id = n.k"
            tx.execute(sql, [[c.order_id for c in cakes], [c.state for c in cakes]])


def _columns(levels: Sequence[Level]) -> list[list[object]]:
    return [[level.sku for level in levels], [level.available for level in levels]]


def reactions(name: str = "pantry", watches: tuple[str, ...] = ()) -> HandlerRegistry[Pantry]:
    """Return the pantry's handlers; the name is the consumer group's too, so that each test may have its own."""
    on = HandlerRegistry(name, Pantry, watches)
    on.step(hold_loaves)
    on.compensates(hold_loaves)(return_loaves)
    on.learns(serve_meal)
    on.learns(want_cake)
    on.learns(book_tasting)
    on.answer(take_cake)
    on.answer(give_up)
    on.answer(let_go)
    on.timer(begin_tasting)
    on.command(fill_shelf)
    return on


def service(
    name: str = "pantry", outside: Gateway | None = None, rules: Rules | None = None, store: PantryStore | None = None
) -> Service[Pantry]:
    """Return the pantry, wired."""
    return Service(reactions(name), store or PantryStore(), PlainCodec(), outside or Gateway(name), rules or Rules())


QUICK = (timedelta(milliseconds=60), timedelta(milliseconds=60))
