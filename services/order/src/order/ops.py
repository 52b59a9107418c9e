"""What an operator may ask of order's api beside its commands: who is stuck, which id ends so, to take no orders."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from order import store
from quadrille.app import (
    OpsRequest,
    OpsResponse,
    OpsRoutes,
    ProcessContext,
    database,
    intake,
    parse_duration,
    refuse,
)

SHOWN = 1000
SUFFIX = re.compile(r"[0-9a-f-]{4,36}")


def routes(context: ProcessContext) -> OpsRoutes:
    """Return the routes of all three."""
    return {**intake(context), **queue(context), **finder(context)}


def queue(context: ProcessContext) -> OpsRoutes:
    """Return GET /ops/stuck: failed undos and the stuck; with ``older_than`` whatever has waited as long."""

    def stuck(asked: OpsRequest) -> OpsResponse:
        with database(context) as tx:
            found = list(store.waiting(tx))
        if (text := asked.query.get("older_than")) is not None:
            before = datetime.now(UTC) - _duration(text)
            found = [one for one in found if one.since <= before]
        else:
            found = [one for one in found if one.level or one.status == "COMPENSATION_FAILED"]
        shown = [one.shown() for one in sorted(found, key=lambda one: one.urgency)[:SHOWN]]
        return OpsResponse(200, {"count": len(found), "stuck": shown})

    return {("GET", "/ops/stuck?older_than"): stuck}


def finder(context: ProcessContext) -> OpsRoutes:
    """Return GET /ops/orders: the orders whose ids end in ``ending``, of which people write no more than that."""

    def orders(asked: OpsRequest) -> OpsResponse:
        if not SUFFIX.fullmatch(suffix := asked.query.get("ending", "").lower()):
            wanted = "Wanted: the last 4 to 36 characters of an id"
            refuse("validation-failed", errors=[{"pointer": "query:ending", "code": "suffix", "message": wanted}])
        with database(context) as tx:
            found = store.ending(tx, suffix, SHOWN)
        return OpsResponse(200, {"orders": found})

    return {("GET", "/ops/orders?ending"): orders}


def _duration(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as wrong:
        error = {"pointer": "query:older_than", "code": "duration", "message": f"Wanted: {wrong}"}
        refuse("validation-failed", errors=[error])
