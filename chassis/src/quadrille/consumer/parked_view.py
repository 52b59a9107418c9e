"""View of parked inputs: in groups that fail alike, one by one with its bytes, and found by a part of an id."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from quadrille.avro.decoder import DecodeError
from quadrille.messages import Event, Infrastructure, to_json
from quadrille.service import Decoder, Service, Tx
from quadrille.values import rfc3339

RAW_MOST = 65_536  # bytes shown; the copy on the dead letters has more
BEHIND_MOST = 50
SUFFIX_LEAST = 4
STATES = "OPEN", "DEAD", "REDRIVEN", "DISCARDED"
NONE = "none"  # the group of what an older release has parked
FOUND = f"""
SELECT p.*, coalesce(a.key, p.line) AS order_id, coalesce(p.fingerprint, '{NONE}') AS grouped, a.type AS intent,
       (SELECT count(*) FROM parked b WHERE b.line = p.line AND b.place > p.place AND b.state IN ('OPEN', 'DEAD'))
         AS behind
  FROM parked p LEFT JOIN task a ON p.topic IS NULL AND a.id::text = p.line"""  # noqa: S608 - a constant of this file
CHOSEN = """
  FROM found WHERE state = ANY(%(states)b) AND (error_class <> 'BEHIND' OR %(all)b)
   AND (%(type)b::text IS NULL OR type = %(type)b) AND (%(error_class)b::text IS NULL OR error_class = %(error_class)b)
   AND (%(group)b::text IS NULL OR grouped = %(group)b) AND (%(order_id)b::text IS NULL OR order_id = %(order_id)b)"""
GROUPS = f"""
WITH found AS ({FOUND})
SELECT grouped, type, error_class, max(exception), max(error), max(frames), count(*),
       count(*) FILTER (WHERE state = 'DEAD'), min(parked_at), max(parked_at), count(DISTINCT order_id),
       sum(behind)::bigint, min(retry_at)
{CHOSEN} GROUP BY grouped, type, error_class ORDER BY min(parked_at)"""
RECORDS = f"""
WITH found AS ({FOUND})
SELECT id, order_id, grouped, state, type, error_class, error, exception, attempts, parked_at, retry_at, behind,
       topic, partition, "offset", ended_by, reason
{CHOSEN} ORDER BY place LIMIT %(limit)b"""
MATCHES = f"""
WITH found AS ({FOUND})
SELECT id, order_id, id::text = %(name)b, order_id = %(name)b, right(id::text, length(%(name)b)) = %(name)b,
       right(order_id, length(%(name)b)) = %(name)b, state IN ('OPEN', 'DEAD')
  FROM found
 WHERE right(id::text, length(%(name)b)) = %(name)b OR right(order_id, length(%(name)b)) = %(name)b
 ORDER BY state IN ('OPEN', 'DEAD') DESC, error_class = 'BEHIND', place LIMIT 200"""  # noqa: S608 - as above
WHOLE = "SELECT raw, headers, frames, line, place FROM parked WHERE id = %b"
WAITING = """
SELECT id, type, state, parked_at FROM parked
 WHERE line = %b AND place > %b AND state IN ('OPEN', 'DEAD') ORDER BY place LIMIT %b"""
Document = dict[str, object]


class AmbiguousError(Exception):
    """A part of an id is the end of several; ``candidates`` are they."""

    def __init__(self, candidates: Sequence[str]) -> None:
        super().__init__(f"{len(candidates)} ids end so")
        self.candidates = candidates


def chosen(  # noqa: PLR0913 - one of each filter
    states: Sequence[str] = ("OPEN", "DEAD"), *, type: str | None = None, error_class: str | None = None,  # noqa: A002 - as it is called
    group: str | None = None, order_id: str | None = None, limit: int = 50,
) -> dict[str, object]:  # fmt: skip
    """Return a selection of parked inputs; what only waits behind another is in none but that of a key."""
    named = {"type": type, "error_class": error_class, "group": group, "order_id": order_id}
    return {"states": list(states), "all": order_id is not None, "limit": limit, **named}


def groups(tx: Tx, selection: Mapping[str, object]) -> list[Document]:
    """Return what fails alike, the oldest group first."""
    return [_group(row) for row in tx.execute(GROUPS.encode(), selection)]


def records(tx: Tx, selection: Mapping[str, object]) -> list[Document]:
    """Return parked inputs, the oldest first."""
    return [_record(row) for row in tx.execute(RECORDS.encode(), selection)]


def resolve(tx: Tx, name: str) -> tuple[list[UUID], str | None]:
    """Return the parked inputs that a name means, and the order if it names one: an id, or the unique end of one.

    Raises AmbiguousError; no input at all is an empty list.
    """
    rows = tx.execute(MATCHES.encode(), {"name": name}).fetchall()
    exact = [row for row in rows if row[2] or row[3]]
    rows = exact or (rows if len(name) >= SUFFIX_LEAST else [])
    ids = {str(row[0]): row for row in rows if row[4]}
    keys = {row[1]: row for row in rows if row[5]}
    names = sorted({*ids, *keys} if not exact else {name})
    if len(names) > 1:
        raise AmbiguousError(names)
    if keys:
        mine = [row for row in rows if row[1] in keys]
        waiting = [row for row in mine if row[6]]
        return [row[0] for row in waiting or mine], next(iter(keys))
    return [row[0] for row in ids.values()], None


def whole(tx: Tx, service: Service[Any], decoder: Decoder, identity: UUID) -> Document:
    """Return one parked input with its bytes, body, headers, frames and what waits behind it."""
    [record] = [_record(row) for row in tx.execute(RECORDS_BY_ID.encode(), {"id": identity})]
    [(raw, headers, frames, lane, place)] = tx.execute(WHOLE.encode(), [identity]).fetchall()
    pairs = [(name, bytes.fromhex(value)) for name, value in json.loads(bytes(headers or b"[]"))]
    behind = [
        {"parked_id": str(one), "type": kind, "state": state, "parked_at": rfc3339(at)}
        for one, kind, state, at in tx.execute(WAITING.encode(), [lane, place, BEHIND_MOST])
    ]
    data = bytes(raw)
    return {
        **record, "bytes": len(data), "raw": data[:RAW_MOST].hex(), "raw_cut": len(data) > RAW_MOST,
        "body": _body(service, decoder, record, data), "headers": [_header(*pair) for pair in pairs],
        "frames": frames.split("\n") if frames else [], "waiting_behind": behind,
    }  # fmt: skip


RECORDS_BY_ID = RECORDS.partition(CHOSEN)[0] + "FROM found WHERE id = %(id)b"


def _group(row: tuple[Any, ...]) -> Document:
    group, kind, error_class, exception, error, frames, count, dead, first, last, keys, behind, retry_at = row
    return {
        "group": group, "type": kind, "error_class": error_class, "exception": exception, "error": error,
        "at": frames.rpartition("\n")[2] if frames else None, "count": count, "dead": dead,
        "first_at": rfc3339(first), "last_at": rfc3339(last), "keys": keys, "behind": behind,
        "retry_at": retry_at and rfc3339(retry_at),
    }  # fmt: skip


def _record(row: tuple[Any, ...]) -> Document:
    names = ("parked_id", "order_id", "group", "state", "type", "error_class", "error", "exception", "attempts")
    told: Document = dict(zip(names, row, strict=False))
    parked_at, retry_at, behind, topic, partition, offset, ended_by, reason = row[len(names) :]
    place = f"{topic}[{partition}]@{offset}" if topic else None
    return {
        **told, "parked_id": str(row[0]), "parked_at": rfc3339(parked_at), "retry_at": retry_at and rfc3339(retry_at),
        "behind": behind, "place": place, "ended_by": ended_by, "reason": reason,
    }  # fmt: skip


def _header(name: str, value: bytes) -> Document:
    """Return a header as text where it is one, and always as hex."""
    try:
        text: str | None = value.decode()
    except UnicodeDecodeError:
        text = None
    return {"name": name, "text": text, "hex": value.hex()}


def _body(service: Service[Any], decoder: Decoder, record: Document, raw: bytes) -> object:
    """Return the decoded body, None where it cannot be read: a result's or timer's is JSON, an event's its schema's."""
    try:
        if record["place"] is None:
            return json.loads(raw)
        if look := getattr(decoder, "look", None):
            return json.loads(json.dumps(look(raw)[1], default=str))
        cls = service.on.consumes(Event)[str(record["type"])]
        return json.loads(to_json(decoder.decode(raw, cls)))
    except (DecodeError, Infrastructure, KeyError, ValueError, RecursionError):
        return None
