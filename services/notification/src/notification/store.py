"""Every SQL statement of notification: notices by order and kind, the address book by customer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from notification.domain import Contact, CustomerId, Kind, Notice, OrderId, Post, State
from notification.events import (
    DeleteContact,
    OrderCancelled,
    OrderConfirmed,
    PutContact,
    SendMail,
    SendMailDropped,
)
from quadrille import Message, Rows, key_of
from quadrille.service import Digest, Tx

metadata = sa.MetaData()
notice = sa.Table(
    "notice",
    metadata,
    sa.Column("order_id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("outdated", sa.Boolean, nullable=False),
    sa.Column("because", sa.Text),
    sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
)
contact = sa.Table(
    "contact",
    metadata,
    sa.Column("customer_id", sa.Text, primary_key=True),
    sa.Column("address", sa.Text, nullable=False),
)

NOTICES = """
SELECT order_id, kind, state, outdated, because
  FROM notice WHERE order_id = ANY(%b) ORDER BY order_id, kind FOR UPDATE"""
# Only commands write a contact, under their customer's key lock; an event reads the address without a lock.
CONTACTS = "SELECT customer_id, address FROM contact WHERE customer_id = ANY(%b)"
LOOK = """
SELECT jsonb_build_object('kind', kind, 'state', state, 'because', because, 'at', changed_at)
  FROM notice WHERE order_id = %b ORDER BY changed_at, kind"""
ADD_NOTICES = """
INSERT INTO notice (order_id, kind, state, outdated, because)
SELECT * FROM unnest(%b::text[], %b::text[], %b::text[], %b::bool[], %b::text[])"""
SET_NOTICES = """
UPDATE notice o SET state = n.state, outdated = n.outdated, because = n.because, changed_at = now()
  FROM unnest(%b::text[], %b::text[], %b::text[], %b::bool[], %b::text[]) n(order_id, kind, state, outdated, because)
 WHERE (o.order_id, o.kind) = (n.order_id, n.kind)"""
ADD_CONTACTS = "INSERT INTO contact (customer_id, address) SELECT * FROM unnest(%b::text[], %b::text[])"
SET_CONTACTS = """
UPDATE contact c SET address = n.address
  FROM unnest(%b::text[], %b::text[]) n(customer_id, address) WHERE c.customer_id = n.customer_id"""
DROP_CONTACTS = "DELETE FROM contact WHERE customer_id = ANY(%b)"

DIGEST = Digest(
    page="SELECT DISTINCT order_id FROM notice WHERE order_id > %(after)b ORDER BY order_id LIMIT %(limit)b",
    rows="""
SELECT order_id, bool_and(age(xmin) > age(%(below)b::text::xid8::xid)), jsonb_object_agg(kind, state)
  FROM notice WHERE order_id = ANY(%(keys)b) GROUP BY order_id""",
)


def load(tx: Tx, messages: Sequence[Message]) -> Post:
    """Bring both notices of every order, and the addresses of every customer named."""
    orders = {OrderId(key_of(m)) for m in messages if not isinstance(m, PutContact | DeleteContact)}
    customers = {CustomerId(m.customer_id) for m in messages if isinstance(m, _NAMES_A_CUSTOMER)}
    notices = tx.execute(NOTICES, [sorted(orders)])
    contacts = tx.execute(CONTACTS, [sorted(customers)])
    found = [Notice(OrderId(row[0]), Kind(row[1]), State(row[2]), *row[3:]) for row in notices]
    asked = {(order, kind) for order in orders for kind in Kind}
    book = {CustomerId(row[0]): Contact(*row) for row in contacts}
    return Post(Rows(asked, {(n.order_id, n.kind): n for n in found}), Rows(customers, book))


def save(tx: Tx, work: Post) -> None:
    """Write back the notices and contacts that changed."""
    if added := work.notices.added:
        tx.execute(ADD_NOTICES, _columns([_row(n) for n in added]))
    if changed := work.notices.changed:
        tx.execute(SET_NOTICES, _columns([_row(n) for n in changed]))
    if new := work.contacts.added:
        tx.execute(ADD_CONTACTS, _columns([(c.customer_id, c.address) for c in new]))
    if moved := work.contacts.changed:
        tx.execute(SET_CONTACTS, _columns([(c.customer_id, c.address) for c in moved]))
    if erased := work.contacts.dropped:
        tx.execute(DROP_CONTACTS, [list(erased)])


@dataclass(frozen=True, slots=True)
class Sent:
    """A notice as the API shows it, with the time of its last change."""

    notice: Notice
    changed_at: datetime


def notices_of(db: sa.Connection, order_id: str) -> list[Sent]:
    """Return the notices of an order, tombstones left out, for the API."""
    found = sa.select(notice).where(notice.c.order_id == order_id, notice.c.state != State.NONE.value)
    rows = db.execute(found.order_by(notice.c.changed_at, notice.c.kind))
    return [Sent(Notice(OrderId(r[0]), Kind(r[1]), State(r[2]), r[3], r[4]), r[5]) for r in rows]


def look(tx: Tx, order_id: str) -> dict[str, object] | None:
    """Return an order's mails as they stand, for whoever asks what became of them; None if none was heard of."""
    notices = [row[0] for row in tx.execute(LOOK, [order_id])]
    return {"notices": notices} if notices else None


def contact_of(db: sa.Connection, customer_id: str) -> Contact | None:
    """Return a customer's address, for the API."""
    row = db.execute(sa.select(contact).where(contact.c.customer_id == customer_id)).first()
    return Contact(*row) if row else None


_NAMES_A_CUSTOMER = OrderConfirmed | OrderCancelled | SendMail | SendMailDropped | PutContact | DeleteContact


def _row(row: Notice) -> tuple[object, ...]:
    return row.order_id, row.kind.value, row.state.value, row.outdated, row.because


def _columns(rows: Sequence[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]
