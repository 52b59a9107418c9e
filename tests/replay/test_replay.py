"""Topics of the whole shop read again: nothing happens twice, nothing leaves unasked, nothing is lost on the way."""

from __future__ import annotations

import re
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
import typer

from quadrille.ops.routes import OpsRequest, OpsResponse
from quadrille.ops.server import serve
from quadrille.web.problems import Problem
from quadrille_cli.commands.operations import SAMPLE, watched
from quadrille_cli.services import SERVICES
from tests.conftest import TOPICS, Record, Shop
from tests.replay.operator_desk import UNHEARD, Operator, forget, totals

MIX = [
    ("tok_ok", "SKU-TEA"), ("tok_declined_funds", "SKU-TEA"), ("tok_ok", "SKU-NONE"), ("tok_flaky_2", "SKU-TEA"),
    ("tok_ok", "SKU-HOT"), ("tok_refund_fails_business", "SKU-TEA"), ("tok_ok", "SKU-TEA"),
    ("tok_refund_flaky", "SKU-HOT"),
]  # fmt: skip
CANCELLED = ("tok_refund_fails_business", "tok_refund_flaky")


@pytest.fixture
def operator(shop: Shop) -> Operator:
    """An operator at the session's stack."""
    return Operator(shop)


@pytest.fixture(scope="module")
def orders(shop: Shop) -> list[str]:
    """A mixed load that has ended: confirmed, declined, out of stock, cancelled, and one whose refund is refused."""
    placed = [(shop.submit([(sku, 1)], token), token) for token, sku in MIX * 3]
    for order, token in placed:
        shop.ended(order)
        if token in CANCELLED:
            shop.cancel(order)
    for order, token in placed:
        wanted = "COMPENSATION_FAILED" if token == CANCELLED[0] else "CANCELLED" if token == CANCELLED[1] else None
        if wanted:
            shop.until(lambda: shop.order(order)["status"] == wanted, f"{order} is {wanted}")  # noqa: B023 - called at once
    shop.until(shop.all_read, "all is read")
    return [order for order, _ in placed]


def ids_of(records: list[Record], kind: str, orders: list[str]) -> list[str]:
    """The ids of a type's records about these orders."""
    return [r.header("ce_id") for r in records if r.type == kind and r.key in set(orders)]


def tried_by_itself(shop: Shop) -> list[str]:
    """The services that hold a parked input whose next try comes by itself; what other tests left may be among them."""
    pending = "SELECT count(*) FROM parked WHERE state = 'OPEN' AND retry_at IS NOT NULL"
    return [service for service in SERVICES if shop.sql(service, pending)[0][0]]


@pytest.mark.proves("late.replay")
def test_every_topic_three_times_into_every_service_changes_nothing(
    shop: Shop, operator: Operator, orders: list[str]
) -> None:
    """Sixteen plans, each done three times in full: databases, ledger and mailbox are as they were but for its rows."""
    shop.until(lambda: shop.all_read() and not tried_by_itself(shop), "nothing goes on by itself")
    records = shop.records()
    ids = [r.header("ce_id") for r in records if r.type]
    own = {service: shop.sql(service, "SELECT count(*) FROM operation")[0][0] for service in SERVICES}
    before = operator.kept(ids)

    def replay_all(service: str) -> Counter[str]:
        verdicts: Counter[str] = Counter()
        for topic in TOPICS:
            planned = operator.dry(service, topic)
            for _ in range(3):
                done = operator.live(planned)
                assert (done["state"], totals(done)) == ("DONE", totals(planned))
            verdicts.update(totals(planned))
        return verdicts

    with ThreadPoolExecutor(len(SERVICES)) as crowd:
        verdicts = dict(zip(SERVICES, crowd.map(replay_all, SERVICES), strict=True))

    shop.until(shop.all_read, "all is read")
    after = operator.kept(ids)
    assert {what: rows for what, rows in after.items() if rows != before[what]} == {}
    for service in SERVICES:
        assert set(verdicts[service]) <= {"SEEN", "UNHEARD", "PARKED", "UNDECODABLE"}
        assert verdicts[service]["SEEN"] >= len(orders) // 2
        made = "SELECT count(*) FROM operation"
        assert shop.sql(service, made)[0][0] == own[service] + 4 * len(TOPICS)
        flow = "SELECT count(*) FROM outbox WHERE type IN ('replay.started', 'replay.ended')"
        assert shop.sql(service, flow)[0][0] >= 6 * len(TOPICS)


def test_a_reaction_catches_up_once_though_its_worker_is_killed(
    shop: Shop, operator: Operator, orders: list[str]
) -> None:
    """Ctrl-C detaches and the replay goes on; killed midway it goes on by itself after the restart, nothing twice."""
    confirmed = ids_of(shop.records(), "order.confirmed", orders)
    before = operator.kept(confirmed)
    gone = shop.sql("inventory", UNHEARD, confirmed)
    planned = operator.dry("inventory", "order.events", type="order.confirmed")
    line = ("--plan", planned["operation_id"], "--into", "live", "--confirm", "inventory", "--rate", "5")

    with operator.command("replay", *line) as terminal:
        running = shop.until(lambda: _running(operator, "inventory"), "the replay runs")
        shop.until(lambda: _done(operator, "inventory", running) >= 2, "it has begun")
        terminal.send_signal(signal.SIGINT)
        _, told = terminal.communicate(timeout=90)
    shop.stack.process("inventory-worker").kill()
    halfway = shop.sql("inventory", "SELECT state, (progress->>'records')::int FROM operation WHERE id = %s", running)
    shop.stack.process("inventory-worker").start()
    code, shown, _ = operator.quadrille("operations", "resume", running)
    ended = operator.rests("inventory", running)

    assert (len(gone), totals(planned)["NEW"]) == (len(confirmed), len(confirmed))
    assert (terminal.returncode, f"operations resume {running}" in told) == (130, True)
    assert halfway[0][0] == "RUNNING"
    assert halfway[0][1] < planned["progress"]["records"]
    assert (code, "DONE" in shown) in ((0, True), (6, False))  # 6: it had gone on by itself, and was over already
    assert ended["state"] == "DONE"
    assert totals(ended) == totals(planned)
    assert operator.kept(confirmed) == before


@pytest.mark.proves("late.replay")
def test_a_restored_database_charges_nobody_twice(shop: Shop, operator: Operator) -> None:
    """Payment has forgotten an order: the fence keeps the charge back; opened, the same key finds the same charge."""
    order = shop.submit([("SKU-TEA", 2)])
    shop.ended(order)
    shop.until(lambda: shop.mails(order), "the mail is there")
    captured = shop.captures(order)
    forget(shop, order)

    placed = operator.live(operator.dry("payment", "order.events", order=order))
    planned = operator.dry("payment", "inventory.events", order=order)
    code, shown, _ = operator.quadrille(
        "replay", "--plan", planned["operation_id"], "--into", "live", "--confirm", "payment"
    )
    withheld = shop.sql("payment", "SELECT state FROM payment WHERE order_id = %s", order)
    tasks = shop.sql("payment", "SELECT type FROM task WHERE key = %s", order)
    opened = operator.live(planned, allow_effects=["charge"])
    shop.until(lambda: _charged(shop, order), "the charge is known again")

    assert totals(placed)["NEW"] == 1
    assert (totals(planned)["FENCED"], planned["progress"]["kept_back"]) == (1, {"charge": 1})
    assert (code, "1 charge; opened by --allow-effects charge" in shown) == (8, True)
    assert (withheld, tasks) == ([("NONE",)], [])
    assert totals(opened)["NEW"] == 1
    assert shop.captures(order) == captured
    again = [r.header("ce_id") for r in shop.records(order) if r.type == "payment.charged"]
    assert len(set(again)) == 1
    assert shop.order(order)["status"] == "CONFIRMED"


def test_the_examples_of_the_help_pages_run(shop: Shop, operator: Operator, orders: list[str]) -> None:
    """Every command of replay and operations ends its help with two examples, and they do what they say."""
    dry, live, beside = operator.examples("replay")
    code, shown, progress = operator.quadrille(*dry)
    plan = found(shown)
    assert (code, "would handle 0 records" in shown, "nothing to do" in progress) == (0, True, True)
    assert ["type", "records", "SEEN"] in [line.split()[:3] for line in shown.splitlines()]
    code, shown, _ = operator.quadrille(*(plan if len(word) == len(plan) else word for word in live))
    assert (code, "handled 0 records" in shown) == (0, True)
    code, rebuilt, _ = operator.quadrille(*beside)
    assert (code, "no row differs" in rebuilt) == (0, True), rebuilt
    run = found(shown)
    wanted = {"ls": (0, 0), "show": (0, 0), "pause": (6, 6), "resume": (6, 6), "cancel": (6, 6)}
    for verb, codes in wanted.items():
        lines = [[run if len(w) == len(run) else w for w in words] for words in operator.examples("operations", verb)]
        assert tuple(operator.quadrille(*line)[0] for line in lines) == codes, verb


def test_a_mistake_is_told_with_its_exit_code(operator: Operator) -> None:
    """Wrong usage exits 2, an unknown operation 5, and each says what to do; nothing has begun."""
    told = {
        ("replay", "--topic", "payment.events"): (2, "--service"),
        ("replay", "--topic", "no.such", "--service", "order"): (2, "There is no such topic"),
        ("replay", "--into", "live"): (2, "--confirm"),
        ("replay", "--into", "beside"): (2, "dry, live or shadow"),
        ("replay", "--into", "shadow"): (2, "--model"),
        ("replay", "--into", "shadow", "--topic", "order.events"): (2, "--model and --service"),
        ("operations", "show", str(UUID(int=7))): (5, "no service knows"),
    }

    for words, (wanted, text) in told.items():
        code, out, err = operator.quadrille(*words)
        assert (code, text in err, out) == (wanted, True, ""), (words, err)


def test_watching_outlasts_a_database_that_is_away() -> None:
    """A worker that cannot look the operation up is asked again; one that knows nothing of it ends the watching."""
    document: dict[str, Any] = {"operation_id": SAMPLE, "service": "payment", "state": "RUNNING"}
    answers = [Problem("dependency-unavailable"), None, Problem("outcome-unknown"), {"state": "DONE"}]

    def show(_: OpsRequest) -> OpsResponse:
        if isinstance(answer := answers.pop(0) if answers else Problem("not-found"), Problem):
            raise answer
        return OpsResponse(200, document | (answer or {}))

    with serve("127.0.0.1:0", "payment", "worker", {}, routes={("GET", "/ops/operations/{id}"): show}) as ops:
        url = f"http://127.0.0.1:{ops.server_port}"
        assert [now["state"] for now in watched(url, document)] == ["RUNNING", "DONE"]
        with pytest.raises(typer.Exit) as ended:
            list(watched(url, document))

    assert ended.value.exit_code == 5


def found(text: str) -> str:
    """The first operation a text names."""
    there = re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text)
    assert there, text
    return there[0]


def _running(operator: Operator, service: str) -> str | None:
    running = operator.ask(service, "GET", "/ops/operations?state=RUNNING")["operations"]
    return str(running[0]["operation_id"]) if running else None


def _done(operator: Operator, service: str, operation: str) -> int:
    progress: dict[str, Any] = operator.ask(service, "GET", f"/ops/operations/{operation}")["progress"]
    return int(progress.get("records", 0))


def _charged(shop: Shop, order: str) -> bool | None:
    said = shop.sql("payment", "SELECT 1 FROM outbox WHERE aggregateid = %s AND type = 'payment.charged'", order)
    return bool(said) or None
