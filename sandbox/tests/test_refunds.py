"""A refund gives a charge back once per key, never more than was taken, and a refusal is not stored."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from quadrille_sandbox.journal import Record
from quadrille_sandbox.testing import Running, running


def charge(sandbox: Running, order_id: str, token: str = "tok_ok") -> None:  # noqa: S107 -- a test value
    body: Record = {"payment_token": token, "amount_minor": 2500, "currency": "EUR", "order_id": order_id}
    assert sandbox.post("/v1/charges", f"charge:{order_id}", body)[0] == 200


def refund(sandbox: Running, order_id: str, key: str = "", amount: int = 2500) -> tuple[int, Record]:
    body: Record = {"charge_key": f"charge:{order_id}", "amount_minor": amount}
    return sandbox.post("/v1/refunds", key or f"refund:{order_id}", body)


def inquire(sandbox: Running, order_id: str) -> tuple[int, Record]:
    status, content = sandbox.get(f"/v1/refunds/refund:{order_id}")
    return status, json.loads(content)


def kinds(sandbox: Running, order_id: str) -> list[object]:
    return [line["kind"] for line in sandbox.ledger(order_id)]


def test_a_refund_before_settlement_is_a_void(sandbox: Running, order_id: str) -> None:
    """The charge is given back once; the same key gets the same answer; the ledger grew by one line."""
    charge(sandbox, order_id)
    assert inquire(sandbox, order_id)[0] == 404

    first = refund(sandbox, order_id)

    assert (first[0], first[1]["status"], first[1]["kind"]) == (200, "refunded", "VOID")
    assert refund(sandbox, order_id) == first == inquire(sandbox, order_id)
    assert kinds(sandbox, order_id) == ["CAPTURE", "VOID"]


def test_a_refund_after_settlement_is_a_refund(data: Path, order_id: str) -> None:
    """What is settled is paid back, not voided."""
    with running(data, QUADRILLE_SANDBOX_SETTLE_AFTER="0s") as sandbox:
        charge(sandbox, order_id)

        assert refund(sandbox, order_id)[1]["kind"] == "REFUND"
        assert kinds(sandbox, order_id) == ["CAPTURE", "REFUND"]


@pytest.mark.parametrize(("key", "amount"), [("", 2501), ("another-key", 2501)])
def test_no_more_is_given_back_than_was_taken(sandbox: Running, order_id: str, key: str, amount: int) -> None:
    """A refund above the charge is refused and leaves the key free for the right amount."""
    charge(sandbox, order_id)

    assert refund(sandbox, order_id, key, amount) == (200, {"status": "refused", "code": "amount_exceeds_charge"})
    assert refund(sandbox, order_id, key)[1]["status"] == "refunded"


def test_a_second_refund_of_one_charge_is_refused(sandbox: Running, order_id: str) -> None:
    """A fresh key cannot give the same money back again."""
    charge(sandbox, order_id)
    refund(sandbox, order_id)

    assert refund(sandbox, order_id, "fresh-key")[1] == {"status": "refused", "code": "amount_exceeds_charge"}
    assert kinds(sandbox, order_id) == ["CAPTURE", "VOID"]


def test_a_refund_key_with_other_parameters_is_an_error(sandbox: Running, order_id: str) -> None:
    """A refund's key belongs to its charge and amount."""
    charge(sandbox, order_id)
    refund(sandbox, order_id)

    assert refund(sandbox, order_id, amount=1)[0] == 422


@pytest.mark.parametrize("token", ["", "tok_declined_funds"])
def test_what_was_never_charged_is_not_refunded(sandbox: Running, order_id: str, token: str) -> None:
    """Without a capture there is nothing to give back."""
    if token:
        charge(sandbox, order_id, token)

    assert refund(sandbox, order_id) == (200, {"status": "refused", "code": "charge_not_found"})
    assert kinds(sandbox, order_id) == []


def test_a_business_refusal_stores_nothing(sandbox: Running, order_id: str) -> None:
    """A closed card refuses each time it is asked, and the key stays unknown."""
    charge(sandbox, order_id, "tok_refund_fails_business")

    assert [refund(sandbox, order_id) for _ in range(2)] == [(200, {"status": "refused", "code": "card_closed"})] * 2
    assert inquire(sandbox, order_id)[0] == 404
    assert kinds(sandbox, order_id) == ["CAPTURE"]


def test_a_flaky_refund_works_at_the_fifth_try(sandbox: Running, order_id: str) -> None:
    """Four 503 store nothing; the fifth call gives the money back once."""
    charge(sandbox, order_id, "tok_refund_flaky")

    assert [refund(sandbox, order_id)[0] for _ in range(6)] == [503, 503, 503, 503, 200, 200]
    assert kinds(sandbox, order_id) == ["CAPTURE", "VOID"]


def test_a_slow_refund_is_made_once_for_all_who_ask(sandbox: Running, order_id: str) -> None:
    """While it runs the key is busy and inquiry says processing, never not found."""
    charge(sandbox, order_id, "tok_refund_slow_6s")
    with ThreadPoolExecutor(1) as waiting:
        first = waiting.submit(refund, sandbox, order_id)
        while (meanwhile := inquire(sandbox, order_id))[0] == 404:  # the call is on its way
            assert not first.done()
        busy = refund(sandbox, order_id)

    assert meanwhile == (202, {"status": "processing"})
    assert (busy[0], busy[1]["error"]) == (409, "in_progress")
    assert first.result()[1]["status"] == "refunded"
    assert refund(sandbox, order_id) == first.result()
    assert kinds(sandbox, order_id) == ["CAPTURE", "VOID"]
