"""Authentication of a request by its API key, and authorization by the scope of its route; what is refused says how.

A request that shows no key is nobody's: it gets the pages that need no scope. A key is in no log,
span or answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from quadrille.keys import ANONYMOUS, LOCAL, Keyring, Principal
from quadrille.web.problems import refuse

CALL = "quadrille.call"
"""Where a request's scope holds what we know of it."""
OPEN = ""
"""The scope of a page for everybody."""
REQUIRED = "__required_scope__"
NO_KEY = "Send your API key: Authorization: Bearer qk_…"
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="quadrille"'}
_INVALID = {"WWW-Authenticate": 'Bearer realm="quadrille", error="invalid_token"'}
Endpoint = Callable[[Request], Awaitable[Response]]


def authenticate(scope: Scope, keys: Keyring | None) -> tuple[Principal, Mapping[str, str]]:
    """Return who asks, and the headers that tell what is left of his quota; refuses a key that is none, or spent."""
    if keys is None:
        return LOCAL, {}
    if (token := bearer(scope)) is None:
        return ANONYMOUS, {}
    if (principal := keys.find(token)) is None:
        refuse("unauthorized", headers=_INVALID)
    allowance = keys.spend(principal)
    if allowance.wait:
        refuse("rate-limited", headers=allowance.headers, retry_after=allowance.wait)
    return principal, allowance.headers


def bearer(scope: Scope) -> str | None:
    """Return what a request shows as its key, None if it shows nothing."""
    value = next((value for name, value in scope["headers"] if name == b"authorization"), None)
    if value is None:
        return None
    scheme, _, token = value.decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def authorize(principal: Principal, scope: str) -> None:
    """Let him pass who was given the scope; refuses everybody else."""
    if principal is ANONYMOUS:
        refuse("unauthorized", NO_KEY, headers=_CHALLENGE)
    if not principal.may(scope):
        header = f'Bearer realm="quadrille", error="insufficient_scope", scope="{scope}"'
        detail = f"This needs the scope {scope}, which your API key does not have."
        refuse("insufficient-scope", detail, required_scope=scope, headers={"WWW-Authenticate": header})


def needs(scope: str) -> Callable[[Endpoint], Endpoint]:
    """Make a page ask for a scope of whoever comes; with ``OPEN`` it is for everybody, or asks in a way of its own."""

    def guard(page: Endpoint) -> Endpoint:
        async def guarded(request: Request) -> Response:
            if scope:
                authorize(request.scope[CALL].principal, scope)
            return await page(request)

        setattr(guarded, REQUIRED, scope)
        return guarded

    return guard


def declared(page: Any) -> bool:  # noqa: ANN401 - whatever a framework takes as an endpoint
    """Tell whether a page says what scope it needs."""
    return getattr(page, REQUIRED, None) is not None
