"""What inventory does when something happens."""

from __future__ import annotations

from inventory.domain import (
    Changed,
    Held,
    Kept,
    Nothing,
    OrderId,
    Released,
    Resolved,
    Short,
    Sku,
    Sold,
    Stock,
    Stored,
)
from inventory.events import (
    OrderCancellationRequested,
    OrderConfirmed,
    OrderPlaced,
    PaymentDeclined,
    SetStock,
    StockChanged,
    StockCommitted,
    StockRejected,
    StockReleased,
    StockReleaseFailed,
    StockReserved,
    StockResolved,
    StockSet,
)
from quadrille import CompensationAnswered, HandlerRegistry, ResolveCompensation, RetryCompensation, not_owed

on = HandlerRegistry("inventory", Stock)


@on.step
def reserve_stock(order: OrderPlaced, stock: Stock) -> StockReserved | StockRejected | None:
    """Hold every line of the order, or none of them."""
    match stock.reserve(OrderId(order.order_id), order.lines):
        case Held(lines):
            return StockReserved(order.order_id, lines)
        case Short(shortages):
            return StockRejected(order.order_id, shortages)
        case Nothing():
            return None


@on.compensates(reserve_stock)
def release_stock(cancel: OrderCancellationRequested, stock: Stock) -> StockReleased | StockReleaseFailed | None:
    """Give back what is held for the order; nothing held leaves a tombstone."""
    return _acknowledge(cancel.order_id, stock.release(OrderId(cancel.order_id)))


@on.compensates(reserve_stock)
def release_early(declined: PaymentDeclined, stock: Stock) -> StockReleased | StockReleaseFailed | None:
    """Give back what is held before the cancellation arrives: the fast path."""
    return _acknowledge(declined.order_id, stock.give_back(OrderId(declined.order_id)))


@on.retryable
def commit_stock(order: OrderConfirmed, stock: Stock) -> StockCommitted | None:
    """Take what is held for good."""
    match stock.commit(OrderId(order.order_id)):
        case Sold():
            return StockCommitted(order.order_id)
        case Nothing():
            return None


@on.command
def retry_release(
    command: RetryCompensation, stock: Stock
) -> tuple[StockReleased, CompensationAnswered] | CompensationAnswered:
    """Give back what could not come back before, if it may now; the reply says so if it still may not."""
    match stock.retry(OrderId(command.order_id)):
        case Released(had_hold, returned):
            return StockReleased(command.order_id, had_hold, returned), CompensationAnswered(
                command.order_id, "DONE", "RELEASED"
            )
        case Kept():
            return CompensationAnswered(command.order_id, "STILL_FAILED", "RELEASE_FAILED")
        case Nothing():
            return not_owed(command, stock.state(OrderId(command.order_id)))


@on.command
def resolve_stock(
    command: ResolveCompensation, stock: Stock
) -> tuple[StockResolved, CompensationAnswered] | CompensationAnswered:
    """End by a person's word what is owed; it is owed once the cancellation came, until it is acknowledged."""
    match stock.resolve(OrderId(command.order_id), cancelled=OrderCancellationRequested.type in command.waiting):
        case Resolved():
            fact = StockResolved(command.order_id, command.how, command.operator, command.evidence)
            return fact, CompensationAnswered(command.order_id, "DONE", "RESOLVED")
        case Nothing():
            return not_owed(command, stock.state(OrderId(command.order_id)))


@on.command
def set_stock(order: SetStock, stock: Stock) -> StockSet | StockChanged:
    """Set what is available of a SKU; the difference is received or written off."""
    match stock.set_available(Sku(order.sku), order.available, sealed=order.sealed, version=order.version):
        case Stored(level, created):
            return StockSet(
                level.sku,
                level.available,
                level.held,
                level.committed,
                level.received,
                level.sealed,
                level.version,
                created,
            )
        case Changed(version):
            return StockChanged(order.sku, version)


def _acknowledge(order_id: str, undone: Released | Kept | Nothing) -> StockReleased | StockReleaseFailed | None:
    match undone:
        case Released(had_hold, returned):
            return StockReleased(order_id, had_hold, returned)
        case Kept():
            return StockReleaseFailed(order_id, "BUSINESS", 1, "sealed goods cannot come back")
        case Nothing():
            return None
