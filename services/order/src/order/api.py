"""Order's API: place an order, read it, follow it, cancel it, list one's own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, NoReturn, cast
from uuid import UUID

from fastapi import Header, Query, Request, Response
from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError
from starlette.types import ASGIApp

from order import feed, problems, store, webhooks
from order.domain import FINAL, PHASES, Attention, Detail, Entry, Order, Phase, Reason, Status, placed
from order.events import CancelAnswered, CancelOrder, Line, PlaceAnswered, PlaceOrder
from order.money import SAFE, Currency, Price
from order.settings import OrderSettings
from quadrille import Identifier, Text
from quadrille.web import (
    EVENTS,
    KEY_PROBLEMS,
    AdmissionLimits,
    Answer,
    Api,
    DiskLimits,
    Document,
    Envelope,
    ProcessContext,
    RequestContext,
    Routes,
    Settings,
    TheApi,
    TheKey,
    call_of,
    etag,
    events,
    from_milliseconds,
    json_of,
    make_app,
    matches,
    plain,
    refuse,
    register,
    shown,
    stream,
    unchanged,
    uuid7,
    wait_of,
)

register(*problems.PROBLEMS)
routes = Routes("orders:read", "orders:write", "orders:cancel", "events:read", "webhooks:read", "webhooks:write")


def _bounded(lines: list[LineDocument]) -> list[LineDocument]:
    if sum(line.quantity * line.unit_price_minor for line in lines) > SAFE:
        kind, text = "amount_too_large", "The amount of all lines should be at most 9007199254740991 (2^53 - 1)"
        raise PydanticCustomError(kind, text)
    return lines


class LineDocument(Document):
    """A line of an order; a SKU may stand in several."""

    sku: Identifier = Field(examples=["SKU-TEA"])
    quantity: int = Field(ge=1, le=1_000_000, examples=[2])
    unit_price_minor: Price


class NewOrder(Document):
    """What a customer orders."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "customer_id": "cust_demo", "payment_token": "tok_ok", "currency": "EUR",
                "lines": [{"sku": "SKU-TEA", "quantity": 2, "unit_price_minor": 1250}],
            }
        }
    )  # fmt: skip

    customer_id: Identifier = Field(examples=["cust_demo"])
    payment_token: Identifier = Field(examples=["tok_ok"])
    currency: Currency = Field(examples=["EUR"])
    reference: Text | None = Field(
        None, description="Unique among a customer's orders that are not CANCELLED.", examples=["basket-4711"]
    )
    lines: Annotated[list[LineDocument], AfterValidator(_bounded)] = Field(min_length=1, max_length=100)


class OrderDocument(Document):
    """An order as it stands."""

    order_id: UUID
    status: Status
    phase: Phase
    reason: Reason | None
    final: bool = Field(description="Nothing changes any more, but for a cancellation before cancellable_until.")
    attention: Attention | None
    customer_id: str
    reference: str | None
    amount_minor: int
    currency: str
    lines: list[LineDocument]
    inventory: str
    payment: str
    detail: dict[str, object] = Field(description="shortages, code, refund, failed, resolved: what there is to say.")
    placed_at: str
    deadline_at: str
    cancellable_until: str | None
    trace_id: str
    history: list[Entry]
    links: dict[str, str]


class OrderList(Document):
    """A page of orders, newest first."""

    orders: list[OrderDocument]
    has_more: bool = Field(description="Whether a Link with rel=next leads on.")


def document(order: Order, settings: Settings) -> dict[str, object]:
    """Return an order as its clients see it."""
    return shown(
        order, OrderDocument, phase=PHASES[order.status], final=order.status in FINAL,
        inventory=order.states.inventory, payment=order.states.payment, detail=_detail(order.detail),
        links=_links(order, settings),
    )  # fmt: skip


def told_operators(order: Order, settings: Settings) -> dict[str, object]:
    """Return an order as its clients see it, with its version and whose it is."""
    return {**document(order, settings), "etag": etag(order.version), "caller": order.caller}


def _detail(detail: Detail) -> dict[str, object]:
    refund = detail.refund and {"kind": detail.refund.kind, "amount_minor": detail.refund.amount_minor}
    failed = [{"participant": f.participant, "error_class": f.error_class, "code": f.error} for f in detail.failed]
    told = {
        "shortages": plain(detail.shortages), "code": detail.code, "refund": refund, "failed": failed,
        "resolved": detail.resolved and {"how": detail.resolved},
    }  # fmt: skip
    return {name: value for name, value in told.items() if value}


def _links(order: Order, settings: Settings) -> dict[str, str]:
    here, console, jaeger = f"/v1/orders/{order.order_id}", settings.console_url, settings.jaeger_url
    links = {
        "self": here, "stream": f"{here}/stream", "cancel": None if order.reason else f"{here}/cancel",
        "timeline": console and f"{console.rstrip('/')}/orders/{order.order_id}",
        "trace": f"{jaeger.rstrip('/')}/trace/{order.trace_id}" if jaeger
        else console and f"{console.rstrip('/')}/traces/{order.trace_id}",
    }  # fmt: skip
    return {name: link for name, link in links.items() if link}


ABOUT = """
**Start:** open `POST /v1/orders`, press *Try it out*, then *Execute*: 202 and an order that goes on by itself. Execute
it again: the same key is the same order. With `Prefer: wait=5` the answer is how it ended; `GET …/stream` tells each
step. `GET /v1/events` tells every step of all your orders from a cursor on, and a webhook is told how each ends.
Whatever is refused is a problem document: a program asks its `code`, a person reads its `detail`, and its `type` is a
page ([all of them](/problems)).

**Test values** of the local stack's sandbox:

| `payment_token` | what happens |
|---|---|
| `tok_ok` | charged |
| `tok_declined_funds`, `tok_declined_expired` | declined |
| `tok_slow_6s`, `tok_flaky_2` | charged after 6 s, or at the third try |
| `tok_timeout_after_charge` | charged, the answer lost once |
| `tok_pending_15s` | charged after 15 s |
| `tok_refund_flaky`, `tok_refund_fails_business` | its refund fails four times, or for good |

`SKU-TEA` is plenty, `SKU-NONE` is out of stock, `SKU-LAST` is one piece; `cust_demo` buys, `cust_blocked` is rejected.
"""
AT = datetime(2026, 11, 21, 9, 14, 3, 120_000, tzinfo=UTC)
SAMPLE = Order(
    "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1", "local", "cust_demo", (Line("SKU-TEA", 2, 1250),), 2500, "EUR", AT,
    AT + timedelta(minutes=5), "04a75036e9d520bb983c5ed03b8d0182", (Entry(1, Status.PENDING, AT, "order.placed"),),
    reference="basket-4711",
)  # fmt: skip
DEFAULT = Settings.model_construct()
EXAMPLE = document(SAMPLE, DEFAULT)
UNDONE = document(replace(SAMPLE.to(Status.CANCELLING, AT, "order.cancellation_requested"), reason="CUSTOMER"), DEFAULT)
TOLD = 'event: snapshot\nid: 1\ndata: {"order_id": …\n\nevent: status\nid: 2\ndata: {"sequence": 2, "status": …\n\n'
VERSION = {"ETag": "The order's version."}
PLACED = VERSION | {"Location": "Where the order is."}
AGAIN = PLACED | {"Retry-After": "Seconds after which to look again."}
REFUSALS = *KEY_PROBLEMS, "reference-taken", "outcome-unknown"
REFUSED = "not-found", "not-cancellable", "version-mismatch", "order-frozen", "outcome-unknown"


@routes.on(
    "POST", "/v1/orders", scope="orders:write", problems=REFUSALS,
    answers=[Answer(202, "Durable, not yet decided; a repeat gets the same bytes.", OrderDocument, EXAMPLE, AGAIN),
             Answer(201, "Final within the time you would wait.", OrderDocument, EXAMPLE, PLACED)],
)  # fmt: skip
async def place(
    request: Request, api: TheApi, order: NewOrder, key: TheKey, prefer: Annotated[str | None, Header()] = None
) -> Response:
    """Place an order, once per Idempotency-Key; with Prefer: wait=N it is shown as it is when final, or after N s.

    Without a key the reference stands in: the same customer's same reference is the same order.
    """
    call = call_of(request)
    command = _command(order, call, cast("OrderSettings", api.settings))

    def render(reply: PlaceAnswered) -> str | None:
        shown = json_of(document(placed(command), api.settings))
        return shown.decode() if reply.outcome == "PLACED" else None

    once = key.of(order, render, (order.customer_id, order.reference) if order.reference else ())
    envelope = Envelope(
        UUID(command.order_id),
        command.order_id,
        command,
        command.placed_at,
        command.type,
        request=once,
        trace=call.trace,
    )
    came = await api.execute_once(request, envelope, PlaceAnswered, named="order")
    if isinstance(came, PlaceAnswered):
        await _refuse_taken(api, call, came.order_id)
    headers = {"Location": f"/v1/orders/{came.subject}", "ETag": etag(1), "Retry-After": "1", **came.headers}
    if (wait := wait_of(prefer)) and call.may_rest:
        with call.resting():
            seen = await api.watch(store.newer_orders).until(came.subject, lambda row: row.status in FINAL, wait)
        if seen:
            headers["Preference-Applied"] = f"wait={wait}"
            return _told(seen, api, 201 if seen.status in FINAL else 202, headers)
    return Response(came.text, 202, headers, "application/json")


@routes.on(
    "POST", "/v1/orders/{order_id}/cancel", scope="orders:cancel", problems=REFUSED,
    answers=[Answer(202, "It is being undone.", OrderDocument, UNDONE, VERSION),
             Answer(200, "It was being undone already, or is.", OrderDocument, UNDONE, VERSION)],
)  # fmt: skip
async def cancel(
    request: Request, api: TheApi, order_id: UUID, if_match: Annotated[str | None, Header()] = None
) -> Response:
    """Cancel an order that is not decided yet, or confirmed and before its cut-off."""
    order, version = await _mine(call := call_of(request), api, order_id), None
    call.join(order.trace_id)
    if if_match is not None and if_match.strip() != "*":
        version = order.version if matches(if_match, etag(order.version)) else 0  # which no order has
    command = CancelOrder(str(order_id), call.caller, "customer", version)
    envelope = Envelope(uuid7(), command.order_id, command, datetime.now(UTC), command.type, trace=call.trace)
    outcome = (await api.execute_as(envelope, CancelAnswered)).outcome
    order = await _mine(call, api, order_id)
    if outcome == "CHANGED":
        refuse("version-mismatch", current_etag=etag(order.version))
    if outcome == "TOO_LATE":
        refuse("not-cancellable", order_status=order.status, cancellable_until=plain(order.cancellable_until))
    if outcome == "FROZEN":
        refuse("order-frozen", since=plain(order.history[-1].at))
    return _told(order, api, 202 if outcome == "ACCEPTED" else 200)


@routes.on(
    "GET", "/v1/orders/{order_id}/stream", scope="orders:read", problems=("not-found",),
    answers=[Answer(200, "snapshot, status …, end; or restart.", None, TOLD, media_type=EVENTS)],
)  # fmt: skip
async def follow(
    request: Request, api: TheApi, order_id: UUID, last_event_id: Annotated[str | None, Header()] = None
) -> Response:
    """Follow an order until it is final; with Last-Event-ID from there on, without a gap."""
    order = await _mine(call := call_of(request), api, order_id)
    watch = api.watch(store.newer_orders)
    return events(call, stream(watch, order.order_id, order, lambda row: document(row, api.settings), last_event_id))


@routes.on(
    "GET", "/v1/orders/{order_id}", scope="orders:read", problems=("not-found",),
    answers=[Answer(200, "The order.", OrderDocument, EXAMPLE, VERSION), Answer(304, "You have this version.")],
)  # fmt: skip
async def read(
    request: Request, api: TheApi, order_id: UUID, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """Read an order; with If-None-Match it is told only if it has changed."""
    order = await _mine(call_of(request), api, order_id)
    tag = etag(order.version)
    return Response(None, 304, {"ETag": tag}) if unchanged(if_none_match, tag) else _told(order, api)


@routes.on(
    "GET", "/v1/orders", scope="orders:read", problems=("invalid-cursor",),
    answers=[Answer(200, "A page; a Link with rel=next leads on.", OrderList,
                    {"orders": [EXAMPLE], "has_more": False})],
)  # fmt: skip
async def browse(request: Request, api: TheApi, asked: Annotated[store.Filters, Query()]) -> Response:
    """List your orders, newest first."""
    found, more = await api.page(request, asked, store.list_orders, lambda order: order.order_id)
    page = {"orders": [document(order, api.settings) for order in found], "has_more": bool(more)}
    return Response(json_of(page), 200, more, "application/json")


feed.register(routes)
webhooks.register(routes)


def limits(settings: OrderSettings) -> AdmissionLimits:
    """Return when no new orders are taken, and for how long."""
    return AdmissionLimits(
        settings.intake_failure_rate, settings.intake_failure_minimum, settings.intake_failure_window,
        settings.intake_rest,
        DiskLimits(settings.intake_wal_kept, settings.intake_database_size, settings.intake_disk_free,
                   settings.intake_disk_directory),
    )  # fmt: skip


def make(context: ProcessContext) -> ASGIApp:
    """Return order's API."""
    api = Api(context, limits(cast("OrderSettings", context.settings)))
    return make_app("Quadrille order", routes, api, context.spans, api.base, keys=api.keys, about=ABOUT)


async def _mine(call: RequestContext, api: Api, order_id: UUID | str) -> Order:
    call.order_id = str(order_id)
    return await api.read(store.get_order, call.caller, call.order_id) or refuse("not-found")


async def _refuse_taken(api: Api, call: RequestContext, order_id: str) -> NoReturn:
    """Refuse a reference that another order bears, and say which, where that stands, and what to do."""
    other = await _mine(call, api, order_id)
    detail = f"Order {other.order_id} of this customer bears this reference and is {other.status}. {_way_out(other)}"
    refuse("reference-taken", detail, order=other.order_id, order_status=other.status)


def _way_out(other: Order) -> str:
    if other.status is Status.CANCELLED:  # since we asked
        return "The reference has become free: repeat the request."
    if other.status is Status.CONFIRMED:
        return "If it is the same basket, it is bought; for another basket use another reference."
    if other.status is Status.COMPENSATION_FAILED:
        return "It could not be undone and waits for a person: use another reference, or ask the operator."
    if other.reason:
        return "It is being undone: once it is CANCELLED the reference is free, repeat the request then."
    return "It goes on: read it until it is final; if it ends CANCELLED the reference is free again."


def _told(order: Order, api: Api, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    body = json_of(document(order, api.settings))
    return Response(body, status, {**(headers or {}), "ETag": etag(order.version)}, "application/json")


def _command(order: NewOrder, call: RequestContext, settings: OrderSettings) -> PlaceOrder:
    """Return the command; an order's id and its time are from one look at the clock."""
    lines = tuple(Line(line.sku, line.quantity, line.unit_price_minor) for line in order.lines)
    at = from_milliseconds(now := time.time_ns() // 1_000_000)
    return PlaceOrder(
        order_id=str(uuid7(now)), caller=call.caller, customer_id=order.customer_id, reference=order.reference,
        payment_token=order.payment_token, currency=order.currency,
        amount_minor=sum(line.quantity * line.unit_price_minor for line in lines),
        lines=lines, placed_at=at, deadline_at=at + settings.order_deadline, trace_id=call.trace.trace_id,
    )  # fmt: skip
