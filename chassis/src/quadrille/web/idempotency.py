"""Idempotency: what is kept of a request that may be repeated; a repeat gets the very answer of the first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, TypeAlias

import sqlalchemy as sa
from fastapi import Depends, Header, Request
from pydantic import BaseModel

from quadrille.processing.idempotency import IdempotencyKey
from quadrille.values import Idempotency
from quadrille.web.authentication import CALL
from quadrille.web.problems import refuse

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
DERIVED = "derived "  # no header may hold a blank: a key that was sent is never taken for a derived one
KEY_PROBLEMS = "idempotency-key-missing", "idempotency-key-in-use", "idempotency-key-reused"
"""The problem types of a route that takes a key."""
KNOWN = "SELECT 1 FROM idempotency_key WHERE (caller, route, key) = (:caller, :route, :key)"


@dataclass(frozen=True, slots=True)
class RequestKey:
    """The Idempotency-Key of a request, None without one, and where it counts: for one caller, on one route."""

    caller: str
    route: str
    key: str | None
    lives: timedelta

    def of(
        self, body: BaseModel, render: Callable[[Any], str | None], reference: tuple[str, ...] = ()
    ) -> IdempotencyKey:
        """Return the key of the command a body asks for; ``render`` makes the answer to keep from its reply.

        ``reference`` names the thing in the caller's own terms, and stands in for a key that was not sent; refuses a
        request that has neither.
        """
        key = self.key or (derived(self.caller, *reference) if reference else None)
        if key is None:
            refuse("idempotency-key-missing")
        return IdempotencyKey(self.caller, self.route, key, fingerprint(body), render, self.lives)


@dataclass(frozen=True, slots=True)
class KeptReply:
    """The answer to a command that was done, now or before: its text, and the key of what was done."""

    subject: str
    text: str
    replayed: bool

    @property
    def headers(self) -> dict[str, str]:
        """The header that tells a repeat from the first."""
        return {REPLAYED: "true"} if self.replayed else {}


def fingerprint(body: BaseModel) -> str:
    """Return what tells one request from another: the hash of the body as it was understood, not as it was spelt."""
    return hashlib.sha256(body.model_dump_json().encode()).hexdigest()


def derived(*parts: str) -> str:
    """Return the key that caller and reference make when none was sent: the same each time."""
    return DERIVED + hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def is_known(db: sa.Connection, key: IdempotencyKey) -> bool:
    """Tell whether a command of this key was answered before: then it gets that answer again, whatever else."""
    return db.execute(sa.text(KNOWN), dict(zip(("caller", "route", "key"), key.name, strict=True))).first() is not None


async def _key_of(
    request: Request,
    key: Annotated[
        Idempotency | None,
        Header(
            alias=HEADER,
            description="Yours; the same when you repeat the request.",
            openapi_examples={"yours": {"summary": "one that is yours", "value": "my-first-try"}},
        ),
    ] = None,
) -> RequestKey:
    route = f"{request.method} {request.scope['route'].path}"
    lives: timedelta = request.app.state.api.settings.idempotency_ttl
    return RequestKey(request.scope[CALL].caller, route, key, lives)


TheKey: TypeAlias = Annotated[RequestKey, Depends(_key_of)]
"""An endpoint's parameter: the ``Idempotency-Key`` of its request."""
