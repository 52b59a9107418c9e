"""Consumers paused and resumed by command: what waits for it is told by why, and what was done is in the audit."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import uuid
from typing import Any

import pytest

from quadrille_cli.client import Client
from quadrille_cli.demo_data import order_of
from quadrille_cli.stack.condition import PAUSED
from quadrille_why import explain, gather, over_http
from tests.conftest import Shop, away

PATIENT = 20.0  # how long a test lets services answer: no promise, the machine may have other things to do
TEA = [("SKU-TEA", 1)]


def run(shop: Shop, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command, on a screen of 80 columns."""
    env = {**os.environ, "QUADRILLE_DATA": str(shop.stack.data), "COLUMNS": "80"}
    line = [sys.executable, "-m", "quadrille_cli", *words]
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert done.returncode == 2 or [one for one in said if len(one) > 80] == []
    return done.returncode, done.stdout, done.stderr


def test_a_service_rests_and_goes_on(shop: Shop) -> None:
    """Paused, an order waits and why names who rests, since when, by whose word, and the command that ends it."""
    reason = f"a move {uuid.uuid4().hex[:8]}"
    code, out, err = run(shop, "consumers", "pause", "payment", "--reason", reason)
    try:
        assert (code, reason in out) == (0, True), err
        order = shop.submit(TEA)
        told = shop.until(lambda: _why(shop, order, "CONSUMER_PAUSED"), "why knows that payment rests")
        assert " lies in the broker, unread: payment's consumers are paused" in told["sentence"]
        assert told["now"]["command"] == "quadrille consumers resume payment --reason '…'"
        assert any(reason in one["text"] for one in told["evidence"] if one["label"] == "paused")
        code, out, _ = run(shop, "consumers", "pause", "payment", "--reason", "again")
        assert (code, out.startswith("nothing to do: they have rested for ")) == (0, True)
        rows = {one["service"]: one["paused"] for one in json.loads(run(shop, "consumers", "list", "-o", "json")[1])}
        assert [name for name, paused in rows.items() if paused] == ["payment"]
        code, out, _ = run(shop, "status")
        assert (code, "now       quadrille consumers resume payment" in out) == (1, True), out
    finally:
        code, out, err = run(shop, *shlex.split(f"consumers resume payment --reason '{reason} is over'"))
    assert (code, reason in out) == (0, True), err
    assert shop.ended(order)["status"] == "CONFIRMED"
    assert "nothing to do" in run(shop, "consumers", "resume", "payment", "--reason", "again")[1]

    kept = json.loads(run(shop, "audit", "list", "--service", "payment", "--limit", "9", "-o", "json")[1])
    done = [(one["action"], one["reason"]) for one in kept]
    assert ("consumers.pause", reason) in done
    assert ("consumers.resume", f"{reason} is over") in done
    assert run(shop, "audit", "verify")[0] == 0


def _why(shop: Shop, order: str, code: str) -> dict[str, Any] | None:
    told = explain(gather(over_http(shop.stack.url), order, PATIENT))
    print(*told.shown(), sep="\n")  # noqa: T201 - what a reader of a failure sees
    return told.document() if told.code == code else None


def test_what_is_wrong_is_told_by_its_exit_code(shop: Shop) -> None:
    """No service of this name is 2, no reason 2, a worker that is away 7, for the list too, which tells the others."""
    assert run(shop, "consumers", "pause", "shop", "--reason", "x")[0] == 2
    assert run(shop, "consumers", "resume", "payment", "--reason", " ")[0] == 2
    audit: dict[tuple[str, ...], int] = {
        ("--order", "0000-000000000000"): 5, ("--order", "abc"): 2, ("--service", "shop"): 2, ("--since", "soon"): 2,
        ("--action", "no-such-action"): 0, ("-o", "xml"): 2,
    }  # fmt: skip
    assert {words: run(shop, "audit", "list", *words)[0] for words in audit} == audit
    with away(shop.stack, "notification-worker"):
        assert run(shop, "consumers", "pause", "notification", "--reason", "x")[0] == 7
        code, out, err = run(shop, "consumers", "list")
        assert (code, "order" in out, "notification" in err) == (7, True, True)
        assert run(shop, "audit", "list")[0] == 0  # its api keeps the same audit


@pytest.mark.parametrize("verb", ["list", "pause", "resume"])
def test_the_examples_of_the_help_run(shop: Shop, verb: str) -> None:
    """What the help of each verb shows does what it says; nothing rests afterwards."""
    page = run(shop, "consumers", verb, "--help")[1].partition("Examples:\n")[2]
    lines = [shlex.split(line)[1:] for line in page.splitlines() if line.strip()]
    try:
        assert [run(shop, *words)[0] for words in lines] == [0, 0]
    finally:
        for name in ("payment", "notification"):
            run(shop, "consumers", "resume", name, "--reason", "the test is over")


def test_intake_is_shut_and_open_when_its_command_has_ended(shop: Shop) -> None:
    """Orders are refused at once after `intake pause` and taken at once after `resume`, every time."""
    seen = []
    try:
        for verb in ("pause", "resume") * 3:
            assert run(shop, "intake", verb, "--reason", "a test")[0] == 0
            body, key = order_of(TEA), {"Idempotency-Key": f"test-{uuid.uuid4()}"}
            with Client(shop.stack.url("order")) as api:
                seen.append(api.ask("POST", "/v1/orders", body, key).status)
    finally:
        run(shop, "intake", "resume", "--reason", "the test is over")
    assert seen == [503, 202] * 3


def test_a_worker_goes_on_when_its_command_has_ended(shop: Shop) -> None:
    """After `consumers resume` the worker does not rest any more: its ops port says so."""
    for _ in range(3):
        assert run(shop, "consumers", "pause", "inventory", "--reason", "a test")[0] == 0
        assert run(shop, "consumers", "resume", "inventory", "--reason", "it is over")[0] == 0
        with Client(shop.stack.url("inventory-worker")) as ops:
            assert PAUSED not in ops.ask("GET", "/readyz").raw.decode()
