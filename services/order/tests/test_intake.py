"""The breaker of the intake: shut when too many sagas fail, tried with a trickle, paused and resumed by an operator."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, get_args
from uuid import uuid4

import psycopg
import pytest
from services.order.tests.shopfront import Got, Shop

from order.domain import Status
from order.events import (
    OrderCancellationRequested,
    OrderCancelled,
    OrderCompensationFailed,
    OrderConfirmed,
    PaymentCharged,
    PaymentRefundFailed,
    StockReserved,
)
from order.main import PROGRAM, outcome
from order.settings import OrderSettings
from quadrille import Emitted
from quadrille.app import ProcessContext
from quadrille.testing import PROBES, AdmissionControl, AdmissionMode, Spans, ops_serving
from quadrille.web import AdmissionLimits, DiskLimits
from quadrille_cli.client import Client

LIMITS = AdmissionLimits()
NEWS = "SELECT type FROM outbox WHERE type LIKE 'intake.%' ORDER BY ctid"
NOWHERE = {"database_url": "", "kafka_bootstrap": "none", "registry_url": "http://none"}
Ask = Callable[..., tuple[int, Any]]


def requested(reason: str, then: Status = Status.PENDING) -> OrderCancellationRequested:
    return OrderCancellationRequested("o-1", reason, "order", then)


def context_of(till: Till) -> ProcessContext:
    """Return the context of an api of order's."""
    db = till.shop.db
    return ProcessContext(OrderSettings.model_validate(NOWHERE), db.service, db.connect, Spans.disabled())


@pytest.mark.parametrize(
    ("emitted", "counted"),
    [
        (OrderConfirmed("o-1", "c", 1, "EUR"), (1, 0)),
        (requested("DEADLINE", Status.INVENTORY_RESERVED), (1, 1)),
        (requested("PARTICIPANT_AWAY", Status.PENDING), (1, 1)),
        *[(requested(reason), (1, 0)) for reason in ("CUSTOMER", "OUT_OF_STOCK", "PAYMENT_DECLINED", "OPERATOR")],
        (requested("CUSTOMER", Status.CONFIRMED), (0, 0)),
        (OrderCompensationFailed("o-1", "payment", "BUSINESS", 1, "card_closed"), (0, 1)),
        (OrderCancelled("o-1", "c", "DEADLINE", ()), (0, 0)),
    ],
)
def test_what_counts_as_failed(emitted: Emitted, counted: tuple[int, int]) -> None:
    """A deadline and a failed undo do; out of stock, declined and cancelled never; each saga is counted once."""
    assert outcome(emitted) == counted


@pytest.fixture
def till(shop: Shop) -> Iterator[Till]:
    """The shop with a gate that is open and a tally that is empty."""
    made = Till(shop)
    made.sql("TRUNCATE tally, audit")
    made.sql("UPDATE intake SET state = 'OPEN', since = clock_timestamp() - interval '1 minute'")
    made.until(lambda: made.place().status == 202)
    yield made
    made.sql("UPDATE intake SET state = 'OPEN', since = clock_timestamp()")


class Till:
    """The shop's intake, and what it is judged by."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the database as its owner."""
        with psycopg.connect(self.shop.db.logins.owner) as tx:
            found = tx.execute(statement.encode(), values or None)
            return found.fetchall() if found.description else []

    def place(self, key: str = "") -> Got:
        """Place an order."""
        return self.shop.place(key or f"k-{uuid4()}")

    def ended(self, ended: int, failed: int = 0) -> None:
        """Let so many sagas end, so many of them badly."""
        self.sql("INSERT INTO tally (ended, failed) VALUES (%s, %s)", ended, failed)

    def later(self, seconds: float) -> None:
        """Let time pass for the gate."""
        self.sql("UPDATE intake SET since = since - %s", timedelta(seconds=seconds))

    def state(self) -> str:
        """Return the gate's state."""
        return str(self.sql("SELECT state FROM intake")[0][0])

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for the gate, which looks once a second."""
        deadline, pause = time.monotonic() + 60, threading.Event()
        while not condition():
            assert time.monotonic() < deadline, "not within 60 s"
            pause.wait(0.05)

    def shut(self) -> None:
        """Let too many sagas fail, and wait until the gate is shut."""
        self.ended(40, 20)
        self.until(lambda: self.place().status == 503)


@pytest.mark.proves("F23")
def test_too_many_failures_shut_the_intake_and_good_ones_open_it(till: Till, ask: Ask) -> None:
    """503 with its cause and Retry-After; then one a second is let in; five that end well open it; both are told."""
    known = till.place("known")
    till.shut()

    refused = till.place()
    assert (refused.slug, refused.body["cause"]) == ("overloaded", "SAGA_FAILURE_RATE")
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    again = till.place("known")
    assert (again.status, again.raw, again.headers["idempotent-replayed"]) == (202, known.raw, "true")
    assert till.shop.cancel(known.body["order_id"]).status == 202  # what runs goes on

    till.later(30)
    till.until(lambda: till.place().status == 202)
    assert [till.place().status for _ in range(3)].count(503) >= 2
    till.ended(PROBES)
    till.until(lambda: till.state() == "OPEN")
    till.until(lambda: [till.place().status for _ in range(3)] == [202] * 3)
    assert till.sql(NEWS) == [("intake.paused",), ("intake.resumed",)]
    told = ask("GET", "/ops/intake")[1]
    assert (told["intake"], told["cause"], told["since"][-1:]) == ("OPEN", None, "Z")


@pytest.mark.proves("F23")
def test_a_probe_that_fails_shuts_it_again(till: Till) -> None:
    """One bad end among the trickle: all wait for another rest, and nothing new is announced."""
    till.shut()
    till.later(30)
    till.until(lambda: till.state() == "TRICKLE")

    till.ended(1, 1)

    till.until(lambda: till.state() == "SHUT")
    assert till.sql(NEWS) == [("intake.paused",)]


@pytest.mark.proves("F23")
def test_a_repeat_is_none_of_the_trickle(till: Till) -> None:
    """What was answered before is answered again, and the second's one admission is left for what is new."""
    till.place("known")
    context = context_of(till)
    now = 100.0
    gate = AdmissionControl(context, LIMITS, lambda: now)
    assert not gate.shut
    till.sql("UPDATE intake SET state = 'TRICKLE', since = clock_timestamp()")
    with till.shop.db.connect() as tx:
        gate.judge(tx)
    assert gate.shut
    assert [gate.refusal() is None for _ in range(2)] == [True, False]

    till.until(lambda: till.place().status == 503)  # the api's own gate trickles now, and has let its one in
    till.until(lambda: [till.place("known").status, till.place("known").status, till.place().status] == [202] * 3)


def test_two_processes_announce_it_once(till: Till) -> None:
    """Every api process looks; the one that turns the state announces it."""
    context = context_of(till)
    gates = [AdmissionControl(context, LIMITS) for _ in range(3)]
    till.ended(40, 20)
    connections = [till.shop.db.connect() for _ in gates]
    for gate, tx in zip(gates, connections, strict=True):
        gate.judge(tx)
        tx.close()

    assert all(gate.refusal() for gate in gates)
    assert till.sql(NEWS) == [("intake.paused",)]


def test_old_failures_count_no_more(till: Till) -> None:
    """What ended before the window, or before the gate was opened last, shuts nothing."""
    till.sql("INSERT INTO tally (at, ended, failed) VALUES (now() - interval '6 min', 40, 40)")
    till.sql("UPDATE intake SET since = now() - interval '1 h'")
    context = context_of(till)
    gate = AdmissionControl(context, LIMITS)
    with till.shop.db.connect() as tx:
        gate.judge(tx)

    assert (gate.refusal(), till.state()) == (None, "OPEN")


@pytest.fixture
def ask(till: Till) -> Iterator[Ask]:
    """Ask order's ops port."""
    with ops_serving(PROGRAM, context_of(till)) as port:

        def ask(method: str, path: str, body: object = None) -> tuple[int, Any]:
            with Client(f"http://127.0.0.1:{port}", timeout=60) as line:
                reply = line.ask(method, path, body)
            return reply.status, reply.body

        yield ask


def test_an_operator_pauses_and_resumes(till: Till, ask: Ask) -> None:
    """Paused by a person it stays so until a person resumes it; each act has its reason in the audit."""
    assert ask("POST", "/ops/intake/pause", {})[0] == 422
    assert ask("POST", "/ops/intake/pause", {"reason": "stocktaking", "state": "SHUT"})[0] == 422
    assert ask("POST", "/ops/intake/pause", {"reason": "stocktaking"}) == (200, {"intake": "PAUSED", "before": "OPEN"})
    till.until(lambda: till.place().status == 503)
    assert till.place().body["cause"] == "PAUSED"
    assert ask("POST", "/ops/intake/pause", {"reason": "again"})[1]["before"] == "PAUSED"

    assert ask("POST", "/ops/intake/resume", {"reason": "done"}) == (200, {"intake": "OPEN", "before": "PAUSED"})
    till.until(lambda: till.place().status == 202)

    assert till.sql(NEWS) == [("intake.paused",), ("intake.resumed",)]
    rows = till.sql("SELECT action, subject, reason, before ->> 'state', after ->> 'state' FROM audit ORDER BY number")
    assert rows == [
        ("intake.pause", "intake", "stocktaking", "OPEN", "PAUSED"),
        ("intake.pause", "intake", "again", "PAUSED", "PAUSED"),
        ("intake.resume", "intake", "done", "PAUSED", "OPEN"),
    ]


@pytest.mark.proves("F16")
def test_the_disk_guard_shuts_the_intake_and_it_opens_by_itself(till: Till, ask: Ask) -> None:
    """503 DISK_GUARD with Retry-After for what is new alone; no word of a person opens it; with room it opens."""
    known = till.place("known")
    full = AdmissionControl(context_of(till), AdmissionLimits(disk=DiskLimits(database=1)))
    with till.shop.db.connect() as tx:
        full.judge(tx)

    till.until(lambda: till.place().status == 503)
    refused = till.place()
    assert (refused.slug, refused.body["cause"], refused.headers["retry-after"]) == ("overloaded", "DISK_GUARD", "30")
    again = till.place("known")
    assert (again.status, again.raw, again.headers["idempotent-replayed"]) == (202, known.raw, "true")
    assert till.shop.cancel(known.body["order_id"]).status == 202  # what runs goes on
    told = ask("GET", "/ops/intake")[1]
    assert (told["intake"], told["cause"]) == ("GUARDED", "DISK_GUARD")
    assert re.fullmatch(r"a database of [0-9.]+ MB, 1 B is the limit", told["detail"])
    status, problem = ask("POST", "/ops/intake/resume", {"reason": "no"})
    assert (status, problem["rule"], told["detail"] in problem["detail"]) == (409, "DISK_GUARD", True)
    assert (till.state(), till.sql("SELECT count(*) FROM audit")) == ("GUARDED", [(0,)])

    till.later(30)  # the api's own limits are far
    till.until(lambda: till.place().status == 202)
    assert till.sql(NEWS) == [("intake.paused",), ("intake.resumed",)]
    assert "detail" not in ask("GET", "/ops/intake")[1]


def test_a_resumed_intake_whose_disk_is_full_says_so(till: Till) -> None:
    """The pause is over, and the answer does not say OPEN: the guard holds; pause and resume take a dead one away."""
    context = context_of(till)
    gate = AdmissionControl(context, AdmissionLimits(disk=DiskLimits(database=1)))
    context.acts_by["intake"] = gate.state
    with ops_serving(PROGRAM, context) as port, Client(f"http://127.0.0.1:{port}", timeout=60) as ops:

        def act(verb: str) -> tuple[str, str]:
            told = ops.ask("POST", f"/ops/intake/{verb}", {"reason": "a test"}).body
            return told["intake"], told["before"]

        assert [act("pause"), act("resume")] == [("PAUSED", "OPEN"), ("GUARDED", "PAUSED")]
        context.acts_by.pop("intake")  # nobody measures it any more
        assert [act("pause"), act("resume")] == [("PAUSED", "GUARDED"), ("OPEN", "PAUSED")]
    assert till.sql("SELECT measure, detail FROM intake") == [(None, "")]
    gate._connection.close()  # noqa: SLF001 - nobody has opened it


@pytest.mark.proves("F11")
def test_who_owes_what(till: Till, ask: Ask) -> None:
    """Who paid in vain comes first, then failed undos, then who waits longest; older_than, or else what is stuck."""
    assert ask("GET", "/ops/stuck") == (200, {"count": 0, "stuck": []})
    old, frozen, in_vain, fresh, over = [str(till.place().body["order_id"]) for _ in range(5)]
    ago = "UPDATE orders SET history = jsonb_set(history, '{0,at}', '\"2026-01-01T00:00:00Z\"') WHERE order_id = %s"
    till.sql(ago, old)
    till.sql("UPDATE orders SET attention = 'STUCK', detail = detail || '{\"stuck\": 2}' WHERE order_id = %s", old)
    till.shop.db.given(StockReserved(frozen), PaymentCharged(frozen))
    till.shop.cancel(frozen)
    till.shop.db.given(PaymentRefundFailed(frozen, "BUSINESS", "card_closed", 1))
    till.shop.cancel(in_vain)
    till.shop.db.given(PaymentCharged(in_vain), PaymentRefundFailed(in_vain, "BUSINESS", "card_closed", 1))

    status, queue = ask("GET", "/ops/stuck")
    assert (status, [one["order_id"] for one in queue["stuck"]]) == (200, [in_vain, frozen, old])
    _, first, second = queue["stuck"]
    assert (first["status"], first["reason"], first["level"]) == ("COMPENSATION_FAILED", "CUSTOMER", None)
    assert {"owes": "payment", "fact": "payment.refunded"} in first["owed"]
    assert second["owed"] == [{"owes": "inventory", "fact": "stock.reserved"}]
    assert (second["level"], second["since_at"]) == ("PAGE", "2026-01-01T00:00:00.000Z")

    everyone = [one["order_id"] for one in ask("GET", "/ops/stuck?older_than=0s")[1]["stuck"]]
    assert everyone[:3] == [in_vain, frozen, old]
    assert {fresh, over} <= set(everyone)
    assert [one["order_id"] for one in ask("GET", "/ops/stuck?older_than=1d")[1]["stuck"]] == [old]
    assert ask("GET", "/ops/stuck?older_than=soon")[0] == 422


def test_an_order_is_found_by_the_end_of_its_id(till: Till, ask: Ask) -> None:
    """The last characters name the orders that end so, newest first; what is no end of an id is refused."""
    one, other = [str(till.place().body["order_id"]) for _ in range(2)]

    def ending(suffix: str) -> list[str]:
        return [found["order_id"] for found in ask("GET", f"/ops/names?name={suffix}")[1]["orders"]]

    assert (ending(one[-8:]), ending(other.upper()[-8:]), ending(one)) == ([one], [other], [one])
    twin = one[:-13] + other[-13:]
    if twin not in {one, other}:
        till.sql("UPDATE orders SET order_id = %s WHERE order_id = %s", twin, one)
        assert ending(other[-8:]) == sorted([twin, other], reverse=True)
    assert ending("0000-000000000000") == []
    for wrong in ("471", "%25%25%25%25", "9c_6", ""):
        assert ask("GET", f"/ops/names?name={wrong}")[0] == 422


PARK = """
INSERT INTO parked (id, line, state, type, topic, partition, "offset", headers, raw, error_class, error, attempts)
VALUES (gen_random_uuid(), %s, 'OPEN', %s, 'payment.events', 5, %s, '[]', '', %s, 'x', 1)"""


def test_what_order_holds_itself_is_not_owed_by_others(till: Till, ask: Ask) -> None:
    """The event that is waited for lies parked here: order owes it, and the head of its lane is told with its place."""
    waits, others = str(till.place().body["order_id"]), str(till.place().body["order_id"])
    till.shop.db.given(StockReserved(waits), StockReserved(others))
    till.sql(PARK, waits, "unknown", 21, "UNDECODABLE")
    till.sql(PARK, others, "unknown", 30, "UNDECODABLE")
    till.sql(PARK, waits, "payment.charged", 22, "BEHIND")

    queue = {one["order_id"]: one for one in ask("GET", "/ops/stuck?older_than=0s")[1]["stuck"]}

    assert queue[waits]["owed"] == [{"owes": "order", "fact": "payment.charged"}]
    head = queue[waits]["parked"]
    assert (head["topic"], head["partition"], head["offset"]) == ("payment.events", 5, 21)
    assert (head["error_class"], head["waiting"]) == ("UNDECODABLE", ["unknown", "payment.charged"])
    assert queue[others]["owed"] == [{"owes": "payment", "fact": "payment.charged"}]
    assert queue[others]["parked"]["waiting"] == ["unknown"]


def test_the_states_are_those_of_the_table(till: Till) -> None:
    """Every state the gate knows may stand in its row, and no other."""
    for state in get_args(AdmissionMode):
        till.sql("UPDATE intake SET state = %s", state)
    with pytest.raises(psycopg.errors.CheckViolation):
        till.sql("UPDATE intake SET state = 'AJAR'")


def test_a_change_is_acted_by_when_it_is_answered(till: Till) -> None:
    """Said done, the api that answers lets in by it already, whenever it would have looked; it tells its own state."""
    context = context_of(till)
    gate = AdmissionControl(context, LIMITS)
    context.acts_by["intake"] = gate.state  # it never looks by itself
    with ops_serving(PROGRAM, context) as port, Client(f"http://127.0.0.1:{port}", timeout=60) as ops:
        assert ops.ask("GET", "/ops/intake").body["here"] is None
        for verb, state in (("pause", "PAUSED"), ("resume", "OPEN"), ("pause", "PAUSED"), ("resume", "OPEN")):
            told = ops.ask("POST", f"/ops/intake/{verb}", {"reason": "a test"}).body
            assert (told["intake"], told["here"], gate.shut) == (state, state, state != "OPEN")
        till.sql("UPDATE intake SET state = 'PAUSED'")  # by another process: this one has not looked
        told = ops.ask("GET", "/ops/intake").body
        assert (told["intake"], told["here"]) == ("PAUSED", "OPEN")
    gate._connection.close()  # noqa: SLF001 - nobody has opened it
