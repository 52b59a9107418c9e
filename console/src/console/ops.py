"""What an operator may ask of the console's ops port: a link that logs in once, a process started again.

Whoever may write there may use the buttons: its caller is the session's, and so is the API key he came with.
"""

from __future__ import annotations

from typing import cast

from console import processes, sessions
from console.settings import ConsoleSettings
from quadrille import rfc3339
from quadrille.app import (
    Action,
    OpsRequest,
    OpsResponse,
    OpsRoutes,
    ProcessContext,
    ScopedRoute,
    database,
    record,
    refuse,
)
from quadrille.web import Document


def routes(context: ProcessContext) -> OpsRoutes:
    """Return POST /ops/logins, a link for one login, and …/restart of a process of the local stack; both audited."""

    def offer(asked: OpsRequest) -> OpsResponse:
        settings = cast("ConsoleSettings", context.settings)
        asked.read(Document)
        with database(context) as tx, tx.transaction():
            token, until = sessions.offer(tx, asked.actor, settings.login_life, asked.key)
            told = {"expires_at": rfc3339(until)}
            number = record(tx, Action(asked.actor, "login", "console", asked.reason, None, told))
        link = f"{settings.public_base}/login?t={token}"
        return OpsResponse(201, {"url": link, "actor": asked.actor, **told, "audit_number": number})

    def restart(asked: OpsRequest) -> OpsResponse:
        settings, name = cast("ConsoleSettings", context.settings), asked.path["name"]
        asked.read(Document)
        if name not in settings.ops:
            refuse("not-found", "This console watches no process of this name.")
        if settings.stack is None:
            detail = f"It runs in no local stack. In a container: {processes.elsewhere(name)['restart']}"
            refuse("operation-refused", detail, rule="ELSEWHERE")
        with database(context) as tx, tx.transaction():
            number = record(tx, Action(asked.actor, "restart", name, asked.reason, None, {"outcome": "ASKED"}))
        came = processes.restart(settings.stack, name)
        if came.status:
            refuse("operation-refused", came.said, rule="NOT_STARTED", audit_number=number)
        outcome = "DONE" if came.status == 0 else "BEGUN"
        return OpsResponse(200, {"process": name, "outcome": outcome, "detail": came.said, "audit_number": number})

    return {
        ("POST", "/ops/logins"): ScopedRoute("ops:read", offer),
        ("POST", "/ops/processes/{name}/restart"): restart,
    }
