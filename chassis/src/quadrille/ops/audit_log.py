"""Audit log for operators: what was done by hand at this service, newest first, with who, why, before and after."""

from __future__ import annotations

from collections.abc import Mapping

from quadrille.context import ProcessContext
from quadrille.ops.admission import database
from quadrille.ops.routes import OpsRequest, OpsResponse, OpsRoutes
from quadrille.values import rfc3339
from quadrille.web.problems import refuse

LISTED, LIST_MOST = 50, 200
READ = """
SELECT number, at, actor, action, subject, reason, before, after FROM audit
 WHERE (%(before)b::bigint IS NULL OR number < %(before)b) AND (%(subject)b::text IS NULL OR subject = %(subject)b)
   AND (%(actor)b::text IS NULL OR actor = %(actor)b)
 ORDER BY number DESC LIMIT %(limit)b"""


def audit_routes(context: ProcessContext) -> OpsRoutes:
    """Return GET /ops/audit: rows before a ``before``, of one ``subject``, by one ``actor``, so many."""

    def tell(asked: OpsRequest) -> OpsResponse:
        given = _number(asked.query, "limit")
        limit = LISTED if given is None else given
        if not 1 <= limit <= LIST_MOST:
            _invalid("limit", f"Input should be 1 to {LIST_MOST}")
        wanted: dict[str, object] = {"before": _number(asked.query, "before"), "limit": limit}
        wanted |= {name: asked.query.get(name) for name in ("subject", "actor")}
        with database(context) as tx:
            rows = tx.execute(READ, wanted).fetchall()
        shown = [
            {"number": row[0], "at": rfc3339(row[1]), "actor": row[2], "action": row[3], "subject": row[4],
             "reason": row[5], "before": row[6], "after": row[7], "service": context.service.name}
            for row in rows
        ]  # fmt: skip
        return OpsResponse(200, {"service": context.service.name, "actions": shown})

    return {("GET", "/ops/audit?limit&before&subject&actor"): tell}


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < len(str(1 << 63))):
        _invalid(name, "Input should be a whole number")
    return int(text)


def _invalid(name: str, message: str) -> None:
    refuse("validation-failed", errors=[{"pointer": f"query:{name}", "code": "range", "message": message}])
