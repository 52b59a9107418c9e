"""Findings of whoever watches from outside: said by the service they are about, through its outbox.

A reconciler has no outbox of its own. ``POST /ops/findings`` says what it found, or that it is so no more, on
``ops.events``. It changes nothing else, so it leaves no row in the audit.
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field

from quadrille.context import ProcessContext
from quadrille.ops.admission import database
from quadrille.ops.routes import FINDINGS, OpsRequest, OpsResponse, OpsRoutes, ScopedRoute
from quadrille.processing.outbox import announce
from quadrille.system_messages import FindingClosed, FindingRaised, SystemEvent
from quadrille.values import Text
from quadrille.web.documents import Document

LINES_MOST = 50


class FindingDocument(Document):
    """A finding that is to be said; ``closed`` says that it is so no more."""

    finding_id: UUID
    invariant: Text
    order_id: UUID
    detail: Text = ""
    expected: Text = ""
    found: Text = ""
    evidence: Annotated[tuple[Text, ...], Field(max_length=LINES_MOST)] = ()
    closed: bool = False


def finding_routes(context: ProcessContext) -> OpsRoutes:
    """Return the route of a worker."""

    def say(asked: OpsRequest) -> OpsResponse:
        told, name = asked.read(FindingDocument), context.service.name
        finding_id, order_id = str(told.finding_id), str(told.order_id)
        fact: SystemEvent = FindingRaised(
            name, told.invariant, told.detail, order_id, finding_id, told.expected, told.found, "\n".join(told.evidence)
        )
        if told.closed:
            fact = FindingClosed(name, finding_id, told.invariant, order_id)
        with database(context) as tx, tx.transaction():
            announce(tx, context.service, told.finding_id, fact)
        return OpsResponse(202, {"finding_id": finding_id, "said": fact.type})

    return {("POST", "/ops/findings"): ScopedRoute(FINDINGS, say)}
