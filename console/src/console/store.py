"""The SQL by which the console writes: records as they came, orders as they stand, and the letting go of both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from console.alerts import store as alerts
from console.domain import Fact, Failure, Order, Shown, Stored, TracePart
from console.handlers import KeepSpans
from console.reading import fact_of, input_of, is_order
from quadrille import AnyRecord, Message, Rows
from quadrille.service import Tx

LET_GO_EVERY = 500
AT_ONCE = 2 * LET_GO_EVERY
MILLISECOND = timedelta(milliseconds=1)
# What is there already is not read again: it never changes.
KEPT = Stored("", "", "", "", None, datetime.fromtimestamp(0, UTC), None, "", "", 0, 0, None, None, None, (), b"")
KNOWN = "SELECT event_id FROM event WHERE event_id = ANY(%b)"
ORDERS = """
SELECT order_id, facts, parked, trace_id FROM order_view WHERE order_id = ANY(%b) ORDER BY order_id FOR UPDATE"""
FAILURES = """
SELECT service, event_id, order_id, state, error_class, error, behind, since, at, ended_by, reason, body
  FROM failure WHERE (service, event_id) IN (SELECT * FROM unnest(%b::text[], %b::text[]))
 ORDER BY service, event_id FOR UPDATE"""
ADD_EVENTS = """
INSERT INTO event (event_id, type, source, key, sequence, at, causation, trace_id, topic, partition, "offset",
                   schema_id, body, fault, headers, raw)
SELECT event_id, type, source, key, sequence, at, causation, trace_id, topic, partition, place, schema_id, body::jsonb,
       fault, headers::jsonb, raw
  FROM unnest(%b::uuid[], %b::text[], %b::text[], %b::text[], %b::bigint[], %b::timestamptz[], %b::uuid[], %b::text[],
              %b::text[], %b::int[], %b::bigint[], %b::int[], %b::text[], %b::text[], %b::text[], %b::bytea[])
    n(event_id, type, source, key, sequence, at, causation, trace_id, topic, partition, place, schema_id, body, fault,
      headers, raw)"""
COLUMNS = """order_id, status, final, reason, customer_id, amount_minor, currency, skus, placed_at, ended_at, took_ms,
  waits_for, waits_what, waits_since, because, attention, trace_id, facts, parked, changed_at"""
VALUES = """
SELECT order_id, status, final, reason, customer_id, amount_minor, currency,
       ARRAY(SELECT jsonb_array_elements_text(skus::jsonb)), placed_at, ended_at, took_ms, waits_for, waits_what,
       waits_since, because, attention, trace_id, facts::jsonb, parked::jsonb, clock_timestamp() AS changed_at
  FROM unnest(%b::text[], %b::text[], %b::bool[], %b::text[], %b::text[], %b::bigint[], %b::text[], %b::text[],
              %b::timestamptz[], %b::timestamptz[], %b::bigint[], %b::text[], %b::text[], %b::timestamptz[],
              %b::text[], %b::text[], %b::text[], %b::text[], %b::text[])
    n(order_id, status, final, reason, customer_id, amount_minor, currency, skus, placed_at, ended_at, took_ms,
      waits_for, waits_what, waits_since, because, attention, trace_id, facts, parked)"""
ADD_ORDERS = f"INSERT INTO order_view ({COLUMNS}) {VALUES}"
SET_ORDERS = f"UPDATE order_view o SET ({COLUMNS}) = (SELECT n.*) FROM ({VALUES}) n WHERE o.order_id = n.order_id"  # noqa: S608 - of this file
ADD_FAILURE = "INSERT INTO failure VALUES (%b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b::text::jsonb)"
SET_FAILURE = """
UPDATE failure SET state = %b, error_class = %b, error = %b, behind = %b, at = %b, ended_by = %b, reason = %b,
                   body = %b::text::jsonb WHERE (service, event_id) = (%b, %b)"""
ADD_PARTS = "INSERT INTO trace_part SELECT * FROM unnest(%b::text[], %b::bytea[])"
ADD_TRACES = "INSERT INTO trace (trace_id) SELECT unnest(%b::text[]) ON CONFLICT DO NOTHING"
# Twice as much is let go as came since the last time: what is kept stays bounded without a clock of its own.
LET_GO = (
    """DELETE FROM event WHERE number IN (SELECT number FROM event
        WHERE number <= (SELECT max(number) FROM event) - %(events)b ORDER BY number LIMIT %(some)b)""",
    """DELETE FROM event WHERE number IN (
         SELECT number FROM (SELECT number, heard_at FROM event ORDER BY number LIMIT %(some)b) oldest
          WHERE heard_at < clock_timestamp() - %(age)b::interval)""",
    """DELETE FROM order_view WHERE order_id IN (SELECT order_id FROM order_view
        WHERE changed_at < clock_timestamp() - %(age)b::interval AND attention IS NULL
        ORDER BY changed_at LIMIT %(some)b)""",
    "DELETE FROM failure WHERE state NOT IN ('OPEN', 'DEAD') AND at < clock_timestamp() - %(age)b::interval",
)
LET_TRACES_GO = """
WITH gone AS (DELETE FROM trace WHERE number <= (SELECT max(number) FROM trace) - %b RETURNING trace_id)
DELETE FROM trace_part p USING gone WHERE p.trace_id = gone.trace_id"""


class _Tally:
    """How many rows of a kind this process has added since it last let some go; the first batch lets go too."""

    def __init__(self) -> None:
        self._since = LET_GO_EVERY

    def due(self, added: int, kept: int) -> bool:
        """Count rows in, and tell whether it is time to let some go; ``kept`` is overstepped by a twentieth."""
        self._since += added
        if not added or self._since < min(LET_GO_EVERY, kept // 20):
            return False
        self._since = 0
        return True


_EVENTS, _TRACES = _Tally(), _Tally()


def load(tx: Tx, messages: Sequence[Message]) -> Shown:
    """Bring what is known of these records, their orders, their inputs; parts of traces are only added."""
    records = [message for message in messages if isinstance(message, AnyRecord)]
    parts = [part for message in messages if isinstance(message, KeepSpans) for part in message.parts]
    ids, keys = [one.id for one in records], sorted({one.key for one in records if is_order(one.key)})
    inputs = sorted({place for one in records if (place := _place(one))})
    seen = {row[0]: KEPT for row in tx.execute(KNOWN, [ids])} if ids else {}
    orders = {row[0]: _order(row) for row in tx.execute(ORDERS, [keys])} if keys else {}
    failed = tx.execute(FAILURES, _columns(inputs)) if inputs else ()
    failures = {(row[0], row[1]): Failure(*row) for row in failed}
    told = alerts.load(tx, messages)
    return Shown(Rows(ids, seen), Rows(keys, orders), Rows(inputs, failures), Rows(parts, {}), told)


def save(tx: Tx, work: Shown) -> None:
    """Write back what changed, and let go what is past its time."""
    if added := work.events.added:
        tx.execute(ADD_EVENTS, _columns([_event_row(one) for one in added]))
    if new := work.orders.added:
        tx.execute(ADD_ORDERS, _columns([_order_row(one) for one in new]))
    if changed := work.orders.changed:
        tx.execute(SET_ORDERS, _columns([_order_row(one) for one in changed]))
    for failure in work.failures.added:
        tx.execute(ADD_FAILURE, _failure_row(failure))
    for one in work.failures.changed:
        row = _failure_row(one)
        tx.execute(SET_FAILURE, [*row[3:7], *row[8:], *row[:2]])
    alerts.save(tx, work.alerts)
    if parts := work.parts.added:
        _save_parts(tx, parts, work.rules.traces)
    if _EVENTS.due(len(added), work.rules.events):
        for statement in LET_GO:
            tx.execute(statement, {"age": work.rules.age, "events": work.rules.events, "some": AT_ONCE})


def _save_parts(tx: Tx, parts: Sequence[TracePart], keep: int) -> None:
    traces = sorted({trace_id for trace_id, _ in parts})
    tx.execute(ADD_TRACES, [traces])
    tx.execute(ADD_PARTS, _columns(parts))
    if _TRACES.due(len(traces), keep):
        tx.execute(LET_TRACES_GO, [keep])


def _place(record: AnyRecord) -> tuple[str, str] | None:
    """Return the input a record tells of, by service and event id."""
    fact = fact_of(record)
    return input_of(fact) if fact else None


def order_of(row: Mapping[str, Any]) -> Order:
    """Return the order of a row."""
    return Order(row["order_id"], _facts(row["facts"]), _facts(row["parked"]), row["trace_id"])


def _order(row: tuple[Any, ...]) -> Order:
    return order_of(dict(zip(("order_id", "facts", "parked", "trace_id"), row, strict=True)))


def _facts(told: dict[str, dict[str, Any]]) -> dict[str, Fact]:
    return {
        name: Fact(one["type"], datetime.fromisoformat(one["at"]), one["id"], one["sequence"], one["body"])
        for name, one in told.items()
    }


def _told(facts: Mapping[str, Fact]) -> str:
    return json.dumps(
        {
            name: {"type": f.type, "at": f.at.isoformat(), "id": f.id, "sequence": f.sequence, "body": f.body}
            for name, f in facts.items()
        }
    )


def _event_row(one: Stored) -> tuple[object, ...]:
    body = None if one.body is None else json.dumps(one.body)
    return (
        one.event_id, one.type, one.source, one.key, one.sequence, one.at, one.causation, one.trace_id, one.topic,
        one.partition, one.offset, one.schema_id, body, one.fault, json.dumps(one.headers), one.raw,
    )  # fmt: skip


def _order_row(one: Order) -> tuple[object, ...]:
    placed, waits, took = one.facts.get("order.placed"), one.waits, one.took
    lines = placed.body.get("lines") if placed else ()
    lines = lines if isinstance(lines, list) else []
    skus = sorted({str(line["sku"]) for line in lines if isinstance(line, Mapping) and "sku" in line})
    return (
        one.order_id, one.status, one.final, one.reason,
        placed and placed.text("customer_id"), placed and placed.number("amount_minor"),
        placed and placed.text("currency"), json.dumps(skus), placed and placed.at, one.ended_at,
        None if took is None else took // MILLISECOND, waits and waits.who, waits and waits.what, waits and waits.since,
        waits and waits.because, one.attention, one.trace_id, _told(one.facts), _told(one.parked),
    )  # fmt: skip


def _failure_row(one: Failure) -> tuple[object, ...]:
    return (
        one.service, one.event_id, one.order_id, one.state, one.error_class, one.error, one.behind, one.since, one.at,
        one.ended_by, one.reason, json.dumps(one.body),
    )  # fmt: skip


def _columns(rows: Sequence[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]
