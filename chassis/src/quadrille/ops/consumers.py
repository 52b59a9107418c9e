"""Operators' routes to a service's consumers: they rest, they go on."""

from __future__ import annotations

from quadrille.consumer import brake
from quadrille.context import ProcessContext
from quadrille.db.audit import Action, record
from quadrille.ops.admission import database
from quadrille.ops.routes import OpsRequest, OpsResponse, OpsRoutes
from quadrille.values import rfc3339
from quadrille.web.documents import Document


def consumers(context: ProcessContext) -> OpsRoutes:
    """Return GET /ops/consumers, and POST …/pause and …/resume: both are kept in the audit, a change is announced."""

    def tell(_: OpsRequest) -> OpsResponse:
        with database(context) as tx:
            found = brake.paused(tx)
        told = {"cause": found.cause, "since_at": rfc3339(found.since), "actor": found.actor} if found else {}
        return OpsResponse(200, {"service": context.service.name, "paused": found is not None, **told})

    def pause(asked: OpsRequest) -> OpsResponse:
        asked.read(Document)
        service = context.service
        with database(context) as tx, tx.transaction():
            changed = brake.pause(tx, service, f"by {asked.actor}: {asked.reason}", asked.actor)
            record(tx, Action(asked.actor, "consumers.pause", service.name, asked.reason, None, {"changed": changed}))
        return OpsResponse(200, {"service": service.name, "paused": True, "changed": changed})

    def resume(asked: OpsRequest) -> OpsResponse:
        asked.read(Document)
        service = context.service
        with database(context) as tx, tx.transaction():
            before = brake.resume(tx, service)
            was = {"cause": before.cause} if before else None
            after = {"changed": before is not None}
            record(tx, Action(asked.actor, "consumers.resume", service.name, asked.reason, was, after))
        return OpsResponse(200, {"service": service.name, "paused": False, "changed": before is not None})

    return {
        ("GET", "/ops/consumers"): tell,
        ("POST", "/ops/consumers/pause"): pause,
        ("POST", "/ops/consumers/resume"): resume,
    }
