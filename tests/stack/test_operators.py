"""What an operator does from the command line, on the whole stack: an undo that failed is ended, once, and audited."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
import pytest

from quadrille.db import audit
from quadrille_cli.client import Client
from quadrille_cli.demo_data import stock_up
from tests.conftest import Shop

SAMPLE = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"
TEA = [("SKU-TEA", 2)]
REFUSES = "tok_refund_fails_business"


class Command:
    """The `quadrille` command, about the stack under test."""

    def __init__(self, shop: Shop) -> None:
        self.data = shop.stack.data

    def run(self, *words: str) -> tuple[int, str, str]:
        """Return exit code, stdout and stderr."""
        env = {**os.environ, "QUADRILLE_DATA": str(self.data), "COLUMNS": "200"}
        line = [sys.executable, "-m", "quadrille_cli", *words]
        done = subprocess.run(line, env=env, capture_output=True, text=True, check=False, timeout=90)
        return done.returncode, done.stdout, done.stderr

    def examples(self, *words: str) -> list[list[str]]:
        """Return the examples at the end of a help page, each as the words after `quadrille`."""
        code, page, _ = self.run(*words, "--help")
        shown = page.partition("Examples:\n")[2].replace("\\\n", " ")
        assert code == 0
        assert page.replace(" ", "").rstrip().endswith(shown.replace(" ", "").rstrip()[-3:])
        return [shlex.split(line)[1:] for line in shown.splitlines() if line.strip()]


@pytest.fixture
def quadrille(shop: Shop) -> Command:
    """The command, on the session's stack."""
    return Command(shop)


@pytest.fixture
def frozen(shop: Shop) -> str:
    """An order that was cancelled after its confirmation, and whose refund the processor refuses."""
    order_id = shop.submit(TEA, REFUSES)
    shop.until(lambda: shop.order(order_id)["status"] == "CONFIRMED", "it is confirmed")
    shop.cancel(order_id)
    shop.until(lambda: shop.order(order_id)["status"] == "COMPENSATION_FAILED", "the refund is refused")
    return order_id


def actions(shop: Shop, service: str, order_id: str) -> list[tuple[Any, ...]]:
    """The audit's rows of one order: action, reason, outcome."""
    rows = "SELECT action, reason, after ->> 'outcome' FROM audit WHERE subject = %s ORDER BY number"
    return shop.sql(service, rows, order_id)


@pytest.mark.proves("F10", "payment.resolve", "resolve.inquires")
def test_a_refused_refund_is_retried_in_vain_and_ended_with_evidence(
    shop: Shop, quadrille: Command, frozen: str
) -> None:
    """The help's own examples: the retry exits 3 and says who owes what, the resolution ends the order."""
    retry, resolve = [[frozen if w == SAMPLE else w for w in words] for words in quadrille.examples("resolve")]

    code, out, err = quadrille.run(*retry)
    assert (code, "COMPENSATION_FAILED" in out, "payment (card_closed)" in err) == (3, True, True)
    code, out, err = quadrille.run(*resolve)
    assert (code, "CANCELLED  CUSTOMER" in out) == (0, True), out + err

    document = shop.order(frozen)
    assert (document["final"], document["payment"]) == (True, "RESOLVED")
    assert document["detail"]["resolved"] == {"how": "EXTERNAL"}
    assert actions(shop, "payment", frozen) == [
        ("retry-compensation", "card reopened", "ASKED"),
        ("resolve", "card closed", "ASKED"),
    ]
    code, _, err = quadrille.run(*resolve)
    assert (code, "NOT_OWED" in err) == (6, True)
    assert shop.kept(frozen) == 2500


@pytest.mark.proves("order.resolved")
def test_sixteen_resolve_one_undo_once(shop: Shop, frozen: str) -> None:
    """Sixteen operators end the same undo at once: it is ended once, and the audit tells of all sixteen."""
    body = {"how": "WRITTEN_OFF", "evidence": "ticket 4711", "reason": "sixteen at once"}
    statuses = Counter[int]()

    def one() -> None:
        with Client(shop.stack.url("payment-worker")) as ops:
            statuses[ops.ask("POST", f"/ops/orders/{frozen}/resolve", body).status] += 1

    threads = [threading.Thread(target=one) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert shop.ended(frozen)["detail"]["resolved"] == {"how": "WRITTEN_OFF"}
    assert statuses[202] >= 1
    assert statuses[202] + statuses[409] == 16
    said = Counter(record.type for record in shop.records(frozen))
    assert (said["payment.resolved"], said["order.compensation_resolved"], said["order.cancelled"]) == (1, 1, 1)
    assert len(actions(shop, "payment", frozen)) == 16
    with psycopg.connect(shop.stack.database_url("payment", "owner")) as db:
        assert audit.flaw(db) is None


@pytest.mark.proves("F8", "inventory.resolve")
def test_sealed_goods_are_written_off_at_inventory(shop: Shop, quadrille: Command) -> None:
    """Goods that cannot come back: the retry exits 3, the write-off ends the order, the stock stays committed."""
    stock_up(shop.stack, {"SKU-SEALED": 5})
    order_id = shop.submit([("SKU-SEALED", 2)])
    shop.until(lambda: shop.order(order_id)["inventory"] == "COMMITTED", "the goods are committed")
    shop.cancel(order_id)
    shop.until(lambda: shop.order(order_id)["status"] == "COMPENSATION_FAILED", "the goods cannot come back")
    at = ("resolve", order_id, "--participant", "inventory", "--reason", "opened")

    assert quadrille.run(*at, "--retry")[0] == 3
    code, out, err = quadrille.run(*at, "--how", "WRITTEN_OFF", "--evidence", "photo")

    assert code == 0, out + err
    assert shop.order(order_id)["detail"]["resolved"] == {"how": "WRITTEN_OFF"}
    assert shop.level("SKU-SEALED")["committed"] >= 2


@pytest.mark.proves("resolve.owed")
def test_a_healthy_order_and_a_wrong_wish_change_nothing(shop: Shop, quadrille: Command) -> None:
    """Nothing owed is 6, unknown 5, wrong usage 2: nothing was said, and only what was tried is in the audit."""
    order_id = shop.submit(TEA)
    shop.ended(order_id)
    before = [record.type for record in shop.records(order_id)]
    way = ("--how", "EXTERNAL", "--evidence", "none", "--reason", "a mistake")
    nobody = str(uuid.uuid4())
    wrong: dict[tuple[str, ...], int] = {
        ("resolve", order_id, "--participant", "payment", *way): 6,
        ("resolve", order_id, "--participant", "inventory", "--retry", "--reason", "a mistake"): 6,
        ("resolve", nobody, "--participant", "payment", *way): 5,
        ("resolve", order_id, "--participant", "shipping", *way): 2,
        ("resolve", order_id, "--participant", "payment", *way, "--retry"): 2,
        ("resolve", order_id, "--participant", "payment", "--retry", "--reason", " "): 2,
        ("resolve", "471", "--participant", "payment", *way): 2,  # the end of an id has four characters
        ("resolve", "0000-000000000000", "--participant", "payment", *way): 5,
        ("orders", "get", nobody): 5,
        ("orders", "show", nobody): 5,
        ("orders", "place", "--sku", "SKU-TEA", "--qty", "1", "--qty", "2"): 2,
        ("orders", "place", "--sku", "SKU-OF-NOBODY"): 2,
        ("orders", "place", "--sku", "SKU-NONE", "--wait"): 3,
        ("orders", "cancel", order_id, "--operator"): 2,
        ("orders", "list", "--status", "LOST"): 2,
        ("orders", "list", "-o", "xml"): 2,
        ("operations", "ls", "-o", "xml"): 2,
        ("operations", "show", "a b"): 2,
        ("replay", "--topic", "order.events", "--service", "payment", "--order", "471"): 2,
        ("replay", "--plan", SAMPLE, "--into", "live", "--confirm", "payment", "--allow-effects", "chrage"): 2,
        ("replay", "--plan", SAMPLE, "--into", "live", "--confirm", "payment", "--limit", "1"): 2,
    }

    assert {words: quadrille.run(*words)[0] for words in wrong} == wrong

    assert [record.type for record in shop.records(order_id)] == before
    assert actions(shop, "payment", order_id) == [("resolve", "a mistake", "NOT_OWED")]
    assert actions(shop, "inventory", order_id) == [("retry-compensation", "a mistake", "NOT_OWED")]


@pytest.mark.parametrize("verb", ["place", "list", "show", "get", "cancel"])
def test_the_examples_of_orders_run(shop: Shop, quadrille: Command, verb: str) -> None:
    """What the help of `orders` shows succeeds, with a real order in the place of the sample."""
    order_id = shop.submit(TEA)
    shop.ended(order_id)
    for words in quadrille.examples("orders", verb):
        code, out, err = quadrille.run(*[order_id if word == SAMPLE else word for word in words])
        assert code == 0, err
        assert re.search(r"[0-9a-f]{8}-|placed", out)
    if verb == "cancel":
        assert actions(shop, "order", order_id) == [("cancel", "fraud", "ALREADY")]


def test_the_end_of_an_id_is_an_id_and_tables_fit_the_screen(shop: Shop, quadrille: Command) -> None:
    """What a table shows of an id names the order in every command; no line is longer than 80 columns, unless asked."""
    code, out, _ = quadrille.run("orders", "place", "--qty", "2", "--reference", "the end of an id", "-o", "json")
    order_id = json.loads(out)["order_id"]
    shop.ended(order_id)
    code, listed, _ = quadrille.run("orders", "list", "--limit", "3")
    shown = listed.splitlines()[1].split()[0]

    assert (code, order_id.endswith(shown), len(shown)) == (0, True, 8)
    for words in (("orders", "show", shown), ("orders", "show", f"…{shown}"), ("orders", "get", order_id[-9:])):
        code, out, err = quadrille.run(*words)
        assert (code, order_id in out, "CONFIRMED, final" in out) == (0, True, True), err
        assert [line for line in (*out.splitlines(), *listed.splitlines()) if len(line) > 80] == []
    assert "there are more" in listed
    assert order_id in quadrille.run("orders", "list", "--limit", "3", "-o", "wide")[1]


def test_the_examples_of_intake_run_and_it_is_open_again(shop: Shop, quadrille: Command) -> None:
    """Paused it says so and since when, and an order is refused; resumed it is open: each with a row in the audit."""
    for words in quadrille.examples("intake", "pause"):
        code, out, err = quadrille.run(*words)
        assert (code, out[:6]) == (0, "PAUSED"), err
    for words in reversed(quadrille.examples("intake", "resume")):
        code, out, err = quadrille.run(*words)
        assert (code, out.split()[0].rstrip(",") in {"PAUSED", "OPEN"}) == (0, True), err

    assert quadrille.run("intake", "show")[1].startswith("OPEN for ")
    rows = shop.sql("order", "SELECT action, reason FROM audit WHERE subject = 'intake' ORDER BY number")
    assert rows[-2:] == [("intake.pause", "stocktaking"), ("intake.resume", "stocktaking is over")]


def test_without_a_stack_the_exit_code_says_so(tmp_path: Path) -> None:
    """A command about a stack that does not run exits 7, and says how to start one."""
    env = {**os.environ, "QUADRILLE_DATA": str(tmp_path)}
    for words in (["orders", "list"], ["resolve", SAMPLE, "--participant", "payment", "--retry", "--reason", "x"]):
        line = [sys.executable, "-m", "quadrille_cli", *words]
        done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
        assert (done.returncode, "quadrille up --detach" in done.stderr) == (7, True)
