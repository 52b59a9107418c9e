"""The stock API over real HTTP and Postgres: what a stock keeper sees, sets, and is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from inventory import api, store
from inventory.domain import Stock
from inventory.events import Line, OrderPlaced, SetStock
from inventory.handlers import on
from quadrille import HandlerRegistry
from quadrille.service import Store, Tx
from quadrille.testing import OnPostgres, fuzz_api, serving
from quadrille_cli.client import Client, Reply

Inventory = OnPostgres[Stock]
NEW = {"If-None-Match": "*"}


@pytest.fixture(scope="module")
def inventory(on_postgres: Callable[[HandlerRegistry[Stock], Store[Stock]], Inventory]) -> Inventory:
    return on_postgres(on, store)


@pytest.fixture(scope="module")
def url(inventory: Inventory) -> Iterator[str]:
    with serving(api.make, inventory.service, inventory.connect) as base:
        yield base


@pytest.fixture
def shop(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


@pytest.fixture
def sku() -> str:
    return f"sku-{uuid4()}"


@pytest.fixture
def stocked(inventory: Inventory, sku: str) -> str:
    """A SKU with five pieces, at version 1."""
    inventory.given(SetStock(sku, 5))
    return sku


def told(reply: Reply) -> tuple[int, str]:
    """The status and slug of a problem."""
    assert reply.headers["content-type"] == "application/problem+json"
    return reply.status, str(reply.body["type"]).rpartition("/")[2]


def test_an_unknown_sku(shop: Client, sku: str) -> None:
    """What never was in stock is 404."""
    assert told(shop.ask("GET", f"/v1/stock/{sku}")) == (404, "not-found")


def test_a_new_sku(shop: Client, sku: str) -> None:
    """If-None-Match: * creates a SKU once, tells where it is, and the answer is what is read afterwards."""
    made = shop.ask("PUT", f"/v1/stock/{sku}", {"available": 5, "sealed": True}, NEW)

    assert (made.status, made.headers["etag"]) == (201, '"v1"')
    counts = {"available": 5, "held": 0, "committed": 0, "received": 5}
    assert made.body == {"sku": sku, **counts, "sealed": True, "version": 1}
    read = shop.ask("GET", f"/v1/stock/{sku}")
    assert (read.status, read.headers["etag"], read.body) == (200, '"v1"', made.body)
    assert made.headers["location"].endswith(f"/v1/stock/{sku}")

    again = shop.ask("PUT", f"/v1/stock/{sku}", {"available": 9}, NEW)
    assert told(again) == (412, "version-mismatch")
    assert again.body["current_etag"] == '"v1"'


def test_the_etag_goes_round(shop: Client, stocked: str) -> None:
    """The ETag of every answer is the If-Match of the next change; `sealed` stays as it was unless it is said."""
    tag = shop.ask("GET", f"/v1/stock/{stocked}").headers["etag"]
    for number, change in enumerate(({"available": 7, "sealed": True}, {"available": 2**31 - 1}, {"available": 0})):
        reply = shop.ask("PUT", f"/v1/stock/{stocked}", change, {"If-Match": tag})
        assert (reply.status, reply.body["available"], reply.body["sealed"]) == (200, change["available"], True)
        assert reply.headers["etag"] == f'"v{number + 2}"'
        tag = reply.headers["etag"]


def test_a_change_without_a_condition(shop: Client, stocked: str, sku: str) -> None:
    """Without If-Match a change is 428 and names the version there is, if there is one; nothing changes."""
    refused = shop.ask("PUT", f"/v1/stock/{stocked}", {"available": 1})
    assert told(refused) == (428, "precondition-required")
    assert refused.body["current_etag"] == '"v1"'
    assert told(shop.ask("PUT", f"/v1/stock/{stocked}", {"available": 1}, {"If-None-Match": '"v9"'}))[0] == 428

    unknown = shop.ask("PUT", f"/v1/stock/{sku}x", {"available": 1})
    assert told(unknown) == (428, "precondition-required")
    assert "current_etag" not in unknown.body
    assert shop.ask("GET", f"/v1/stock/{stocked}").body["available"] == 5


@pytest.mark.parametrize("condition", ['"v0"', '"v2"', 'W/"v1"', "v1", "", '"v2", "v3"'])
def test_a_stale_condition(shop: Client, stocked: str, condition: str) -> None:
    """An If-Match that is not the present version, compared strongly, is 412 and names the present one."""
    refused = shop.ask("PUT", f"/v1/stock/{stocked}", {"available": 1}, {"If-Match": condition})

    assert told(refused) == (412, "version-mismatch")
    assert refused.body["current_etag"] == '"v1"'


def test_wider_conditions(shop: Client, stocked: str) -> None:
    """If-Match: * is any version there is, a list is any of its tags; together with If-None-Match: * nothing can be."""
    path = f"/v1/stock/{stocked}"
    assert shop.ask("PUT", path, {"available": 6}, {"If-Match": "*"}).status == 200
    assert shop.ask("PUT", path, {"available": 7}, {"If-Match": '"v1", "v2"'}).status == 200
    assert told(shop.ask("PUT", path, {"available": 8}, {"If-Match": '"v3"', **NEW}))[0] == 412
    assert told(shop.ask("PUT", f"{path}x", {"available": 8}, {"If-Match": "*"}))[0] == 412


def test_two_keepers_at_once(url: str, stocked: str) -> None:
    """Of eight changes on one version one is made, seven are 412: none is lost; If-Match: * lets all eight through."""

    def change(condition: str) -> int:
        with Client(url) as mine:
            return mine.ask("PUT", f"/v1/stock/{stocked}", {"available": 1}, {"If-Match": condition}).status

    with ThreadPoolExecutor(8) as keepers:
        assert sorted(keepers.map(change, ['"v1"'] * 8)) == [200] + [412] * 7
        assert sorted(keepers.map(change, ["*"] * 8)) == [200] * 8


def test_an_order_moves_the_version(shop: Client, inventory: Inventory, stocked: str) -> None:
    """A hold shows, keeps received = available + held + committed, and makes an ETag read before it stale."""
    inventory.given(OrderPlaced(str(uuid4()), (Line(stocked, 2),)))

    read = shop.ask("GET", f"/v1/stock/{stocked}")
    assert (read.body["available"], read.body["held"], read.body["received"]) == (3, 2, 5)
    assert told(shop.ask("PUT", f"/v1/stock/{stocked}", {"available": 9}, {"If-Match": '"v1"'}))[0] == 412
    grown = shop.ask("PUT", f"/v1/stock/{stocked}", {"available": 9}, {"If-Match": read.headers["etag"]})
    assert (grown.body["available"], grown.body["held"], grown.body["received"]) == (9, 2, 11)


def test_not_modified(shop: Client, stocked: str) -> None:
    """A reader who has this version gets 304 without a body; one who has another gets the document."""
    for known in ('"v1"', 'W/"v1"', '"v0", "v1"', "*"):
        reply = shop.ask("GET", f"/v1/stock/{stocked}", headers={"If-None-Match": known})
        assert (reply.status, reply.raw, reply.headers["etag"]) == (304, b"", '"v1"')
    assert shop.ask("GET", f"/v1/stock/{stocked}", headers={"If-None-Match": '"v0"'}).status == 200


def test_the_list(shop: Client, inventory: Inventory, sku: str) -> None:
    """Every SKU is on exactly one page, in order, however small the pages; the last page leads nowhere."""
    inventory.given(*[SetStock(f"{sku}-{n}", n) for n in range(5)])
    path, seen = "/v1/stock?limit=2", []
    while path:
        page = shop.ask("GET", path)
        assert 0 < len(page.body["stock"]) <= 2
        seen += [level["sku"] for level in page.body["stock"]]
        link = page.headers.get("link", "")
        assert page.body["has_more"] is bool(link)
        path = link[link.find("/v1/") : link.find(">")] if 'rel="next"' in link else ""

    assert [name for name in seen if name.startswith(sku)] == [f"{sku}-{n}" for n in range(5)]
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("cursor", ["", "!", "Zg=", "%C3%A9", "____", "c2t1LQo"])
def test_a_damaged_cursor(shop: Client, cursor: str) -> None:
    """A cursor we did not write is 400."""
    assert told(shop.ask("GET", f"/v1/stock?cursor={cursor}")) == (400, "invalid-cursor")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/available"),
        ({"available": -1}, "/available"),
        ({"available": 2**31}, "/available"),
        ({"available": 2**63}, "/available"),
        ({"available": "5"}, "/available"),
        ({"available": 1.5}, "/available"),
        ({"available": True}, "/available"),
        ({"available": 1, "sealed": 1}, "/sealed"),
        ({"available": 1, "held": 1}, "/held"),
    ],
)
def test_a_body_that_is_not_valid(shop: Client, stocked: str, body: object, pointer: str) -> None:
    """A wrong, missing or unknown member is 422, named by its place, and nothing is written."""
    refused = shop.ask("PUT", f"/v1/stock/{stocked}", body, {"If-Match": '"v1"'})

    assert told(refused) == (422, "validation-failed")
    assert [error["pointer"] for error in refused.body["errors"]] == [pointer]
    assert shop.ask("GET", f"/v1/stock/{stocked}").headers["etag"] == '"v1"'


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "odd=1", f"cursor={'x' * 201}"])
def test_an_unknown_or_wrong_parameter(shop: Client, query: str) -> None:
    """A parameter that is not declared, or out of its bounds, is 422."""
    assert told(shop.ask("GET", f"/v1/stock?{query}")) == (422, "validation-failed")


@pytest.mark.parametrize("odd", ["-x", "%20", "a%00b", "a%0Ab", "x" * 65, "%C3%A9"])
def test_a_name_no_sku_has(shop: Client, odd: str) -> None:
    """A name outside letters, digits and . _ : - is 422 wherever it stands."""
    assert told(shop.ask("GET", f"/v1/stock/{odd}")) == (422, "validation-failed")
    assert told(shop.ask("PUT", f"/v1/stock/{odd}", {"available": 1}, NEW)) == (422, "validation-failed")


def test_other_methods(shop: Client, stocked: str) -> None:
    """What is not offered is 405 and says what is."""
    refused = shop.ask("DELETE", f"/v1/stock/{stocked}")
    assert (told(refused)[0], refused.headers["allow"]) == (405, "GET, HEAD, PUT")


def test_without_its_database(inventory: Inventory) -> None:
    """With the database gone both reads and changes are 503 that says so, with a time to come back."""

    def refused() -> Tx:
        raise psycopg.OperationalError

    with serving(api.make, inventory.service, refused) as base, Client(base) as shop:
        for reply in (shop.ask("GET", "/v1/stock"), shop.ask("PUT", "/v1/stock/SKU-A", {"available": 1}, NEW)):
            assert told(reply) == (503, "dependency-unavailable")
            assert (reply.body["dependency"], reply.headers["retry-after"]) == ("database", "1")


def test_the_description(shop: Client) -> None:
    """Every route declares its scope and every status it may answer, with examples its own model takes."""
    paths = shop.ask("GET", "/openapi.json").body["paths"]
    found = {f"{verb} {path}": told for path, verbs in paths.items() for verb, told in verbs.items()}

    assert {name: told["x-required-scope"] for name, told in found.items()} == {
        "get /v1/stock": "stock:read",
        "get /v1/stock/{sku}": "stock:read",
        "put /v1/stock/{sku}": "stock:write",
    }
    assert {"200", "304", "404", "422"} < set(found["get /v1/stock/{sku}"]["responses"])
    assert {"200", "201", "412", "422", "428"} < set(found["put /v1/stock/{sku}"]["responses"])
    api.Stock.model_validate_json(json.dumps(api.LEVEL))


def test_no_request_finds_an_undocumented_answer(url: str, tmp_path: Path) -> None:
    """Whatever schemathesis sends, valid or not: no 5xx, and every answer is as described."""
    fuzz_api(url, 8, tmp_path)
