"""What an operator may ask of order's api beside its commands: who is stuck, who is meant, to take no orders."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from order import api, store
from order.handlers import on
from quadrille import Event
from quadrille.app import (
    OpsRequest,
    OpsResponse,
    OpsRoutes,
    ProcessContext,
    database,
    held,
    intake,
    parse_duration,
    refuse,
)

SHOWN = 1000
JUDGED = 10_000  # orders that steps' times are read off: the newest
TIMEOUTS = "order_deadline", "stuck_warn"
SOURCES = {kind: cls.source for kind, cls in on.consumes(Event).items()}
SUFFIX_LEAST, NAME_MOST = 4, 255


def routes(context: ProcessContext) -> OpsRoutes:
    """Return the routes of all."""
    return {**intake(context), **queue(context), **steps(context), **names(context), **orders(context)}


def names(context: ProcessContext) -> OpsRoutes:
    """Return GET /ops/names: which orders an operator means by the end of an id, a reference or a trace."""

    def find(asked: OpsRequest) -> OpsResponse:
        text = asked.query.get("name", "")
        if not SUFFIX_LEAST <= len(text) <= NAME_MOST or set(text) & {"%", "_", "\\", "\0"}:
            message = f"Wanted: {SUFFIX_LEAST} to {NAME_MOST} characters of an id's end, a reference or a trace's id"
            refuse("validation-failed", errors=[{"pointer": "query:name", "code": "name", "message": message}])
        with database(context) as tx:
            found = store.named(tx, text)
        shown = [{"order_id": one, "status": status, "reference": reference} for one, status, reference in found]
        return OpsResponse(200, {"orders": shown})

    return {("GET", "/ops/names?name"): find}


def orders(context: ProcessContext) -> OpsRoutes:
    """Return GET /ops/orders/{order_id}: an order as its caller sees it, with its version and whose it is."""

    def show(asked: OpsRequest) -> OpsResponse:
        with database(context) as tx:
            order = store.find_order(tx, str(asked.identity("order_id"))) or refuse("not-found")
        return OpsResponse(200, api.told_operators(order, context.settings))

    return {("GET", "/ops/orders/{order_id}"): show}


def queue(context: ProcessContext) -> OpsRoutes:
    """Return GET /ops/stuck: failed undos and the stuck; with ``older_than`` whatever has waited as long."""

    def stuck(asked: OpsRequest) -> OpsResponse:
        with database(context) as tx:
            found = list(store.waiting(tx))
            parked = held(tx, [one.order_id for one in found])
        if (text := asked.query.get("older_than")) is not None:
            before = datetime.now(UTC) - _duration(text)
            found = [one for one in found if one.since <= before]
        else:
            found = [one for one in found if one.level or one.status == "COMPENSATION_FAILED"]
        shown = [one.shown(parked.get(one.order_id)) for one in sorted(found, key=lambda one: one.urgency)[:SHOWN]]
        return OpsResponse(200, {"count": len(found), "stuck": shown})

    return {("GET", "/ops/stuck?older_than"): stuck}


def steps(context: ProcessContext) -> OpsRoutes:
    """Return GET /ops/steps: what each step took in the newest orders that have ended, and the time-outs there are."""

    def times(_: OpsRequest) -> OpsResponse:
        with database(context) as tx:
            found = store.step_times(tx, JUDGED)
        shown = context.settings.shown()
        rows = [{"step": one.step, "owes": SOURCES.get(one.step), **one._asdict()} for one in found]
        return OpsResponse(200, {"steps": rows, "settings": {name: shown[name] for name in TIMEOUTS}})

    return {("GET", "/ops/steps"): times}


def _duration(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as wrong:
        error = {"pointer": "query:older_than", "code": "duration", "message": f"Wanted: {wrong}"}
        refuse("validation-failed", errors=[error])
