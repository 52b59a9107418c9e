"""The processor gives each key one definite answer, whatever happens to the calls that ask for it."""

from __future__ import annotations

import http.client
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from quadrille_sandbox.cards import TOKENS
from quadrille_sandbox.journal import Record
from quadrille_sandbox.testing import Running


def asked(order_id: str, token: str = "tok_ok", amount: int = 2500) -> Record:  # noqa: S107 -- a test value
    return {"payment_token": token, "amount_minor": amount, "currency": "EUR", "order_id": order_id}


def charge(sandbox: Running, order_id: str, token: str = "tok_ok") -> tuple[int, Record]:  # noqa: S107 -- a test value
    return sandbox.post("/v1/charges", f"charge:{order_id}", asked(order_id, token))


def inquire(sandbox: Running, order_id: str) -> tuple[int, Record]:
    status, content = sandbox.get(f"/v1/charges/charge:{order_id}")
    return status, json.loads(content)


def lose(sandbox: Running, order_id: str, token: str) -> None:
    body = json.dumps(asked(order_id, token)).encode()
    with pytest.raises(TimeoutError):
        sandbox.call("POST", "/v1/charges", body, {"Idempotency-Key": f"charge:{order_id}"}, timeout=0.3)


def test_a_charge_moves_money_once_per_key(sandbox: Running, order_id: str) -> None:
    """The same key gets the same answer for ever and one line in the ledger."""
    status, first = charge(sandbox, order_id)
    again = [charge(sandbox, order_id) for _ in range(3)]

    assert status == 200
    assert first["status"] == "charged"
    assert again == [(200, first)] * 3
    assert inquire(sandbox, order_id) == (200, first)
    (line,) = sandbox.ledger(order_id)
    assert list(line) == ["number", "at", "kind", "key", "order_id", "amount_minor", "currency", "reference"]
    assert (line["kind"], line["key"], line["amount_minor"], line["currency"], line["reference"]) == (
        "CAPTURE",
        f"charge:{order_id}",
        2500,
        "EUR",
        first["reference"],
    )


def test_one_key_at_once_is_one_charge(sandbox: Running, order_id: str) -> None:
    """Sixteen callers with one key at the same time share one answer and one capture."""
    with ThreadPoolExecutor(16) as callers:
        answers = list(callers.map(lambda _: charge(sandbox, order_id), range(64)))

    assert answers == [answers[0]] * 64
    assert len(sandbox.ledger(order_id)) == 1


def test_a_key_with_other_parameters_is_an_error(sandbox: Running, order_id: str) -> None:
    """A key belongs to its parameters: another amount is refused and moves nothing."""
    charge(sandbox, order_id)

    status, answer = sandbox.post("/v1/charges", f"charge:{order_id}", asked(order_id, amount=2501))

    assert (status, answer["error"]) == (422, "key_reused")
    assert len(sandbox.ledger(order_id)) == 1


@pytest.mark.parametrize(
    ("token", "code"),
    [
        ("tok_declined_funds", "insufficient_funds"),
        ("tok_declined_expired", "expired_card"),
        ("tok_never_heard_of", "invalid_token"),
    ],
)
def test_a_decline_is_definite(sandbox: Running, order_id: str, token: str, code: str) -> None:
    """A declined card moves no money and stays declined under its key."""
    assert [charge(sandbox, order_id, token) for _ in range(2)] == [(200, {"status": "declined", "code": code})] * 2
    assert inquire(sandbox, order_id) == (200, {"status": "declined", "code": code})
    assert sandbox.ledger(order_id) == []


def test_a_flaky_processor_charges_at_the_third_try(sandbox: Running, order_id: str) -> None:
    """Two 503 store nothing; the third call with the same key charges once."""
    statuses = [charge(sandbox, order_id, "tok_flaky_2")[0] for _ in range(4)]

    assert statuses == [503, 503, 200, 200]
    assert len(sandbox.ledger(order_id)) == 1


def test_an_answer_lost_after_the_charge_is_found_under_its_key(sandbox: Running, order_id: str) -> None:
    """The caller hears nothing, the card is charged, and the same key tells so."""
    lose(sandbox, order_id, "tok_timeout_after_charge")

    status, found = inquire(sandbox, order_id)
    assert (status, found["status"]) == (200, "charged")
    assert charge(sandbox, order_id, "tok_timeout_after_charge") == (200, found)
    assert len(sandbox.ledger(order_id)) == 1


def test_an_answer_lost_before_the_charge_leaves_nothing(sandbox: Running, order_id: str) -> None:
    """The caller hears nothing, the key is not found, and the same key charges then."""
    lose(sandbox, order_id, "tok_timeout_before_charge")

    assert inquire(sandbox, order_id)[0] == 404
    assert charge(sandbox, order_id, "tok_timeout_before_charge")[0] == 200
    assert len(sandbox.ledger(order_id)) == 1


def test_a_slow_charge_is_in_progress_until_it_is_made(sandbox: Running, order_id: str) -> None:
    """While the first call runs its key is busy and its outcome is processing; then it is one charge for all."""
    key = {"Idempotency-Key": f"charge:{order_id}"}
    with closing(http.client.HTTPConnection(sandbox.http, timeout=60)) as first:
        first.request("POST", "/v1/charges", json.dumps(asked(order_id, "tok_slow_6s")), key)
        with ThreadPoolExecutor(1) as waiting:
            answer = waiting.submit(first.getresponse)
            while (meanwhile := inquire(sandbox, order_id))[0] == 404:  # the call is on its way
                assert not answer.done()
            busy = charge(sandbox, order_id, "tok_slow_6s")
            other = sandbox.post("/v1/charges", f"charge:{order_id}", asked(order_id, "tok_ok"))
            made = json.loads(answer.result().read())

    assert meanwhile == (202, {"status": "processing"})
    assert (busy[0], busy[1]["error"]) == (409, "in_progress")
    assert (other[0], other[1]["error"]) == (422, "key_reused")
    assert made["status"] == "charged"
    assert charge(sandbox, order_id, "tok_slow_6s") == (200, made)
    assert len(sandbox.ledger(order_id)) == 1


def test_a_slow_charge_is_made_for_a_caller_who_left(sandbox: Running, order_id: str) -> None:
    """A time-out at the caller does not stop the charge."""
    lose(sandbox, order_id, "tok_slow_6s")
    assert inquire(sandbox, order_id)[0] == 202

    deadline = threading.Event()
    timer = threading.Timer(10, deadline.set)
    timer.start()
    while inquire(sandbox, order_id)[0] == 202:
        assert not deadline.wait(0.1), "still processing after 10 s"
    timer.cancel()

    assert inquire(sandbox, order_id)[1]["status"] == "charged"
    assert len(sandbox.ledger(order_id)) == 1


def test_the_table_of_test_values_is_whole() -> None:
    """Every token that the interfaces page names is there."""
    assert set(TOKENS) == {
        "tok_ok",
        "tok_declined_funds",
        "tok_declined_expired",
        "tok_slow_6s",
        "tok_timeout_after_charge",
        "tok_timeout_before_charge",
        "tok_pending_15s",
        "tok_flaky_2",
        "tok_refund_flaky",
        "tok_refund_slow_6s",
        "tok_refund_fails_business",
    }
