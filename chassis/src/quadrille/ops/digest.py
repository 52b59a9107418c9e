"""Digest for reconciliation: a service's own state of many keys, and up to where what it said has been handled.

A reconciler holds the digests of several services against each other. So that it takes nothing that is under way for
missing, each answers two questions. ``GET /ops/watermark`` tells below which transaction every event of this service is
published, and how far it has handled the topics it consumes. ``GET /ops/digest`` tells of each key what the service
keeps, whether all of that was written below such a transaction (``settled``), and what is still open for it. Whoever
asked all for their watermark, then waited until all had handled what the topics held by then, knows: of a key that is
settled everywhere and open nowhere, everything that was said has been handled. No clock is compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn
from uuid import UUID

from quadrille.context import ProcessContext
from quadrille.kafka.topics import Place
from quadrille.messages import Timer
from quadrille.observability.readiness import reason
from quadrille.ops.admission import database
from quadrille.ops.evidence import Ends
from quadrille.ops.routes import OpsRequest, OpsResponse, OpsRoutes
from quadrille.service import Digest, Tx
from quadrille.values import rfc3339
from quadrille.web.problems import refuse

KEYS_MOST, LISTED_MOST = 200, 5_000
NUMBER_MOST = 1 << 63
WATERMARK = "SELECT now(), (SELECT proven_xid::text FROM relay_progress WHERE stopped IS NULL)"
POSITIONS = """
SELECT t.name, n.partition, o.next_offset
  FROM topic t CROSS JOIN LATERAL generate_series(0, t.partitions - 1) n(partition)
  LEFT JOIN position o ON (o.topic, o.partition) = (t.name, n.partition)
 WHERE t.name = ANY(%b) ORDER BY 1, 2"""
OPEN = """
SELECT key, type FROM task WHERE key = ANY(%(keys)b) AND type <> ALL(%(timers)b)
UNION ALL SELECT line, 'parked ' || coalesce(type, 'unknown') FROM parked
           WHERE line = ANY(%(keys)b) AND state IN ('OPEN', 'DEAD')"""


def digest_routes(context: ProcessContext, digest: Digest | None, ends: Ends) -> OpsRoutes:
    """Return the routes of a worker; a service that keeps nothing of a saga tells its watermark alone."""

    def watermark(_: OpsRequest) -> OpsResponse:
        service = context.service
        with database(context) as tx:
            at, below = tx.execute(WATERMARK).fetchone() or (None, None)
            read: dict[Place, int | None] = {
                (topic, number): offset for topic, number, offset in tx.execute(POSITIONS, [list(service.on.topics())])
            }
        try:
            found, missing = ends(list(read)) if read else {}, None
        except Exception as away:  # noqa: BLE001 - whatever it is, it is told
            found, missing = {}, reason(away)
        shown = [
            {"topic": topic, "partition": number, "next_offset": offset or 0, "end": found.get((topic, number))}
            for (topic, number), offset in read.items()
        ]
        told = {"service": service.name, "at": at and rfc3339(at), "below": below, "read": shown}
        return OpsResponse(200, told | ({"missing": missing} if missing else {}))

    def tell(asked: OpsRequest) -> OpsResponse:
        keys, below = _keys(asked.query.get("keys", "")), asked.query.get("below", "")
        if not 0 < len(keys) <= KEYS_MOST:
            _invalid("keys", f"Input should be 1 to {KEYS_MOST} ids, with commas between")
        if not _is_number(below):
            _invalid("below", "Input should be a transaction's number, as a watermark tells it")
        with database(context) as tx:
            found = _told(tx, context, digest, {"keys": keys, "below": below}) if digest else {}
        return OpsResponse(200, {"service": context.service.name, "digest": found})

    def page(asked: OpsRequest) -> OpsResponse:
        limit = asked.query.get("limit", "")
        if not (_is_number(limit) and 0 < int(limit) <= LISTED_MOST):
            _invalid("limit", f"Input should be 1 to {LISTED_MOST}")
        if len(after := _keys(asked.query.get("after", ""))) > 1:
            _invalid("after", "Input should be an id")
        with database(context) as tx:
            given = {"after": "".join(after), "limit": int(limit)}
            keys = [str(row[0]) for row in tx.execute(digest.page.encode(), given)] if digest else []
        return OpsResponse(200, {"service": context.service.name, "keys": keys})

    return {
        ("GET", "/ops/watermark"): watermark,
        ("GET", "/ops/digest?keys&below"): tell,
        ("GET", "/ops/digest/keys?after&limit"): page,
    }


def _told(tx: Tx, context: ProcessContext, digest: Digest, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what is known of each key, in one moment."""
    with tx.transaction():
        tx.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        rows = tx.execute(digest.rows.encode(), given).fetchall()
        timers = sorted(context.service.on.consumes(Timer))
        open_ = tx.execute(OPEN, {"keys": given["keys"], "timers": timers}).fetchall()
    found: dict[str, dict[str, Any]] = {}
    for key, settled, row in rows:
        found[key] = {"settled": settled, "row": row, "open": []}
    for key, what in open_:
        found.setdefault(key, {"settled": True, "row": None, "open": []})["open"].append(what)
    return found


def _keys(text: str) -> list[str]:
    """Return the ids of a query in their own spelling; none for what holds anything else."""
    try:
        return [str(UUID(one)) for one in text.split(",") if one]
    except ValueError:
        return []


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < len(str(NUMBER_MOST))


def _invalid(name: str, message: str) -> NoReturn:
    refuse("validation-failed", errors=[{"pointer": f"query:{name}", "code": "range", "message": message}])
