"""What demo and load put into the shop before they order: stock, addresses, and what an order looks like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from quadrille.db.conninfo import pinned
from quadrille_cli.client import Client
from quadrille_cli.stack import Stack

PRICES = {"SKU-TEA": 1250, "SKU-NONE": 900, "SKU-LAST": 4900, "SKU-HOT": 300, "SKU-SEALED": 2200}
CONTACTS = {"cust_demo": "demo@shop.example", "cust_bounce": "nobody@bounce.example"}


def stock_up(stack: Stack, levels: Mapping[str, int]) -> None:
    """Set what is available of each SKU over inventory's API, whatever it was before."""
    with Client(stack.url("inventory")) as api:
        for sku, available in levels.items():
            now = api.ask("GET", f"/v1/stock/{sku}")
            match = {"If-Match": "*"} if now.status == 200 else {"If-None-Match": "*"}  # noqa: PLR2004 - HTTP
            body = {"available": available, "sealed": sku == "SKU-SEALED"}
            api.demand("PUT", f"/v1/stock/{sku}", body, match)


def write_addresses(stack: Stack, contacts: Mapping[str, str] = CONTACTS) -> None:
    """Put the demo customers into notification's address book."""
    with Client(stack.url("notification")) as api:
        for customer, address in contacts.items():
            api.demand("PUT", f"/v1/contacts/{customer}", {"email": address})


def block(stack: Stack, *customers: str) -> None:
    """Put customers into order's table of those whose confirmation is rejected: there is no API for it."""
    with psycopg.connect(pinned(stack.database_url("order", "owner"))) as db:
        db.execute("INSERT INTO blocked SELECT unnest(%b::text[]) ON CONFLICT DO NOTHING", [list(customers)])


def order_of(lines: Sequence[tuple[str, int]], token: str = "tok_ok", customer: str = "cust_demo") -> dict[str, Any]:  # noqa: S107 - a test token
    """Return the body of an order over (SKU, quantity) lines."""
    return {
        "customer_id": customer,
        "payment_token": token,
        "currency": "EUR",
        "lines": [{"sku": sku, "quantity": n, "unit_price_minor": PRICES[sku]} for sku, n in lines],
    }
