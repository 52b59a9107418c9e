"""Orders to every end there is, by a client that writes down what it sent and was answered."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from quadrille_cli.client import Client
from quadrille_cli.demo_data import order_of
from tests.conftest import Shop

TEA, SEALED, NONE = [("SKU-TEA", 2)], [("SKU-SEALED", 1)], [("SKU-NONE", 1)]


class Customer:
    """A client of the shop with a log of its own."""

    def __init__(self, shop: Shop, name: str = "test") -> None:
        self.shop, self.name, self.lines = shop, name, list[dict[str, Any]]()

    def place(self, lines: list[tuple[str, int]], token: str = "tok_ok", customer: str = "cust_demo") -> str:  # noqa: S107 - a test token
        """Place an order, twice under one key, and write down both answers."""
        key, order = f"audit-{uuid.uuid4()}", ""
        for _ in range(2):
            with Client(self.shop.stack.url("order")) as api:
                answer = api.demand("POST", "/v1/orders", order_of(lines, token, customer), {"Idempotency-Key": key})
            order = str(answer.body["order_id"])
            self._note(key=key, order_id=order, outcome="accepted")
        return order

    def look(self, order: str) -> dict[str, Any]:
        """Look at an order, and write down what was seen."""
        document = self.shop.order(order)
        self._note(order_id=order, outcome="seen", status=document["status"], version=len(document["history"]))
        return document

    def ended(self, order: str) -> None:
        """Look at an order until it has ended."""
        self.shop.ended(order)
        self.look(order)

    def _note(self, **line: object) -> None:
        self.lines.append({"client": self.name, **line})

    def write(self, path: Path) -> Path:
        """Write the log as an auditor reads it."""
        path.write_text("".join(json.dumps(line) + "\n" for line in self.lines), "utf-8")
        return path


def every_kind(shop: Shop) -> Customer:
    """Bring orders to every end there is, and wait until nothing is under way."""
    me = Customer(shop)
    for token, customer in [
        ("tok_ok", "cust_demo"), ("tok_ok", "cust_demo"), ("tok_declined_funds", "cust_demo"),
        ("tok_timeout_after_charge", "cust_demo"), ("tok_ok", "cust_blocked"), ("tok_ok", "cust_bounce"),
        ("tok_ok", "cust_no_address"),
    ]:  # fmt: skip
        order = me.place(TEA, token, customer)
        me.look(order)
        me.ended(order)
    me.ended(me.place(NONE))
    regretted = me.place(TEA)
    shop.cancel(regretted)
    returned = me.place(TEA)
    me.ended(returned)
    shop.cancel(returned)
    _by_hand(me)
    _frozen(me)
    for order in (regretted, returned):
        shop.until(lambda order=order: shop.order(order)["status"] == "CANCELLED", f"{order} is cancelled")  # type: ignore[misc]
        me.look(order)
    shop.until(shop.all_read, "all is read")
    return me


def _by_hand(me: Customer) -> None:
    """An order whose refund is refused for good, ended by a person's word; and one that an operator cancels."""
    order = me.place(TEA, "tok_refund_fails_business")
    me.ended(order)
    me.shop.cancel(order)
    me.shop.until(lambda: me.look(order)["status"] == "COMPENSATION_FAILED", f"the refund of {order} is refused")
    body = {"reason": "a scenario", "how": "EXTERNAL", "evidence": "transfer 4711"}
    me.shop.until(lambda: _operate(me, "payment-worker", order, "resolve", body), "a person ends it")
    me.ended(order)
    order = me.place(TEA)
    me.ended(order)
    assert _operate(me, "order-api", order, "cancel", {"reason": "a scenario"})
    me.shop.until(lambda: me.look(order)["status"] == "CANCELLED", f"{order} is cancelled")


def _frozen(me: Customer) -> None:
    """An order whose goods cannot come back: it waits for a person, and stays so."""
    order = me.place(SEALED)
    me.ended(order)
    me.shop.cancel(order)
    me.shop.until(lambda: me.look(order)["status"] == "COMPENSATION_FAILED", f"{order} is frozen")


def _operate(me: Customer, process: str, order: str, act: str, body: dict[str, str]) -> bool:
    with Client(me.shop.stack.url(process)) as ops:
        return ops.ask("POST", f"/ops/orders/{order}/{act}", body).status < 300
