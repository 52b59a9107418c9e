"""The payments API over real HTTP and Postgres: where an order's money is, without the token of its card."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa

from payment import api, store
from payment.domain import Payments
from payment.events import CardCharged, CardDeclined, CardRefunded, OrderCancellationRequested, OrderPlaced
from payment.events import StockReserved as Reserved
from payment.handlers import on
from quadrille import HandlerRegistry
from quadrille.service import Store, Tx
from quadrille.testing import OnPostgres, Pool, fuzz_api, serving
from quadrille_cli.client import Client, Reply

Money = OnPostgres[Payments]
LATER = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def payment(on_postgres: Callable[[HandlerRegistry[Payments], Store[Payments]], Money]) -> Money:
    return on_postgres(on, store)


@pytest.fixture(scope="module")
def url(payment: Money) -> Iterator[str]:
    with serving(api.make, payment.service, payment.connect) as base:
        yield base


@pytest.fixture
def shop(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


@pytest.fixture
def order() -> str:
    return str(uuid4())


@pytest.fixture
def charging(payment: Money, order: str) -> str:
    """An order whose charge is to be made."""
    payment.given(OrderPlaced(order, 2500, "EUR", "tok_secret", LATER), Reserved(order))
    return order


def told(reply: Reply) -> tuple[int, str]:
    """The status and slug of a problem."""
    assert reply.headers["content-type"] == "application/problem+json"
    return reply.status, str(reply.body["type"]).rpartition("/")[2]


def account(shop: Client, order: str) -> dict[str, Any]:
    reply = shop.ask("GET", f"/v1/payments?order_id={order}")
    assert reply.status == 200
    assert b"tok_secret" not in reply.raw
    (found,) = reply.body["payments"]
    return dict(found)


def test_an_order_not_heard_of(shop: Client, order: str) -> None:
    """An order payment has heard nothing of has no payment, which is no error: it may be heard of yet."""
    assert shop.ask("GET", f"/v1/payments?order_id={order}").body == {"payments": []}


def test_a_permission_before_its_order(shop: Client, payment: Money, order: str) -> None:
    """Permitted before the order is known: everything the order tells is null."""
    payment.given(Reserved(order))

    found = account(shop, order)
    assert (found["state"], found["permitted"]) == ("NONE", True)
    assert [found[name] for name in ("amount_minor", "currency", "deadline_at", "began_at", "code")] == [None] * 5


def test_a_charge_in_the_making(shop: Client, charging: str) -> None:
    """The open intent shows with its attempts, the money and the deadline in the house's forms."""
    found = account(shop, charging)

    assert (found["state"], found["amount_minor"], found["currency"]) == ("CHARGING", 2500, "EUR")
    assert found["deadline_at"] == "2100-01-01T00:00:00.000Z"
    assert found["entries"] == []
    (intent,) = found["intents"]
    assert (intent["type"], intent["attempts"], intent["error_class"], intent["error"]) == (
        "charge_card",
        0,
        None,
        None,
    )
    assert intent["due_at"].endswith("Z")


def test_a_charge_and_its_refund(shop: Client, payment: Money, charging: str) -> None:
    """The ledger shows what was taken and what went back, in that order, each under its own key."""
    payment.given(CardCharged(charging, "ch_1"))
    assert (account(shop, charging)["state"], account(shop, charging)["intents"]) == ("CHARGED", [])
    payment.given(OrderCancellationRequested(charging, "CUSTOMER"))
    assert [intent["type"] for intent in account(shop, charging)["intents"]] == ["refund_card"]
    payment.given(CardRefunded(charging, "VOID", "re_1"))

    found = account(shop, charging)
    assert (found["state"], found["intents"]) == ("REFUNDED", [])
    told = [(line["key"], line["kind"], line["amount_minor"], line["reference"]) for line in found["entries"]]
    assert told == [(f"charge:{charging}", "CAPTURE", 2500, "ch_1"), (f"refund:{charging}", "VOID", 2500, "re_1")]


def test_a_declined_card(shop: Client, payment: Money, charging: str) -> None:
    """A declined charge tells its code and leaves no entry."""
    payment.given(CardDeclined(charging, "insufficient_funds"))

    found = account(shop, charging)
    assert (found["state"], found["code"], found["entries"]) == ("DECLINED", "insufficient_funds", [])


@pytest.mark.parametrize("query", ["", "?order_id=", "?order_id=o-1", "?order_id=%00", "?odd=1", "?limit=5"])
def test_a_wrong_parameter(shop: Client, query: str) -> None:
    """No order, no id, or a parameter that is not declared is 422, named."""
    refused = shop.ask("GET", f"/v1/payments{query}")
    assert told(refused) == (422, "validation-failed")
    assert refused.body["errors"][0]["pointer"].startswith("query:")


def test_an_unknown_parameter_beside_a_good_one(shop: Client, order: str) -> None:
    """A good request with one parameter too many is refused."""
    assert told(shop.ask("GET", f"/v1/payments?order_id={order}&odd=1")) == (422, "validation-failed")


def test_other_methods_and_paths(shop: Client, order: str) -> None:
    """Payments are read here, never made: 405; there is no other path: 404."""
    refused = shop.ask("POST", f"/v1/payments?order_id={order}", {})
    assert (told(refused)[0], refused.headers["allow"]) == (405, "GET, HEAD")
    assert told(shop.ask("GET", f"/v1/payments/{order}")) == (404, "not-found")


def test_without_its_database(payment: Money, order: str) -> None:
    """With the database gone a read is 503 that says so, with a time to come back."""

    def refused() -> Tx:
        raise psycopg.OperationalError

    with serving(api.make, payment.service, refused) as base, Client(base) as shop:
        reply = shop.ask("GET", f"/v1/payments?order_id={order}")
    assert told(reply) == (503, "dependency-unavailable")
    assert (reply.body["dependency"], reply.headers["retry-after"]) == ("database", "1")


def test_the_description(shop: Client) -> None:
    """The route declares its scope, and its example is one its own model takes."""
    route = shop.ask("GET", "/openapi.json").body["paths"]["/v1/payments"]["get"]

    assert route["x-required-scope"] == "payments:read"
    assert sorted(route["responses"]) == ["200", "400", "408", "414", "422", "431", "500", "503"]
    api.Payment.model_validate_json(json.dumps(api.PAYMENT))


def test_no_request_finds_an_undocumented_answer(url: str, tmp_path: Path) -> None:
    """Whatever schemathesis sends, valid or not: no 5xx, and every answer is as described."""
    fuzz_api(url, 5, tmp_path)


def test_a_payment_is_read_at_one_moment(payment: Money, charging: str) -> None:
    """What commits while a payment is read is seen as a whole or not at all: never the old state without its intent."""

    def charged(before: str) -> None:
        if before == "entry":
            payment.given(CardCharged(charging, "ch-1"))

    def read(db: sa.Connection) -> store.Account | None:
        statements = iter(("payment", "entry", "task"))
        sa.event.listen(db, "before_cursor_execute", lambda *_: charged(next(statements)))
        return store.payment_of(db, charging)

    pool = Pool(payment.connect)
    account = pool.read(read)
    pool.close()

    assert account is not None
    assert (account.payment.state.value, len(account.entries), len(account.pending)) == ("CHARGING", 0, 1)


def test_the_ledger_is_a_page(shop: Client, payment: Money, charging: str) -> None:
    """Each movement with its sign and what is left with us, as a page that runs nothing; an order unknown has none."""
    payment.given(CardCharged(charging, "ch_<1>"))
    payment.given(OrderCancellationRequested(charging, "CUSTOMER"))
    payment.given(CardRefunded(charging, "VOID", "re_1"))

    page = shop.ask("GET", f"/ledger/{charging}")

    assert page.status == 200
    text = page.raw.decode()
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert all(word in text for word in ("CAPTURE", "+2500 EUR", "VOID", "-2500 EUR", "ch_&lt;1&gt;", charging))
    assert "<th>0</th>" in text
    assert told(shop.ask("GET", f"/ledger/{uuid4()}")) == (404, "not-found")
    assert told(shop.ask("GET", "/ledger/%3Cscript%3E")) == (404, "not-found")
