"""An order's whole life, on real Kafka, Postgres and registry: every path built so far, to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Shop

TEA = [("SKU-TEA", 2)]


def _statuses(document: dict[str, object]) -> list[str]:
    history = document["history"]
    assert isinstance(history, list)
    return [entry["status"] for entry in history]


def test_a_paid_order_is_confirmed_committed_and_told(shop: Shop) -> None:
    """placed, reserved, charged, confirmed, committed; one capture, one mail, and the stock is taken for good."""
    before = shop.level("SKU-TEA")
    order = shop.submit(TEA)
    document = shop.ended(order)
    assert (document["status"], document["inventory"], document["payment"]) == ("CONFIRMED", "COMMITTED", "CHARGED")
    assert _statuses(document)[0] == "PENDING"
    assert _statuses(document)[-2:] == ["PAYMENT_CHARGED", "CONFIRMED"]
    assert [(e["kind"], e["amount_minor"]) for e in shop.captures(order)] == [("CAPTURE", 2500)]
    mails = shop.until(lambda: shop.mails(order), "the confirmation mail is in the mailbox")
    assert len(mails) == 1
    after = shop.level("SKU-TEA")
    assert after["committed"] == before["committed"] + 2
    assert after["received"] == after["available"] + after["held"] + after["committed"]


@pytest.mark.proves("F1")
def test_an_order_out_of_stock_is_cancelled_without_a_charge(shop: Shop) -> None:
    """One line short rejects all: nothing is held, no card is touched, the shortage is named."""
    before = shop.level("SKU-TEA")
    order = shop.submit([("SKU-TEA", 1), ("SKU-NONE", 1)])
    document = shop.ended(order)
    assert (document["status"], document["reason"]) == ("CANCELLED", "OUT_OF_STOCK")
    assert (document["inventory"], document["payment"]) == ("REJECTED", "SKIPPED")
    assert document["detail"]["shortages"] == [{"sku": "SKU-NONE", "asked": 1, "available": 0}]
    assert shop.captures(order) == []
    assert shop.level("SKU-TEA")["available"] == before["available"]


@pytest.mark.proves("F2")
def test_a_declined_card_gives_the_stock_back(shop: Shop) -> None:
    """Declined: the hold is released, both participants acknowledge, and only then is the order CANCELLED."""
    before = shop.level("SKU-TEA")
    order = shop.submit(TEA, "tok_declined_funds")
    document = shop.ended(order)
    assert (document["status"], document["reason"]) == ("CANCELLED", "PAYMENT_DECLINED")
    assert (document["inventory"], document["payment"]) == ("RELEASED", "DECLINED")
    assert document["detail"] == {"code": "insufficient_funds"}
    assert shop.captures(order) == []
    after = shop.level("SKU-TEA")
    assert (after["available"], after["held"]) == (before["available"], before["held"])
    types = [record.type for record in shop.records(order)]
    assert types.count("stock.released") == types.count("order.cancelled") == 1


@pytest.mark.proves("F3")
def test_a_troubled_processor_charges_once(shop: Shop) -> None:
    """Failing twice, losing its answer before or after the charge, answering late: one capture, under one key each."""
    tokens = ("tok_flaky_2", "tok_timeout_before_charge", "tok_timeout_after_charge", "tok_slow_6s")
    for order in [shop.submit(TEA, token) for token in tokens]:
        assert shop.ended(order)["status"] == "CONFIRMED"
        assert [entry["key"] for entry in shop.captures(order)] == [f"charge:{order}"]


@pytest.mark.proves("late.same-id")
def test_every_event_delivered_again_has_no_second_effect(shop: Shop) -> None:
    """Every record of a confirmed, a rejected and a declined order, three times more: nothing changes anywhere."""
    orders = [shop.submit(TEA), shop.submit([("SKU-NONE", 1)]), shop.submit(TEA, "tok_declined_expired")]
    for order in orders:
        shop.ended(order)
    shop.until(lambda: shop.mails(orders[0]), "the mail has gone")
    shop.until(shop.all_read, "all is read")
    before = shop.effects(*orders)
    again = [record for record in shop.records() if record.key in orders]
    assert len(again) >= 15
    shop.send_again(again, times=3)
    shop.until(shop.all_read, "all is read again")
    assert shop.effects(*orders) == before


@pytest.mark.proves("late.post")
def test_the_same_post_many_times_is_one_order(shop: Shop) -> None:
    """One Idempotency-Key names one order, charged once."""
    orders = {shop.submit(TEA, key="test-the-same-post") for _ in range(5)}
    assert len(orders) == 1
    order = orders.pop()
    assert shop.ended(order)["status"] == "CONFIRMED"
    assert len(shop.captures(order)) == 1


def test_ids_and_sequences_tell_the_story(shop: Shop) -> None:
    """Per source and order the sequences run 1 to n on one partition, in one trace, every id once."""
    order = shop.submit(TEA)
    shop.ended(order)
    shop.until(lambda: shop.mails(order), "the mail has gone")
    records = shop.records(order)
    ids = {record.header("ce_id") for record in records}
    assert len(ids) == len(records)
    for source in {record.header("ce_source") for record in records}:
        mine = [record for record in records if record.header("ce_source") == source]
        assert [int(record.header("ce_sequence")) for record in mine] == list(range(1, len(mine) + 1))
        assert len({record.partition for record in mine}) == 1
    assert len({record.header("traceparent")[3:35] for record in records}) == 1
