"""The address book and the notices over real HTTP and Postgres; an address is nowhere but where it was put."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from notification import api, store
from notification.domain import Post
from notification.events import MailFailed, MailSent, OrderCancellationRequested, OrderCancelled, OrderConfirmed
from notification.handlers import on
from quadrille import HandlerRegistry
from quadrille.service import Store, Tx
from quadrille.testing import OnPostgres, fuzz_api, serving
from quadrille_cli.client import Client, Reply

Office = OnPostgres[Post]
SECRET = "ada.lovelace"  # noqa: S105 - the part of an address that must not be told
EMAIL = f"{SECRET}@shop.example"


@pytest.fixture(scope="module")
def notification(on_postgres: Callable[[HandlerRegistry[Post], Store[Post]], Office]) -> Office:
    return on_postgres(on, store)


@pytest.fixture(scope="module")
def url(notification: Office) -> Iterator[str]:
    with serving(api.make, notification.service, notification.connect) as base:
        yield base


@pytest.fixture
def shop(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


@pytest.fixture
def customer() -> str:
    return f"cust-{uuid4()}"


@pytest.fixture
def order() -> str:
    return str(uuid4())


def told(reply: Reply) -> tuple[int, str]:
    """The status and slug of a problem."""
    assert reply.headers["content-type"] == "application/problem+json"
    return reply.status, str(reply.body["type"]).rpartition("/")[2]


def notices(shop: Client, order: str) -> list[dict[str, Any]]:
    reply = shop.ask("GET", f"/v1/notices?order_id={order}")
    assert reply.status == 200
    assert SECRET.encode() not in reply.raw
    return list(reply.body["notices"])


def test_the_life_of_an_address(shop: Client, customer: str) -> None:
    """An address is created, read, replaced and erased; erased it is gone, and erasing again changes nothing."""
    path = f"/v1/contacts/{customer}"
    assert told(shop.ask("GET", path)) == (404, "not-found")

    made = shop.ask("PUT", path, {"email": EMAIL})
    assert (made.status, made.body) == (201, {"customer_id": customer, "email": EMAIL})
    assert made.headers["location"].endswith(path)
    assert shop.ask("GET", path).body == made.body

    moved = shop.ask("PUT", path, {"email": "ada@shop.example"})
    assert (moved.status, moved.body) == (200, {"customer_id": customer, "email": "ada@shop.example"})

    for _ in range(2):
        erased = shop.ask("DELETE", path)
        assert (erased.status, erased.raw) == (204, b"")
    assert told(shop.ask("GET", path)) == (404, "not-found")


def test_an_address_is_not_kept_on_the_way(shop: Client, customer: str) -> None:
    """Answers that hold an address forbid every cache to keep it."""
    path = f"/v1/contacts/{customer}"
    for reply in (shop.ask("PUT", path, {"email": EMAIL}), shop.ask("GET", path), shop.ask("GET", f"{path}x")):
        assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/email"),
        ({"email": None}, "/email"),
        ({"email": 1}, "/email"),
        ({"email": ""}, "/email"),
        ({"email": SECRET}, "/email"),
        ({"email": f"{SECRET}@"}, "/email"),
        ({"email": f"{EMAIL}\n"}, "/email"),
        ({"email": f"{EMAIL}\r\nBcc: x@y.example"}, "/email"),
        ({"email": f"Ada <{EMAIL}>"}, "/email"),
        ({"email": f"{'x' * 65}@shop.example"}, "/email"),
        ({"email": "ada\x00@shop.example"}, "/email"),
        ({"email": EMAIL, "name": "Ada"}, "/name"),
    ],
)
def test_an_address_mail_cannot_go_to(shop: Client, customer: str, body: object, pointer: str) -> None:
    """What is no address, or smuggles anything in, is 422, named by its place and not repeated; nothing is stored."""
    refused = shop.ask("PUT", f"/v1/contacts/{customer}", body)

    assert told(refused) == (422, "validation-failed")
    assert [error["pointer"] for error in refused.body["errors"]] == [pointer]
    assert SECRET.encode() not in refused.raw
    assert told(shop.ask("GET", f"/v1/contacts/{customer}"))[0] == 404


@pytest.mark.parametrize("odd", ["-x", "%20", "a%00b", "a%0Ab", "x" * 65])
def test_a_name_no_customer_has(shop: Client, odd: str) -> None:
    """An id outside letters, digits and . _ : - is 422 on every route."""
    path = f"/v1/contacts/{odd}"
    for reply in (shop.ask("GET", path), shop.ask("PUT", path, {"email": EMAIL}), shop.ask("DELETE", path)):
        assert told(reply) == (422, "validation-failed")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_an_unknown_parameter(shop: Client, customer: str, method: str) -> None:
    """A parameter no route declares is refused before anything is done."""
    body = {"email": EMAIL} if method == "PUT" else None
    assert told(shop.ask(method, f"/v1/contacts/{customer}?odd=1", body)) == (422, "validation-failed")


def test_a_notice_without_an_address(shop: Client, notification: Office, customer: str, order: str) -> None:
    """The mail to a customer nobody can write to shows as suppressed, with the reason."""
    assert notices(shop, order) == []
    notification.given(OrderConfirmed(order, customer, 2500, "EUR"))

    (notice,) = notices(shop, order)
    assert (notice["kind"], notice["state"], notice["because"]) == ("confirmed", "SUPPRESSED", "NO_ADDRESS")
    assert notice["changed_at"].endswith("Z")


def test_notices_on_their_way(shop: Client, notification: Office, customer: str, order: str) -> None:
    """Each mail of an order shows from its sending to its end, oldest change first, without its address."""
    shop.demand("PUT", f"/v1/contacts/{customer}", {"email": EMAIL})
    notification.given(OrderConfirmed(order, customer, 2500, "EUR"))
    assert [(n["kind"], n["state"]) for n in notices(shop, order)] == [("confirmed", "SENDING")]

    notification.given(MailSent(order, "confirmed"))
    notification.given(OrderCancelled(order, customer, "CUSTOMER"))
    notification.given(MailFailed(order, "cancelled", "mailbox unavailable"))
    assert [(n["kind"], n["state"], n["because"]) for n in notices(shop, order)] == [
        ("confirmed", "SENT", None),
        ("cancelled", "FAILED", "mailbox unavailable"),
    ]


def test_a_tombstone_is_no_notice(shop: Client, notification: Office, order: str) -> None:
    """A cancellation heard first is remembered, but it is no mail."""
    notification.given(OrderCancellationRequested(order))
    assert notices(shop, order) == []


@pytest.mark.parametrize("query", ["", "?order_id=", "?order_id=o-1", "?order_id=%00", "?odd=1"])
def test_a_wrong_parameter(shop: Client, query: str) -> None:
    """No order, no id, or a parameter that is not declared is 422, named."""
    refused = shop.ask("GET", f"/v1/notices{query}")
    assert told(refused) == (422, "validation-failed")
    assert refused.body["errors"][0]["pointer"].startswith("query:")


def test_other_methods(shop: Client, customer: str) -> None:
    """What is not offered is 405 and says what is."""
    refused = shop.ask("POST", f"/v1/contacts/{customer}", {"email": EMAIL})
    assert (told(refused)[0], refused.headers["allow"]) == (405, "DELETE, GET, HEAD, PUT")
    assert shop.ask("POST", "/v1/notices", {}).headers["allow"] == "GET, HEAD"


def test_trouble_tells_no_address(notification: Office, customer: str, capfd: pytest.CaptureFixture[str]) -> None:
    """With the database gone every route is 503 that says so, and neither answer nor log holds the address."""

    def refused() -> Tx:
        raise psycopg.OperationalError

    path = f"/v1/contacts/{customer}"
    with serving(api.make, notification.service, refused) as base, Client(base) as shop:
        for reply in (shop.ask("GET", path), shop.ask("PUT", path, {"email": EMAIL}), shop.ask("DELETE", path)):
            assert told(reply) == (503, "dependency-unavailable")
            assert (reply.body["dependency"], reply.headers["retry-after"]) == ("database", "1")
            assert SECRET.encode() not in reply.raw
    logged = "".join(capfd.readouterr())
    assert "intake waits" in logged
    assert SECRET not in logged
    assert customer not in logged


def test_the_description(shop: Client) -> None:
    """Every route declares its scope and its answers, with examples its own model takes."""
    paths = shop.ask("GET", "/openapi.json").body["paths"]
    contact = paths["/v1/contacts/{customer_id}"]

    assert {verb: route["x-required-scope"] for verb, route in contact.items()} == {
        "get": "contacts:read",
        "put": "contacts:write",
        "delete": "contacts:write",
    }
    assert paths["/v1/notices"]["get"]["x-required-scope"] == "notices:read"
    assert {"200", "404"} < set(contact["get"]["responses"])
    assert {"200", "201", "422", "503"} < set(contact["put"]["responses"])
    assert {"204", "503"} < set(contact["delete"]["responses"])
    api.Contact.model_validate_json(json.dumps(api.CONTACT))
    api.Notice.model_validate_json(json.dumps(api.NOTICE))


def test_no_request_finds_an_undocumented_answer(url: str, tmp_path: Path) -> None:
    """Whatever schemathesis sends, valid or not: no 5xx, and every answer is as described."""
    fuzz_api(url, 8, tmp_path)
