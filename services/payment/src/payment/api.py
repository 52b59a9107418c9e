"""The payments API: what became of an order's money, its ledger, and what is still to be done outside."""

from __future__ import annotations

from html import escape
from typing import Annotated
from uuid import UUID

from fastapi import Query, Request, Response
from pydantic import Field
from starlette.routing import Route
from starlette.types import ASGIApp

from payment import store
from payment.domain import Entry as Line
from payment.domain import Resolution as Resolved
from payment.store import Account, Pending
from quadrille import rfc3339
from quadrille.web import (
    Answer,
    Api,
    Document,
    ProcessContext,
    Routes,
    TheApi,
    Time,
    answer,
    call_of,
    html_page,
    make_app,
    needs,
    refuse,
)

routes = Routes("payments:read")
SIGNS = {"CAPTURE": 1, "VOID": -1, "REFUND": -1}
ORDER = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"
PAYMENT = {
    "order_id": ORDER,
    "state": "REFUNDING",
    "code": None,
    "amount_minor": 2500,
    "currency": "EUR",
    "permitted": True,
    "cancel_wanted": True,
    "began_at": "2026-11-21T09:14:03.270Z",
    "deadline_at": "2026-11-21T09:19:03.120Z",
    "resolution": None,
    "entries": [
        {
            "key": f"charge:{ORDER}",
            "kind": "CAPTURE",
            "amount_minor": 2500,
            "currency": "EUR",
            "reference": "ch_000001",
            "at": "2026-11-21T09:14:03.391Z",
        }
    ],
    "intents": [
        {
            "type": "refund_card",
            "due_at": "2026-11-21T09:14:24.100Z",
            "attempts": 2,
            "error_class": "TRANSIENT",
            "error": "the processor answered 503",
        }
    ],
}


class Entry(Document):
    """A line of the ledger: money taken or given back; never changed, never removed."""

    key: str = Field(description="The processor's idempotency key, one for ever.")
    kind: str = Field(description="CAPTURE, VOID or REFUND.")
    amount_minor: int
    currency: str
    reference: str = Field(description="The processor's own name for it.")
    at: Time


class Intent(Document):
    """Something still to be done outside, with the tries so far."""

    type: str = Field(description="charge_card, inquire_charge, refund_card or inquire_refund.")
    due_at: Time = Field(description="When it is tried next; while it is being tried, when another may take over.")
    attempts: int
    error_class: str | None
    error: str | None = Field(description="How the last try failed.")


class Resolution(Document):
    """How a person ends what payment owes the order: a command until the processor says that nothing went back."""

    how: str = Field(description="WRITTEN_OFF or EXTERNAL.")
    operator: str
    evidence: str = Field(description="Where the proof is to be found.")
    contradicted: bool = Field(description="The money went back after all: see the entries.")


class Payment(Document):
    """An order's payment; price and deadline are null until the order itself was heard of."""

    order_id: str
    state: str = Field(
        description="NONE, CHARGING, UNKNOWN, CHARGED, DECLINED, SKIPPED, REFUNDING, REFUNDED, REFUND_FAILED, RESOLVED."
    )
    code: str | None = Field(description="Why a charge was declined or a refund refused.")
    amount_minor: int | None
    currency: str | None
    permitted: bool = Field(description="Inventory holds the goods: the card may be charged.")
    cancel_wanted: bool = Field(description="The money goes back as soon as it is known whether it came.")
    began_at: Time | None
    deadline_at: Time | None
    resolution: Resolution | None
    entries: list[Entry]
    intents: list[Intent]


class Payments(Document):
    """The payments found: one, or none while payment has heard nothing of the order."""

    payments: list[Payment]


@routes.on(
    "GET", "/v1/payments", scope="payments:read", problems=(),
    answers=[Answer(200, "What is known of the order's money.", Payments, {"payments": [PAYMENT]})],
)  # fmt: skip
async def show_payments(request: Request, api: TheApi, order_id: Annotated[UUID, Query(examples=[ORDER])]) -> Response:
    """Show an order's payment: where it stands, its ledger, its open intents with their attempts."""
    order = call_of(request).order_id = str(order_id)
    account = await api.read(store.payment_of, order)
    return answer(Payments(payments=[_payment(account)] if account else []))


def _payment(account: Account) -> Payment:
    payment, price = account.payment, account.payment.price
    return Payment(
        order_id=payment.order_id,
        state=payment.state.value,
        code=payment.code,
        amount_minor=price.amount_minor if price else None,
        currency=price.currency if price else None,
        permitted=payment.permitted,
        cancel_wanted=payment.cancel_wanted,
        began_at=payment.began_at,
        deadline_at=price.deadline_at if price else None,
        resolution=_resolution(payment.resolution) if payment.resolution else None,
        entries=[_entry(line) for line in account.entries],
        intents=[_intent(pending) for pending in account.pending],
    )


def _entry(line: Line) -> Entry:
    return Entry(
        key=line.key,
        kind=line.kind,
        amount_minor=line.amount_minor,
        currency=line.currency,
        reference=line.reference,
        at=line.at,
    )


def _resolution(command: Resolved) -> Resolution:
    return Resolution(
        how=command.how, operator=command.operator, evidence=command.evidence, contradicted=command.contradicted
    )


def _intent(pending: Pending) -> Intent:
    return Intent(
        type=pending.type,
        due_at=pending.due,
        attempts=pending.attempts,
        error_class=pending.error_class,
        error=pending.error,
    )


async def ledger(request: Request) -> Response:
    """Show an order's ledger as a page: each movement of its money, and what is left with us."""
    try:
        order = call_of(request).order_id = str(UUID(request.path_params["order_id"]))
    except ValueError:
        refuse("not-found")
    api: Api = request.app.state.api
    account = await api.read(store.payment_of, order) or refuse("not-found")
    return html_page(f"Ledger of {order}", _ledger(account))


def _ledger(account: Account) -> str:
    rows = [
        (rfc3339(line.at), line.kind, _money(line.amount_minor * SIGNS[line.kind], line.currency), line.reference)
        for line in account.entries
    ]
    cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    kept = sum(line.amount_minor * SIGNS[line.kind] for line in account.entries)
    currency = account.entries[0].currency if account.entries else ""
    total = f"<tr><th scope=row colspan=2>with us</th><th>{escape(_money(kept, currency))}</th><td></td></tr>"
    heads = "".join(f"<th scope=col>{name}</th>" for name in ("at", "what", "amount", "the processor's reference"))
    order, state = escape(account.payment.order_id), escape(account.payment.state.value)
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{cells}</tbody><tfoot>{total}</tfoot></table>"
    return f"<h1>Ledger <small>{state}</small></h1><p>Order <code>{order}</code></p>" + (
        table if rows else "<p>No money has moved.</p>"
    )


def _money(minor: int, currency: str) -> str:
    """Return an amount with its sign, in minor units: what those are worth is the currency's own business."""
    return f"{minor:+d} {currency} (minor units)" if minor else "0"


def make(context: ProcessContext) -> ASGIApp:
    """Return payment's API."""
    api = Api(context)
    pages = [Route("/ledger/{order_id}", needs("payments:read")(ledger), methods=["GET"])]
    return make_app("Quadrille payment", routes, api, context.spans, api.base, keys=api.keys, pages=pages)
