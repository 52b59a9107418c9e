"""Cancelling over the API: one consistent answer at every moment of an order's life."""

from __future__ import annotations

import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from services.order.tests.shopfront import Shop

from order.domain import Orders, Rules
from order.events import (
    CancelAnswered,
    CancelOrder,
    PaymentCharged,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentSkipped,
    PlaceOrder,
    StockCommitted,
    StockReleased,
    StockReserved,
)
from quadrille import Message
from quadrille.service import Service, Tx
from quadrille.testing import Envelope, Handled, Parked, Unreadable, process_batch, uuid7

CUT_OFF = "UPDATE orders SET cancellable_until = now() - interval '1 second' WHERE order_id = %s"
RACES, BATCH = 10_000, 40


def placed(shop: Shop, *facts: Callable[[str], Message]) -> str:
    """Place an order, let events about it arrive, and return its id."""
    order_id = str(shop.place(f"k-{uuid4()}").body["order_id"])
    if facts:
        shop.db.given(*(fact(order_id) for fact in facts))
    return order_id


@pytest.mark.proves("order.cancel")
def test_an_undecided_order_is_cancelled(shop: Shop) -> None:
    """202 shows the order being undone, for the customer; the event is said once, and no link to cancel is left."""
    order = placed(shop, StockReserved)
    got = shop.cancel(order)
    body = got.body

    assert (got.status, got.headers["x-trace-id"]) == (202, body["trace_id"])
    assert got.headers["etag"] == '"v4"'
    assert (body["status"], body["reason"], body["phase"], body["final"]) == (
        "CANCELLING",
        "CUSTOMER",
        "COMPENSATING",
        False,
    )
    assert body["history"][-1]["because"] == "order.cancellation_requested"
    assert "cancel" not in body["links"]
    assert shop.emitted(order) == ["order.placed", "order.cancellation_requested"]


@pytest.mark.proves("cancel.again")
def test_a_repeat_says_the_same(shop: Shop) -> None:
    """Cancelling or cancelled already: 200 with the same body, whatever If-Match says, and nothing is said again."""
    order = placed(shop)
    first, again = shop.cancel(order), shop.cancel(order)
    assert (first.status, again.status, again.body) == (202, 200, first.body)

    shop.db.given(PaymentSkipped(order), StockReleased(order))
    ended = shop.cancel(order, {"If-Match": '"v1"'})
    assert (ended.status, ended.body["status"], ended.body["final"]) == (200, "CANCELLED", True)
    assert shop.emitted(order) == ["order.placed", "order.cancellation_requested", "order.cancelled"]


def test_a_confirmed_order_is_cancelled_before_its_cut_off(shop: Shop) -> None:
    """After the confirmation the money and the goods come back, and the document says what was refunded."""
    order = placed(shop, StockReserved, PaymentCharged, StockCommitted)
    assert shop.ask("GET", f"/v1/orders/{order}").body["links"]["cancel"] == f"/v1/orders/{order}/cancel"
    got = shop.cancel(order)
    assert (got.status, got.body["status"], got.body["cancellable_until"]) == (202, "CANCELLING", None)

    shop.db.given(StockReleased(order), PaymentRefunded(order, "VOID", 2500))
    body = shop.ask("GET", f"/v1/orders/{order}").body
    assert (body["status"], body["reason"]) == ("CANCELLED", "CUSTOMER")
    assert body["detail"] == {"refund": {"kind": "VOID", "amount_minor": 2500}}


@pytest.mark.proves("order.cancel-late", "cancel.too-late")
def test_after_the_cut_off_it_is_too_late(shop: Shop) -> None:
    """409 not-cancellable with the status and the time it was possible until; nothing happens."""
    order = placed(shop, PaymentCharged)
    with psycopg.connect(shop.db.logins.owner) as tx:
        tx.execute(CUT_OFF, [order])
    got = shop.cancel(order)

    assert (got.status, got.slug, got.body["order_status"]) == (409, "not-cancellable", "CONFIRMED")
    assert got.body["cancellable_until"] == shop.ask("GET", f"/v1/orders/{order}").body["cancellable_until"]
    assert shop.emitted(order) == ["order.placed", "order.confirmed"]


@pytest.mark.proves("cancel.frozen")
def test_a_frozen_order_answers_423(shop: Shop) -> None:
    """While an undo has failed, commands answer 423 with the time since when; the document stays honest."""
    order = placed(shop, PaymentCharged)
    shop.cancel(order)
    shop.db.given(PaymentRefundFailed(order, "BUSINESS", "card_closed", 1))
    got, document = shop.cancel(order), shop.ask("GET", f"/v1/orders/{order}").body

    assert (got.status, got.slug) == (423, "order-frozen")
    assert (document["status"], document["final"]) == ("COMPENSATION_FAILED", False)
    assert got.body["since"] == document["history"][-1]["at"]
    assert document["detail"] == {
        "failed": [{"participant": "payment", "error_class": "BUSINESS", "code": "card_closed"}]
    }


def test_if_match_guards_a_cancellation(shop: Shop) -> None:
    """A stale ETag, or none at all, is 412 with the current one: nothing happens; the current, one of some, * go on."""
    order = placed(shop, StockReserved)
    for given in ('"v1"', 'W/"v3"', ""):
        stale = shop.cancel(order, {"If-Match": given})
        assert (stale.status, stale.slug, stale.body["current_etag"]) == (412, "version-mismatch", '"v3"')
    assert shop.emitted(order) == ["order.placed"]

    assert shop.cancel(order, {"If-Match": '"v1", "v3"'}).status == 202
    assert shop.cancel(placed(shop), {"If-Match": "*"}).status == 202


def test_if_match_on_several_lines(shop: Shop) -> None:
    """If-Match is a list, on however many lines it comes: any of them may be the order's version."""
    order = placed(shop)
    host, _, port = shop.url.removeprefix("http://").partition(":")
    head = f'POST /v1/orders/{order}/cancel HTTP/1.1\r\nHost: x\r\nIf-Match: "v9"\r\nIf-Match: "v1"\r\n\r\n'
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head.encode())
        assert connection.recv(65_536).startswith(b"HTTP/1.1 202 ")


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b'{"reason": "too late"}', "application/json", 422),
        (b"[]", "application/json", 422),
        (b"{", "application/json", 400),
        (b"reason=late", "application/x-www-form-urlencoded", 415),
    ],
)
def test_a_body_nobody_understands_cancels_nothing(shop: Shop, body: bytes, kind: str, status: int) -> None:
    """What a client says beside "cancel" is refused: nothing is cancelled; to say nothing, or {}, is understood."""
    order = placed(shop)
    got = shop.ask("POST", f"/v1/orders/{order}/cancel", body, {"Content-Type": kind})
    assert (got.status, shop.emitted(order)) == (status, ["order.placed"])
    assert shop.ask("POST", f"/v1/orders/{order}/cancel", b"{}").status == 202
    assert shop.ask("POST", f"/v1/orders/{order}/cancel", b"", {"Content-Type": "text/plain"}).status == 200


def test_a_foreign_order_is_not_found(shop: Shop) -> None:
    """Another caller's order can be neither cancelled nor followed: 404, as if it never was; it goes on."""
    order = placed(shop)
    with psycopg.connect(shop.db.logins.owner) as tx:
        tx.execute("UPDATE orders SET caller = 'somebody' WHERE order_id = %s", [order])

    for order_id in (order, str(uuid7())):
        assert (shop.cancel(order_id).status, shop.cancel(order_id, {"If-Match": '"v1"'}).status) == (404, 404)
        assert shop.ask("GET", f"/v1/orders/{order_id}/stream").slug == "not-found"
    assert shop.emitted(order) == ["order.placed"]


@pytest.mark.proves("late.line")
def test_no_parked_fact_holds_a_cancellation_up(shop: Shop) -> None:
    """An event of the order that cannot be read waits in its line; cancelling does not wait behind it."""
    order = placed(shop)
    strange = Envelope(uuid7(), order, Unreadable("no bytes"), datetime.now(UTC), "stock.reserved")
    assert [type(outcome) for outcome in shop.db.takes([strange])] == [Parked]

    assert shop.cancel(order).status == 202


def test_fifty_clients_cancel_one_order(shop: Shop) -> None:
    """At once: one of them is told 202, all others 200; the event is said once."""
    order = placed(shop, PaymentCharged)
    with ThreadPoolExecutor(25) as pool:
        told = list(pool.map(lambda _: shop.cancel(order), range(50)))

    assert Counter(got.status for got in told) == {202: 1, 200: 49}, [got.raw for got in told if got.status == 503][:1]
    assert shop.emitted(order).count("order.cancellation_requested") == 1


def test_a_status_never_goes_backwards(shop: Shop) -> None:
    """One client who reads while the order goes its way sees versions and histories that only grow (invariant 16)."""
    order = placed(shop)
    seen: list[dict[str, Any]] = []
    going = threading.Event()

    def read() -> None:
        while not going.is_set():
            seen.append(shop.ask("GET", f"/v1/orders/{order}").body)
            seen.append(shop.ask("GET", "/v1/orders?limit=1").body["orders"][0])

    reader = threading.Thread(target=read)
    reader.start()
    for fact in (StockReserved(order), PaymentCharged(order), StockCommitted(order)):
        shop.db.given(fact)
    seen_by_post = shop.cancel(order).body
    shop.db.given(StockReleased(order))
    shop.db.given(PaymentRefunded(order, "VOID", 2500))
    going.set()
    reader.join()
    seen.append(shop.ask("GET", f"/v1/orders/{order}").body)

    assert seen_by_post["history"] == seen[-1]["history"][: len(seen_by_post["history"])]
    for before, after in pairwise(seen):
        assert after["history"][: len(before["history"])] == before["history"]


@pytest.mark.proves("L9", "cancel.race")
@pytest.mark.parametrize(("cutoff", "late"), [(timedelta(hours=-1), True), (timedelta(minutes=30), False)])
def test_cancelling_and_confirming_at_once(shop: Shop, cutoff: timedelta, late: bool) -> None:  # noqa: FBT001 - a case
    """Of 10,000 races each has one winner and one story: cancelled and never confirmed, or confirmed first.

    Then a customer who is late is told so and nothing is asked for; one who is not gets the order undone.
    """
    service = replace(shop.db.service, rules=Rules(cancel_cutoff=cutoff))
    orders = _many(shop, service, RACES // 2)
    answers: dict[str, str] = {}
    barrier = threading.Barrier(2)

    def race(message: type[PaymentCharged | CancelOrder], seed: int) -> None:
        with shop.db.connect() as tx:
            for group in _shuffled(orders, seed):
                barrier.wait(60)
                for emitted in _told(tx, service, [_asked(message, order) for order in group]):
                    if isinstance(emitted, CancelAnswered):
                        answers[emitted.order_id] = emitted.outcome

    confirming = threading.Thread(target=race, args=(PaymentCharged, 1))
    confirming.start()
    race(CancelOrder, 2)
    confirming.join()

    stories = _stories(shop)
    asked, confirmed = "order.cancellation_requested", "order.confirmed"
    first: dict[tuple[str, ...], str] = {(asked,): "ACCEPTED"}
    allowed = first | ({(confirmed,): "TOO_LATE"} if late else {(confirmed, asked): "ACCEPTED"})
    assert {order: allowed.get(stories[order]) for order in orders} == answers
    assert set(stories.values()) == set(allowed), "both may win"


def _asked(message: type[PaymentCharged | CancelOrder], order_id: str) -> Message:
    return CancelOrder(order_id, "local", "customer") if message is CancelOrder else PaymentCharged(order_id)


def _shuffled(orders: Sequence[str], seed: int) -> Iterable[list[str]]:
    """Yield the same groups whatever the seed, each in small batches' random order."""
    rng = random.Random(seed)  # noqa: S311 - a repeatable order
    for start in range(0, len(orders), BATCH):
        group = list(orders[start : start + BATCH])
        rng.shuffle(group)
        middle = rng.randrange(1, len(group))
        yield group[:middle]
        yield group[middle:]


def _told(tx: Tx, service: Service[Orders], messages: Sequence[Message]) -> list[object]:
    now = datetime.now(UTC)
    heard = [Envelope(uuid7(), str(m.order_id), m, now, m.type) for m in messages]  # type: ignore[attr-defined] # both have one
    outcomes = process_batch(tx, service, heard)
    assert all(isinstance(outcome, Handled) for outcome in outcomes), outcomes
    return [emitted for outcome in outcomes if isinstance(outcome, Handled) for emitted in outcome.emitted]


def _many(shop: Shop, service: Service[Orders], count: int) -> list[str]:
    """Place so many orders in batches; return their ids."""
    like = _command()
    commands = [replace(like, order_id=str(uuid7())) for _ in range(count)]
    with shop.db.connect() as tx:
        for start in range(0, count, 100):
            _told(tx, service, commands[start : start + 100])
    return [command.order_id for command in commands]


def _command() -> PlaceOrder:
    now = datetime.now(UTC)
    return PlaceOrder("", "local", "cust_demo", None, "tok_ok", "EUR", 0, (), now, now + timedelta(minutes=5), "0" * 32)


def _stories(shop: Shop) -> dict[str, tuple[str, ...]]:
    """Return what was said of each order after it was placed, in sequence."""
    story = "SELECT aggregateid, array_agg(type ORDER BY sequence) FROM outbox WHERE type <> 'order.placed' GROUP BY 1"
    with psycopg.connect(shop.db.logins.owner) as tx:
        return {order: tuple(types) for order, types in tx.execute(story)}
