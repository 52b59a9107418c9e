"""Admission control for operators: a service takes no more work for a while, and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from quadrille.context import ProcessContext
from quadrille.db import sqlstate
from quadrille.db.audit import Action, record
from quadrille.ids import uuid7
from quadrille.ops.routes import OpsRequest, OpsResponse, OpsRoutes, Route
from quadrille.processing.outbox import announce
from quadrille.service import Tx
from quadrille.system_messages import IntakePaused, IntakeResumed
from quadrille.values import rfc3339
from quadrille.web.admission import CAUSES, AdmissionMode
from quadrille.web.documents import Document
from quadrille.web.problems import refuse

STATE = "SELECT state, detail FROM intake FOR UPDATE"
SEEN = "SELECT state, since, detail FROM intake"
SET_STATE = "UPDATE intake SET state = %b, since = clock_timestamp(), measure = NULL, detail = ''"
HELD = "It opens by itself when there is room. If nobody measures that any more: pause the intake, then resume it."


def intake(context: ProcessContext) -> OpsRoutes:
    """Return GET /ops/intake, and POST …/pause and …/resume: both are kept in the audit, a change is announced.

    ``here`` in an answer is by which state the process that answers acts, where it takes work itself; null before it
    knows. A change is acted by when it is answered, here; other processes look once a second.
    What the disk guard holds for is told as ``detail``; while it does, a resume is refused.
    """
    return {
        ("GET", "/ops/intake"): _look(context),
        ("POST", "/ops/intake/pause"): _turn(context, "PAUSED"),
        ("POST", "/ops/intake/resume"): _turn(context, "OPEN"),
    }


def _look(context: ProcessContext) -> Route:
    def look(_: OpsRequest) -> OpsResponse:
        with database(context) as tx:
            row = tx.execute(SEEN).fetchone()
        state, since, detail = row or ("OPEN", None, "")
        told = {"intake": state, "cause": CAUSES.get(state), "since": since and rfc3339(since)}
        told |= {"detail": detail} if detail else {}
        return OpsResponse(200, {**told, **_here(context)})

    return look


def _turn(context: ProcessContext, wanted: AdmissionMode) -> Route:
    def turn(asked: OpsRequest) -> OpsResponse:
        asked.read(Document)
        with database(context) as tx, tx.transaction():
            row = tx.execute(STATE).fetchone()
            before: AdmissionMode = row[0] if row else "OPEN"
            if (before, wanted) == ("GUARDED", "OPEN"):
                refuse("operation-refused", f"The disk guard holds: {row[1] if row else ''}. {HELD}", rule="DISK_GUARD")
            if before != wanted:
                tx.execute(SET_STATE, [wanted])
                name = context.service.name
                news = IntakePaused(name, "PAUSED") if wanted == "PAUSED" else IntakeResumed(name, CAUSES[before])
                announce(tx, context.service, uuid7(), news)
            verb = "pause" if wanted == "PAUSED" else "resume"
            action = Action(asked.actor, f"intake.{verb}", "intake", asked.reason, {"state": before}, {"state": wanted})
            record(tx, action)
        here = _here(context, look=True)
        state = "GUARDED" if here.get("here") == "GUARDED" else wanted  # resumed, and shut again by the disk guard
        return OpsResponse(200, {"intake": state, "before": before, **here})

    return turn


def _here(context: ProcessContext, *, look: bool = False) -> dict[str, str | None]:
    tells = context.acts_by.get("intake")
    return {"here": tells(look) or None} if tells else {}


@contextmanager
def database(context: ProcessContext) -> Iterator[Tx]:
    """Open a connection for one request; refuses when the database refuses, telling what may be."""
    tx = None
    try:
        with context.connect() as tx:
            yield tx
    except psycopg.Error as trouble:
        if sqlstate.blames_input(trouble):
            raise
        slug = "outcome-unknown" if tx and tx.broken else "dependency-unavailable"
        refuse(slug, dependency="database", retry_after=1)
