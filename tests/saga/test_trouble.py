"""Parts that fail while orders run: what waits, what goes on, and that nothing is lost or doubled."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from quadrille_cli.client import Client
from quadrille_cli.demo_data import order_of, stock_up
from quadrille_cli.services import SERVICES
from tests.conftest import away

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quadrille_cli.stack import Stack
    from tests.conftest import Record, Shop

TEA = [("SKU-TEA", 1)]
BUYERS = 100
CHARGING = "SELECT 1 FROM payment WHERE order_id = %s AND state = 'CHARGING'"
CHARGED = "SELECT 1 FROM outbox WHERE aggregateid = %s AND type = 'payment.charged'"


@pytest.fixture
def healed(shop: Shop, stack: Stack) -> Iterator[Stack]:
    """The stack; whatever a test ended runs again afterwards."""
    yield stack
    for process in stack.processes.values():
        if not process.running and process.name != "aot-training":
            process.start()
    shop.trouble()


@pytest.mark.proves("F16")
def test_with_kafka_down_orders_are_taken_and_completed_later(shop: Shop, healed: Stack) -> None:
    """POST answers 202 while there is no broker; the order is confirmed when it is back."""
    healed.process("kafka").stop()
    order = shop.submit(TEA)
    assert shop.order(order)["status"] == "PENDING"
    healed.process("kafka").start()
    assert shop.ended(order)["status"] == "CONFIRMED"


@pytest.mark.proves("F22")
def test_with_the_registry_down_known_ids_are_enough(shop: Shop, healed: Stack) -> None:
    """Schemas once seen come from the cache: an order goes all the way without a registry."""
    shop.ended(shop.submit(TEA))
    healed.process("registry").stop()
    assert shop.ended(shop.submit(TEA))["status"] == "CONFIRMED"


@pytest.mark.proves("F17")
@pytest.mark.parametrize("service", ["inventory", "payment", "notification"])
def test_with_one_database_down_nothing_is_lost(shop: Shop, healed: Stack, service: str) -> None:
    """That service pauses and parks nothing; back again, it goes on where it was."""
    healed.process(f"postgres:{service}").kill()
    order = shop.submit(TEA)
    healed.process(f"postgres:{service}").start()
    assert shop.ended(order)["status"] == "CONFIRMED"
    shop.until(lambda: shop.mails(order), "the mail has gone")
    assert shop.sql(service, "SELECT count(*) FROM parked WHERE line = %s", order) == [(0,)]
    assert [len(shop.captures(order)), len(shop.mails(order))] == [1, 1]


@pytest.mark.proves("F17")
def test_without_orders_database_nothing_is_taken_and_the_others_go_on(shop: Shop, healed: Stack) -> None:
    """No order is accepted that could be lost: 503, at once; what runs is finished when the database is back."""
    running = shop.submit(TEA, "tok_slow_6s")
    shop.until(lambda: shop.sql("payment", CHARGING, running), "the charge is in flight")
    healed.process("postgres:order").kill()
    key = {"Idempotency-Key": f"test-{uuid.uuid4()}"}
    with Client(healed.url("order")) as api:
        refused = api.ask("POST", "/v1/orders", order_of(TEA), key)
        assert (refused.status, refused.body["type"].rpartition("/")[2]) == (503, "dependency-unavailable")
        shop.until(lambda: shop.sql("payment", CHARGED, running), "payment goes on by itself")
        healed.process("postgres:order").start()
        taken = shop.until(lambda: _taken(api, key), "the same request is taken")
    assert shop.ended(running)["status"] == "CONFIRMED"
    assert shop.ended(taken)["status"] == "CONFIRMED"
    assert [len(shop.captures(order)) for order in (running, taken)] == [1, 1]


def _taken(api: Client, key: dict[str, str]) -> str | None:
    answer = api.ask("POST", "/v1/orders", order_of(TEA), key)
    return str(answer.body["order_id"]) if answer.status == 202 else None


@pytest.mark.proves("F12", "F13", "F14", "F15")
def test_services_that_were_away_catch_up(shop: Shop, stack: Stack) -> None:
    """Before the deadline a backlog is all there is: with every worker back, each order ends as if nothing had been."""
    with away(stack, *(f"{service}-worker" for service in SERVICES)):
        paid, short = shop.submit(TEA), shop.submit([("SKU-NONE", 1)])
        unpaid = shop.submit(TEA, "tok_declined_funds")
        assert {shop.order(order)["status"] for order in (paid, short, unpaid)} == {"PENDING"}
    ends = [(document["status"], document["reason"]) for document in map(shop.ended, (paid, short, unpaid))]
    assert ends == [("CONFIRMED", None), ("CANCELLED", "OUT_OF_STOCK"), ("CANCELLED", "PAYMENT_DECLINED")]
    assert shop.until(lambda: shop.mails(paid), "the mail has gone")
    assert [len(shop.captures(order)) for order in (paid, short, unpaid)] == [1, 0, 0]


@pytest.mark.proves("F15")
@pytest.mark.usefixtures("healed")
def test_no_mail_undoes_nothing(shop: Shop) -> None:
    """A mail that bounces, one without an address, a server that refuses for a while: the order stays paid for."""
    shop.trouble(mail_errors=1)
    late = shop.submit(TEA)
    bounced, nobody = shop.submit(TEA, customer="cust_bounce"), shop.submit(TEA, customer="cust_no_address")
    for order in (late, bounced, nobody):
        assert shop.ended(order)["status"] == "CONFIRMED"
    waits = "SELECT 1 FROM task WHERE key = %s AND type = 'send_mail' AND error IS NOT NULL"
    shop.until(lambda: shop.sql("notification", waits, late), "the mail is put off")
    shop.trouble()
    told = [("notification.failed", bounced), ("notification.suppressed", nobody), ("notification.sent", late)]
    for kind, order in told:
        shop.until(lambda: kind in [r.type for r in shop.records(order)] or None, f"{kind} is told")  # noqa: B023 - called at once
        assert shop.order(order)["status"] == "CONFIRMED"
        assert [entry["kind"] for entry in shop.captures(order)] == ["CAPTURE"]
    assert [len(shop.mails(order)) for order in (bounced, nobody, late)] == [0, 0, 1]


@pytest.mark.proves("F1")
def test_the_last_piece_is_sold_once_to_a_hundred_buyers(shop: Shop) -> None:
    """A hundred orders for one piece at the same time: one is confirmed and charged, all others are out of stock."""
    stock_up(shop.stack, {"SKU-LAST": 1})
    together = threading.Barrier(BUYERS)

    def buy(_: int) -> str:
        together.wait(60)
        return shop.submit([("SKU-LAST", 1)])

    with ThreadPoolExecutor(BUYERS) as crowd:
        orders = list(crowd.map(buy, range(BUYERS)))
    ends = Counter((document["status"], document["reason"]) for document in map(shop.ended, orders))
    assert ends == {("CONFIRMED", None): 1, ("CANCELLED", "OUT_OF_STOCK"): BUYERS - 1}
    mine = [entry for entry in shop.ledger() if entry["order_id"] in set(orders)]
    assert [entry["kind"] for entry in mine] == ["CAPTURE"]
    level = shop.level("SKU-LAST")
    assert (level["available"], level["held"]) == (0, 0)


@pytest.mark.proves("F20")
def test_an_unreadable_record_parks_its_order_alone(shop: Shop) -> None:
    """Bytes that decode to nothing wait with their order, what follows of it waits behind, all others flow."""
    order = shop.submit(TEA)
    shop.ended(order)
    reserved = next(r for r in shop.records(order) if r.type == "stock.reserved")
    strange = str(uuid.uuid4())
    shop.send_again([_forged(reserved, strange, b"\x00\x00\x00\x00\x01nonsense"), _forged(reserved, strange, b"")], 1)
    shop.until(lambda: len(_parked(shop, strange)) == 2 or None, "both records are parked")
    assert [row[0] for row in _parked(shop, strange)] == ["UNDECODABLE", "BEHIND"]
    assert shop.ended(shop.submit(TEA))["status"] == "CONFIRMED"


def _parked(shop: Shop, line: str) -> list[tuple[object, ...]]:
    return shop.sql("payment", "SELECT error_class FROM parked WHERE line = %s ORDER BY place", line)


def _forged(like: Record, key: str, value: bytes) -> Record:
    fresh = str(uuid.uuid4())
    fresh = like.header("ce_id")[:13] + fresh[13:14] + "8" + fresh[15:]
    headers = tuple((n, fresh.encode() if n in ("id", "ce_id") else v) for n, v in like.headers)
    return type(like)(like.topic, like.partition, like.offset, key, like.type, headers, value)
