"""Trouble comes when it is asked for, the same for the same seed, and ends by itself."""

from __future__ import annotations

import json
import smtplib
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from quadrille_sandbox.chaos import Chaos, InvalidChaosError, Plan, plan_of
from quadrille_sandbox.journal import Record
from quadrille_sandbox.testing import Running

SENDER = "orders@quadrille.example"


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        """Return its time, in Unix seconds."""
        return self.now


def faults(chaos: Chaos, calls: int) -> list[str]:
    return [chaos.call() for _ in range(calls)]


def ask(sandbox: Running, method: str, plan: object = None) -> tuple[int, Record]:
    body = b"" if plan is None else json.dumps(plan).encode()
    status, content = sandbox.call(method, "/chaos", body)
    return status, json.loads(content)


def charge(sandbox: Running, order_id: str, timeout: float = 0.3) -> int:
    body = {"payment_token": "tok_ok", "amount_minor": 2500, "currency": "EUR", "order_id": order_id}
    key = {"Idempotency-Key": f"charge:{order_id}"}
    return sandbox.call("POST", "/v1/charges", json.dumps(body).encode(), key, timeout=timeout)[0]


@pytest.fixture
def peace(sandbox: Running) -> Iterator[Running]:
    """The shared sandbox, in peace again afterwards."""
    yield sandbox
    ask(sandbox, "DELETE")


def test_the_default_profile_loses_two_answers_in_a_hundred() -> None:
    """2 % time-outs and nothing else; every second of the lost answers was carried out."""
    chaos = Chaos(Clock())
    assert faults(chaos, 100) == [""] * 100
    chaos.begin(plan_of({}))
    seen = Counter(faults(chaos, 50_000))
    assert set(seen) == {"", "lost_before", "lost_after"}
    assert 0.018 < (seen["lost_before"] + seen["lost_after"]) / 50_000 < 0.022
    assert 0.8 < seen["lost_before"] / seen["lost_after"] < 1.25


def test_the_same_seed_is_the_same_trouble() -> None:
    """A plan begun again does the same to the same calls; another seed does not."""
    plan = Plan(timeouts=0.3, errors=0.2, seed=7)
    runs = []
    for seed in (7, 7, 8):
        chaos = Chaos(Clock())
        chaos.begin(Plan(plan.timeouts, plan.errors, seed=seed))
        runs.append(faults(chaos, 200))
    assert runs[0] == runs[1] != runs[2]
    assert {"", "error", "lost_before", "lost_after"} == set(runs[0])


def test_trouble_has_an_end() -> None:
    """When its seconds are over nothing is troubled any more; what was done is still told."""
    clock = Clock()
    chaos = Chaos(clock)
    chaos.begin(Plan(errors=1.0, timeouts=0.0, mail_errors=1.0, latency=2.0, seconds=10))
    assert (faults(chaos, 3), chaos.mail(), chaos.latency) == (["error"] * 3, True, 2.0)
    clock.now += 10
    assert (faults(chaos, 3), chaos.mail(), chaos.latency) == ([""] * 3, False, 0.0)
    assert chaos.document() == {"on": False, "done": {"calls": 3, "error": 3, "mail": 1}}


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {"timeout": 0.1},
        {"timeouts": 1.1},
        {"errors": -0.1},
        {"errors": True},
        {"seconds": "1m"},
        {"seed": 1.5},
        {"timeouts": 0.6, "errors": 0.6},
        {"latency": float("nan")},
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(peace: Running, wrong: object) -> None:
    """The refusal names the member; what went on before goes on."""
    with pytest.raises(InvalidChaosError):
        plan_of(wrong)
    assert ask(peace, "PUT", wrong)[0] == 400
    assert ask(peace, "GET")[1]["on"] is False


def test_an_outage_answers_503_and_charges_nobody(peace: Running, order_id: str) -> None:
    """While every call fails nothing is stored; afterwards the same key is charged once."""
    status, told = ask(peace, "PUT", {"errors": 1, "timeouts": 0})
    assert (status, told["on"], told["errors"]) == (200, True, 1)
    assert charge(peace, order_id) == 503
    assert peace.get(f"/v1/charges/charge:{order_id}")[0] == 503
    assert peace.ledger(order_id) == []
    assert ask(peace, "DELETE")[1] == {"on": False, "done": {"calls": 2, "error": 2}}
    assert charge(peace, order_id) == 200
    assert len(peace.ledger(order_id)) == 1


def test_lost_answers_may_have_been_carried_out(peace: Running) -> None:
    """Of the calls that nobody answered some were carried out and some not; asked again, each is charged once."""
    ask(peace, "PUT", {"timeouts": 1, "seed": 3})
    orders = [f"01a1fd62-57f0-7eeb-be97-{n:012x}" for n in range(12)]

    def lost(order: str) -> bool:
        try:
            return charge(peace, order) == 0
        except TimeoutError:
            return True

    with ThreadPoolExecutor(12) as callers:
        assert all(callers.map(lost, orders))
    charged = [len(peace.ledger(order)) for order in orders]
    assert set(charged) == {0, 1}
    ask(peace, "DELETE")
    assert {charge(peace, order, 10) for order in orders} == {200}
    assert [len(peace.ledger(order)) for order in orders] == [1] * 12


def test_latency_comes_before_every_call(peace: Running, order_id: str) -> None:
    """A call waits and is then carried out, for a caller that has gone too."""
    ask(peace, "PUT", {"latency": 0.4, "timeouts": 0})
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        charge(peace, order_id, 0.1)
    assert charge(peace, order_id, 10) == 200
    assert time.monotonic() - began >= 0.4
    assert len(peace.ledger(order_id)) == 1


def test_mails_are_put_off(peace: Running, order_id: str) -> None:
    """A mail is refused for now and kept by nobody; when the trouble is over it is delivered."""
    host, _, port = peace.smtp.rpartition(":")
    letter = f"X-Order-Id: {order_id}\r\n\r\nThank you.\r\n"
    ask(peace, "PUT", {"mail_errors": 1, "timeouts": 0})
    with smtplib.SMTP(host, int(port), timeout=60) as post:
        with pytest.raises(smtplib.SMTPDataError) as refused:
            post.sendmail(SENDER, ["demo@shop.example"], letter)
        assert refused.value.smtp_code == 451
        assert peace.mails(order_id) == []
        ask(peace, "DELETE")
        post.sendmail(SENDER, ["demo@shop.example"], letter)
    assert len(peace.mails(order_id)) == 1
