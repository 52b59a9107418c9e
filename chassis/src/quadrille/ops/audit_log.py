"""Audit log for operators: what was done by hand at this service, newest first, with who, why, before and after."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import NoReturn

from quadrille.context import ProcessContext
from quadrille.db import audit
from quadrille.ops.admission import database
from quadrille.ops.routes import OpsRequest, OpsResponse, OpsRoutes
from quadrille.values import rfc3339
from quadrille.web.problems import refuse

LISTED, LIST_MOST = 50, 200
HEAD, HEADS_MOST = re.compile(r"[0-9a-f]{64}"), 100
COUNT = "SELECT count(*) FROM audit"
READ = """
SELECT number, at, actor, action, subject, reason, before, after FROM audit
 WHERE (%(before)b::bigint IS NULL OR number < %(before)b) AND (%(subject)b::text IS NULL OR subject = %(subject)b)
   AND (%(action)b::text IS NULL OR action = %(action)b) AND (%(actor)b::text IS NULL OR actor = %(actor)b)
   AND (%(since)b::timestamptz IS NULL OR at >= %(since)b)
 ORDER BY number DESC LIMIT %(limit)b"""


def audit_routes(context: ProcessContext) -> OpsRoutes:
    """Return GET /ops/audit: so many rows before a ``before``, of one subject, action or actor, from ``since`` on.

    GET /ops/audit/verify tells whether the chain is whole, and which of the ``heads`` it once had are no row of it.
    """

    def tell(asked: OpsRequest) -> OpsResponse:
        given = _number(asked.query, "limit")
        limit = LISTED if given is None else given
        if not 1 <= limit <= LIST_MOST:
            _invalid("limit", f"Input should be 1 to {LIST_MOST}")
        texts = {name: asked.query.get(name) for name in ("subject", "action", "actor")}
        wanted = texts | {"before": _number(asked.query, "before"), "since": _time(asked.query), "limit": limit}
        with database(context) as tx:
            rows = tx.execute(READ, wanted).fetchall()
        shown = [
            {"number": row[0], "at": rfc3339(row[1]), "actor": row[2], "action": row[3], "subject": row[4],
             "reason": row[5], "before": row[6], "after": row[7], "service": context.service.name}
            for row in rows
        ]  # fmt: skip
        return OpsResponse(200, {"service": context.service.name, "actions": shown})

    def verify(asked: OpsRequest) -> OpsResponse:
        heads = [head for head in asked.query.get("heads", "").split(",") if head]
        if len(heads) > HEADS_MOST or not all(map(HEAD.fullmatch, heads)):
            _invalid("heads", f"Input should be at most {HEADS_MOST} hashes in hexadecimal, with commas between")
        with database(context) as tx:
            flaw, (count,) = audit.flaw(tx), tx.execute(COUNT).fetchone() or (0,)
            strange = audit.strange(tx, heads)
        told = {"service": context.service.name, "actions": count, "flaw": flaw}
        return OpsResponse(200, {**told, "strange": strange} if heads else told)

    return {
        ("GET", "/ops/audit?limit&before&subject&action&actor&since"): tell,
        ("GET", "/ops/audit/verify?heads"): verify,
    }


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < len(str(1 << 63))):
        _invalid(name, "Input should be a whole number")
    return int(text)


def _time(query: Mapping[str, str]) -> datetime | None:
    if (text := query.get("since")) is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        _invalid("since", "Input should be a time with its offset, such as 2026-11-21T09:14:03Z")
    return found


def _invalid(name: str, message: str) -> NoReturn:
    refuse("validation-failed", errors=[{"pointer": f"query:{name}", "code": "range", "message": message}])
