"""Operators' routes to a service's consumers: they rest, they go on."""

from __future__ import annotations

import time

from quadrille.consumer import brake
from quadrille.context import ProcessContext
from quadrille.db.audit import Action, record
from quadrille.ops.admission import database
from quadrille.ops.routes import OpsRequest, OpsResponse, OpsRoutes
from quadrille.values import rfc3339
from quadrille.web.documents import Document

LOOK_SECONDS, PATIENCE_SECONDS = 0.02, 5.0


def consumers(context: ProcessContext) -> OpsRoutes:
    """Return GET /ops/consumers, and POST …/pause and …/resume: both are kept in the audit, a change is announced.

    ``here`` is by which state the worker that answers acts; it answers a change when it acts by it, or after a while.
    """

    def tell(_: OpsRequest) -> OpsResponse:
        with database(context) as tx:
            found = brake.paused(tx)
        told = {"cause": found.cause, "since_at": rfc3339(found.since), "actor": found.actor} if found else {}
        here = context.acts_by.get("consumers", lambda _: None)(False)  # noqa: FBT003 - no look
        return OpsResponse(200, {"service": context.service.name, "paused": found is not None, **told, "here": here})

    def pause(asked: OpsRequest) -> OpsResponse:
        asked.read(Document)
        service = context.service
        with database(context) as tx, tx.transaction():
            changed = brake.pause(tx, service, f"by {asked.actor}: {asked.reason}", asked.actor)
            record(tx, Action(asked.actor, "consumers.pause", service.name, asked.reason, None, {"changed": changed}))
        told = {"service": service.name, "paused": True, "changed": changed}
        return OpsResponse(200, {**told, "here": _heeded(context, "PAUSED")})

    def resume(asked: OpsRequest) -> OpsResponse:
        asked.read(Document)
        service = context.service
        with database(context) as tx, tx.transaction():
            before = brake.resume(tx, service)
            was = {"cause": before.cause} if before else None
            after = {"changed": before is not None}
            record(tx, Action(asked.actor, "consumers.resume", service.name, asked.reason, was, after))
        told = {"service": service.name, "paused": False, "changed": before is not None}
        return OpsResponse(200, {**told, "here": _heeded(context, "RUNNING")})

    return {
        ("GET", "/ops/consumers"): tell,
        ("POST", "/ops/consumers/pause"): pause,
        ("POST", "/ops/consumers/resume"): resume,
    }


def _heeded(context: ProcessContext, wanted: str) -> str | None:
    """Wait a while until this worker acts by a state, and return the one it acts by; None where nothing consumes."""
    tells = context.acts_by.get("consumers")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while tells and (here := tells(False)) != wanted:  # noqa: FBT003 - it looks by itself
        if context.stop.wait(LOOK_SECONDS) or time.monotonic() > deadline:
            return here
    return wanted if tells else None
