"""Every SQL statement of payment: payments by order, the ledger's entries by key."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from payment.domain import Entry, OrderId, Payment, Payments, Price, Resolution, State
from payment.events import charge_key, refund_key
from quadrille import Message, Rows, key_of
from quadrille.service import Digest, Tx

metadata = sa.MetaData()
payment = sa.Table(
    "payment",
    metadata,
    sa.Column("order_id", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("permitted", sa.Boolean, nullable=False),
    sa.Column("cancel_wanted", sa.Boolean, nullable=False),
    sa.Column("began_at", sa.DateTime(timezone=True)),
    sa.Column("code", sa.Text),
    sa.Column("amount_minor", sa.BigInteger),
    sa.Column("currency", sa.Text),
    sa.Column("payment_token", sa.Text),
    sa.Column("deadline_at", sa.DateTime(timezone=True)),
    sa.Column("how", sa.Text),
    sa.Column("operator", sa.Text),
    sa.Column("evidence", sa.Text),
    sa.Column("contradicted", sa.Boolean),
)
entry = sa.Table(
    "entry",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("order_id", sa.Text, nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("amount_minor", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("reference", sa.Text, nullable=False),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False),
)
# The chassis' table: what is still to be done outside, shown by the API and made due by a person's command.
task = sa.table("task", *map(sa.column, ("id", "key", "type", "due", "attempts", "error_class", "error")))

PAYMENTS = """
SELECT order_id, state, permitted, cancel_wanted, began_at, code, amount_minor, currency, payment_token, deadline_at,
       how, operator, evidence, contradicted
  FROM payment WHERE order_id = ANY(%b) ORDER BY order_id FOR UPDATE"""
ADD_PAYMENTS = """
INSERT INTO payment (order_id, state, permitted, cancel_wanted, began_at, code,
                     amount_minor, currency, payment_token, deadline_at, how, operator, evidence, contradicted)
SELECT * FROM unnest(%b::text[], %b::text[], %b::bool[], %b::bool[], %b::timestamptz[], %b::text[],
                     %b::bigint[], %b::text[], %b::text[], %b::timestamptz[],
                     %b::text[], %b::text[], %b::text[], %b::bool[])"""
SET_PAYMENTS = """
UPDATE payment p SET state = n.state, permitted = n.permitted, cancel_wanted = n.cancel_wanted, began_at = n.began_at,
                     code = n.code, amount_minor = n.amount_minor, currency = n.currency,
                     payment_token = n.payment_token, deadline_at = n.deadline_at,
                     how = n.how, operator = n.operator, evidence = n.evidence, contradicted = n.contradicted
  FROM unnest(%b::text[], %b::text[], %b::bool[], %b::bool[], %b::timestamptz[], %b::text[],
              %b::bigint[], %b::text[], %b::text[], %b::timestamptz[], %b::text[], %b::text[], %b::text[], %b::bool[])
       n(order_id, state, permitted, cancel_wanted, began_at, code, amount_minor, currency, payment_token, deadline_at,
         how, operator, evidence, contradicted)
 WHERE p.order_id = n.order_id"""
ADD_ENTRIES = """
INSERT INTO entry (key, order_id, kind, amount_minor, currency, reference, at)
SELECT * FROM unnest(%b::text[], %b::text[], %b::text[], %b::bigint[], %b::text[], %b::text[], %b::timestamptz[])"""
STANDING = """
SELECT jsonb_build_object('state', state, 'code', code, 'cancel_wanted', cancel_wanted, 'how', how,
                          'evidence', evidence) FROM payment WHERE order_id = %b"""
LOOK = """
SELECT jsonb_build_object('state', state, 'code', code, 'cancel_wanted', cancel_wanted, 'permitted', permitted,
  'amount_minor', amount_minor, 'currency', currency, 'began_at', began_at, 'deadline_at', deadline_at, 'how', how,
  'operator', operator, 'evidence', evidence, 'contradicted', contradicted, 'entries', (
    SELECT coalesce(jsonb_agg(jsonb_build_object('kind', kind, 'amount_minor', e.amount_minor, 'currency', e.currency,
                                                 'at', at) ORDER BY at, key), '[]')
      FROM entry e WHERE e.order_id = p.order_id))
  FROM payment p WHERE order_id = %b"""
HURRY = "UPDATE task SET due = now() WHERE key = ANY(%b) AND due > now() AND leased_until IS NULL"

# The ledger counts even where nothing else is known of its order.
DIGEST = Digest(
    page="""
SELECT order_id FROM (SELECT order_id FROM payment UNION SELECT order_id FROM entry) known
 WHERE order_id > %(after)b ORDER BY order_id LIMIT %(limit)b""",
    rows="""
SELECT k.order_id, coalesce(age(p.xmin) > age(%(below)b::text::xid8::xid), true) AND e.settled,
       jsonb_build_object('state', coalesce(p.state, 'NONE'), 'amount_minor', p.amount_minor, 'currency', p.currency,
                          'captured_minor', e.captured, 'returned_minor', e.returned, 'currencies', e.currencies)
  FROM unnest(%(keys)b) k(order_id) LEFT JOIN payment p ON p.order_id = k.order_id
 CROSS JOIN LATERAL (
    SELECT coalesce(sum(amount_minor) FILTER (WHERE kind = 'CAPTURE'), 0) AS captured,
           coalesce(sum(amount_minor) FILTER (WHERE kind <> 'CAPTURE'), 0) AS returned,
           coalesce(jsonb_agg(DISTINCT currency), '[]') AS currencies, count(*) AS lines,
           coalesce(bool_and(age(xmin) > age(%(below)b::text::xid8::xid)), true) AS settled
      FROM entry WHERE order_id = k.order_id) e
 WHERE p.order_id IS NOT NULL OR e.lines > 0""",
)


def load(tx: Tx, messages: Sequence[Message]) -> Payments:
    """Bring the orders' payments; entries are only added, so none is read: their primary key is the last defence."""
    orders = {OrderId(key_of(m)) for m in messages}
    keys = {key(order) for order in orders for key in (charge_key, refund_key)}
    rows = tx.execute(PAYMENTS, [sorted(orders)])
    payments = {OrderId(row[0]): _payment(row) for row in rows}
    return Payments(Rows(orders, payments), Rows(keys, {}), Rows(orders, {}))


def save(tx: Tx, work: Payments) -> None:
    """Write back the payments that changed and the ledger's new entries; make hurried intents due."""
    if added := work.payments.added:
        tx.execute(ADD_PAYMENTS, _columns([_row(p) for p in added]))
    if changed := work.payments.changed:
        tx.execute(SET_PAYMENTS, _columns([_row(p) for p in changed]))
    if entered := work.entries.added:
        rows = [(e.key, e.order_id, e.kind, e.amount_minor, e.currency, e.reference, e.at) for e in entered]
        tx.execute(ADD_ENTRIES, _columns(rows))
    if hurried := work.hurried.added:
        tx.execute(HURRY, [hurried])


@dataclass(frozen=True, slots=True)
class Pending:
    """An intent not yet answered: its type, when it is due, the tries so far and how the last one failed."""

    type: str
    due: datetime
    attempts: int
    error_class: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Account:
    """Everything about one order's money."""

    payment: Payment
    entries: tuple[Entry, ...]
    pending: tuple[Pending, ...]


def payment_of(db: sa.Connection, order_id: str) -> Account | None:
    """Return an order's payment, its entries and its open intents, for the API."""
    row = db.execute(sa.select(payment).where(payment.c.order_id == order_id)).first()
    if row is None:
        return None
    entries = db.execute(sa.select(entry).where(entry.c.order_id == order_id).order_by(entry.c.at, entry.c.key))
    open_ones = (
        sa.select(task.c.type, task.c.due, task.c.attempts, task.c.error_class, task.c.error)
        .where(task.c.key == order_id)
        .order_by(task.c.due, task.c.id)
    )
    pending = tuple(Pending(*found) for found in db.execute(open_ones))
    return Account(_payment(row), tuple(Entry(*found) for found in entries), pending)


def standing(tx: Tx, order_id: str) -> dict[str, object] | None:
    """Return where an order's payment stands, for the operator who acts on it and for the audit; None if unheard of."""
    row = tx.execute(STANDING, [order_id]).fetchone()
    return row[0] if row else None


def look(tx: Tx, order_id: str) -> dict[str, object] | None:
    """Return an order's money, for whoever asks why the order waits: where it stands and its ledger; not its token."""
    row = tx.execute(LOOK, [order_id]).fetchone()
    return row[0] if row else None


def _payment(row: Sequence[Any]) -> Payment:
    order_id, state, permitted, cancel_wanted, began_at, code = row[:6]
    price = Price(*row[6:10]) if row[6] is not None else None
    resolution = Resolution(*row[10:]) if row[10] is not None else None
    return Payment(OrderId(order_id), State(state), permitted, cancel_wanted, began_at, code, price, resolution)


def _row(row: Payment) -> tuple[object, ...]:
    price = dataclasses.astuple(row.price) if row.price else (None,) * 4
    resolution = dataclasses.astuple(row.resolution) if row.resolution else (None,) * 4
    begun = row.permitted, row.cancel_wanted, row.began_at, row.code
    return (row.order_id, row.state.value, *begun, *price, *resolution)


def _columns(rows: Sequence[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]
