"""The console's read side: every question a page or the API asks of what was heard, each bounded and by an index."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from console.otlp import NoSpansError, spans_of

Row = Mapping[str, Any]
ORDER = """order_id, status, final, reason, customer_id, amount_minor, currency, skus, placed_at, ended_at, took_ms,
 waits_for, waits_what, waits_since, because, attention, trace_id, changed_at"""
EVENT = """number, event_id::text, type, source, key, sequence, at, causation::text, trace_id, topic, partition,
 "offset", schema_id, body, fault, headers, heard_at, octet_length(raw) AS size"""
PLACE = re.compile(r"([A-Za-z0-9._-]{1,249})\[(\d{1,9})\]@(\d{1,18})")
TAIL = re.compile(r"[0-9a-f-]{4,36}")
TRACE = re.compile(r"[0-9a-f]{32}")
FEW = 50
LOOKED = 10_000
HAS_HEADER = """number >= %(least)s AND EXISTS (
  SELECT FROM jsonb_array_elements(headers) h
   WHERE h ->> 0 = %(name)s AND (%(value)s::text IS NULL OR h ->> 1 = %(value)s))"""
SPANS_MAX = 2000
BYTES_MAX = 4_000_000
PARTS = """
SELECT trace_id, spans FROM (
  SELECT trace_id, spans, sum(octet_length(spans)) OVER (PARTITION BY trace_id ROWS UNBOUNDED PRECEDING) AS upto
    FROM trace_part WHERE trace_id = ANY(%(trace_ids)s)) p WHERE upto <= %(most)s"""
MINUTES = 15
# Money that was taken and is not settled comes first, then the larger amount, then whoever has waited longest.
PERSON = f"""
SELECT {ORDER}, facts, parked FROM order_view WHERE attention IS NOT NULL
 ORDER BY (facts ? 'payment.charged' AND NOT facts ? 'payment.refunded') DESC, amount_minor DESC NULLS LAST, waits_since
 LIMIT %(limit)s"""  # noqa: S608 - of this file
GROUPS = """
SELECT f.service, coalesce(f.body ->> 'type', e.type, '') AS type, f.error_class, f.error,
       coalesce(f.body ->> 'fingerprint', '') AS fingerprint, count(*) AS count,
       count(*) FILTER (WHERE f.state = 'DEAD') AS dead, count(DISTINCT f.order_id) AS orders, sum(f.behind) AS behind,
       min(f.since) AS first, max(f.at) AS last, min(f.order_id) AS order_id, min(f.event_id) AS event_id
  FROM (SELECT * FROM failure WHERE state IN ('OPEN', 'DEAD') ORDER BY since LIMIT 10000) f
  LEFT JOIN event e ON e.event_id::text = f.event_id
 GROUP BY 1, 2, 3, 4, 5 ORDER BY count DESC, last DESC LIMIT %(limit)s"""
MENDED = """
SELECT service, count(*) AS count, max(at) AS at FROM failure
 WHERE state IN ('REDRIVEN', 'DISCARDED') AND at > clock_timestamp() - interval '15 min'
 GROUP BY 1 ORDER BY at DESC"""
ENDS = """
SELECT status, coalesce(reason, '') AS reason, count(*) AS count,
       percentile_disc(0.5) WITHIN GROUP (ORDER BY took_ms) AS p50,
       percentile_disc(0.99) WITHIN GROUP (ORDER BY took_ms) AS p99
  FROM order_view WHERE ended_at > clock_timestamp() - %(age)s::interval GROUP BY GROUPING SETS ((1, 2), (1))"""
PER_MINUTE = """
SELECT (extract(epoch FROM clock_timestamp() - ended_at) / 60)::int AS ago, status, count(*) AS count
  FROM order_view WHERE ended_at > clock_timestamp() - %(age)s::interval GROUP BY 1, 2"""
TOLD = """
SELECT type, source, count(*) AS count FROM event
 WHERE at > clock_timestamp() - interval '5 min' AND fault IS NULL GROUP BY 1, 2"""
WAITING = """
SELECT waits_for, waits_what, count(*) AS count, min(waits_since) AS since, min(order_id) AS order_id
  FROM (SELECT * FROM order_view WHERE waits_for IS NOT NULL LIMIT 10000) w
 GROUP BY 1, 2 ORDER BY since LIMIT 100"""
LAST_OF = "SELECT type, at, body FROM event WHERE type = ANY(%(types)s) ORDER BY number DESC LIMIT 1"
SILENT = """
SELECT DISTINCT ON (body ->> 'silent') body ->> 'silent' AS service, type, at, body ->> 'since_at' AS since
  FROM (SELECT * FROM event WHERE type IN ('service.silent', 'service.heard') ORDER BY number DESC LIMIT 200) s
 ORDER BY body ->> 'silent', number DESC"""
RESTING = """
SELECT DISTINCT ON (body ->> 'service') body ->> 'service' AS service, type, at, body ->> 'detail' AS cause
  FROM (SELECT * FROM event WHERE type IN ('progress.stalled', 'progress.resumed') AND body ->> 'role' = 'consumer'
         ORDER BY number DESC LIMIT 200) p
 ORDER BY body ->> 'service', number DESC"""
FINDINGS = """
SELECT finding_id::text, order_id, kind, expected, found, evidence, mender, event, raised_at, seen_at, closed_at,
       said = CASE WHEN closed_at IS NULL THEN 1 ELSE 2 END AS said
  FROM finding"""
FINDINGS_PAGE = f"""{FINDINGS}
 WHERE (closed_at IS NULL OR %(closed)s) AND (%(after)s::uuid IS NULL
   OR (raised_at, finding_id) < (SELECT raised_at, finding_id FROM finding WHERE finding_id = %(after)s::uuid))
 ORDER BY raised_at DESC, finding_id DESC LIMIT %(limit)s"""  # noqa: S608 - of this file
FINDINGS_OF = f"{FINDINGS} WHERE order_id = %(order_id)s ORDER BY closed_at IS NOT NULL, raised_at DESC LIMIT 50"
FINDING = f"{FINDINGS} WHERE finding_id = %(finding_id)s::uuid"
RECONCILIATION = "SELECT at, outcome, detail, judged, moving, judged_at FROM reconciliation"
EVENT_OF = """
SELECT event_id::text, topic, partition, "offset" FROM event
 WHERE key = %(order_id)s AND type = %(type)s AND fault IS NULL AND topic LIKE '%%.events'
 ORDER BY number LIMIT 1"""
TYPES = """
SELECT type, source, topic, count(*) AS count, max(at) AS last,
       array_agg(DISTINCT schema_id) FILTER (WHERE schema_id IS NOT NULL) AS schemas
  FROM (SELECT * FROM event ORDER BY number DESC LIMIT 50000) e WHERE fault IS NULL GROUP BY 1, 2, 3 ORDER BY 3, 1"""


@dataclass(frozen=True, slots=True)
class OrderFilters:
    """What narrows a list of orders down."""

    status: str | None = None
    reason: str | None = None
    customer_id: str | None = None
    waits_for: str | None = None
    sku: str | None = None
    attention: bool = False

    def where(self) -> tuple[list[str], dict[str, object]]:
        """Return the conditions and their values."""
        given = {
            name: value for name in ("status", "reason", "customer_id", "waits_for") if (value := getattr(self, name))
        }
        conditions = [f"{name} = %({name})s" for name in given]
        if self.sku:
            conditions.append("skus @> ARRAY[%(sku)s]::text[]")
            given["sku"] = self.sku
        if self.attention:
            conditions.append("attention IS NOT NULL")
        return conditions, given


@dataclass(frozen=True, slots=True)
class EventFilters:
    """What narrows a list of events down; ``until`` is their own time, ``header`` a name, or name=value."""

    topic: str | None = None
    type: str | None = None
    key: str | None = None
    source: str | None = None
    trace_id: str | None = None
    unreadable: bool = False
    until: datetime | None = None
    header: str | None = None

    def where(self) -> tuple[list[str], dict[str, object]]:
        """Return the conditions and their values."""
        names = ("topic", "type", "key", "source", "trace_id")
        given: dict[str, object] = {name: value for name in names if (value := getattr(self, name))}
        conditions = [f"{name} = %({name})s" for name in given]
        if self.unreadable:
            conditions.append("fault IS NOT NULL")
        if self.until:
            conditions.append("at <= %(until)s")
            given["until"] = self.until
        return conditions, given


def rows(db: sa.Connection, sql: str, **values: object) -> list[Row]:
    """Return what a statement finds, each row by its columns' names; no column holds a NUL, so none is asked for."""
    given = {name: value.replace("\0", "") if isinstance(value, str) else value for name, value in values.items()}
    return [dict(row) for row in db.exec_driver_sql(sql, given).mappings()]


def orders(db: sa.Connection, filters: OrderFilters, limit: int, before: str | None = None) -> list[Row]:
    """Return orders, newest first, those before an id."""
    sql, values = orders_sql(filters, before)
    return rows(db, sql, limit=limit, **values)


def orders_sql(filters: OrderFilters, before: str | None) -> tuple[str, dict[str, object]]:
    """Return the statement of a list of orders, and its values."""
    conditions, values = filters.where()
    if before:
        conditions.append("order_id < %(before)s")
        values["before"] = before
    return f"SELECT {ORDER} FROM order_view {_where(conditions)} ORDER BY order_id DESC LIMIT %(limit)s", values  # noqa: S608 - of this file


def order(db: sa.Connection, order_id: str) -> Row | None:
    """Return one order with its facts."""
    sql = f"SELECT {ORDER}, facts, parked FROM order_view WHERE order_id = %(order_id)s"  # noqa: S608 - as above
    return next(iter(rows(db, sql, order_id=order_id)), None)


def story(db: sa.Connection, order_id: str, limit: int = 500) -> list[Row]:
    """Return the events of an order, oldest first, at most so many."""
    sql = f"SELECT {EVENT} FROM event WHERE key = %(key)s ORDER BY number LIMIT %(limit)s"  # noqa: S608 - as above
    return sorted(rows(db, sql, key=order_id, limit=limit), key=lambda row: (row["at"], row["number"]))


def failures_of(db: sa.Connection, order_id: str) -> list[Row]:
    """Return the inputs of an order that could not be handled, now or before."""
    sql = "SELECT * FROM failure WHERE order_id = %(order_id)s ORDER BY since LIMIT 100"
    return rows(db, sql, order_id=order_id)


@dataclass(frozen=True, slots=True)
class EventPage:
    """A page of events; ``next`` is the number before which the next one begins, None after the last.

    ``looked`` tells that only so many records were looked at for a header: the page may be short, even empty.
    """

    events: list[Row]
    next: int | None
    looked: int | None = None


def events(db: sa.Connection, filters: EventFilters, limit: int, before: int | None = None) -> EventPage:
    """Return events as they came, newest first, those before a number.

    No index knows headers: for one, at most ``LOOKED`` of the records that all else leaves over are looked at.
    """
    conditions, values = filters.where()
    if before is not None:
        conditions.append("number < %(before)s")
        values["before"] = before
    least = None
    if filters.header:
        least = _least(db, conditions, values)
        name, equals, value = filters.header.partition("=")
        conditions.append(HAS_HEADER)
        values |= {"name": name, "value": value if equals else None, "least": least or 0}
    sql = f"SELECT {EVENT} FROM event {_where(conditions)} ORDER BY number DESC LIMIT %(limit)s"  # noqa: S608 - as above
    found = rows(db, sql, limit=limit + 1, **values)
    if len(found) > limit:
        return EventPage(found[:limit], found[limit - 1]["number"])
    return EventPage(found, least, LOOKED if least else None)


def _least(db: sa.Connection, conditions: Sequence[str], values: Mapping[str, object]) -> int | None:
    """Return the number of the last record to be looked at, None if that would be all."""
    sql = f"SELECT number FROM event {_where(conditions)} ORDER BY number DESC OFFSET %(looked)s LIMIT 1"  # noqa: S608 - as above
    return next((int(row["number"]) for row in rows(db, sql, looked=LOOKED - 1, **values)), None)


def _where(conditions: Sequence[str]) -> str:
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


def events_after(db: sa.Connection, number: int, limit: int) -> list[Row]:
    """Return the events that came after a number, oldest first."""
    sql = f"SELECT {EVENT} FROM event WHERE number > %(number)s ORDER BY number LIMIT %(limit)s"  # noqa: S608 - as above
    return rows(db, sql, number=number, limit=limit)


def event(db: sa.Connection, event_id: str) -> Row | None:
    """Return one event with its bytes."""
    sql = f"SELECT {EVENT}, raw FROM event WHERE event_id = %(event_id)s"  # noqa: S608 - as above
    return next(iter(rows(db, sql, event_id=event_id)), None)


def head(db: sa.Connection) -> int:
    """Return the number of the newest event, 0 before there is one."""
    [row] = rows(db, "SELECT coalesce(max(number), 0) AS number FROM event")
    return int(row["number"])


def head_of(db: sa.Connection, key: str) -> int:
    """Return the number of the newest event of a key."""
    [row] = rows(db, "SELECT coalesce(max(number), 0) AS number FROM event WHERE key = %(key)s", key=key)
    return int(row["number"])


def failure_groups(db: sa.Connection, limit: int = FEW) -> list[Row]:
    """Return what is parked now, grouped by service, type of event and error."""
    return rows(db, GROUPS, limit=limit)


def findings(db: sa.Connection, limit: int, after: str | None, *, closed: bool) -> list[Row]:
    """Return what the reconciler has found, newest first; with ``closed`` what is so no more, too."""
    return rows(db, FINDINGS_PAGE, limit=limit, after=after, closed=closed)


def findings_of(db: sa.Connection, order_id: str) -> list[Row]:
    """Return what was found about an order, what is so still first."""
    return rows(db, FINDINGS_OF, order_id=order_id)


def finding(db: sa.Connection, finding_id: str) -> Row | None:
    """Return one finding."""
    return next(iter(rows(db, FINDING, finding_id=finding_id)), None)


def reconciliation(db: sa.Connection) -> Row | None:
    """Return how the last round of the reconciler went; None before the first."""
    return next(iter(rows(db, RECONCILIATION)), None)


def place_of(db: sa.Connection, order_id: str, kind: str) -> Row | None:
    """Return where an order's event of a type lies; None if it is kept here no more."""
    return next(iter(rows(db, EVENT_OF, order_id=order_id, type=kind)), None)


def failures(db: sa.Connection, service: str, error: str, limit: int = FEW) -> list[Row]:
    """Return the inputs of a group, the longest waiting first."""
    sql = """
SELECT * FROM failure WHERE state IN ('OPEN', 'DEAD') AND service = %(service)s AND error = %(error)s
 ORDER BY since LIMIT %(limit)s"""
    return rows(db, sql, service=service, error=error, limit=limit)


def person(db: sa.Connection, limit: int) -> list[Row]:
    """Return the orders that need a person, money first."""
    return rows(db, PERSON, limit=limit)


def flow(db: sa.Connection, minutes: int = MINUTES) -> dict[str, Any]:
    """Return how orders ended in the last minutes, by reason, minute and how long they took; and who waits."""
    age = f"{minutes} min"
    ends = rows(db, ENDS, age=age)
    waiting = rows(db, WAITING)
    return {
        "minutes": minutes,
        "ended": [row for row in ends if row["reason"] is not None],
        "by_status": {row["status"]: row for row in ends if row["reason"] is None},
        "per_minute": rows(db, PER_MINUTE, age=age),
        "waiting": waiting,
    }


def told(db: sa.Connection) -> list[Row]:
    """Return how many events of a type were published in the last five minutes."""
    return rows(db, TOLD)


def last_of(db: sa.Connection, *types: str) -> Row | None:
    """Return the newest event of these types."""
    return next(iter(rows(db, LAST_OF, types=list(types))), None)


def silent(db: sa.Connection) -> list[Row]:
    """Return the services that others called silent, and have not heard again."""
    return [row for row in rows(db, SILENT) if row["type"] == "service.silent"]


def resting(db: sa.Connection) -> list[Row]:
    """Return the services whose consumers are paused, by a person or by their brake, with why."""
    return [row for row in rows(db, RESTING) if row["type"] == "progress.stalled"]


def catalogue(db: sa.Connection) -> list[Row]:
    """Return the types among the newest events, with the schemas they were written with."""
    return rows(db, TYPES)


def spans(db: sa.Connection, trace_id: str) -> list[Row]:
    """Return the spans of a trace, in the order of their beginning, each once; of a huge trace some."""
    return _spans(db, [trace_id]).get(trace_id, []) if TRACE.fullmatch(trace_id) else []


def _spans(db: sa.Connection, trace_ids: Sequence[str]) -> dict[str, list[Row]]:
    found: dict[str, dict[str, Row]] = {}
    for row in rows(db, PARTS, trace_ids=list(trace_ids), most=BYTES_MAX):
        with suppress(NoSpansError):
            for span in spans_of(row["spans"]):
                of_trace = found.setdefault(row["trace_id"], {})
                if len(of_trace) < SPANS_MAX:
                    of_trace.setdefault(span.span_id, asdict(span))
    return {
        trace_id: sorted(of_trace.values(), key=lambda one: int(one["began_ns"]))
        for trace_id, of_trace in found.items()
    }


def order_of_trace(db: sa.Connection, trace_id: str) -> str | None:
    """Return the order of a trace, None if none was heard of."""
    sql = "SELECT order_id FROM order_view WHERE trace_id = %(trace_id)s AND trace_id <> '' LIMIT 1"
    return next((row["order_id"] for row in rows(db, sql, trace_id=trace_id)), None)


def trace_kept(db: sa.Connection, trace_id: str) -> Row:
    """Return a trace's order and how it stands, if any was heard of, and since when traces are kept at all."""
    sql = """
SELECT o.order_id, o.status, o.final, o.placed_at, t.heard_at AS oldest_at, coalesce(t.last, 0) AS told
  FROM (SELECT min(heard_at) AS heard_at, max(number) AS last FROM (
          (SELECT heard_at, number FROM trace ORDER BY number LIMIT 1) UNION ALL
          (SELECT NULL, number FROM trace ORDER BY number DESC LIMIT 1)) ends) t
  LEFT JOIN LATERAL (SELECT * FROM order_view WHERE trace_id = %(trace_id)s AND trace_id <> '' LIMIT 1) o ON true"""
    [row] = rows(db, sql, trace_id=trace_id)
    return row


def traces(db: sa.Connection, limit: int = FEW, before: int | None = None) -> list[Row]:
    """Return the newest traces: their first span, how many spans, how long they took."""
    sql = """
SELECT t.number, t.trace_id, t.heard_at,
       (SELECT order_id FROM order_view o WHERE o.trace_id = t.trace_id LIMIT 1) AS order_id
  FROM trace t WHERE %(before)s::bigint IS NULL OR number < %(before)s ORDER BY number DESC LIMIT %(limit)s"""
    newest = rows(db, sql, limit=limit, before=before)
    kept = _spans(db, [row["trace_id"] for row in newest])
    return [{**row, **_summary(spans)} for row in newest if (spans := kept.get(row["trace_id"]))]


def _summary(spans: Sequence[Row]) -> Row:
    return {
        "spans": len(spans), "first": f"{spans[0]['service']}: {spans[0]['name']}", "began_ns": spans[0]["began_ns"],
        "ended_ns": max(one["ended_ns"] for one in spans), "errors": sum(one["error"] is not None for one in spans),
    }  # fmt: skip


def found(db: sa.Connection, asked: str) -> list[dict[str, str]]:
    """Return what a text may mean: an order, an event, a place on a topic, a trace, a customer's orders, a SKU's."""
    hits: list[dict[str, str]] = []
    if place := PLACE.fullmatch(asked):
        hits += _events(db, 'topic = %(a)s AND partition = %(b)s AND "offset" = %(c)s', *place.groups())
    lowered = asked.lower()
    if TRACE.fullmatch(lowered):
        hits += _orders(db, "trace_id = %(a)s", lowered)
        hits += [_hit("trace", row["trace_id"], f"/traces/{row['trace_id']}") for row in rows(
            db, "SELECT trace_id FROM trace WHERE trace_id = %(a)s", a=lowered)]  # fmt: skip
    if TAIL.fullmatch(lowered):
        tail = lowered[::-1] + "%"
        hits += _orders(db, "reverse(order_id) LIKE %(a)s", tail)
        hits += _events(db, "reverse(event_id::text) LIKE %(a)s", tail)
    hits += _orders(db, "customer_id = %(a)s", asked)
    hits += _orders(db, "skus @> ARRAY[%(a)s]::text[]", asked)
    return list({hit["link"]: hit for hit in hits}.values())[:FEW]


def _orders(db: sa.Connection, condition: str, value: str) -> list[dict[str, str]]:
    sql = f"SELECT order_id, status, customer_id FROM order_view WHERE {condition} ORDER BY order_id DESC LIMIT 20"  # noqa: S608 - as above
    return [
        _hit("order", f"{row['order_id']} {row['status']} {row['customer_id'] or ''}", f"/orders/{row['order_id']}")
        for row in rows(db, sql, a=value)
    ]


def _events(db: sa.Connection, condition: str, *values: object) -> list[dict[str, str]]:
    sql = f'SELECT event_id::text, type, topic, partition, "offset" FROM event WHERE {condition} LIMIT 20'  # noqa: S608 - as above
    given = dict(zip("abc", values, strict=False))
    return [
        _hit("event", f"{row['type'] or 'unreadable'} {row['topic']}[{row['partition']}]@{row['offset']}",
             f"/events/{row['event_id']}")
        for row in rows(db, sql, **given)
    ]  # fmt: skip


def _hit(kind: str, shown: str, link: str) -> dict[str, str]:
    return {"kind": kind, "shown": shown, "link": link}


def causes(events_of_order: Sequence[Row]) -> dict[str, Row]:
    """Return the events of an order by id."""
    return {row["event_id"]: row for row in events_of_order}


def is_uuid(value: str) -> bool:
    """Tell whether a text is an id."""
    try:
        UUID(value)
    except ValueError:
        return False
    return True


COUNTS = """
SELECT (SELECT count(*) FROM (SELECT FROM order_view WHERE attention IS NOT NULL LIMIT 1000) p)::int AS person,
       (SELECT count(*) FROM (SELECT FROM failure WHERE state IN ('OPEN', 'DEAD') LIMIT 1000) f)::int AS parked,
       (SELECT count(*) FROM (SELECT FROM finding WHERE closed_at IS NULL LIMIT 1000) d)::int AS findings"""
LAST_ENDED = """
SELECT order_id, status, ended_at, took_ms FROM order_view WHERE ended_at IS NOT NULL ORDER BY ended_at DESC LIMIT 1"""


def overview(db: sa.Connection, latest: int) -> dict[str, Any]:
    """Return all that the first screen says, as of one moment."""
    [counts] = rows(db, COUNTS)
    [clock] = rows(
        db, "SELECT clock_timestamp() AS now, (SELECT heard_at FROM event ORDER BY number DESC LIMIT 1) AS heard_at"
    )
    return {
        "now": clock["now"],
        "heard_at": clock["heard_at"],
        "counts": counts,
        "person": person(db, 5),
        "groups": failure_groups(db, 5),
        "mended": rows(db, MENDED),
        "findings": findings(db, 5, None, closed=False),
        "flow": flow(db),
        "told": told(db),
        "intake": last_of(db, "intake.paused", "intake.resumed"),
        "silent": silent(db),
        "resting": resting(db),
        "last": next(iter(rows(db, LAST_ENDED)), None),
        "orders": orders(db, OrderFilters(), latest),
    }
