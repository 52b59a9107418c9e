"""Parts that fail while orders run: what waits, what goes on, and that nothing is lost or doubled."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quadrille.stack import Stack
    from tests.conftest import Record, Shop

TEA = [("SKU-TEA", 1)]


@pytest.fixture
def healed(stack: Stack) -> Iterator[Stack]:
    """The stack; whatever a test ended runs again afterwards."""
    yield stack
    for process in stack.processes.values():
        if not process.running and process.name != "aot-training":
            process.start()


@pytest.mark.proves("F16")
def test_with_kafka_down_orders_are_taken_and_completed_later(shop: Shop, healed: Stack) -> None:
    """POST answers 202 while there is no broker; the order is confirmed when it is back."""
    healed.process("kafka").stop()
    order = shop.submit(TEA)
    assert shop.order(order)["status"] == "PENDING"
    healed.process("kafka").start()
    assert shop.ended(order, seconds=90)["status"] == "CONFIRMED"


@pytest.mark.proves("F22")
def test_with_the_registry_down_known_ids_are_enough(shop: Shop, healed: Stack) -> None:
    """Schemas once seen come from the cache: an order goes all the way without a registry."""
    shop.ended(shop.submit(TEA))
    healed.process("registry").stop()
    assert shop.ended(shop.submit(TEA))["status"] == "CONFIRMED"


@pytest.mark.proves("F17")
@pytest.mark.parametrize("service", ["inventory", "payment"])
def test_with_one_database_down_nothing_is_lost(shop: Shop, healed: Stack, service: str) -> None:
    """That service pauses and parks nothing; back again, it goes on where it was."""
    healed.process(f"postgres:{service}").kill()
    order = shop.submit(TEA)
    healed.process(f"postgres:{service}").start()
    assert shop.ended(order, seconds=90)["status"] == "CONFIRMED"
    assert shop.sql(service, "SELECT count(*) FROM parked WHERE line = %s", order) == [(0,)]
    assert len(shop.captures(order)) == 1


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


@pytest.mark.proves("F13")
def test_a_deadline_undoes_what_was_done(shop: Shop, healed: Stack) -> None:
    """With payment away past the deadline the order is cancelled; back again, payment charges nobody, stock is free."""
    api, worker = healed.process("order-api"), healed.process("payment-worker")
    before = shop.level("SKU-TEA")
    usual = dict(api.spec.env)
    try:
        api.stop()
        vars_of(api.spec.env)["QUADRILLE_ORDER_DEADLINE"] = "2s"
        api.start()
        worker.stop()
        order = shop.submit(TEA)
        shop.until(lambda: shop.order(order)["status"] == "CANCELLING" or None, "the deadline has passed")
        worker.start()
        document = shop.ended(order)
    finally:
        api.stop()
        vars_of(api.spec.env).clear()
        vars_of(api.spec.env).update(usual)
        api.start()
    assert (document["status"], document["reason"]) == ("CANCELLED", "DEADLINE")
    kept = sum(e["amount_minor"] * (1 if e["kind"] == "CAPTURE" else -1) for e in shop.captures(order))
    assert kept == 0
    assert shop.level("SKU-TEA")["available"] == before["available"]


def vars_of(env: object) -> dict[str, str]:
    """The environment of a process to come, as the dict it is."""
    assert isinstance(env, dict)
    return env


def _parked(shop: Shop, line: str) -> list[tuple[object, ...]]:
    return shop.sql("payment", "SELECT error_class FROM parked WHERE line = %s ORDER BY place", line)


def _forged(like: Record, key: str, value: bytes) -> Record:
    fresh = str(uuid.uuid4())
    fresh = like.header("ce_id")[:13] + fresh[13:14] + "8" + fresh[15:]
    headers = tuple((n, fresh.encode() if n in ("id", "ce_id") else v) for n, v in like.headers)
    return type(like)(like.topic, like.partition, like.offset, key, like.type, headers, value)
