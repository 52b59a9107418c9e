"""The webhooks of order's API: a caller's endpoints, which are told of the ends of his orders, signed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Literal, NoReturn, TypeVar, cast
from urllib.parse import SplitResult, urlsplit
from uuid import UUID

from fastapi import Request, Response
from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from order import store
from order.domain import END_TYPES, OVERLAP, live_secrets, webhook_body
from order.events import AddWebhook, EnableWebhook, RemoveWebhook, RotateWebhook, WebhookAnswered
from order.settings import OrderSettings
from order.store import Endpoint
from quadrille.gateway import NoResponseError, NotAllowedError, judged, new_secret, send_webhook
from quadrille.web import (
    Answer,
    Api,
    Document,
    Envelope,
    RequestContext,
    Routes,
    TheApi,
    call_of,
    json_of,
    plain,
    refuse,
    uuid7,
)

MOST = 20
AT_ONCE = 4  # calls outside by requests: each keeps a thread of the reads' for as long as an endpoint takes
Kind = Literal["order.confirmed", "order.cancelled", "order.compensation_failed"]
Url = Annotated[str, StringConstraints(max_length=2000, pattern=r"^https?://[!-~]+$")]
T = TypeVar("T")
WEBHOOK_ID = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="  # noqa: S105 - an example
EXAMPLE = {
    "webhook_id": WEBHOOK_ID, "url": "https://shop.example/quadrille", "types": list(END_TYPES), "state": "ENABLED",
    "created_at": "2026-11-21T09:14:03.120Z", "delivered_at": "2026-11-21T09:14:05.391Z", "attempts": 2,
    "next_try_at": "2026-11-21T09:15:01.120Z", "disabled_at": None, "disabled_because": None,
    "last_failure": {"kind": "TransientError", "address": "shop.example", "phrase": "it answered 500",
                     "at": "2026-11-21T09:14:56.120Z"},
    "secrets": [{"since_at": "2026-11-21T09:14:03.120Z", "until_at": None}],
}  # fmt: skip
BUSY = threading.BoundedSemaphore(AT_ONCE)


def _distinct(types: list[Kind]) -> list[Kind]:
    if len(set(types)) < len(types):
        kind, text = "not_unique", "Each type should be named once"
        raise PydanticCustomError(kind, text)
    return types


class NewWebhook(Document):
    """An endpoint of yours, and what it is told: all ends, or those named."""

    url: Url = Field(
        description="https, without login and fragment; its name must lead to public addresses.",
        examples=["https://shop.example/quadrille"],
    )
    types: Annotated[list[Kind], AfterValidator(_distinct)] = Field(
        default_factory=lambda: list(cast("tuple[Kind, ...]", END_TYPES)),
        min_length=1,
        max_length=3,
        json_schema_extra={"uniqueItems": True},
    )


class SecretDocument(Document):
    """A secret that signs, without the secret."""

    since_at: str
    until_at: str | None = Field(description="Until when it signs beside the newer one.")


class FailureDocument(Document):
    """What went wrong at the last try."""

    kind: str
    address: str
    phrase: str
    at: str


class WebhookDocument(Document):
    """An endpoint as it stands; attempts, next_try_at and last_failure tell of what it could not be told yet."""

    webhook_id: UUID
    url: str
    types: list[str]
    state: Literal["ENABLED", "DISABLED"]
    created_at: str
    delivered_at: str | None
    attempts: int
    next_try_at: str | None
    last_failure: FailureDocument | None
    disabled_at: str | None
    disabled_because: str | None
    secrets: list[SecretDocument]


class WebhookSecret(Document):
    """A secret to verify with, shown this once."""

    webhook_id: UUID
    secret: str


class WebhookList(Document):
    """All your endpoints, oldest first."""

    webhooks: list[WebhookDocument]
    has_more: bool


class PingDocument(Document):
    """What a ping came to."""

    delivered: bool
    status: int | None = Field(description="What the endpoint answered; null for no answer.")
    failure: str | None
    enabled: bool = Field(description="Whether an endpoint that was given up goes on by it, where it stopped.")
    took_ms: int


def shown(one: Endpoint) -> dict[str, object]:
    """Return an endpoint as its caller sees it."""
    replaced = one.keys[0].since + OVERLAP
    live = live_secrets(one.keys, datetime.now(UTC))
    return {
        "webhook_id": str(one.webhook_id), "url": one.url, "types": list(one.types),
        "state": "DISABLED" if one.disabled_at else "ENABLED", "created_at": plain(one.created_at),
        "delivered_at": plain(one.delivered_at), "attempts": one.attempts, "next_try_at": plain(one.due),
        "last_failure": one.failure and {name: one.failure[name] for name in FailureDocument.model_fields},
        "disabled_at": plain(one.disabled_at), "disabled_because": one.disabled_because,
        "secrets": [{"since_at": plain(key.since), "until_at": plain(replaced) if n else None}
                    for n, key in enumerate(one.keys) if key.secret in live],
    }  # fmt: skip


async def add_endpoint(request: Request, api: TheApi, wanted: NewWebhook) -> Response:
    """Have an endpoint told of the ends of your orders from now on; its secret is shown this once.

    Each delivery is signed as the Standard Webhooks specification has it (webhook-id, webhook-timestamp,
    webhook-signature) and comes at least once: webhook-id is the same each time. An order's ends come in their order.
    What is not answered with 2xx is tried again for a day; then, or at 410, the endpoint is disabled until a ping of
    yours is taken.
    """
    call = call_of(request)
    if len(await api.read(store.endpoints, call.caller)) >= MOST:
        refuse("webhook-limit", limit=MOST)
    await _outside(lambda: _check(wanted.url, loopback=_loopback(api)))
    secret = new_secret()
    identity = str(uuid7())
    await _execute(api, call, AddWebhook(identity, call.caller, wanted.url, tuple(wanted.types), secret))
    (one,) = await api.read(store.endpoints, call.caller, identity)
    return _told({**shown(one), "secret": secret}, 201, {"Location": f"/v1/webhooks/{identity}"})


async def list_endpoints(request: Request, api: TheApi) -> Response:
    """List your endpoints, each with its last failure and its next try."""
    found = await api.read(store.endpoints, call_of(request).caller)
    return _told({"webhooks": [shown(one) for one in found], "has_more": False})


async def read_endpoint(request: Request, api: TheApi, webhook_id: UUID) -> Response:
    """Read an endpoint: its state, its last failure, its next try."""
    return _told(shown(await _mine(call_of(request), api, webhook_id)))


async def remove_endpoint(request: Request, api: TheApi, webhook_id: UUID) -> Response:
    """Have an endpoint told nothing any more."""
    call = call_of(request)
    await _execute(api, call, RemoveWebhook(str(webhook_id), call.caller))
    return Response(None, 204)


async def rotate_secret(request: Request, api: TheApi, webhook_id: UUID) -> Response:
    """Have deliveries signed with a new secret, shown this once; for a day the one before signs too."""
    call, secret = call_of(request), new_secret()
    await _execute(api, call, RotateWebhook(str(webhook_id), call.caller, secret))
    return _told({"webhook_id": str(webhook_id), "secret": secret})


async def ping_endpoint(request: Request, api: TheApi, webhook_id: UUID) -> Response:
    """Send an endpoint a signed webhook.ping now; one that was given up and takes it goes on where it stopped."""
    call = call_of(request)
    one = await _mine(call, api, webhook_id)
    began = time.monotonic()
    with call.resting():
        status, failure = await _outside(lambda: _ping(one, loopback=_loopback(api)))
    took = round((time.monotonic() - began) * 1000)
    if enabled := failure is None and one.disabled_at is not None:
        await _execute(api, call, EnableWebhook(str(webhook_id), call.caller))
    told = {"delivered": failure is None, "status": status, "failure": failure, "enabled": enabled, "took_ms": took}
    return _told(told)


def register(routes: Routes) -> None:
    """Add the routes of webhooks."""
    one, created = "/v1/webhooks/{webhook_id}", EXAMPLE | {"secret": SECRET}
    hook = Answer(200, "The endpoint.", WebhookDocument, EXAMPLE)
    ping = {"delivered": True, "status": 204, "failure": None, "enabled": False, "took_ms": 31}
    added = Answer(201, "It is told from now on.", CreatedWebhook, created, {"Location": "Where it is."})
    hooks = Answer(200, "All of them.", WebhookList, {"webhooks": [EXAMPLE], "has_more": False})
    rotated = Answer(200, "The new secret.", WebhookSecret, {"webhook_id": WEBHOOK_ID, "secret": SECRET})
    pinged = Answer(200, "What came of it.", PingDocument, ping)
    for method, path, answer, problems, endpoint in (
        ("POST", "/v1/webhooks", added, ("webhook-limit", "webhook-url-refused", "outcome-unknown"), add_endpoint),
        ("GET", "/v1/webhooks", hooks, (), list_endpoints),
        ("GET", one, hook, ("not-found",), read_endpoint),
        ("DELETE", one, Answer(204, "It is told nothing any more."), ("not-found", "outcome-unknown"), remove_endpoint),
        ("POST", f"{one}/rotate", rotated, ("not-found", "outcome-unknown"), rotate_secret),
        ("POST", f"{one}/test", pinged, ("not-found", "outcome-unknown"), ping_endpoint),
    ):
        scope = "webhooks:read" if method == "GET" else "webhooks:write"
        routes.on(method, path, scope=scope, problems=problems, answers=[answer])(endpoint)


class CreatedWebhook(WebhookDocument):
    """A new endpoint with its secret, which is shown this once."""

    secret: str


def _told(document: Mapping[str, object], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json_of(document), status, {"Cache-Control": "no-store", **(headers or {})}, "application/json")


async def _mine(call: RequestContext, api: Api, webhook_id: UUID) -> Endpoint:
    found = await api.read(store.endpoints, call.caller, str(webhook_id))
    return found[0] if found else refuse("not-found")


async def _execute(
    api: Api, call: RequestContext, command: AddWebhook | RotateWebhook | EnableWebhook | RemoveWebhook
) -> None:
    envelope = Envelope(uuid7(), command.webhook_id, command, datetime.now(UTC), command.type, trace=call.trace)
    if (await api.execute_as(envelope, WebhookAnswered)).outcome == "UNKNOWN":
        refuse("not-found")


def _loopback(api: Api) -> bool:
    return cast("OrderSettings", api.settings).webhook_loopback


async def _outside(ask: Callable[[], T]) -> T:
    """Ask something outside in a thread, a few at once; refuses when as many do already."""
    with _a_place():
        return await asyncio.to_thread(ask)


@contextmanager
def _a_place() -> Iterator[None]:
    if not BUSY.acquire(blocking=False):
        refuse("overloaded", cause="POOL_EXHAUSTED", retry_after=1)
    try:
        yield
    finally:
        BUSY.release()


def _check(url: str, *, loopback: bool) -> None:
    """Refuse an address that no delivery would be made to, as far as it can be known now."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        _unfit("This is no address.")
    if not parts.hostname or parts.username is not None or parts.password is not None or parts.fragment:
        _unfit("The address must name a host, and have no login and no fragment.")
    if parts.scheme != "https" and not (loopback and _on_loopback(parts)):
        _unfit("The address must be https.")
    try:
        judged(parts.hostname, port, loopback=loopback)
    except (NotAllowedError, NoResponseError) as why:
        _unfit(f"No delivery could be made to the address: {why}.")


def _on_loopback(parts: SplitResult) -> bool:
    return (parts.hostname or "") in {"localhost", "127.0.0.1", "::1"}


def _unfit(message: str) -> NoReturn:
    refuse("webhook-url-refused", message)


def _ping(one: Endpoint, *, loopback: bool) -> tuple[int | None, str | None]:
    """Send a ping and return what the endpoint answered, and what went wrong."""
    now = datetime.now(UTC)
    body = webhook_body("webhook.ping", now, webhook_id=str(one.webhook_id))
    try:
        status = send_webhook(one.url, live_secrets(one.keys, now), f"evt_{uuid7()}", body, loopback=loopback)
    except (NotAllowedError, NoResponseError) as why:
        return None, str(why)
    taken = HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES
    return status, None if taken else f"it answered {status}"
