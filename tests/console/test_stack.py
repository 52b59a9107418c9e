"""The console in the stack, as one service more: it hears what the others publish, and knows how each process is."""

from __future__ import annotations

import html
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx
import psutil
import psycopg
import pytest
from confluent_kafka import Producer

from quadrille.ids import uuid7
from quadrille.kafka.config import producer_settings
from quadrille_cli.client import Client
from quadrille_cli.demo_data import stock_up
from quadrille_cli.login_link import offered
from quadrille_cli.services import CONSOLE
from quadrille_cli.stack import Stack
from quadrille_why import explain, gather, over_http
from tests.console.browser import Browser
from tests.console.conftest import Console
from tests.console.desk import Desk

PATIENCE_SECONDS = 120.0
MEMORY_MB = 130
ORDER = {"customer_id": "cust_demo", "payment_token": "tok_ok", "currency": "EUR",
         "lines": [{"sku": "SKU-TEA", "quantity": 2, "unit_price_minor": 1250}]}  # fmt: skip


T = TypeVar("T")


def until(ask: Callable[[], T], true: Callable[[T], object]) -> T:
    """Ask until the answer is true of something, and return it."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not true(answer := ask()):
        assert time.monotonic() < end, answer
        time.sleep(0.2)
    return answer


@pytest.fixture(scope="module")
def order(stack: Stack) -> str:
    """An order placed over the API, with enough in stock."""
    with httpx.Client() as http:
        there = http.get(f"{stack.url('inventory')}/v1/stock/SKU-TEA")
        if there.status_code == 404:
            http.put(f"{stack.url('inventory')}/v1/stock/SKU-TEA", json={"available": 1000}, headers={"If-Match": "*"})
        made = http.post(f"{stack.url('order')}/v1/orders", json=ORDER, headers={"Idempotency-Key": str(uuid7())})
    assert made.status_code == 202, made.text
    return str(made.json()["order_id"])


def test_an_order_is_followed_to_its_end(stack: Stack, order: str) -> None:
    """Its timeline has every event of every service, each with its cause and trace; it ends as order says."""
    url = f"{stack.url(CONSOLE)}/v1/orders/{order}/timeline"
    told = until(lambda: httpx.get(url), lambda got: got.status_code == 200 and got.json()["final"]).json()
    by_order = httpx.get(f"{stack.url('order')}/v1/orders/{order}").json()

    assert (told["status"], told["reason"]) == (by_order["status"], by_order["reason"])
    assert {event["trace_id"] for event in told["events"]} == {by_order["trace_id"]}
    assert by_order["links"]["timeline"] == f"{stack.url(CONSOLE)}/orders/{order}"
    kinds = [event["type"] for event in told["events"]]
    assert kinds[0] == "order.placed"
    ids = {event["event_id"]: event["type"] for event in told["events"]}
    [first] = [event for event in told["events"] if event["type"] in ("stock.reserved", "stock.rejected")]
    assert ids[first["causation_id"]] == "order.placed"


def test_an_unreadable_record_is_kept_with_its_bytes(stack: Stack) -> None:
    """Seven bytes without headers on payment's topic: found by place, with the reason; nothing of the console stops."""
    key = str(uuid7())
    producer = Producer(producer_settings(stack.kafka_bootstrap))
    places: list[tuple[int | None, int | None]] = []
    producer.produce("saga.audit", b"poison!", key, on_delivery=lambda _, m: places.append((m.partition(), m.offset())))
    producer.flush(PATIENCE_SECONDS)
    [(partition, offset)] = places
    url = f"{stack.url(CONSOLE)}/v1/events?topic=saga.audit&unreadable=true"
    found = until(lambda: [one for one in httpx.get(url).json()["events"] if one["order_id"] == key], bool)

    [event] = found
    assert (event["partition"], event["offset"], event["body"]) == (partition, offset, None)
    assert "ce_id is missing" in event["unreadable"]
    whole = httpx.get(f"{stack.url(CONSOLE)}/v1/events/{event['event_id']}").json()
    assert bytes.fromhex(whole["hex"]) == b"poison!"


def test_its_trace_leads_to_a_real_page(stack: Stack, order: str) -> None:
    """The trace link of the order API opens its waterfall here, with spans of every service that acted."""
    link = httpx.get(f"{stack.url('order')}/v1/orders/{order}").json()["links"]["trace"]
    assert link.startswith(f"{stack.url(CONSOLE)}/traces/")
    page = until(lambda: httpx.get(link).text, lambda text: "inventory worker" in text and "order api" in text)
    assert "waterfall" in page


def test_the_first_screen_shows_the_stack(stack: Stack, order: str, browser: Browser, shots: Path) -> None:
    """Every process of every service is in the picture; the order is among the latest, its page one click away."""
    with browser.page() as page:
        page.goto(f"{stack.url(CONSOLE)}/")
        page.until("document.querySelectorAll('.dance circle.state').length === 12")
        page.until(f"document.querySelector('a[href=\"/orders/{order}\"]') !== null")
        page.shot(shots / "stack-overview.png")
        page.follow(lambda: page.run(f"document.querySelector('main a[href=\"/orders/{order}\"]').click()"))
        page.until("document.querySelectorAll('.lanes circle.dot').length >= 4")
        page.shot(shots / "stack-order.png")
        page.follow(lambda: page.run("document.querySelector('main a[href^=\"/traces/\"]').click()"))
        page.shot(shots / "stack-trace.png")
        assert page.told() == []


def test_the_flow_of_each_service_is_shown(stack: Stack, order: str) -> None:
    """Consumers, what is left to read and publish, relay, slot and canary, as their ports tell; a pause is seen."""
    url = f"{stack.url(CONSOLE)}/flow"
    rows = re.findall(r"<tr>\n<td data-name=\"Service\">.*?</tr>", httpx.get(url).text, re.DOTALL)
    assert len(rows) == 4, "all flow"
    assert [row.count("✓ streaming") + row.count(">reserved<") for row in rows] == [2] * 4
    assert [len(re.findall(r"WAL kept\" class=\"num\">[\d.]+ (?:GB|MB|kB|B)<", row)) for row in rows] == [1] * 4
    assert sum("✓ closed" in row for row in rows) >= 1
    with Client(stack.url("inventory-worker")) as ops:
        ops.demand("POST", "/ops/consumers/pause", {"reason": "a test of the flow"})
        try:
            text = httpx.get(url).text
        finally:
            ops.demand("POST", "/ops/consumers/resume", {"reason": "it is over"})
    assert "✕ paused</span>: by local: a test of the flow" in text
    assert "quadrille consumers resume inventory" in text


def test_what_operators_ask_is_answered_over_rest(stack: Stack, order: str) -> None:
    """Who is stuck, long actions, what was done by hand: of all services at once, who is silent is named."""
    base = stack.url(CONSOLE)
    assert httpx.get(f"{base}/v1/stuck").json().keys() == {"count", "stuck"}
    with Client(stack.url("inventory-worker")) as ops:
        for verb in ("pause", "resume"):
            ops.demand("POST", f"/ops/consumers/{verb}", {"reason": f"asked over REST to {verb}"})
    first = httpx.get(f"{base}/v1/audit", params={"subject": "inventory", "limit": 1}).json()
    [newest] = first["actions"]
    assert (newest["service"], newest["action"]) == ("inventory", "consumers.resume")
    again = httpx.get(f"{base}/v1/audit", params={"subject": "inventory", "limit": 1, "cursor": first["next"]}).json()
    assert [one["reason"] for one in again["actions"]] == ["asked over REST to pause"]

    rebuilt(stack)
    told = httpx.get(f"{base}/v1/operations").json()
    assert (CONSOLE in {one["service"] for one in told["operations"]}, told["silent"]) == (True, [])
    stack.process("payment-worker").stop()
    try:
        assert httpx.get(f"{base}/v1/operations").json()["silent"] == ["payment"]
    finally:
        stack.process("payment-worker").start()


def test_it_costs_little(stack: Stack) -> None:
    """Program and database together stay within their part of the memory."""
    names = (CONSOLE, f"postgres:{CONSOLE}")
    family = [psutil.Process(stack.process(name).pid or 0) for name in names]
    family += [child for one in family for child in one.children(recursive=True)]
    assert sum(one.memory_full_info().pss for one in family) / 1e6 < MEMORY_MB


def rebuilt(stack: Stack, **wanted: object) -> dict[str, object]:
    """Rebuild the timeline beside the live one, and return what came of it."""
    ops = f"{stack.url(f'{CONSOLE}-ops')}/ops"
    asked = {"into": "shadow", "model": "timeline", "reason": "a test", **wanted}
    begun = httpx.post(f"{ops}/replays", json=asked)
    assert begun.status_code == 202, begun.text
    url = f"{ops}/operations/{begun.json()['operation_id']}"
    ended = until(lambda: httpx.get(url).json(), lambda told: told["state"] != "RUNNING")
    assert ended["state"] == "DONE", ended
    progress: dict[str, object] = ended["progress"]
    return progress


def test_its_timeline_is_rebuilt_from_the_topics(stack: Stack, order: str) -> None:
    """A shadow differs in no row; a planted difference is found by key and column, and a swap mends it."""
    until(lambda: httpx.get(f"{stack.url(CONSOLE)}/v1/orders/{order}/timeline").json(), lambda told: told.get("final"))
    assert rebuilt(stack)["unequal"] == 0

    change = "UPDATE order_view SET customer_id = %s WHERE order_id = %s"
    with psycopg.connect(stack.database_url(CONSOLE, "postgres")) as db:
        db.execute(change, ["nobody", order])
    found = rebuilt(stack)
    different = {"table": "order_view", "verdict": "different", "columns": ["customer_id"], "row": {"order_id": order}}
    assert (found["unequal"], found["differences"]) == (1, [different])

    assert rebuilt(stack, swap=True, confirm=CONSOLE)["swapped"] is True
    with psycopg.connect(stack.database_url(CONSOLE, "postgres")) as db:
        [(customer,)] = db.execute("SELECT customer_id FROM order_view WHERE order_id = %s", [order]).fetchall()
    assert customer == "cust_demo"
    assert rebuilt(stack)["unequal"] == 0


def test_why_is_the_sentence_of_the_command_line(stack: Stack, order: str) -> None:
    """The API says it with its evidence, the order's page shows it; an order nobody knows is 404."""
    base = stack.url(CONSOLE)
    until(lambda: httpx.get(f"{base}/v1/orders/{order}/timeline").json(), lambda told: told.get("final"))
    told = httpx.get(f"{base}/v1/orders/{order}/why").json()
    assert told["sentence"] == explain(gather(over_http(stack.url), order)).sentence
    assert told["missing"] == {}
    assert told["sentence"] in html.unescape(httpx.get(f"{base}/orders/{order}").text)
    assert httpx.get(f"{base}/v1/orders/{uuid7()}/why").status_code == 404


def placed(stack: Stack, token: str) -> str:
    """Place an order that is paid so, and return its id once it is confirmed."""
    stock_up(stack, {"SKU-TEA": 1000})
    key = {"Idempotency-Key": str(uuid7())}
    made = httpx.post(f"{stack.url('order')}/v1/orders", json=ORDER | {"payment_token": token}, headers=key)
    order = str(made.json()["order_id"])
    ended(stack, order, "CONFIRMED")
    return order


def ended(stack: Stack, order: str, status: str) -> None:
    """Wait until an order has a status."""
    url = f"{stack.url('order')}/v1/orders/{order}"
    until(lambda: httpx.get(url).json(), lambda told: told["status"] == status)


def test_an_order_is_cancelled_and_its_failed_undo_ended_by_buttons(
    stack: Stack, order: str, browser: Browser, shots: Path
) -> None:
    """Logged in by the link that `quadrille login` gives: cancelled, its refund is refused, a person ends it.

    Each is asked in a dialog over the order's page, with why; payment's and order's audit have it, the page shows it.
    """
    bad = placed(stack, "tok_refund_fails_business")
    with Client(stack.url(f"{CONSOLE}-ops")) as ops:
        link = offered(ops, "a test")["url"]
    with browser.page() as page:
        page.goto(link)
        page.follow(lambda: page.run("document.querySelector('main form button').click()"))

        def presses(button: str, **fields: str) -> None:
            page.goto(f"{stack.url(CONSOLE)}/orders/{bad}")
            page.until("document.documentElement.classList.contains('scripted')")
            page.until(f"document.querySelector('main a[href^=\"/ask/{button}\"]') !== null")
            page.run(f"document.querySelector('main a[href^=\"/ask/{button}\"]').click()")
            page.until("document.getElementById('dialog').open")
            for name, value in fields.items():
                page.run(f"document.querySelector('#dialog [name={name}]').value = {value!r}")
            page.follow(lambda: page.run("document.querySelector('#dialog form button').click()"))

        presses("cancel", reason="the goods are broken")
        assert "order: ACCEPTED. It is being undone" in page.text()
        ended(stack, bad, "COMPENSATION_FAILED")
        heard = f"{stack.url(CONSOLE)}/v1/orders/{bad}/timeline"
        until(lambda: httpx.get(heard).json(), lambda told: told["attention"] == "UNDO_FAILED")
        presses("resolve", how="EXTERNAL", evidence="transfer 4711", reason="the card is closed")
        assert re.search(r"payment: (ASKED|DONE)\. .+ \(audit row \d+\)", page.text()), page.text()
        ended(stack, bad, "CANCELLED")
        page.goto(f"{stack.url(CONSOLE)}/orders/{bad}")
        assert "the goods are broken" in page.text()
        assert "the card is closed" in page.text()
        page.shot(shots / "stack-order-resolved.png")
        assert page.told() == []
    for service, action, reason in (
        ("order", "cancel", "the goods are broken"), ("payment", "resolve", "the card is closed"),
    ):  # fmt: skip
        with psycopg.connect(stack.database_url(service, "postgres")) as db:
            found = db.execute("SELECT actor, action, reason FROM audit WHERE subject = %s", [bad]).fetchall()
        assert found == [("local", action, reason)]


def test_a_failed_undo_is_tried_again_by_its_button(stack: Stack) -> None:
    """While the goods are sealed the page says that it failed again; once they are not, it is done: the order ends."""
    stock = f"{stack.url('inventory')}/v1/stock/SKU-BUTTON"

    def shelf(*, sealed: bool) -> None:
        body = {"available": 10, "sealed": sealed}
        assert httpx.put(stock, json=body, headers={"If-Match": "*"}).status_code in (200, 201)

    stock_up(stack, {"SKU-BUTTON": 10})
    lines = [{"sku": "SKU-BUTTON", "quantity": 1, "unit_price_minor": 100}]
    url, key = f"{stack.url('order')}/v1/orders", {"Idempotency-Key": str(uuid7())}
    bad = str(httpx.post(url, json=ORDER | {"lines": lines}, headers=key).json()["order_id"])
    until(lambda: httpx.get(f"{url}/{bad}").json(), lambda told: told["inventory"] == "COMMITTED")
    shelf(sealed=True)
    assert httpx.post(f"{url}/{bad}/cancel").status_code == 202
    ended(stack, bad, "COMPENSATION_FAILED")

    desk = Desk(Console(stack.url(CONSOLE), stack.url(f"{CONSOLE}-ops")))
    button = f"/ask/retry-undo?order={bad}&amp;participant=inventory"
    until(lambda: desk.http.get(f"/orders/{bad}").text, lambda text: button in text)
    failed = desk.act("retry-undo", {"reason": "they are back"}, order=bad, participant="inventory")
    assert failed.startswith("bad: ✕ inventory-worker refuses it, nothing was done:"), failed
    assert "(STILL_FAILED)" in failed
    shelf(sealed=False)
    came = desk.act("retry-undo", {"reason": "they are open"}, order=bad, participant="inventory")
    assert re.match(r"good: ✓ inventory: DONE\. .+ \(audit row \d+\)", came), came
    ended(stack, bad, "CANCELLED")
    with psycopg.connect(stack.database_url("inventory", "postgres")) as db:
        found = db.execute("SELECT action, reason FROM audit WHERE subject = %s ORDER BY number", [bad]).fetchall()
    assert found == [("retry-compensation", "they are back"), ("retry-compensation", "they are open")]


def test_a_console_whose_database_is_lost_knows_all_again(stack: Stack, order: str) -> None:
    """Nothing is kept there alone: begun anew it reads every topic from its beginning, and says the same."""
    url = f"{stack.url(CONSOLE)}/v1/orders/{order}/timeline"
    before = until(lambda: httpx.get(url), lambda got: got.status_code == 200 and got.json()["final"]).json()

    for name in (CONSOLE, f"postgres:{CONSOLE}"):
        stack.process(name).stop()
    shutil.rmtree(stack.postgres_home / CONSOLE)
    (stack.postgres_home / f"{CONSOLE}.bootstrapped").unlink()
    stack.start()

    def told() -> dict[str, object]:
        got = httpx.get(url)
        return dict(got.json()) if got.status_code == 200 else {}

    until(told, lambda after: after == before)
