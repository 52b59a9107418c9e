"""The order API: an accepted order is durable and told once; a refused request leaves nothing behind."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode

import psycopg
import pytest
from services.order.tests.shopfront import LINE, ORDER, Got, Shop

from order.events import (
    CancelOrder,
    PaymentCharged,
    PaymentDeclined,
    PaymentRefundFailed,
    StockCommitted,
    StockReleased,
    StockReserved,
)
from quadrille import Message


def slug(got: Got) -> str:
    return got.slug


@pytest.mark.proves("order.place")
def test_an_order_is_accepted(shop: Shop) -> None:
    """202 tells the whole order, where it is, its version and when to look again; one event and one timer are said."""
    got = shop.place(reference="basket-4711")
    body = got.body

    assert got.status == 202
    assert got.headers["location"] == f"/v1/orders/{body['order_id']}"
    assert (got.headers["etag"], got.headers["retry-after"]) == ('"v1"', "1")
    assert "idempotent-replayed" not in got.headers
    assert (body["status"], body["phase"], body["final"], body["amount_minor"]) == ("PENDING", "PENDING", False, 2500)
    assert (body["reference"], body["lines"], body["inventory"], body["payment"]) == (
        "basket-4711",
        [LINE],
        "NONE",
        "NONE",
    )
    assert body["trace_id"] == got.headers["x-trace-id"]
    assert [(e["sequence"], e["status"], e["because"]) for e in body["history"]] == [(1, "PENDING", "order.placed")]
    assert "tok_ok" not in got.raw.decode()
    assert shop.written() == (1, 1, 1, 1)


def test_what_is_read_is_what_was_answered(shop: Shop) -> None:
    """GET shows the very document the 202 showed, until something happens."""
    placed = shop.place()

    assert shop.ask("GET", placed.headers["location"]).body == placed.body


@pytest.mark.proves("late.post")
def test_a_repeat_gets_the_same_bytes(shop: Shop) -> None:
    """The same key and body, also differently spelt, get the stored answer byte for byte, and nothing is written."""
    first = shop.place(reference="caf\u00e9")
    spelt = json.dumps(ORDER | {"reference": unaccented("caf\u00e9")}, indent=3, sort_keys=True).encode()
    again = shop.ask("POST", "/v1/orders", spelt, {"Idempotency-Key": "k-1"})

    assert (again.status, again.raw) == (202, first.raw)
    assert again.headers["idempotent-replayed"] == "true"
    assert (again.headers["location"], again.headers["etag"]) == (first.headers["location"], first.headers["etag"])
    assert shop.written() == (1, 1, 1, 1)


def unaccented(text: str) -> str:
    """Return the text with its accents as characters of their own."""
    return unicodedata.normalize("NFD", text)


def test_one_key_a_hundred_times_at_once(shop: Shop) -> None:
    """A hundred clients with one key and body: one order, equal bodies; one of them alone was first."""
    with ThreadPoolExecutor(25) as pool:
        answers = list(pool.map(lambda _: shop.insist(shop.place), range(100)))

    assert {got.status for got in answers} == {202}
    assert len({got.raw for got in answers}) == 1
    assert sum("idempotent-replayed" not in got.headers for got in answers) == 1
    assert shop.written() == (1, 1, 1, 1)


def test_a_key_with_another_body(shop: Shop) -> None:
    """The same key for another order is 422 and names the order it belongs to."""
    first = shop.place()
    other = shop.place(currency="CHF")

    assert (other.status, other.slug, other.body["order"]) == (422, "idempotency-key-reused", first.body["order_id"])
    assert shop.written() == (1, 1, 1, 1)


def test_a_reference_is_taken_while_its_order_stands(shop: Shop) -> None:
    """The same reference of a customer under another key is 409 and names the order; another customer may use it."""
    first = shop.place(reference="basket")
    other = shop.place("k-2", reference="basket")

    assert (other.status, other.slug, other.body["order"]) == (409, "reference-taken", first.body["order_id"])
    assert shop.place("k-3", reference="basket", customer_id="cust_other").status == 202
    assert shop.written() == (2, 2, 2, 2)


def test_the_same_basket_after_a_declined_card(shop: Shop) -> None:
    """Once the order has ended CANCELLED the same basket is placed under a new key; both orders are found by it."""
    first = shop.place(reference="basket-4711", payment_token="tok_declined").body["order_id"]  # noqa: S106 - a test token
    shop.db.given(StockReserved(first), PaymentDeclined(first, "card_declined"), StockReleased(first))
    assert shop.ask("GET", f"/v1/orders/{first}").body["status"] == "CANCELLED"

    again = shop.place("k-2", reference="basket-4711")

    assert (again.status, again.body["order_id"] != first) == (202, True)
    assert shop.place("k-3", reference="basket-4711").body["order"] == again.body["order_id"]
    assert shop.place(reference="basket-4711", payment_token="tok_declined").body["order_id"] == first  # noqa: S106 - as above
    found = shop.ask("GET", "/v1/orders?reference=basket-4711").body["orders"]
    assert [order["order_id"] for order in found] == [again.body["order_id"], first]


def test_who_bears_a_reference_is_told(shop: Shop) -> None:
    """The refusal names the order, where it stands, and what to do; each status has a way out of its own."""
    order = str(shop.place(reference="basket").body["order_id"])
    seen: dict[str, str] = {}
    steps: list[tuple[Message, ...]] = [
        (), (StockReserved(order), PaymentCharged(order), StockCommitted(order)),
        (CancelOrder(order, "local", "customer"),), (PaymentRefundFailed(order, "BUSINESS", "card_closed", 1),),
    ]  # fmt: skip
    for facts in steps:
        if facts:
            shop.db.given(*facts)
        refused = shop.place("k-2", reference="basket")
        assert (refused.status, refused.slug, refused.body["order"]) == (409, "reference-taken", order)
        assert order in refused.body["detail"]
        assert refused.body["order_status"] in refused.body["detail"]
        seen[refused.body["order_status"]] = refused.body["detail"].partition(". ")[2]

    assert list(seen) == ["PENDING", "CONFIRMED", "CANCELLING", "COMPENSATION_FAILED"]
    assert len(set(seen.values())) == 4


def lines(*changed: Mapping[str, object]) -> dict[str, object]:
    return {"lines": [LINE | dict(one) for one in changed]}


@pytest.mark.parametrize(
    ("changed", "pointer"),
    [
        ({"currency": "EUX"}, "/currency"),
        ({"currency": "eur"}, "/currency"),
        ({"lines": []}, "/lines"),
        (lines({"quantity": 0}), "/lines/0/quantity"),
        (lines({"quantity": 2**63}), "/lines/0/quantity"),
        (lines({"quantity": "2"}), "/lines/0/quantity"),
        (lines({"quantity": True}), "/lines/0/quantity"),
        (lines({"quantity": 1.5}), "/lines/0/quantity"),
        (lines({}, {"unit_price_minor": -1}), "/lines/1/unit_price_minor"),
        (lines({"unit_price_minor": 2**63}), "/lines/0/unit_price_minor"),
        (lines({"sku": "SKU\u0007"}), "/lines/0/sku"),
        (lines({"sku": ""}), "/lines/0/sku"),
        ({"lines": [LINE] * 101}, "/lines"),
        ({"reference": "a\u0000b"}, "/reference"),
        ({"reference": "a\u202eb"}, "/reference"),
        ({"reference": "x" * 256}, "/reference"),
        ({"customer_id": "cust demo"}, "/customer_id"),
        ({"customer_id": None}, "/customer_id"),
        ({"colour": "red"}, "/colour"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_not_valid(shop: Shop, changed: Mapping[str, object], pointer: str) -> None:
    """An unknown currency, no or too many lines, a quantity out of range, control characters: 422, nothing written."""
    got = shop.ask("POST", "/v1/orders", ORDER | dict(changed), {"Idempotency-Key": "k-1"})

    assert (got.status, got.slug) == (422, "validation-failed")
    assert [error["pointer"] for error in got.body["errors"]] == [pointer]
    assert shop.written() == (0, 0, 0, 0)


@pytest.mark.parametrize("key", [None, "", "a b", "\u00e4", "x" * 256])
def test_a_missing_key(shop: Shop, key: str | None) -> None:
    """No Idempotency-Key, or one that is not 1 to 255 visible ASCII characters: 400, nothing written."""
    got = shop.ask("POST", "/v1/orders", ORDER, {} if key is None else {"Idempotency-Key": key})

    assert (got.status, got.slug) == (400, "idempotency-key-missing")
    assert shop.written() == (0, 0, 0, 0)


def unkeyed(shop: Shop, **changed: object) -> Got:
    """Place the usual order, changed, without an Idempotency-Key."""
    return shop.ask("POST", "/v1/orders", ORDER | changed)


def test_a_reference_stands_in_for_a_key(shop: Shop) -> None:
    """Without a key the same customer's same reference is one order, answered byte for byte; another body is 422."""
    first, again = unkeyed(shop, reference="basket-1"), unkeyed(shop, reference="basket-1")
    other = unkeyed(shop, reference="basket-1", currency="CHF")

    assert (first.status, again.status, again.raw) == (202, 202, first.raw)
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    assert (other.status, other.slug, other.body["order"]) == (422, "idempotency-key-reused", first.body["order_id"])
    assert shop.written() == (1, 1, 1, 1)
    assert unkeyed(shop, reference="basket-1", customer_id="another").body["order_id"] != first.body["order_id"]
    assert unkeyed(shop, reference="basket-2").body["order_id"] != first.body["order_id"]


def test_a_derived_key_is_nobodys_own(shop: Shop) -> None:
    """A key that was sent is another one: its order's reference is taken, not replayed."""
    first = unkeyed(shop, reference="basket-1")
    with psycopg.connect(shop.db.logins.owner) as tx:
        [(key,)] = tx.execute("SELECT key FROM idempotency_key").fetchall()

    assert shop.place(key, reference="basket-1").slug == "idempotency-key-missing"  # it has a blank
    taken = shop.place("k-2", reference="basket-1")
    assert (taken.slug, taken.body["order"]) == ("reference-taken", first.body["order_id"])


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (b"{", 400, "malformed-json"),
        (json.dumps(ORDER).encode()[:-1] + b', "currency": "CHF"}', 400, "malformed-json"),
        (json.dumps(ORDER).encode() + b"x", 400, "malformed-json"),
        (json.dumps(ORDER).encode().ljust(65 * 1024), 413, "body-too-large"),
    ],
    ids=["cut", "duplicate member", "trailing", "65 KiB"],
)
def test_what_is_no_json(shop: Shop, body: bytes, status: int, expected: str) -> None:
    """MalformedJsonError JSON is 400, a body of 65 KiB is 413; nothing is written."""
    got = shop.ask("POST", "/v1/orders", body, {"Idempotency-Key": "k-1"})

    assert (got.status, got.slug) == (status, expected)
    assert shop.written() == (0, 0, 0, 0)


def test_a_refused_request_burns_no_key(shop: Shop) -> None:
    """After a refusal the same key places the corrected order."""
    assert shop.place(currency="EUX").status == 422
    assert shop.place().status == 202


def test_the_largest_order(shop: Shop) -> None:
    """An amount of 2^53 - 1, which every JSON reader has exactly, is taken over any lines; one more is refused."""
    most, line = 2**53 - 1, LINE | {"quantity": 900_000, "unit_price_minor": 10_000_000_000}
    rest = LINE | {"quantity": 1, "unit_price_minor": most - 9_000_000_000_000_000 - 7_199_254_740_000}
    others = [
        LINE | {"quantity": 719, "unit_price_minor": 10_000_000_000},
        LINE | {"quantity": 1, "unit_price_minor": 9_254_740_000},
    ]
    got = shop.place(lines=[line, *others, rest])
    assert (got.status, got.body["amount_minor"]) == (202, most)

    for beyond in (
        [line, *others, rest | {"unit_price_minor": rest["unit_price_minor"] + 1}],
        [line | {"quantity": 1_000_000}],
        [line] * 100,
    ):
        refused = shop.place("k-2", lines=beyond)
        assert (refused.status, refused.slug) == (422, "validation-failed")
        assert [(e["pointer"], e["code"]) for e in refused.body["errors"]] == [("/lines", "amount_too_large")]
    assert shop.written() == (1, 1, 1, 1)


@pytest.mark.parametrize(
    "reference", [" a basket ", "caf\u00e9", unaccented("caf\u00e9"), "\u0958" * 127, "\ufb2c" * 85, "\U0001f9fa" * 255]
)
def test_what_was_accepted_is_found(shop: Shop, reference: str) -> None:
    """A reference that is taken is found again, as it was sent and as it is shown, however it is composed."""
    order = shop.place(reference=reference).body
    for text in (reference, order["reference"]):
        found = shop.ask("GET", f"/v1/orders?{urlencode({'reference': text})}").body["orders"]
        assert [one["order_id"] for one in found] == [order["order_id"]]
    assert shop.place("k-2", reference=order["reference"]).slug == "reference-taken"


@pytest.mark.parametrize("reference", ["\u0958" * 128, "\ufb2c" * 86, "x" * 256])
def test_what_could_not_be_found_is_not_accepted(shop: Shop, reference: str) -> None:
    """A text that is too long once composed, as it is kept, is refused: its length as sent says nothing."""
    refused = shop.place(reference=reference)
    assert [(e["pointer"], e["code"]) for e in refused.body["errors"]] == [("/reference", "string_too_long")]


@pytest.mark.parametrize("time", ["2026-11-21T09:14:03+02:00", "2026-11-21T09:14:03.120+00:00"])
def test_a_plus_in_a_query_says_what_to_do(shop: Shop, time: str) -> None:
    """A time whose + came as a blank is refused with the way out, which works."""
    refused = shop.ask("GET", f"/v1/orders?placed_after={time}")
    assert refused.status == 422
    assert "%2B" in refused.body["errors"][0]["message"]
    assert shop.ask("GET", f"/v1/orders?placed_after={time.replace('+', '%2B')}").status == 200
    assert "%2B" not in shop.ask("GET", "/v1/orders?placed_after=yesterday").body["errors"][0]["message"]


def test_an_etag_spares_the_reading(shop: Shop) -> None:
    """If-None-Match with the version in hand is 304; after an event the version is another."""
    placed = shop.place()
    path, order_id = placed.headers["location"], placed.body["order_id"]
    assert shop.ask("GET", path, headers={"If-None-Match": '"v1"'}).status == 304

    shop.db.given(StockReserved(order_id), PaymentCharged(order_id), StockCommitted(order_id))
    got = shop.ask("GET", path, headers={"If-None-Match": '"v1"'})
    body = got.body

    assert got.status == 200
    assert got.headers["etag"] != '"v1"'
    assert (body["status"], body["final"], body["inventory"], body["payment"]) == (
        "CONFIRMED",
        True,
        "COMMITTED",
        "CHARGED",
    )
    assert body["cancellable_until"] > body["placed_at"]
    assert [e["status"] for e in body["history"]] == ["PENDING", "INVENTORY_RESERVED", "PAYMENT_CHARGED", "CONFIRMED"]


def test_a_foreign_or_unknown_order_is_not_found(shop: Shop) -> None:
    """An order that is another caller's is as unknown as one that never was; an id that is none is 422."""
    placed = shop.place()
    with psycopg.connect(shop.db.logins.owner) as tx:
        tx.execute("UPDATE orders SET caller = 'somebody'")

    assert slug(shop.ask("GET", placed.headers["location"])) == "not-found"
    assert slug(shop.ask("GET", "/v1/orders/01a1fd62-57f0-7eeb-be96-e59ce40f9cb1")) == "not-found"
    assert slug(shop.ask("GET", "/v1/orders/none")) == "validation-failed"


def test_a_list_is_walked_by_its_links(shop: Shop) -> None:
    """Newest first, page by page, each order once, until no link leads on."""
    ids = [shop.place(f"k-{n}").body["order_id"] for n in range(7)]
    seen: list[str] = []
    path: str | None = "/v1/orders?limit=3"
    pages = 0
    while path:
        got = shop.ask("GET", path)
        seen += [order["order_id"] for order in got.body["orders"]]
        link, pages = got.headers.get("link", ""), pages + 1
        assert got.body["has_more"] is bool(link)
        path = link[1 : link.index(">")].removeprefix(shop.url) if link else None

    assert seen == sorted(ids, reverse=True)
    assert pages == 3


def test_a_cursor_fits_its_own_list_only(shop: Shop) -> None:
    """A damaged cursor, or one of a list with other filters, is 400 invalid-cursor."""
    for n in range(3):
        shop.place(f"k-{n}")
    link = shop.ask("GET", "/v1/orders?limit=1&sku=SKU-TEA").headers["link"]
    cursor = link[link.index("cursor=") + 7 : link.index(">")]

    assert shop.ask("GET", f"/v1/orders?limit=2&sku=SKU-TEA&cursor={cursor}").status == 200
    for path in (f"limit=1&cursor={cursor}", f"sku=SKU-TEA&cursor={cursor[:-2]}", "cursor=AAAA", "cursor=A"):
        assert slug(shop.ask("GET", f"/v1/orders?{path}")) == "invalid-cursor", path


def test_every_filter_narrows(shop: Shop) -> None:
    """Each filter finds the order it describes and not the other; an unknown filter is refused."""
    one = shop.place("k-1", reference="r-1").body
    line = LINE | {"sku": "SKU-CUP"}
    two = shop.place("k-2", customer_id="cust_two", lines=[line]).body
    shop.db.given(StockReserved(two["order_id"]), PaymentCharged(two["order_id"]))
    begin, later = "2020-01-01T00:00:00Z", "2999-01-01T00:00:00+02:00"
    finds = {
        "status=PENDING": [one], "status=CONFIRMED": [two], "phase=PENDING": [one], "phase=SUCCEEDED": [two],
        "final=false": [one], "final=true": [two], "reason=DEADLINE": [], "attention=STUCK": [],
        "customer_id=cust_two": [two], "sku=SKU-CUP": [two], "reference=r-1": [one],
        urlencode({"placed_after": begin}): [two, one], urlencode({"placed_after": later}): [],
        urlencode({"placed_before": begin}): [], urlencode({"placed_before": later}): [two, one],
    }  # fmt: skip
    for query, expected in finds.items():
        found = shop.ask("GET", f"/v1/orders?{query}").body["orders"]
        assert [o["order_id"] for o in found] == [o["order_id"] for o in expected], query
    for query in ("colour=red", "status=LOST", "limit=0", "limit=201", "placed_after=yesterday", "reference=a%00b"):
        assert slug(shop.ask("GET", f"/v1/orders?{query}")) == "validation-failed", query


def test_the_example_of_the_description_can_be_tried_twice(shop: Shop) -> None:
    """Body and key as /openapi.json shows them place an order, and the same again is the same order; it says so."""
    document = shop.ask("GET", "/openapi.json").body
    body = document["components"]["schemas"]["NewOrder"]["example"]
    place = document["paths"]["/v1/orders"]["post"]
    key = next(one for one in place["parameters"] if one["name"].lower() == "idempotency-key")

    first, second, other = (
        shop.ask("POST", "/v1/orders", body, {"Idempotency-Key": name})
        for name in (str(key.get("example", "basket-1")), str(key.get("example", "basket-1")), "another")
    )

    assert [got.status for got in (first, second, other)] == [202, 202, 202]
    assert first.raw == second.raw != other.raw
    assert place["operationId"] == "place"
    assert "tok_ok" in document["info"]["description"]
    assert "**Start:**" in document["info"]["description"]
