"""Every SQL statement of inventory: holds by order, levels by SKU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from psycopg.types.json import Json
from sqlalchemy.dialects.postgresql import ARRAY

from inventory.domain import Hold, HoldState, Level, OrderId, Sku, Stock
from inventory.events import (
    Line,
    OrderCancellationRequested,
    OrderConfirmed,
    OrderPlaced,
    PaymentDeclined,
    SetStock,
)
from quadrille import Message, ResolveCompensation, RetryCompensation, Rows
from quadrille.service import Digest, Tx

metadata = sa.MetaData()
hold = sa.Table(
    "hold",
    metadata,
    sa.Column("order_id", sa.Text, primary_key=True),
    sa.Column("skus", ARRAY(sa.Text), nullable=False),
    sa.Column("quantities", ARRAY(sa.Integer), nullable=False),
    sa.Column("state", sa.Text, nullable=False),
)
level = sa.Table(
    "level",
    metadata,
    sa.Column("sku", sa.Text, primary_key=True),
    sa.Column("available", sa.BigInteger, nullable=False),
    sa.Column("held", sa.BigInteger, nullable=False),
    sa.Column("committed", sa.BigInteger, nullable=False),
    sa.Column("received", sa.BigInteger, nullable=False),
    sa.Column("sealed", sa.Boolean, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
)

# Locks are taken in the global order: the orders' keys (the ledger), own rows by order id, shared rows by SKU.
HOLDS = "SELECT order_id, skus, quantities, state FROM hold WHERE order_id = ANY(%b) ORDER BY order_id FOR UPDATE"
STANDING = """
SELECT jsonb_build_object('state', state, 'skus', skus, 'quantities', quantities) FROM hold WHERE order_id = %b"""
LEVELS = """
SELECT sku, available, held, committed, received, sealed, version
  FROM level WHERE sku = ANY(%b) ORDER BY sku FOR UPDATE"""
ADD_HOLDS = "INSERT INTO hold SELECT * FROM json_populate_recordset(NULL::hold, %s)"  # arrays in rows: no unnest
SET_HOLDS = """
UPDATE hold h SET state = n.state
  FROM unnest(%b::text[], %b::text[]) n(order_id, state) WHERE h.order_id = n.order_id"""
ADD_LEVELS = """
INSERT INTO level (sku, available, held, committed, received, sealed, version)
SELECT * FROM unnest(%b::text[], %b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[], %b::bool[], %b::bigint[])"""
SET_LEVELS = """
UPDATE level l SET available = n.available, held = n.held, committed = n.committed, received = n.received,
                   sealed = n.sealed, version = n.version
  FROM unnest(%b::text[], %b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[], %b::bool[], %b::bigint[])
       n(sku, available, held, committed, received, sealed, version) WHERE l.sku = n.sku"""

DIGEST = Digest(
    page="SELECT order_id FROM hold WHERE order_id > %(after)b ORDER BY order_id LIMIT %(limit)b",
    rows="""
SELECT order_id, age(xmin) > age(%(below)b::text::xid8::xid),
       jsonb_build_object('state', state, 'pieces', (SELECT coalesce(sum(n), 0) FROM unnest(quantities) n))
  FROM hold WHERE order_id = ANY(%(keys)b)""",
)


def load(tx: Tx, messages: Sequence[Message]) -> Stock:
    """Bring the orders' holds, then every SKU they or the messages name: only a hold knows what a release touches."""
    orders = {OrderId(m.order_id) for m in messages if isinstance(m, OrderPlaced | _LATER)}
    holds = {row[0]: _hold(*row) for row in tx.execute(HOLDS, [sorted(orders)])} if orders else {}
    skus = {Sku(m.sku) for m in messages if isinstance(m, SetStock)}
    skus |= {Sku(line.sku) for m in messages if isinstance(m, OrderPlaced) for line in m.lines}
    skus |= {Sku(line.sku) for found in holds.values() if found.state.keeps for line in found.lines}
    levels = {row[0]: Level(*row) for row in tx.execute(LEVELS, [sorted(skus)])} if skus else {}
    return Stock(Rows(orders, holds), Rows(skus, levels))


def save(tx: Tx, work: Stock) -> None:
    """Write back the holds and levels that changed."""
    if added := work.holds.added:
        tx.execute(ADD_HOLDS, [Json([_row(h) for h in added])])
    if ended := work.holds.changed:
        tx.execute(SET_HOLDS, [[h.order_id for h in ended], [h.state.value for h in ended]])
    if new := work.levels.added:
        tx.execute(ADD_LEVELS, _columns(new))
    if moved := work.levels.changed:
        tx.execute(SET_LEVELS, _columns(moved))


def stock_of(db: sa.Connection, sku: str) -> Level | None:
    """Return one SKU as it stands, for the API."""
    row = db.execute(sa.select(level).where(level.c.sku == sku)).first()
    return Level(*row) if row else None


def list_stock(db: sa.Connection, after: str = "", limit: int = 50) -> list[Level]:
    """Return at most ``limit`` SKUs after the given one, by name, for the API."""
    page = sa.select(level).where(level.c.sku > after).order_by(level.c.sku).limit(limit)
    return [Level(*row) for row in db.execute(page)]


def standing(tx: Tx, order_id: str) -> dict[str, object] | None:
    """Return where an order's hold stands, for the operator who acts on it and for the audit; None if unheard of."""
    row = tx.execute(STANDING, [order_id]).fetchone()
    return row[0] if row else None


_LATER = OrderConfirmed | OrderCancellationRequested | PaymentDeclined | RetryCompensation | ResolveCompensation


def _hold(order_id: str, skus: Sequence[str], quantities: Sequence[int], state: str) -> Hold:
    lines = tuple(Line(sku, n) for sku, n in zip(skus, quantities, strict=True))
    return Hold(OrderId(order_id), lines, HoldState(state))


def _row(row: Hold) -> dict[str, object]:
    skus, quantities = [line.sku for line in row.lines], [line.quantity for line in row.lines]
    return {"order_id": row.order_id, "skus": skus, "quantities": quantities, "state": row.state.value}


def _columns(levels: Iterable[Level]) -> list[list[object]]:
    rows = [(v.sku, v.available, v.held, v.committed, v.received, v.sealed, v.version) for v in levels]
    return [list(column) for column in zip(*rows, strict=True)]
