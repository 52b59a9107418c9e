"""Link that logs in to the stack's console: asked for at its ops port, good for minutes and for one login."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quadrille_cli.client import Client, NoAnswerError, ProblemError
from quadrille_cli.services import CONSOLE

if TYPE_CHECKING:
    from quadrille_cli.stack import Stack

PATH = "/ops/logins"


def offered(ops: Client, reason: str) -> dict[str, Any]:
    """Return a new link, for whom and until when it is good; raises what the client raises."""
    document: dict[str, Any] = ops.demand("POST", PATH, {"reason": reason}).body
    return document


def first_link(stack: Stack, reason: str) -> str:
    """Return the first link to show of a stack that was started: one that logs in, or while none is given the page."""
    try:
        with Client(stack.url(f"{CONSOLE}-ops")) as ops:
            return str(offered(ops, reason)["url"])
    except (NoAnswerError, ProblemError):
        return stack.url(CONSOLE)
