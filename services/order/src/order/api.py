"""Order's API: place an order, read it, list one's own."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Header, Query, Request, Response
from pydantic import Field
from starlette.types import ASGIApp

from chassis import documents
from chassis.desk import AtDesk, Desk, Document, etag, rfc3339, unchanged
from chassis.documents import Idempotency, Identifier, Moment, Paged, Text
from chassis.edge import Call
from chassis.ids import uuid7
from chassis.inputs import Input
from chassis.money import Currency, Price
from chassis.openapi import Answer
from chassis.problems import refuse
from chassis.program import Face
from chassis.settings import Settings
from chassis.web import Routes, call_of, make_app
from order import store
from order.domain import FINAL, PHASES, ROUTE, Attention, Detail, Order, Phase, Reason, Status, placed
from order.events import Line, PlaceAnswered, PlaceOrder

FIRST, LAST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)  # no order is before or after
AT, ORDER_ID = "2026-11-21T09:14:03.120Z", "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"
EXAMPLE: dict[str, object] = {
    "order_id": ORDER_ID, "status": "PENDING", "phase": "PENDING", "reason": None, "final": False, "attention": None,
    "customer_id": "cust_demo", "reference": "basket-4711", "amount_minor": 2500, "currency": "EUR",
    "lines": [{"sku": "SKU-TEA", "quantity": 2, "unit_price_minor": 1250}], "inventory": "NONE", "payment": "NONE",
    "detail": {}, "placed_at": AT, "deadline_at": "2026-11-21T09:19:03.120Z", "cancellable_until": None,
    "trace_id": "04a75036e9d520bb983c5ed03b8d0182",
    "history": [{"sequence": 1, "status": "PENDING", "at": AT, "because": "order.placed"}],
    "links": {"self": f"/v1/orders/{ORDER_ID}"},
}  # fmt: skip
VERSION = {"ETag": "The order's version."}
PLACED = {**VERSION, "Location": "Where the order is.", "Retry-After": "Seconds after which to look again."}
routes = Routes()


class LineDocument(Document):
    """A line of an order; a SKU may stand in several."""

    sku: Identifier = Field(examples=["SKU-TEA"])
    quantity: int = Field(ge=1, le=1_000_000, examples=[2])
    unit_price_minor: Price


class NewOrder(Document):
    """What a customer orders."""

    customer_id: Identifier = Field(examples=["cust_demo"])
    payment_token: Identifier = Field(examples=["tok_ok"])
    currency: Currency = Field(examples=["EUR"])
    reference: Text | None = Field(None, description="Unique per customer, for ever.", examples=["basket-4711"])
    lines: list[LineDocument] = Field(min_length=1, max_length=100)


class HistoryEntry(Document):
    """A status the order passed through, and the fact that made it so."""

    sequence: int
    status: Status
    at: str
    because: str


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
    history: list[HistoryEntry]
    links: dict[str, str]


class OrderList(Document):
    """A page of orders, newest first."""

    orders: list[OrderDocument]


class Listed(Paged):
    """What a list of orders is narrowed to."""

    status: Status | None = None
    phase: Phase | None = None
    final: bool | None = None
    reason: Reason | None = None
    attention: Attention | None = None
    customer_id: Identifier | None = None
    sku: Identifier | None = None
    reference: Text | None = None
    placed_after: Moment | None = None
    placed_before: Moment | None = None

    def filters(self) -> store.Filters:
        """Return the filters for the store; a time beyond every order is as good as the first or last."""
        narrowed = {name: getattr(self, name) for name in store.Filters.__dataclass_fields__}
        times = {n: min(max(narrowed[n], FIRST), LAST) for n in ("placed_after", "placed_before") if narrowed[n]}
        return store.Filters(**narrowed | times)


ACCEPTED = Answer(202, "Durable, not yet decided; a repeat gets the same bytes.", OrderDocument, EXAMPLE, PLACED)
REFUSALS = ("idempotency-key-missing", "idempotency-key-in-use", "reference-taken", "idempotency-key-reused")


@routes.on("POST", "/v1/orders", scope="orders:write", answers=[ACCEPTED], problems=(*REFUSALS, "outcome-unknown"))
async def place(
    request: Request, desk: AtDesk, order: NewOrder, key: Annotated[Idempotency, Header(alias="Idempotency-Key")]
) -> Response:
    """Place an order, once per Idempotency-Key."""
    call = call_of(request)
    wish = _wish(order, key, call, desk.settings)
    heard = Input(
        UUID(wish.order_id), wish.order_id, wish, wish.placed_at, wish.type,
        request=f"{wish.caller} {ROUTE} {key}", trace=call.trace,
    )  # fmt: skip
    reply = await desk.ask_once(heard, PlaceAnswered)
    call.order_id = reply.order_id
    if slug := {"KEY_REUSED": "idempotency-key-reused", "REFERENCE_TAKEN": "reference-taken"}.get(reply.outcome):
        refuse(slug, order=reply.order_id)
    headers = {"Location": f"/v1/orders/{reply.order_id}", "ETag": etag(1), "Retry-After": "1"}
    replayed = {"Idempotent-Replayed": "true"} if reply.outcome == "REPLAYED" else {}
    return Response(reply.answer, 202, headers | replayed, "application/json")


@routes.on(
    "GET", "/v1/orders/{order_id}", scope="orders:read", problems=("not-found",),
    answers=[Answer(200, "The order.", OrderDocument, EXAMPLE, VERSION), Answer(304, "You have this version.")],
)  # fmt: skip
async def read(
    request: Request, desk: AtDesk, order_id: UUID, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """Read an order; with If-None-Match it is told only if it has changed."""
    call = call_of(request)
    call.order_id = str(order_id)
    order = await desk.read(store.get_order, call.caller, call.order_id) or refuse("not-found")
    tag = {"ETag": etag(order.version)}
    if unchanged(if_none_match, tag["ETag"]):
        return Response(status_code=304, headers=tag)
    return Response(documents.json_of(document(order, desk.settings)), 200, tag, "application/json")


@routes.on(
    "GET", "/v1/orders", scope="orders:read", problems=("invalid-cursor",),
    answers=[Answer(200, "A page; a Link with rel=next leads on.", OrderList, {"orders": [EXAMPLE]})],
)  # fmt: skip
async def browse(request: Request, desk: AtDesk, asked: Annotated[Listed, Query()]) -> Response:
    """List your orders, newest first."""
    call = call_of(request)
    listing = asked.model_dump(mode="json", exclude={"limit", "cursor"}, exclude_none=True) | {"caller": call.caller}
    after = str(documents.read_cursor(asked.cursor, listing)) if asked.cursor else None
    found = await desk.read(store.list_orders, call.caller, asked.filters(), asked.limit + 1, after)
    page = {"orders": [document(order, desk.settings) for order in found[: asked.limit]]}
    more = {}
    if len(found) > asked.limit:
        cursor = documents.write_cursor(UUID(found[asked.limit - 1].order_id), listing)
        query = {name: value for name, value in request.query_params.items() if name != "cursor"} | {"cursor": cursor}
        more = {"Link": f'<{desk.base}/v1/orders?{urlencode(query)}>; rel="next"'}
    return Response(documents.json_of(page), 200, more, "application/json")


def make(face: Face) -> ASGIApp:
    """Return order's API."""
    desk = Desk(face)
    return make_app("Quadrille order", routes, desk, face.spans, desk.base)


def document(order: Order, settings: Settings) -> dict[str, object]:
    """Return an order as its clients see it."""
    until = order.cancellable_until
    return {
        "order_id": order.order_id, "status": order.status, "phase": PHASES[order.status], "reason": order.reason,
        "final": order.status in FINAL, "attention": order.attention, "customer_id": order.customer_id,
        "reference": order.reference, "amount_minor": order.amount_minor, "currency": order.currency,
        "lines": [
            {"sku": line.sku, "quantity": line.quantity, "unit_price_minor": line.unit_price_minor}
            for line in order.lines
        ],
        "inventory": order.states.inventory, "payment": order.states.payment, "detail": _detail(order.detail),
        "placed_at": rfc3339(order.placed_at), "deadline_at": rfc3339(order.deadline_at),
        "cancellable_until": rfc3339(until) if until else None, "trace_id": order.trace_id,
        "history": [
            {"sequence": e.sequence, "status": e.status, "at": rfc3339(e.at), "because": e.because}
            for e in order.history
        ],
        "links": _links(order, settings),
    }  # fmt: skip


def _wish(order: NewOrder, key: str, call: Call, settings: Settings) -> PlaceOrder:
    """Return the command, with the 202 rendered: what is stored is what every repeat gets."""
    now = time.time_ns() // 1_000_000
    lines = tuple(Line(line.sku, line.quantity, line.unit_price_minor) for line in order.lines)
    at = documents.from_milliseconds(now)
    wish = PlaceOrder(
        order_id=str(uuid7(now)), caller=call.caller, idempotency_key=key,
        fingerprint=hashlib.sha256(order.model_dump_json().encode()).hexdigest(),
        customer_id=order.customer_id, reference=order.reference, payment_token=order.payment_token,
        currency=order.currency, amount_minor=sum(line.quantity * line.unit_price_minor for line in lines),
        lines=lines, placed_at=at, deadline_at=at + settings.order_deadline, trace_id=call.trace.trace_id, answer="",
    )  # fmt: skip
    return replace(wish, answer=documents.json_of(document(placed(wish), settings)).decode())


def _detail(detail: Detail) -> dict[str, object]:
    refund, failed = detail.refund, detail.failed
    told: dict[str, object] = {
        "shortages": [asdict(shortage) for shortage in detail.shortages],
        "code": detail.code,
        "refund": refund and {"kind": refund.kind, "amount_minor": refund.amount_minor},
        "failed": [{"participant": f.participant, "error_class": f.error_class, "code": f.error} for f in failed],
        "resolved": detail.resolved and {"how": detail.resolved},
    }
    return {name: value for name, value in told.items() if value}


def _links(order: Order, settings: Settings) -> dict[str, str]:
    """Return what leads further: only what is there."""
    console, jaeger = settings.console_url, settings.jaeger_url
    return {
        "self": f"/v1/orders/{order.order_id}",
        **({"timeline": f"{console.rstrip('/')}/orders/{order.order_id}"} if console else {}),
        **({"trace": f"{jaeger.rstrip('/')}/trace/{order.trace_id}"} if jaeger else {}),
    }
