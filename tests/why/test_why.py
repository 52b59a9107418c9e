"""Why an order waits, or how it ended, asked of the real thing: each cause is brought about, and named in one sentence.

Nothing is held against a clock: an answer that is asked for too early is asked for again until it names the cause.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer

from quadrille.ids import uuid7
from quadrille.kafka.config import producer_settings
from quadrille_cli.client import Client, ProblemError
from quadrille_cli.commands.why import why
from quadrille_cli.services import SERVICES
from quadrille_why import Answer, explain, gather, over_http
from tests.conftest import Shop, away, told_otherwise

TEA = [("SKU-TEA", 1)]
GARBAGE = b"\x07garbage"[:7]
PATIENT = 20.0  # how long a test lets services answer: no promise, the machine may have other things to do
PLANT = """
CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'planted' USING ERRCODE = '22000'; END $$;
CREATE TRIGGER planted BEFORE UPDATE ON orders FOR EACH ROW
  WHEN (NEW.customer_id = 'cust_planted' AND NEW.status = 'CONFIRMED') EXECUTE FUNCTION planted();
"""
UPROOT = "DROP TRIGGER planted ON orders; DROP FUNCTION planted()"
PARKED = "SELECT type FROM parked WHERE line = %s AND state IN ('OPEN', 'DEAD') ORDER BY place"
DISCARD = """
UPDATE parked SET state = 'DISCARDED', ended_by = 'ann', reason = 'a mistake' WHERE line = %s AND state <> 'REDRIVEN'
RETURNING id::text, type"""


class Asking:
    """Whoever asks why, about the stack under test."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop

    def why(self, order: str) -> Answer:
        """What is told now, by whoever answers."""
        return explain(gather(over_http(self.shop.stack.url), order, PATIENT))

    def until(self, order: str, code: str) -> Answer:
        """What is told as soon as this is the cause."""
        last: list[str] = []

        def told() -> Answer | None:
            answer = self.why(order)
            last[:] = [answer.code, *answer.shown()]
            return answer if answer.code == code else None

        try:
            return self.shop.until(told, f"{order} waits because of {code}")
        except BaseException:
            sys.stderr.write("\n".join(last))
            raise

    def taken(self) -> str | None:
        """An order's id if order takes one, None while its intake is shut."""
        try:
            return self.shop.submit(TEA)
        except ProblemError:
            return None

    def command(self, *words: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of the `quadrille` command."""
        env = {**os.environ, "QUADRILLE_DATA": str(self.shop.stack.data), "COLUMNS": "200"}
        line = [sys.executable, "-m", "quadrille_cli", *words]
        done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def asking(shop: Shop) -> Asking:
    """Whoever asks."""
    return Asking(shop)


def test_an_order_that_is_over_says_how_it_ended(asking: Asking) -> None:
    """Out of stock, declined, rejected, cancelled by its customer, by an operator: by what and by whom."""
    shop = asking.shop
    short, unpaid = shop.submit([("SKU-NONE", 1)]), shop.submit(TEA, "tok_declined_funds")
    _owner(shop, "INSERT INTO blocked VALUES ('cust_blocked') ON CONFLICT DO NOTHING")
    blocked, done = shop.submit(TEA, customer="cust_blocked"), shop.submit(TEA)
    wanted, theirs = shop.submit(TEA), shop.submit(TEA)
    for order in (done, wanted, theirs):
        shop.ended(order)
    shop.cancel(wanted)
    assert asking.command("orders", "cancel", theirs, "--operator", "--reason", "fraud")[0] == 0
    kept, out, err = asking.command("audit", "list", "--order", theirs[-12:])
    assert (kept, out.count(" cancel "), "fraud" in out) == (0, 1, True), out + err
    ends = {
        short: ("OUT_OF_STOCK", r"…\w{4} is CANCELLED: out of stock: SKU-NONE asked 1, available 0"),
        unpaid: ("PAYMENT_DECLINED", r"…\w{4} is CANCELLED: the card was declined \(insufficient_funds\)"),
        blocked: ("CONFIRMATION_REJECTED", r".* its confirmation was rejected: its customer is in the table of.*"),
        wanted: ("CUSTOMER", r"…\w{4} is CANCELLED: its customer cancelled it \d\d:\d\d:\d\d"),
        theirs: ("OPERATOR", r"…\w{4} is CANCELLED: an operator cancelled it \d\d:\d\d:\d\d: local, 'fraud'"),
        done: ("CONFIRMED", r"…\w{4} is CONFIRMED: [\d.]+ (s|min) after it was placed"),
    }  # fmt: skip
    for order, (code, sentence) in ends.items():
        shop.ended(order)
        answer = shop.until(lambda: _quiet(asking.why(order)), f"{order} is over")  # noqa: B023 - called at once
        assert (answer.code, answer.missing) == (code, {}), answer
        assert re.fullmatch(sentence, answer.sentence), answer.sentence


def _quiet(answer: Answer) -> Answer | None:
    """An answer about an order for which nobody has anything left to do, its mail included."""
    return answer if answer.waits_for is None else None


def test_a_deadline_that_passed_is_named(asking: Asking) -> None:
    """An order whose answer came too late is undone by its deadline, and says which that was."""
    with told_otherwise(asking.shop.stack, "order-api", ORDER_DEADLINE="1s"):
        order = asking.shop.submit(TEA, "tok_pending_15s")
        answer = asking.until(order, "CHARGE_UNKNOWN")
        assert "nobody knows whether the card was charged" in answer.sentence
        asking.shop.until(lambda: asking.shop.order(order)["reason"], "its deadline has passed")
        assert any(line.label == "cause" and line.text.startswith("DEADLINE") for line in asking.why(order).lines)
    asking.shop.ended(order)
    assert re.search(r"CANCELLED: it was not decided by its deadline, \d\d:", asking.why(order).sentence)


def test_a_charge_in_flight_is_named_with_its_try(asking: Asking) -> None:
    """While the processor takes its time the order waits for payment: attempt n, when it is tried again."""
    order = asking.shop.submit(TEA, "tok_slow_6s")
    answer = asking.until(order, "CHARGE_IN_FLIGHT")
    assert answer.waits_for == "payment"
    assert re.search(r"the charge of 12\.50 EUR is in flight, attempt 1, under way now", answer.sentence)
    assert asking.shop.ended(order)["status"] == "CONFIRMED"


def test_a_processor_that_is_away_is_named(asking: Asking) -> None:
    """With nobody at its port the breaker opens: the card processor is away, and it is tried again by itself."""
    with away(asking.shop.stack, "sandbox"):
        orders = [asking.shop.submit(TEA) for _ in range(8)]
        answer = asking.until(orders[-1], "PROCESSOR_AWAY")
        assert "the card processor is away: the charge of 12.50 EUR is tried again, attempt" in answer.sentence
        assert answer.then == "nothing to do: it is tried again by itself"
    assert {asking.shop.ended(order)["status"] for order in orders} == {"CONFIRMED"}


def test_a_refund_that_was_refused_needs_a_person(asking: Asking) -> None:
    """Who refused what, and the command that ends it; afterwards how it was ended."""
    shop = asking.shop
    order = shop.submit(TEA, "tok_refund_fails_business")
    shop.ended(order)
    shop.cancel(order)
    answer = asking.until(order, "REFUND_REFUSED")
    assert "for payment: the refund was refused (card_closed): a person has to end it" in answer.sentence
    words = [word.strip("'") for word in answer.command.replace("'…'", "it is proven").split(" --")]
    code, out, err = asking.command(*words[0].split()[1:], *(w for o in words[1:] for w in f"--{o}".split(" ", 1)))
    assert code == 0, out + err
    assert "the undo was ended by a person (EXTERNAL)" in asking.why(order).sentence


def test_a_mail_that_bounced_is_named(asking: Asking) -> None:
    """The order is as confirmed as any; that nobody could be told stands beside it."""
    order = asking.shop.submit(TEA, customer="cust_bounce")
    assert "its mail bounced: " in asking.until(order, "MAIL_BOUNCED").sentence


def test_a_worker_that_is_gone_is_named(asking: Asking) -> None:
    """What was said to it lies in the broker; its api still tells the rest."""
    with away(asking.shop.stack, "inventory-worker"):
        order = asking.shop.submit(TEA)
        answer = asking.until(order, "WORKER_GONE")
        assert "for inventory: its worker is gone: order.placed lies in the broker, unread" in answer.sentence
        assert "refused" in answer.missing["inventory-worker"]
    assert asking.shop.ended(order)["status"] == "CONFIRMED"


def test_orders_own_worker_is_asked_first(asking: Asking) -> None:
    """Everybody else has done his part: what order has not read is what it waits for."""
    with away(asking.shop.stack, "order-worker"):
        order = asking.shop.submit(TEA)
        taken = "SELECT 1 FROM outbox WHERE aggregateid = %s AND type = 'payment.charged'"
        asking.shop.until(lambda: asking.shop.sql("payment", taken, order), "the money is taken")
        answer = asking.until(order, "WORKER_GONE")
        assert " for order itself: its worker is gone: " in answer.sentence
    assert asking.shop.ended(order)["status"] == "CONFIRMED"


def test_a_relay_that_is_gone_is_named(asking: Asking) -> None:
    """What order has said waits in its outbox."""
    with away(asking.shop.stack, "order-relay"):
        order = asking.shop.submit(TEA)
        answer = asking.until(order, "RELAY_WAITING")
        assert "order.placed waits in order's outbox: its relay is gone" in answer.sentence
    assert asking.shop.ended(order)["status"] == "CONFIRMED"


def test_a_broker_that_is_away_is_named(asking: Asking) -> None:
    """Nobody reaches Kafka: that is told, not that a service owes something."""
    with away(asking.shop.stack, "kafka"):
        order = asking.shop.submit(TEA)
        answer = asking.until(order, "BROKER_AWAY")
        assert "Kafka does not answer: order.placed waits in order's outbox" in answer.sentence
    assert asking.shop.ended(order)["status"] == "CONFIRMED"


def test_an_intake_that_is_shut_is_named(asking: Asking) -> None:
    """An id that nobody knows may never have been taken; with the intake open it simply is not there."""
    with Client(asking.shop.stack.url("order-api")) as ops:
        ops.demand("POST", "/ops/intake/pause", {"reason": "a test"})
        try:
            answer = asking.until(str(uuid7()), "INTAKE_SHUT")
            assert "order's intake is PAUSED since" in answer.sentence
        finally:
            ops.demand("POST", "/ops/intake/resume", {"reason": "a test"})
    assert asking.why(str(uuid7())).code == "UNKNOWN"
    asking.shop.until(asking.taken, "its api has looked, and takes orders again")


@contextmanager
def planted(shop: Shop) -> Iterator[None]:
    """Order cannot confirm what one customer bought: its handler raises."""
    _owner(shop, PLANT)
    try:
        yield
    finally:
        _owner(shop, UPROOT)


def _owner(shop: Shop, statements: str) -> None:
    with psycopg.connect(shop.stack.database_url("order", "owner")) as db:
        db.execute(statements.encode())


def test_a_handler_that_raised_is_named(asking: Asking) -> None:
    """Which event, where it lies, what was raised; mended, it goes on when the worker starts."""
    shop = asking.shop
    with planted(shop):
        order = shop.submit(TEA, customer="cust_planted")
        answer = asking.until(order, "HANDLER_RAISED")
        assert " for order itself: payment.charged (12.50 EUR taken " in answer.sentence
        assert "is parked: its handler raised DataException" in answer.sentence
        assert re.match(r"order: payment\.events\[\d+\]@\d+, \d+ bytes, ", answer.lines[0].text)
    if shop.order(order)["status"] != "CONFIRMED":
        with away(shop.stack, "order-worker"):
            pass
    assert shop.ended(order)["status"] == "CONFIRMED"


def frozen_by_garbage(shop: Shop) -> str:
    """An order before whose payment a record of seven bytes lies on payment's topic."""
    order = shop.submit(TEA, "tok_slow_6s")
    producer = Producer(producer_settings(shop.stack.kafka_bootstrap))
    producer.produce("payment.events", GARBAGE, order.encode())
    assert producer.flush(60) == 0
    shop.until(lambda: shop.sql("order", PARKED, order), "it is parked")
    return order


def test_the_dead_end_has_an_answer(asking: Asking) -> None:
    """Seven bytes freeze an order: why names place and age, and no command says done without effect."""
    shop = asking.shop
    with away(shop.stack, "payment-relay"):  # or the payment would be published meanwhile
        order = frozen_by_garbage(shop)
        answer = asking.why(order)
    assert answer.code == "UNREADABLE"
    assert "order itself: an unreadable record is parked, and nothing of this order goes past it" in answer.sentence
    shop.until(lambda: len(shop.sql("order", PARKED, order)) > 1 or None, "the payment lies behind it")

    code, out, err = asking.command("why", order[-12:])
    assert code == 0, err
    first, *evidence = out.splitlines()
    assert re.fullmatch(
        r"…\w{4} waits [\d.]+ (s|min) for order itself: payment\.\w+.* is parked behind an unreadable record", first
    ), first
    assert re.search(r"order: payment\.events\[\d+\]@\d+, 7 bytes, no headers, UNDECODABLE since \d\d:", evidence[0])
    assert any(line.startswith("  now       quadrille parked discard ") for line in evidence)

    ended = "SELECT 1 FROM parked WHERE line = %s AND type = 'unknown' AND (state = 'DEAD' OR retry_at IS NULL)"
    shop.until(lambda: shop.sql("order", ended, order), "it is not tried again by itself")
    [stuck] = [one for one in _queue(shop) if one["order_id"] == order]
    assert {one["owes"] for one in stuck["owed"]} <= {"order", "payment"}
    assert stuck["parked"]["error_class"] == "UNDECODABLE"
    code, out, _ = asking.command("stuck", "--older-than", "0s", "-o", "json")
    assert [one["why"]["waits_for"] for one in json.loads(out)["stuck"] if one["order_id"] == order] == ["order"]

    code, out, err = asking.command("orders", "cancel", order)
    assert (code, "PARKED_HERE" in err, "quadrille parked discard" in err) == (8, True, True), out + err
    code, out, err = asking.command(
        "resolve", order, "--participant", "payment", "--how", "WRITTEN_OFF", "--evidence", "x", "--reason", "y"
    )
    assert (code, "PARKED_HERE" in err) == (6, True), out + err
    assert shop.sql("payment", "SELECT 1 FROM audit WHERE subject = %s", order) == []


def _queue(shop: Shop) -> list[dict[str, Any]]:
    with Client(shop.stack.url("order-api")) as ops:
        return list(ops.demand("GET", "/ops/stuck?older_than=0s").body["stuck"])


def test_what_a_replay_kept_back_is_named(asking: Asking) -> None:
    """Discarded by mistake, and fenced when replayed: what it leads to and how the fence is opened."""
    shop, order = asking.shop, frozen_by_garbage(asking.shop)
    shop.until(lambda: ("payment.charged",) in shop.sql("order", PARKED, order) or None, "the payment lies behind it")
    assert "is parked behind an unreadable record" in asking.until(order, "BEHIND").sentence
    with psycopg.connect(shop.stack.database_url("inventory", "owner")) as db:  # it heard the record too
        db.execute(DISCARD.encode(), [order])
    with psycopg.connect(shop.stack.database_url("order", "owner")) as db:
        gone = {kind: one for one, kind in db.execute(DISCARD.encode(), [order]).fetchall()}
    answer = asking.until(order, "DISCARDED")
    assert "payment.charged was discarded by ann: a mistake" in answer.sentence
    assert gone["payment.charged"] in answer.command

    code, out, err = asking.command(*answer.command.split()[1:])
    assert code == 0, out + err
    assert "--allow-effects" in err
    plan = out.split()[1]
    assert asking.command("replay", "--plan", plan, "--into", "live", "--confirm", "order")[0] == 8
    answer = asking.until(order, "REPLAY_WITHHELD")
    effects = re.search(r"--allow-effects (\S+)", answer.then)
    assert "payment.charged was discarded, and a replay kept it back: it leads to " in answer.sentence
    assert effects
    code, out, err = asking.command(*answer.command.split()[1:])
    live = ("--into", "live", "--confirm", "order", "--allow-effects", effects[1], "--reason", "it was a mistake")
    assert asking.command("replay", "--plan", out.split()[1], *live)[0] == 0, err
    asking.until(order, "CONFIRMED")


@pytest.mark.parametrize("service", SERVICES)
def test_with_any_one_service_away_the_rest_is_told(asking: Asking, service: str) -> None:
    """All of a service's processes gone: what it would have told is named as missing, within the time there is."""
    shop = asking.shop
    order = shop.submit(TEA)
    shop.ended(order)
    shop.until(lambda: _quiet(asking.why(order)), "all is done")
    with away(shop.stack, f"{service}-worker", f"{service}-api", f"{service}-relay"):
        answer = why(shop.stack, order)
        assert {f"{service}-worker", f"{service}-api", f"{service}-relay"} <= set(answer.missing)
        assert any(line.label == "missing" and f"{service}-worker" in line.text for line in answer.lines)
        wanted = {"order": "ORDER_AWAY"}.get(service, "CONFIRMED")
        assert shop.until(lambda: asking.why(order).code == wanted, "the others tell the rest")


def test_a_frozen_worker_costs_no_more_than_the_time_there_is(asking: Asking) -> None:
    """One that neither answers nor refuses is given up in time: the bound is the asker's, whatever hangs."""
    shop = asking.shop
    order = shop.submit(TEA)
    shop.ended(order)
    frozen = shop.stack.process("payment-worker").pid
    assert frozen
    os.kill(frozen, signal.SIGSTOP)
    try:
        began = time.monotonic()
        answer = why(shop.stack, order)
        assert "no answer within" in answer.missing["payment-worker"]
        assert answer.took_ms <= (time.monotonic() - began) * 1000 + 1  # it is rounded
    finally:
        os.kill(frozen, signal.SIGCONT)


def test_an_order_is_named_by_its_end_or_its_reference(asking: Asking) -> None:
    """A unique suffix of four characters, a reference; unknown exits 5, ambiguous 2 with all it may be."""
    reference = f"basket-{uuid.uuid4()}"

    def place(customer: str) -> str:
        body = {
            "customer_id": customer, "payment_token": "tok_ok", "currency": "EUR", "reference": reference,
            "lines": [{"sku": "SKU-TEA", "quantity": 1, "unit_price_minor": 1250}],
        }  # fmt: skip
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        return str(asking.shop.ask("order", "POST", "/v1/orders", body, headers)["order_id"])

    order = place("cust_demo")
    asking.shop.ended(order)
    for name in (order, order[-12:], f"…{order[-12:]}", reference):
        code, out, err = asking.command("why", name, "-o", "json")
        assert (code, json.loads(out)["order_id"]) == (0, order), err
    other = place("cust_bounce")
    code, out, err = asking.command("why", reference)
    assert (code, out, order in err, other in err) == (2, "", True, True)
    assert [asking.command("why", name)[0] for name in ("zzzz-nobody", "abc", str(uuid7()))] == [5, 2, 5]


@pytest.mark.parametrize("verb", ["why", "stuck", "audit list"])
def test_the_examples_of_the_help_run(asking: Asking, verb: str) -> None:
    """What the help shows succeeds, with a real order in the place of the sample."""
    order = asking.shop.submit(TEA)
    asking.shop.ended(order)
    code, page, _ = asking.command(*verb.split(), "--help")
    lines = [line.split()[1:] for line in page.partition("Examples:\n")[2].splitlines() if line.strip()]
    assert (code, len(lines)) == (0, 3 if verb == "stuck" else 2)
    sample = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"
    for words in lines:
        named = [order if word == sample else order[-12:] if word == sample[-12:] else word for word in words]
        code, out, err = asking.command(*named)
        assert (code, bool(out)) == (0, True), err
