"""Every SQL statement of order: the orders themselves, blocked customers, and the API's reads."""

from __future__ import annotations

import json
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg
import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy.dialects.postgresql import JSONB, UUID

from order.domain import (
    AWAITS,
    FINAL,
    PHASES,
    TO_DECIDE,
    TO_UNDO,
    Attention,
    Change,
    Crowd,
    Entry,
    Notice,
    Order,
    Orders,
    Phase,
    Reason,
    SigningKey,
    States,
    Status,
    StepTimes,
    Telling,
    Waiting,
    Webhook,
)
from order.events import (
    AddWebhook,
    EnableWebhook,
    PaymentCharged,
    PlaceOrder,
    PushWebhook,
    RemoveWebhook,
    RotateWebhook,
    WebhookDropped,
    WebhookGivenUp,
    WebhookPushed,
)
from quadrille import (
    BEGINNING,
    FeedPage,
    FeedPlace,
    Identifier,
    Message,
    Moment,
    Newest,
    Paged,
    Rows,
    Text,
    key_of,
    rfc3339,
)
from quadrille.service import Digest, Tx, WaitingSaga, floor_of, milliseconds

# A row is one JSON document each way: pydantic reads and writes the domain's own classes faster than columns do.
_ORDER, _ORDERS, _ENTRY = TypeAdapter(Order), TypeAdapter(list[Order]), TypeAdapter(Entry)
_KEYS = TypeAdapter(list[SigningKey])
AT_ONCE = 1000
KEPT = 2  # connections that read what endpoints are told, while there are any
_SKEW = timedelta(minutes=1)  # an order's id and its placed_at may come from two looks at the clock

metadata = sa.MetaData()
orders = sa.Table(
    "orders",
    metadata,
    sa.Column("order_id", UUID(as_uuid=False), primary_key=True),
    sa.Column("caller", sa.Text, nullable=False),
    sa.Column("customer_id", sa.Text, nullable=False),
    sa.Column("reference", sa.Text),
    sa.Column("lines", JSONB, nullable=False),
    sa.Column("amount_minor", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("intent", sa.Text, nullable=False),  # GO, or CANCEL: generated from the reason
    sa.Column("states", JSONB, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("history", JSONB, nullable=False),
    sa.Column("detail", JSONB, nullable=False),
    sa.Column("placed_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("cancellable_until", sa.DateTime(timezone=True)),
    sa.Column("reason", sa.Text),
    sa.Column("attention", sa.Text),
    sa.Column("trace_id", sa.Text, nullable=False),
)
blocked = sa.Table("blocked", metadata, sa.Column("customer_id", sa.Text, primary_key=True))

# Locks are taken in the global order: the orders' keys (the unit of work), then the rows by their keys.
ORDERS = "SELECT to_json(o)::text FROM orders o WHERE order_id = ANY(%b::uuid[]) ORDER BY order_id FOR UPDATE"
# An order that ended CANCELLED bears its reference no more, and never will: the unique index is without it. No lock: a
# racing order of the same reference meets that index and comes again.
REFERENCES = """
SELECT caller, customer_id, reference, o.order_id::text
  FROM orders o JOIN unnest(%b::text[], %b::text[], %b::text[]) n(caller, customer_id, reference)
 USING (caller, customer_id, reference)
 WHERE o.status <> 'CANCELLED'"""
# A policy, not a balance: what it says when the order is decided holds, so nobody waits for it.
BLOCKED = """
SELECT customer_id FROM blocked
 WHERE customer_id IN (SELECT customer_id FROM orders WHERE order_id = ANY(%b::uuid[])) OR customer_id = ANY(%b)"""
_COLUMNS = """order_id, caller, customer_id, lines, amount_minor, currency, placed_at, deadline_at, trace_id,
       history, version, status, states, detail, reference, cancellable_until, reason, attention"""
# With an order's row goes its caller's feed, in one statement: a row for each change that tells of a new status. Its
# place is the number of the transaction, but no smaller than the first number nobody had been seen to end by then. So
# what is told when all smaller numbers have ended (NEXT_CHANGES) skips nothing, for a transaction's rows stand at its
# own number or beyond; and of one order no change stands before an earlier one, for the earlier one's transaction had
# ended when the later one's lock on the order was granted, and its snapshot taken.
_TELL = """
INSERT INTO order_change (caller, place, order_id, since, upto, ends)
SELECT caller, greatest(pg_current_xact_id(), pg_snapshot_xmax(pg_current_snapshot())), order_id, since, upto,
       status IN ('CONFIRMED', 'CANCELLED', 'COMPENSATION_FAILED')
  FROM changed WHERE since < upto"""
ADD_ORDERS = f"""
WITH changed AS (
  INSERT INTO orders ({_COLUMNS})
  SELECT {_COLUMNS} FROM json_populate_recordset(NULL::orders, %s::json)
  RETURNING caller, order_id, 0 AS since, jsonb_array_length(history) AS upto, status){_TELL}"""  # noqa: S608 - constants of this file
SET_ORDERS = f"""
WITH changed AS (
  UPDATE orders o SET history = n.history, version = n.version, status = n.status, states = n.states,
                      detail = n.detail, cancellable_until = n.cancellable_until, reason = n.reason,
                      attention = n.attention
    FROM json_populate_recordset(NULL::orders, %s::json) n WHERE o.order_id = n.order_id
  RETURNING o.caller, o.order_id, jsonb_array_length(old.history) AS since, jsonb_array_length(new.history) AS upto,
            o.status){_TELL}"""  # noqa: S608 - as above
# Settled: every transaction that could still bring a row of a smaller place has ended.
_SETTLED = "c.place < pg_snapshot_xmin(pg_current_snapshot())"
NEXT_CHANGES = f"""
SELECT c.place::text::bigint, c.order_id, h.number, h.entry, o.reference
  FROM (SELECT place, order_id, since, upto FROM order_change c
         WHERE caller = :caller AND (place, order_id, upto) > (CAST(:xid AS text)::xid8, CAST(:key AS uuid), :number)
           AND {_SETTLED} ORDER BY place, order_id, upto LIMIT :limit) c
  JOIN orders o USING (order_id)
 CROSS JOIN LATERAL jsonb_array_elements(o.history) WITH ORDINALITY h(entry, number)
 WHERE h.number > c.since AND h.number <= c.upto
   AND (c.place, c.order_id, h.number) > (CAST(:xid AS text)::xid8, CAST(:key AS uuid), :number)
 ORDER BY c.place, c.order_id, h.number LIMIT :limit"""  # noqa: S608 - as above
# Past what is kept; or ahead of all that may be told, as after a restore to an earlier moment.
PAST = """
SELECT (SELECT at FROM order_change WHERE caller = :caller ORDER BY place, order_id, upto LIMIT 1)
 WHERE CAST(:xid AS text)::xid8 >= pg_snapshot_xmin(pg_current_snapshot())
    OR EXISTS (SELECT FROM order_change_gone WHERE caller = :caller AND place > CAST(:xid AS text)::xid8)"""
NEWEST_CHANGES = f"""
SELECT n.caller, newest.place::text::bigint
  FROM unnest(CAST(:callers AS text[]), CAST(:xids AS text[])) n(caller, xid)
 CROSS JOIN LATERAL (SELECT place FROM order_change c WHERE c.caller = n.caller AND c.place > n.xid::xid8
                        AND {_SETTLED} ORDER BY place DESC LIMIT 1) newest"""  # noqa: S608 - as above
# Callers are few: each is found by a step in the index, and of each the oldest changes are looked at.
FORGET_CHANGES = """
WITH RECURSIVE callers AS (
  (SELECT caller FROM order_change ORDER BY caller LIMIT 1)
  UNION ALL
  SELECT (SELECT caller FROM order_change c WHERE c.caller > callers.caller ORDER BY caller LIMIT 1)
    FROM callers WHERE callers.caller IS NOT NULL),
old AS (
  SELECT o.* FROM callers, LATERAL (SELECT caller, place, order_id, upto, at FROM order_change c
   WHERE c.caller = callers.caller ORDER BY place, order_id, upto LIMIT %(some)b) o
   WHERE o.at < least(now() - %(kept)b::interval, lived_since(3))),
gone AS (
  DELETE FROM order_change c USING old
   WHERE (c.caller, c.place, c.order_id, c.upto) = (old.caller, old.place, old.order_id, old.upto)
  RETURNING c.caller, c.place),
noted AS (
  INSERT INTO order_change_gone AS known SELECT caller, max(place) FROM gone GROUP BY caller
  ON CONFLICT (caller) DO UPDATE SET place = greatest(known.place, excluded.place))
SELECT count(*) FROM gone"""
NEWER = """
SELECT to_json(o)::text
  FROM orders o JOIN unnest(CAST(:ids AS uuid[]), CAST(:versions AS bigint[])) n(order_id, version)
    ON o.order_id = n.order_id AND o.version > n.version"""
WAITING = """
SELECT to_json(o)::text FROM orders o WHERE status NOT IN ('CONFIRMED', 'CANCELLED')
UNION ALL SELECT to_json(o)::text FROM orders o WHERE attention = 'STUCK' AND status = 'CONFIRMED'"""
AWAITING = """
SELECT order_id::text, trace_id FROM orders
 WHERE status NOT IN ('CONFIRMED', 'CANCELLED') AND status = %b ORDER BY order_id LIMIT %b"""
# How long it took lately: of the newest that are over, when placed, and their history.
RECENT = """
SELECT placed_at, history FROM orders WHERE status IN ('CONFIRMED', 'CANCELLED') ORDER BY order_id DESC LIMIT 200"""


# What each step took, read off the histories of the newest that have ended: a status the order passed through at once
# was no step, and when somebody wants an order undone is nobody's time. What an order took on the whole goes with them.
STEPS = """
WITH recent AS (SELECT order_id, history FROM orders WHERE status IN ('CONFIRMED', 'CANCELLED')
                 ORDER BY order_id DESC LIMIT %(most)b),
passed AS (
  SELECT order_id, entry->>'status' AS status, entry->>'because' AS because, (entry->>'at')::timestamptz AS at,
         lag(entry->>'because') OVER o AS before, lag((entry->>'at')::timestamptz) OVER o AS since
    FROM recent, jsonb_array_elements(history) WITH ORDINALITY h(entry, number)
  WINDOW o AS (PARTITION BY order_id ORDER BY number)),
whole AS (
  SELECT min(at) AS placed, max(at) FILTER (WHERE status = 'CANCELLED') AS ended,
         min(at) FILTER (WHERE status IN ('CONFIRMED', 'INVENTORY_FAILED', 'PAYMENT_FAILED')) AS decided,
         min(at) FILTER (WHERE status IN ('CANCELLING', 'INVENTORY_FAILED', 'PAYMENT_FAILED')) AS undoing
    FROM passed GROUP BY order_id),
took AS (
  SELECT because AS step, at - since AS time FROM passed
   WHERE because <> before AND because <> 'order.cancellation_requested'
  UNION ALL SELECT %(decide)b, decided - placed FROM whole WHERE decided IS NOT NULL
  UNION ALL SELECT %(undo)b, ended - undoing FROM whole WHERE ended IS NOT NULL)
SELECT step, count(*), (percentile_disc(0.5) WITHIN GROUP (ORDER BY seconds))::float,
       (percentile_disc(0.99) WITHIN GROUP (ORDER BY seconds))::float
  FROM (SELECT step, greatest(0, extract(epoch FROM time)) AS seconds FROM took) found GROUP BY step ORDER BY step"""
NAMED = """
SELECT order_id::text, status, reference FROM orders
 WHERE order_id::text LIKE %(tail)b OR reference = %(text)b OR trace_id = %(text)b ORDER BY order_id DESC LIMIT 10"""
REJECTED_BY = "its customer is in the table of blocked customers"


# Counted by what they wait for, in one look at the few that do: the levels are said in seconds.
CROWDS = """
SELECT status, undone, inventory, payment, width_bucket(waited, %b::float8[]), count(*), max(waited)::float
  FROM (SELECT status, reason IS NOT NULL AS undone, states->>'inventory' AS inventory, states->>'payment' AS payment,
               greatest(0, extract(epoch FROM now() - (history->-1->>'at')::timestamptz))::float8 AS waited
          FROM orders WHERE status NOT IN ('CONFIRMED', 'CANCELLED') OR (attention = 'STUCK' AND status = 'CONFIRMED')
       ) waits GROUP BY 1, 2, 3, 4, 5"""


# Of an answer the place it tells of, else the endpoint's own: whether an end lies behind it, all before it being told.
_WEBHOOKS = f"""
SELECT w.webhook_id::text, w.caller, w.url, w.types, w.secrets, w.created_at, w.place::text::bigint, w.order_id,
       w.sequence, w.delivered_at, w.disabled_at, w.disabled_because,
       coalesce((SELECT failure FROM task WHERE key = w.webhook_id::text AND failure IS NOT NULL LIMIT 1), w.failure),
       EXISTS (SELECT FROM order_change c
                WHERE c.caller = w.caller AND c.ends AND {_SETTLED}
                  AND (c.place, c.order_id, c.upto) > (coalesce(n.place::xid8, w.place),
                      coalesce(n.order_id, w.order_id), coalesce(n.number, w.sequence)))
  FROM unnest(%b::uuid[], %b::text[], %b::uuid[], %b::int[]) n(webhook_id, place, order_id, number)
  JOIN webhook w ON w.webhook_id = n.webhook_id ORDER BY w.webhook_id"""  # noqa: S608 - as above
WEBHOOKS = f"{_WEBHOOKS} FOR UPDATE OF w"
_WEBHOOK = """webhook_id, caller, url, types, secrets, created_at, place, order_id, sequence, delivered_at, disabled_at,
 disabled_because, failure"""
# From now on: what may still come before this transaction is seen to end is told, what was told before is not.
ADD_WEBHOOK = f"""
INSERT INTO webhook ({_WEBHOOK})
VALUES (%b::uuid, %b, %b, %b, %b::text::jsonb, %b,
        coalesce(%b::text::xid8, pg_snapshot_xmin(pg_current_snapshot())), %b, %b, %b, %b, %b, %b::text::jsonb)"""  # noqa: S608 - as above
SET_WEBHOOK = """
UPDATE webhook SET secrets = %b::text::jsonb, place = coalesce(%b::text::xid8, place), order_id = %b, sequence = %b,
                   delivered_at = %b, disabled_at = %b, disabled_because = %b, failure = %b::text::jsonb
 WHERE webhook_id = %b::uuid"""
DROP_WEBHOOKS = "DELETE FROM webhook WHERE webhook_id = ANY(%b::uuid[])"
NEXT_NOTICES = f"""
SELECT c.place::text::bigint, c.order_id, h.number, h.entry, o.reference, o.reason, o.amount_minor, o.currency
  FROM webhook w
 CROSS JOIN LATERAL (SELECT place, order_id, since, upto FROM order_change c
         WHERE c.caller = w.caller AND (c.place, c.order_id, c.upto) > (w.place, w.order_id, w.sequence)
           AND {_SETTLED} ORDER BY place, order_id, upto LIMIT %b) c
  JOIN orders o ON o.order_id = c.order_id
 CROSS JOIN LATERAL jsonb_array_elements(o.history) WITH ORDINALITY h(entry, number)
 WHERE w.webhook_id = %b::uuid AND h.number > c.since AND h.number <= c.upto
   AND (c.place, c.order_id, h.number) > (w.place, w.order_id, w.sequence)
 ORDER BY c.place, c.order_id, h.number"""  # noqa: S608 - as above
OWN_WEBHOOKS = """
SELECT w.webhook_id, w.url, w.types, w.secrets, w.created_at, w.delivered_at, w.disabled_at, w.disabled_because,
       coalesce(t.failure, w.failure) AS failure, CASE WHEN t.failure IS NULL THEN 0 ELSE t.attempts END AS attempts,
       CASE WHEN t.failure IS NOT NULL THEN t.due END AS due
  FROM webhook w
  LEFT JOIN LATERAL (SELECT * FROM task WHERE key = w.webhook_id::text ORDER BY due LIMIT 1) t ON true
 WHERE w.caller = :caller AND (CAST(:one AS uuid) IS NULL OR w.webhook_id = :one) ORDER BY w.webhook_id"""
ABOUT_WEBHOOKS = (
    AddWebhook, RotateWebhook, EnableWebhook, RemoveWebhook, PushWebhook, WebhookPushed, WebhookGivenUp, WebhookDropped
)  # fmt: skip

DIGEST = Digest(
    page="""
SELECT order_id::text FROM orders
 WHERE order_id > coalesce(nullif(%(after)b, '')::uuid, '00000000-0000-0000-0000-000000000000')
 ORDER BY order_id LIMIT %(limit)b""",
    rows="""
SELECT order_id::text, age(xmin) > age(%(below)b::text::xid8::xid),
       jsonb_build_object('status', status, 'reason', reason, 'amount_minor', amount_minor, 'currency', currency,
                          'version', version, 'states', states)
  FROM orders WHERE order_id = ANY(%(keys)b::uuid[])""",
)


def load(tx: Tx, messages: Sequence[Message]) -> Orders:
    """Bring the orders, and for those to be placed their references, for those charged who is blocked."""
    if about := [m for m in messages if isinstance(m, ABOUT_WEBHOOKS)]:
        messages = [m for m in messages if not isinstance(m, ABOUT_WEBHOOKS)]
    placing = [m for m in messages if isinstance(m, PlaceOrder)]
    later = sorted({key_of(m) for m in messages if not isinstance(m, PlaceOrder)})
    names = sorted({(m.caller, m.customer_id, m.reference) for m in placing if m.reference})
    new = sorted({m.customer_id for m in placing})
    charged = any(isinstance(m, PaymentCharged) for m in messages)
    # All questions first: the first answer read sends whatever is queued, and waits.
    rows = tx.execute(ORDERS, [later]) if later else ()
    taken = tx.execute(REFERENCES, _columns(names)) if names else ()
    refused = tx.execute(BLOCKED, [later, new]) if charged else ()
    found = {o.order_id: o for o in (_ORDER.validate_json(row[0]) for row in rows)}
    customers = {*new, *(o.customer_id for o in found.values())} if charged else ()
    return Orders(
        Rows({*later, *(m.order_id for m in placing)}, found),
        Rows(names, {(r[0], r[1], r[2]): r[3] for r in taken}),
        Rows(customers, {r[0]: r[0] for r in refused}),
        webhooks=_webhooks(tx, about) if about else Rows((), {}),
    )


def _webhooks(tx: Tx, about: Sequence[Message]) -> Rows[str, Webhook]:
    told = {m.webhook_id: (str(m.xid), m.order_id, m.number) for m in about if isinstance(m, WebhookPushed)}
    keys = sorted({key_of(message) for message in about})
    rows = tx.execute(WEBHOOKS, _columns((key, *told.get(key, (None, None, None))) for key in keys))
    return Rows(keys, {row[0]: _webhook(row) for row in rows})


def save(tx: Tx, work: Orders) -> None:
    """Write back the orders that changed; references are columns of their orders."""
    if added := work.rows.added:
        tx.execute(ADD_ORDERS, [_ORDERS.dump_json(added).decode()])
    if changed := work.rows.changed:
        tx.execute(SET_ORDERS, [_ORDERS.dump_json(changed, exclude={"__all__": {"lines"}}).decode()])
    for new in work.webhooks.added:
        secrets, *told = _told(new)
        tx.execute(ADD_WEBHOOK, [new.webhook_id, new.caller, new.url, list(new.types), secrets, new.created_at, *told])
    for other in work.webhooks.changed:
        tx.execute(SET_WEBHOOK, [*_told(other), other.webhook_id])
    if gone := work.webhooks.dropped:
        tx.execute(DROP_WEBHOOKS, [gone])


class Filters(Paged):
    """What a list of orders is narrowed to; None does not narrow."""

    status: Status | None = None
    phase: Phase | None = None
    final: bool | None = None
    reason: Reason | None = None
    attention: Attention | None = None
    customer_id: Identifier | None = None
    sku: Identifier | None = None
    reference: Text | None = None
    placed_after: Moment | None = None
    placed_before: Moment | None = None


def waiting(tx: Tx) -> Iterable[Waiting]:
    """Return the orders that wait for an event: the unfinished, and the confirmed that are called stuck."""
    for (row,) in tx.execute(WAITING):
        order = _ORDER.validate_json(row)
        waits = order.debts, order.since, order.detail.stuck
        yield Waiting(order.order_id, order.status, order.reason, *waits, _paid_in_vain(order))


def step_times(tx: Tx, most: int) -> list[StepTimes]:
    """Return what each step took in the newest orders that have ended, at most so many."""
    rows = tx.execute(STEPS, {"most": most, "decide": TO_DECIDE, "undo": TO_UNDO})
    return [StepTimes(*row) for row in rows]


def awaiting(tx: Tx, participant: str, most: int) -> list[WaitingSaga]:
    """Return the oldest of the open orders that wait for a participant."""
    return [WaitingSaga(*row) for row in tx.execute(AWAITING, [AWAITS[participant], most])]


def crowds(tx: Tx, levels: Sequence[timedelta]) -> list[Crowd]:
    """Return how many orders wait, grouped by what they wait for and how long."""
    rows = tx.execute(CROWDS, [[level.total_seconds() for level in levels]])
    return [Crowd(row[0], row[1], States(row[2], row[3]), *row[4:]) for row in rows]


def _paid_in_vain(order: Order) -> bool:
    """Tell whether money taken for an order that was never confirmed cannot go back (law.md, F11)."""
    confirmed = any(entry.status is Status.CONFIRMED for entry in order.history)
    return order.states.payment == "REFUND_FAILED" and not confirmed


def find_order(tx: Tx, order_id: str) -> Order | None:
    """Return an order, whose ever it is; None if there is none."""
    row = tx.execute("SELECT to_json(o)::text FROM orders o WHERE order_id = %b::uuid", [order_id]).fetchone()
    return _ORDER.validate_json(row[0]) if row else None


def standing(tx: Tx, order_id: str) -> dict[str, object] | None:
    """Return where an order stands, for the operator who acts on it and for the audit; None if there is none."""
    if (order := find_order(tx, order_id)) is None:
        return None
    return {
        "order_status": order.status, "reason": order.reason, "current_etag": f'"v{order.version}"',
        "cancellable_until": order.cancellable_until and rfc3339(order.cancellable_until),
        "since": rfc3339(order.history[-1].at), "inventory": order.states.inventory, "payment": order.states.payment,
        "trace_id": order.trace_id,
    }  # fmt: skip


def look(tx: Tx, order_id: str) -> dict[str, object] | None:
    """Return an order for whoever asks why it waits: all of it but who bought, who owes it what, and what is usual."""
    if (order := find_order(tx, order_id)) is None:
        return None
    return {
        "status": order.status, "phase": PHASES[order.status], "final": order.status in FINAL, "reason": order.reason,
        "attention": order.attention, "stuck": order.detail.stuck, "amount_minor": order.amount_minor,
        "currency": order.currency, "lines": [[line.sku, line.quantity] for line in order.lines],
        "inventory": order.states.inventory, "payment": order.states.payment,
        "owed": [{"owes": owes, "fact": fact} for owes, fact in order.debts], "since_at": rfc3339(order.since),
        "placed_at": rfc3339(order.placed_at), "deadline_at": rfc3339(order.deadline_at), "trace_id": order.trace_id,
        "reference": order.reference, "history": [[e.status, rfc3339(e.at), e.because] for e in order.history],
        "shortages": [[s.sku, s.asked, s.available] for s in order.detail.shortages], "code": order.detail.code,
        "failed": [[f.participant, f.error_class, f.error] for f in order.detail.failed],
        "resolved": order.detail.resolved, "rule": REJECTED_BY if order.reason == "CONFIRMATION_REJECTED" else None,
        "usual_seconds": _usual(tx),
    }  # fmt: skip


def _usual(tx: Tx) -> dict[str, list[float]]:
    """Return what the newest orders took in seconds, half of them and 99 of 100: to their end, to be undone."""
    took: dict[str, list[float]] = {"done": [], "undone": []}
    for placed_at, history in tx.execute(RECENT):
        steps = [(PHASES[Status(entry["status"])], datetime.fromisoformat(entry["at"])) for entry in history]
        began = next((at for phase, at in steps if phase == "COMPENSATING"), None)
        if began is None:
            took["done"].append((steps[-1][1] - placed_at).total_seconds())
        else:
            took["undone"].append((steps[-1][1] - began).total_seconds())
    return {what: [_at(sorted(some), share) for share in (0.5, 0.99)] for what, some in took.items() if some}


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def named(tx: Tx, text: str) -> list[tuple[str, str, str | None]]:
    """Return id, status and reference of orders whose id ends in a text, or whose reference or trace it is; ten."""
    return tx.execute(NAMED, {"tail": f"%{text.lower()}", "text": text}).fetchall()


def get_order(db: sa.Connection, caller: str, order_id: str) -> Order | None:
    """Return the caller's order, or None if there is none of that id."""
    return next(iter(find_orders(db, caller, [order_id])), None)


def find_orders(db: sa.Connection, caller: str, order_ids: Collection[str]) -> list[Order]:
    """Return those of the caller's orders that exist."""
    return _read(db, sa.and_(orders.c.caller == caller, orders.c.order_id.in_(order_ids)))


def newer_orders(db: sa.Connection, known: Mapping[str, int]) -> dict[str, Order]:
    """Return, of the orders known by these versions, those that have gone on, by id."""
    rows = db.execute(sa.text(NEWER), {"ids": list(known), "versions": list(known.values())})
    return {order.order_id: order for order in (_ORDER.validate_json(row[0]) for row in rows)}


def list_orders(
    db: sa.Connection, caller: str, filters: Filters, limit: int = 50, after: str | None = None
) -> list[Order]:
    """Return a page of the caller's orders, newest first, that come after the order ``after``."""
    before = [orders.c.order_id < after] if after else []
    return _read(db, sa.and_(orders.c.caller == caller, *before, *_narrowed(filters)), limit)


def changes(db: sa.Connection, caller: str, after: FeedPlace | None, limit: int) -> FeedPage[Change]:
    """Return the caller's changes after a place, oldest first; None is where what is kept begins."""
    if after and (past := db.execute(sa.text(PAST), {"caller": caller, "xid": str(after.xid)}).one_or_none()):
        return FeedPage((), gone=True, oldest_at=past[0])
    place = after or BEGINNING
    asked = {"caller": caller, "xid": str(place.xid), "key": str(place.key), "number": place.number, "limit": limit}
    return FeedPage([_change(row) for row in db.execute(sa.text(NEXT_CHANGES), asked)])


def newest_changes(db: sa.Connection, known: Mapping[str, int]) -> dict[str, Newest]:
    """Return, of the callers whose feeds are known to these places, the newest place of those that have gone on."""
    asked = {"callers": list(known), "xids": [str(xid) for xid in known.values()]}
    return {caller: Newest(xid) for caller, xid in db.execute(sa.text(NEWEST_CHANGES), asked)}


def forget_changes(tx: Tx, kept: timedelta) -> int:
    """Forget some changes that are older than they are kept; return how many, 0 when no more are."""
    row = tx.execute(FORGET_CHANGES, {"some": AT_ONCE, "kept": kept}).fetchone()
    return int(row[0]) if row else 0


class Endpoint(NamedTuple):
    """An endpoint as its caller sees it; ``attempts`` and ``due`` are of what it could not be told yet."""

    webhook_id: uuid.UUID
    url: str
    types: Sequence[str]
    keys: Sequence[SigningKey]
    created_at: datetime
    delivered_at: datetime | None
    disabled_at: datetime | None
    disabled_because: str | None
    failure: Mapping[str, Any] | None
    attempts: int
    due: datetime | None


def endpoints(db: sa.Connection, caller: str, one: str | None = None) -> list[Endpoint]:
    """Return the caller's endpoints, oldest first, or the one named."""
    rows = db.execute(sa.text(OWN_WEBHOOKS), {"caller": caller, "one": one})
    return [Endpoint._make([*row[:3], _KEYS.validate_python(row[3]), *row[4:]]) for row in rows]


class Tellings:
    """Reads what an endpoint is to be told next, outside any batch; any thread may ask."""

    def __init__(self, connect: Callable[[], Tx]) -> None:
        self._connect = connect
        self._idle: deque[Tx] = deque()

    def __call__(self, webhook_id: str) -> Telling | None:
        """Return an endpoint and what comes next, None for one that was removed; raises OSError without a database."""
        try:
            tx = self._idle.pop() if self._idle else self._connect()
        except (IndexError, psycopg.OperationalError) as away:
            raise ConnectionError(*away.args) from away
        try:
            found = _telling(tx, webhook_id)
        except psycopg.OperationalError as away:
            tx.close()
            raise ConnectionError(*away.args) from away
        if len(self._idle) < KEPT:
            self._idle.append(tx)
        else:
            tx.close()
        return found

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()


def _telling(tx: Tx, webhook_id: str) -> Telling | None:
    with tx.transaction():
        tx.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", prepare=False)
        rows = tx.execute(_WEBHOOKS, [[webhook_id], [None], [None], [None]]).fetchall()
        notices = tx.execute(NEXT_NOTICES, [AT_ONCE, webhook_id]).fetchall() if rows else []
    if not rows:
        return None
    webhook = _webhook(rows[0])
    told = [
        Notice(FeedPlace(xid, order_id, number), _ENTRY.validate_python(entry), *rest)
        for xid, order_id, number, entry, *rest in notices
    ]
    return Telling(webhook, webhook.place or BEGINNING, told)


def _webhook(row: Sequence[Any]) -> Webhook:
    webhook_id, caller, url, types, secrets, created_at, xid, order_id, sequence, *rest, waits = row
    place, keys = FeedPlace(xid, order_id, sequence), tuple(_KEYS.validate_python(secrets))
    return replace(Webhook(webhook_id, caller, url, tuple(types), keys, created_at, place, *rest), waits=waits)


def _told(one: Webhook) -> list[object]:
    place = one.place or BEGINNING
    return [
        _KEYS.dump_json(list(one.keys)).decode(), one.place and str(one.place.xid), place.key, place.number,
        one.delivered_at, one.disabled_at, one.disabled_because, one.failure and json.dumps(one.failure),
    ]  # fmt: skip


def _change(row: Sequence[Any]) -> Change:
    xid, order_id, number, entry, reference = row
    return Change(FeedPlace(xid, order_id, number), _ENTRY.validate_python(entry), reference)


def _read(db: sa.Connection, wanted: sa.ColumnElement[bool], limit: int | None = None) -> list[Order]:
    document = sa.cast(sa.func.to_json(orders.table_valued()), sa.Text)
    page = sa.select(document).where(wanted).order_by(orders.c.order_id.desc()).limit(limit)
    return [_ORDER.validate_json(row[0]) for row in db.execute(page)]


def _narrowed(by: Filters) -> Iterable[sa.ColumnElement[bool]]:
    for name in ("reason", "attention", "customer_id", "reference", "status"):
        if (value := getattr(by, name)) is not None:
            yield orders.c[name] == value
    if by.phase is not None:
        yield orders.c.status.in_([status for status, phase in PHASES.items() if phase == by.phase])
    if by.final is not None:
        yield orders.c.status.in_([status for status in Status if (status in FINAL) is by.final])
    if by.sku is not None:
        yield orders.c.lines.contains([{"sku": by.sku}])
    if by.placed_after is not None:  # the id's bound is what the index is read by
        yield orders.c.order_id >= str(floor_of(milliseconds(by.placed_after - _SKEW)))
        yield orders.c.placed_at >= by.placed_after
    if by.placed_before is not None:
        yield orders.c.order_id <= str(floor_of(milliseconds(by.placed_before + _SKEW)))
        yield orders.c.placed_at < by.placed_before


def _columns(rows: Iterable[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]
