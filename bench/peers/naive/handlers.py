"""Handlers of the naive build: what each service does when something happened, in a session of its own."""

from __future__ import annotations

import os
import smtplib
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from typing import Any, TypeAlias

import httpx
from sqlalchemy import select
from sqlalchemy.orm import Session

from bench.peers.naive.tables import Hold, Mail, Order, Payment, Stock, emit

Body: TypeAlias = dict[str, Any]
Handler: TypeAlias = Callable[[Session, Body], None]
PROCESSOR = httpx.Client(base_url=os.environ.get("PROCESSOR_URL", "http://127.0.0.1:9"), timeout=5)


def reserve(session: Session, placed: Body) -> None:
    """Hold every line, or none."""
    order_id, lines = placed["order_id"], [{k: line[k] for k in ("sku", "quantity")} for line in placed["lines"]]
    wanted = {line["sku"]: line["quantity"] for line in lines}
    found = session.scalars(select(Stock).where(Stock.sku.in_(wanted)).order_by(Stock.sku).with_for_update())
    levels = {level.sku: level for level in found}
    short = [sku for sku, n in wanted.items() if sku not in levels or levels[sku].available < n]
    if short:
        shortages = [
            {"sku": sku, "asked": wanted[sku], "available": levels[sku].available if sku in levels else 0}
            for sku in short
        ]
        emit(session, "inventory.events", "stock.rejected", order_id, shortages=shortages)
        return
    for sku, n in wanted.items():
        levels[sku].available -= n
        levels[sku].held += n
    session.add(Hold(order_id=order_id, lines=lines, state="HELD"))
    emit(session, "inventory.events", "stock.reserved", order_id, lines=lines)


def release(session: Session, asked: Body) -> None:
    """Give back what is held."""
    hold = session.get(Hold, asked["order_id"], with_for_update=True)
    if hold is not None:
        _move(session, hold, "available")
        hold.state = "RELEASED"
    emit(session, "inventory.events", "stock.released", asked["order_id"], had_hold=hold is not None, returned=False)


def commit_stock(session: Session, confirmed: Body) -> None:
    """Take for good what is held."""
    hold = session.get(Hold, confirmed["order_id"], with_for_update=True)
    if hold is not None:
        _move(session, hold, "committed")
        hold.state = "COMMITTED"
    emit(session, "inventory.events", "stock.committed", confirmed["order_id"])


def _move(session: Session, hold: Hold, to: str) -> None:
    for line in sorted(hold.lines, key=lambda one: str(one["sku"])):
        level = session.get_one(Stock, line["sku"], with_for_update=True)
        level.held -= line["quantity"]
        setattr(level, to, getattr(level, to) + line["quantity"])


def learn_amount(session: Session, placed: Body) -> None:
    """Know amount and card; charge if the stock is held already."""
    payment = _payment(session, placed["order_id"])
    payment.amount_minor, payment.currency = placed["amount_minor"], placed["currency"]
    payment.token = placed["payment_token"]
    _charge(session, payment)


def permit(session: Session, reserved: Body) -> None:
    """Charge now that the stock is held."""
    payment = _payment(session, reserved["order_id"])
    payment.permitted = True
    _charge(session, payment)


def skip(session: Session, asked: Body) -> None:
    """Never charge a cancelled order; one that was declined has said so."""
    payment = _payment(session, asked["order_id"])
    if payment.state == "OPEN":
        payment.state = "SKIPPED"
        emit(session, "payment.events", "payment.skipped", asked["order_id"], reason=asked["reason"])


def _payment(session: Session, order_id: str) -> Payment:
    found = session.get(Payment, order_id, with_for_update=True)
    if found is None:
        found = Payment(order_id=order_id, permitted=False, state="OPEN")
        session.add(found)
    return found


def _charge(session: Session, payment: Payment) -> None:
    if payment.state != "OPEN" or not payment.permitted or payment.token is None:
        return
    body = {
        "payment_token": payment.token,
        "amount_minor": payment.amount_minor,
        "currency": payment.currency,
        "order_id": payment.order_id,
    }
    key = f"naive-{payment.order_id}"
    answer = PROCESSOR.post("/v1/charges", json=body, headers={"Idempotency-Key": key}).raise_for_status().json()
    if answer["status"] == "declined":
        payment.state = "DECLINED"
        emit(session, "payment.events", "payment.declined", payment.order_id, code=answer["code"])
        return
    payment.state, payment.reference = "CHARGED", answer["reference"]
    emit(
        session,
        "payment.events",
        "payment.charged",
        payment.order_id,
        payment_id=key,
        provider_reference=answer["reference"],
        amount_minor=payment.amount_minor,
        currency=payment.currency,
    )


def confirm(session: Session, charged: Body) -> None:
    """Let an order through whose money is taken."""
    order = _order(session, charged)
    order.payment, order.status = "CHARGED", "CONFIRMED"
    told = {"customer_id": order.customer_id, "amount_minor": order.amount_minor, "currency": order.currency}
    emit(session, "order.events", "order.confirmed", order.id, **told)


def note(field: str, state: str) -> Handler:
    """Return the handler that notes how a participant stands, and ends an order whose undoing is over."""

    def noted(session: Session, event: Body) -> None:
        order = _order(session, event)
        setattr(order, field, state)
        _end(session, order)

    return noted


def give_up(field: str, state: str, reason: str) -> Handler:
    """Return the handler that has an order undone."""

    def given_up(session: Session, event: Body) -> None:
        order = _order(session, event)
        setattr(order, field, state)
        if order.status == "PENDING":
            then, order.status, order.reason = order.status, "CANCELLING", reason
            asked = {"reason": reason, "requested_by": "naive", "status_then": then}
            emit(session, "order.events", "order.cancellation_requested", order.id, **asked)
        _end(session, order)

    return given_up


def _end(session: Session, order: Order) -> None:
    undone = order.stock in {"REJECTED", "RELEASED"} and order.payment in {"DECLINED", "SKIPPED"}
    if order.status != "CANCELLING" or not undone:
        return
    order.status = "CANCELLED"
    told = {"customer_id": order.customer_id, "reason": order.reason}
    settlement = {"inventory": order.stock, "payment": order.payment}
    emit(session, "order.events", "order.cancelled", order.id, **told, settlement=settlement)


def _order(session: Session, event: Body) -> Order:
    return session.get_one(Order, event["order_id"], with_for_update=True)


def tell(kind: str) -> Handler:
    """Return the handler that writes to the customer."""

    def told(session: Session, event: Body) -> None:
        mail = EmailMessage()
        mail["From"], mail["To"] = "orders@quadrille.example", "demo@shop.example"
        mail["Subject"] = f"Your order was {kind}"
        mail["Message-ID"] = f"<{event['order_id']}.{kind}@quadrille.example>"
        mail.set_content(f"Order {event['order_id']} was {kind}.")
        host, port = os.environ["SMTP"].split(":")
        with smtplib.SMTP(host, int(port), timeout=5) as server:
            server.send_message(mail)
        session.add(Mail(order_id=event["order_id"], kind=kind))
        emit(session, "notification.events", "notification.sent", event["order_id"], kind=kind, channel="email")

    return told


HANDLERS: Mapping[str, Mapping[str, Handler]] = {
    "order": {
        "stock.reserved": note("stock", "RESERVED"),
        "stock.committed": note("stock", "COMMITTED"),
        "stock.released": note("stock", "RELEASED"),
        "stock.rejected": give_up("stock", "REJECTED", "OUT_OF_STOCK"),
        "payment.charged": confirm,
        "payment.skipped": note("payment", "SKIPPED"),
        "payment.declined": give_up("payment", "DECLINED", "PAYMENT_DECLINED"),
    },
    "inventory": {
        "order.placed": reserve,
        "order.cancellation_requested": release,
        "order.confirmed": commit_stock,
    },
    "payment": {"order.placed": learn_amount, "stock.reserved": permit, "order.cancellation_requested": skip},
    "notification": {"order.confirmed": tell("CONFIRMED"), "order.cancelled": tell("CANCELLED")},
}
HEARS = {
    "order": ["inventory.events", "payment.events"],
    "inventory": ["order.events"],
    "payment": ["order.events", "inventory.events"],
    "notification": ["order.events"],
}
