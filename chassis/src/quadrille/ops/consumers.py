"""Operators' routes to a service's consumers: they rest, they go on."""

from __future__ import annotations

import time

from confluent_kafka import KafkaException

from quadrille.consumer import brake
from quadrille.consumer.assignment import accept_topics
from quadrille.context import ProcessContext
from quadrille.db.audit import Action, record
from quadrille.kafka.topics import Topics
from quadrille.ops.admission import database
from quadrille.ops.routes import OpsRequest, OpsResponse, OpsRoutes
from quadrille.values import Text, rfc3339
from quadrille.web.documents import Document
from quadrille.web.problems import refuse


class AcceptBody(Document):
    """Which topic is to be taken as it is now; all that the service consumes without one."""

    topic: Text | None = None


LOOK_SECONDS, PATIENCE_SECONDS = 0.02, 5.0


def consumers(context: ProcessContext) -> OpsRoutes:
    """Return GET /ops/consumers, and POST …/pause, …/resume, …/accept: all kept in the audit.

    A change of the first two is announced. ``accept`` goes on with a topic that was made anew, from its beginning, and
    with the first record that is left where retention has overtaken a position.

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

    def accept(asked: OpsRequest) -> OpsResponse:
        wanted, heard = asked.read(AcceptBody).topic, sorted(context.service.on.subscribed())
        if wanted is not None and wanted not in heard:
            refuse("operation-refused", f"This service does not consume {wanted}; it does: {heard}.", rule="UNHEARD")
        names = heard if wanted is None else [wanted]
        with database(context) as tx, tx.transaction():
            try:
                changes = accept_topics(tx, Topics(context.settings.kafka_bootstrap), names)
            except (KafkaException, TimeoutError):
                refuse("dependency-unavailable", dependency="kafka", retry_after=1)
            if not changes:
                told = f"{', '.join(names)}: what it was, and no position lies outside it."
                refuse("operation-refused", told, rule="NO_GAP")
            record(tx, Action(asked.actor, "consumers.accept", ", ".join(changes), asked.reason, None, changes))
        return OpsResponse(200, {"service": context.service.name, "topics": changes})

    return {
        ("POST", "/ops/consumers/accept"): accept,
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
