"""What an operator may ask of the console's ops port: a link that logs in once.

Whoever may write there may use the buttons: its caller is the session's, and so is the API key he came with.
"""

from __future__ import annotations

from typing import cast

from console import sessions
from console.settings import ConsoleSettings
from quadrille import rfc3339
from quadrille.app import Action, OpsRequest, OpsResponse, OpsRoutes, ProcessContext, ScopedRoute, database, record
from quadrille.web import Document


def routes(context: ProcessContext) -> OpsRoutes:
    """Return POST /ops/logins: a link for one login, valid for minutes; kept in the audit."""

    def offer(asked: OpsRequest) -> OpsResponse:
        settings = cast("ConsoleSettings", context.settings)
        asked.read(Document)
        with database(context) as tx, tx.transaction():
            token, until = sessions.offer(tx, asked.actor, settings.login_life, asked.key)
            told = {"expires_at": rfc3339(until)}
            number = record(tx, Action(asked.actor, "login", "console", asked.reason, None, told))
        link = f"{settings.public_base}/login?t={token}"
        return OpsResponse(201, {"url": link, "actor": asked.actor, **told, "audit_number": number})

    return {("POST", "/ops/logins"): ScopedRoute("ops:read", offer)}
