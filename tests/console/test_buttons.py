"""Buttons against the real order service: what they do is in its database, with who and why; refusals in its words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from console.domain import Shown
from order.domain import Orders
from order.events import StockReserved
from quadrille.testing import OnPostgres
from quadrille_cli.testing import Start
from tests.chassis.support.database import wait_until
from tests.console.browser import LOOKS, Browser
from tests.console.conftest import Console, console_served
from tests.console.desk import Desk, form
from tests.console.shopfloor import Floor, order_floor
from tests.console.stories import a_day
from tests.console.test_screens import AXE, RULES

STATES = "SELECT id::text, state FROM parked ORDER BY place"
STATUS = "SELECT status FROM orders WHERE order_id = %s"
SEEN = "a test"


@pytest.fixture
def floor(order_db: OnPostgres[Orders], console: OnPostgres[Shown]) -> Iterator[Floor]:
    """Order, running, beside an empty console."""
    with order_floor(order_db, console) as there:
        yield there


@pytest.fixture
def here(floor: Floor, console: OnPostgres[Shown]) -> Iterator[Console]:
    """The console that watches it."""
    with console_served(console, floor.ops, {"order": floor.url}) as there:
        yield there


@pytest.fixture
def desk(here: Console) -> Desk:
    """A person who is logged in."""
    return Desk(here)


def test_a_parked_input_is_redriven(floor: Floor, desk: Desk) -> None:
    """It goes through its handler, the order goes on, and the audit has who and why."""
    order = floor.place()
    parked = floor.parks(order)
    shown = desk.asks("redrive", service="order", id=parked.id).text
    assert "the schema could not be read" in shown
    assert f"quadrille parked redrive {parked.id} --service order" in shown

    came = desk.act("redrive", service="order", id=parked.id)
    assert came.startswith("good: ✓ order: stock.reserved of order"), came
    assert "went through; audit row 1" in came
    assert floor.sql(STATES) == [(str(parked.id), "REDRIVEN")]
    assert floor.sql(STATUS, order) == [("INVENTORY_RESERVED",)]
    assert floor.audit() == [("local", "parked-redrive", SEEN)]


def test_what_fails_again_is_not_called_done(floor: Floor, desk: Desk) -> None:
    """The outcome is red, with the error of this try; discarded it is gone; put back it is there again."""
    parked = floor.parks(floor.place(), broken=True)
    came = desk.act("redrive", service="order", id=parked.id)
    assert came.startswith("bad: ✕"), came
    assert "failed again and stays parked: UNDECODABLE" in came

    assert "is discarded" in desk.act("discard", service="order", id=parked.id)
    assert floor.sql(STATES) == [(str(parked.id), "DISCARDED")]
    again = desk.act("discard", service="order", id=parked.id)
    assert "(NOT_PARKED)" in again
    assert "It is DISCARDED by local" in again
    desk.act("redrive", service="order", id=parked.id)
    assert floor.sql(STATES)[0][1] in ("OPEN", "DEAD")
    assert [action for _, action, _ in floor.audit()] == ["parked-redrive", "parked-discard", "parked-redrive"]


def test_of_two_operators_the_second_is_told(floor: Floor, here: Console) -> None:
    """Both have the form open; the second is refused by rule, in the service's words, and nothing happens twice."""
    parked = floor.parks(floor.place())
    one, other = Desk(here), Desk(here)
    first, second = (each.asks("redrive", service="order", id=parked.id) for each in (one, other))
    assert "went through" in one.does("redrive", first, reason="mine").text
    late = other.does("redrive", second, reason="mine too")
    assert "refuses it, nothing was done" in late.text
    assert "It went through its handler already, by local" in late.text
    assert floor.audit() == [("local", "parked-redrive", "mine")]


def test_all_of_a_group_are_looked_at_then_redriven(floor: Floor, desk: Desk) -> None:
    """The page tells how many and freezes them; the form does exactly those, as an operation with its progress."""
    orders = [floor.place() for _ in range(3)]
    for order in orders:
        floor.parks(order)
    assert "built-in" not in desk.http.get("/failures").text
    [button] = re.findall(r'href="(/ask/redrive-many[^"]*)"[^>]*>Redrive all…', desk.http.get("/failures").text)
    page = desk.http.get(button.replace("&amp;", "&"))
    assert "3 inputs go through their handler again" in page.text
    mark = form(page.text, "/do/redrive-many")["selection"]
    assert f"--selection {mark}" in page.text
    assert floor.audit() == []

    done = desk.does("redrive-many", page, reason=SEEN, rate="1000")
    assert "the redrive of 3 inputs has begun" in done.text
    wait_until(lambda: {state for _, state in floor.sql(STATES)} == {"REDRIVEN"})
    wait_until(lambda: floor.sql("SELECT state FROM operation") == [("DONE",)])
    assert "3 of 3, 3 done" in desk.http.get("/operations").text
    assert floor.audit()[0] == ("local", "parked-redrive-many", SEEN)


def test_a_selection_that_has_changed_is_refused(floor: Floor, desk: Desk) -> None:
    """One more was parked meanwhile: said so, nothing is done, and the link looks again at what is there now."""
    floor.parks(floor.place())
    page = desk.asks("discard-many", service="order", error_class="UNDECODABLE", back="/failures")
    floor.parks(floor.place())
    refused = desk.does("discard-many", page, reason=SEEN)
    assert "(SELECTION_CHANGED). What you looked at has changed: 2 are selected now" in refused.text
    assert {state for _, state in floor.sql(STATES)} == {"OPEN"}
    assert (floor.sql("SELECT 1 FROM operation"), floor.audit()) == ([], [])

    [link] = re.findall(r'<a href="(/ask/discard-many[^"]*)">Look again', refused.text)
    again = desk.http.get(link.replace("&amp;", "&"))
    assert "2 inputs are dropped" in again.text
    assert "has begun" in desk.does("discard-many", again, reason=SEEN, rate="1000").text
    wait_until(lambda: {state for _, state in floor.sql(STATES)} == {"DISCARDED"})


def test_one_of_a_group_is_one(floor: Floor, desk: Desk) -> None:
    """With a limit of one the oldest is done and no other; of none there is nothing to ask for."""
    oldest, _ = floor.parks(floor.place()), floor.parks(floor.place())
    desk.act("redrive-many", service="order", error_class="UNDECODABLE", limit=1)
    wait_until(lambda: floor.sql(STATES)[0] == (str(oldest.id), "REDRIVEN"))
    wait_until(lambda: floor.sql("SELECT state FROM operation") == [("DONE",)])
    assert floor.sql(STATES)[1][1] == "OPEN"
    nothing = desk.asks("redrive-many", service="order", error_class="HANDLER")
    assert "there is nothing to redrive" in nothing.text
    assert '<form method="post" action="/do/' not in nothing.text


def test_an_operation_is_paused_and_cancelled(floor: Floor, desk: Desk) -> None:
    """While it goes on slowly it is paused, then cancelled; the rest stays parked; what has ended cannot be paused."""
    for _ in range(3):
        floor.parks(floor.place())
    desk.act("redrive-many", {"rate": "0.01"}, service="order", error_class="UNDECODABLE")
    [(which,)] = floor.sql("SELECT id::text FROM operation")
    wait_until(lambda: "REDRIVEN" in {state for _, state in floor.sql(STATES)})
    turned = {"service": "order", "id": which}
    assert "is paused now" in desk.act("operation", **turned, verb="pause")
    page = desk.http.get("/operations").text
    assert "Resume…" in page
    assert "Pause…" not in page
    assert "is cancelled now" in desk.act("operation", **turned, verb="cancel")
    assert "(ENDED). This operation is CANCELLED" in desk.act("operation", **turned, verb="pause")
    assert [state for _, state in floor.sql(STATES)].count("OPEN") == 2


def test_an_order_is_cancelled_as_it_was_seen(floor: Floor, desk: Desk) -> None:
    """Changed since it was looked at, it is not; looked at again it is, and order's audit says by whom and why."""
    order = floor.place()
    page = desk.asks("cancel", order=order)
    floor.db.given(StockReserved(order))
    changed = desk.does("cancel", page, reason=SEEN)
    assert "It has gone on since: read it again" in changed.text
    assert floor.sql(STATUS, order) == [("INVENTORY_RESERVED",)]

    came = desk.act("cancel", order=order)
    assert "order: ACCEPTED. It is being undone" in came
    assert floor.sql(STATUS, order) == [("CANCELLING",)]
    assert [action for _, action, _ in floor.audit()] == ["cancel", "cancel"]


def test_the_intake_is_shut_and_opened(floor: Floor, desk: Desk) -> None:
    """Shut, order refuses new orders; shut twice it is said that nothing changed; opened, they are taken."""
    assert "the intake is shut now, it was open before" in desk.act("intake", verb="pause")
    assert floor.sql("SELECT state FROM intake") == [("PAUSED",)]
    assert desk.act("intake", verb="pause").startswith("warn: ◐ order: the intake was shut already")
    assert "is open now" in desk.act("intake", verb="resume")
    assert [row[1] for row in floor.audit()] == ["intake.pause", "intake.pause", "intake.resume"]


def test_consumers_rest_and_go_on(floor: Floor, desk: Desk) -> None:
    """Their pause is a row of the service, with its reason; resumed it is gone; a second time changes nothing."""
    assert "its consumers rest now" in desk.act("consumer", {"reason": "mending"}, service="order", verb="pause")
    assert floor.sql("SELECT cause FROM consumer_pause") == [("by local: mending",)]
    assert "nothing has changed" in desk.act("consumer", service="order", verb="pause")
    assert "its consumers go on" in desk.act("consumer", service="order", verb="resume")
    assert floor.sql("SELECT 1 FROM consumer_pause") == []


def test_consumers_that_rest_are_in_the_verdict(floor: Floor, desk: Desk) -> None:
    """While a person or the brake has paused them the first screen says so, with why and the button that ends it."""
    body = {"service": "order", "role": "consumer", "detail": "by Ana: mending", "since_at": "2026-11-21T09:14:03.391Z"}
    stalled, resumed = (
        floor.teller.says(str(uuid4()), kind, timedelta(0), body, topic="ops.events")
        for kind in ("progress.stalled", "progress.resumed")
    )
    floor.hears(stalled)
    page = desk.http.get("/").text
    assert "consumers of 1 service paused" in page
    assert "by Ana: mending" in page
    assert "/ask/consumer?service=order&amp;verb=resume" in page
    floor.hears(resumed)
    assert "consumers" not in desk.http.get("/").text


def test_what_is_done_is_in_the_audit_page(floor: Floor, desk: Desk) -> None:
    """Rows of every service that answers, found by order, by its end and by who; a service away is named."""
    order = floor.place()
    parked = floor.parks(order)
    floor.tells_of([parked])
    desk.act("redrive", {"reason": "mended by Ana"}, service="order", id=parked.id)
    desk.act("intake", {"reason": "stocktaking"}, verb="pause")

    whole = desk.http.get("/audit").text
    assert all(words in whole for words in ("mended by Ana", "stocktaking", "login", "payment, notification"))
    for subject in (order, f"…{order[-6:]}"):
        found = desk.http.get("/audit", params={"subject": subject}).text
        assert ("mended by Ana" in found, "stocktaking" in found) == (True, False)
    assert "mended by Ana" in desk.http.get("/audit", params={"actor": "local"}).text
    nobody = desk.http.get("/audit", params={"actor": "ana"}).text
    assert "mended by Ana" not in nobody
    assert "Nothing was done by hand that fits, at those who answer" in nobody
    assert "mended by Ana" in desk.http.get(f"/orders/{order}").text


def test_older_pages_of_the_audit_follow(floor: Floor, desk: Desk) -> None:
    """Each row is on one page, none on two, however services mix."""
    for n in range(60):
        floor.sql(
            "INSERT INTO audit (number, at, actor, action, subject, reason, previous, hash) "
            "VALUES (%s, clock_timestamp(), 'ana', 'cancel', 'o', %s, '', '')", n + 1, f"reason {n:02d}",
        )  # fmt: skip
    page = desk.http.get("/audit").text
    [link] = re.findall(r'rel="next" href="([^"]*)"', page)
    older = desk.http.get(link.replace("&amp;", "&")).text
    found = [re.findall(r"reason \d\d", text) for text in (page, older)]
    assert sorted({*found[0], *found[1]}) == [f"reason {n:02d}" for n in range(60)]
    assert not {*found[0]} & {*found[1]}


def test_a_service_that_is_away_does_nothing(console: OnPostgres[Shown]) -> None:
    """Nothing listens: nothing was done, with the command to copy; what would be done cannot be told either."""
    with console_served(console, {"order-api": "http://127.0.0.1:9", "order-worker": "http://127.0.0.1:9"}) as there:
        desk = Desk(there)
        assert "order-api does not answer, so nothing was done." in desk.act("intake", verb="pause")
        page = desk.asks("redrive-many", service="order", error_class="HANDLER").text
        assert "What would be done cannot be told. order-worker does not answer" in page
        assert 'action="/do/redrive-many"' not in page


def test_a_service_without_an_address_is_said_to_have_none(console: OnPostgres[Shown]) -> None:
    """A console that was told no ops port: the outcome names the setting."""
    with console_served(console, {}) as there:
        came = Desk(there).act("intake", verb="pause")
    assert "so nothing was done: QUADRILLE_OPS names no address of it." in came


def test_a_redrive_by_keyboard_alone(floor: Floor, here: Console, browser: Browser, shots: Path) -> None:
    """On the first screen r opens the dialog, the focus is where one says why; Enter does it, and the page says so."""
    order = floor.place()
    parked = floor.parks(order)
    floor.tells_of([parked])
    with browser.page() as page:
        page.goto(here.link())
        page.follow(lambda: page.run("document.querySelector('main form').submit()"))
        page.until("document.documentElement.classList.contains('scripted')")
        page.press("r")
        page.until("document.getElementById('dialog').open")
        page.run(AXE + ";true")
        assert page.run(RULES) == []
        page.shot(shots / "dialog-redrive.png")
        assert page.run("document.activeElement.name") == "reason"
        page.press("Escape")
        page.until("document.getElementById('dialog').childElementCount === 0")
        page.press("?")
        page.until("document.getElementById('keys').open")
        page.press("g")
        page.follow(lambda: page.press("a"))
        assert page.run("location.pathname") == "/audit"
        page.goto(f"{here.address}/")
        page.until("document.documentElement.classList.contains('scripted')")
        page.press("r")
        page.until("document.getElementById('dialog').open")
        page.type("mended")
        page.follow(lambda: page.press("Enter"))
        assert "went through" in page.text()
        page.run(AXE + ";true")
        assert page.run(RULES) == []
        page.shot(shots / "outcome.png")
        assert page.told() == []
    assert floor.sql(STATES) == [(str(parked.id), "REDRIVEN")]
    assert floor.audit() == [("local", "parked-redrive", "mended")]


def test_a_button_works_without_a_script(floor: Floor, here: Console, browser: Browser) -> None:
    """With scripts turned off a browser logs in, follows the button, says why, and reads what came of it."""
    with browser.page(scripts=False) as page:

        def run(script: str) -> None:
            page.ask("Emulation.setScriptExecutionDisabled", value=False)
            page.run(script)
            page.ask("Emulation.setScriptExecutionDisabled", value=True)

        page.goto(here.link())
        page.follow(lambda: run("setTimeout(() => document.querySelector('main form button').click())"))
        page.follow(lambda: run("setTimeout(() => document.querySelector('a[href*=\"/ask/intake\"]').click())"))
        run("document.querySelector('[name=reason]').value = 'stocktaking'")
        page.follow(lambda: run("setTimeout(() => document.querySelector('#ask form button').click())"))
        page.ask("Emulation.setScriptExecutionDisabled", value=False)
        assert "the intake is shut now" in page.text()
    assert floor.sql("SELECT state FROM intake") == [("PAUSED",)]
    assert floor.audit() == [("local", "intake.pause", "stocktaking")]


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_every_new_screen_is_accessible(  # noqa: PLR0913, PLR0917 - fixtures
    floor: Floor, here: Console, browser: Browser, shots: Path, width: int, scheme: str
) -> None:
    """Whoever is logged in: first screen, failures, order, audit, operations, processes, what is asked, an outcome."""
    parked = [floor.parks(floor.place()) for _ in range(2)]
    floor.tells_of(parked)
    desk = Desk(here)
    desk.act("intake", verb="pause")
    which = f"service=order&id={parked[0].id}"
    paths = {
        "login": "/login", "acting-overview": "/", "acting-failures": "/failures", "audit": "/audit",
        "acting-order": f"/orders/{parked[0].key}", "acting-operations": "/operations",
        "acting-processes": "/processes", "acting-flow": "/flow", "process": "/processes/order-worker",
        "ask-restart": "/ask/restart?process=order-worker",
        "ask-redrive": f"/ask/redrive?{which}", "ask-discard": f"/ask/discard?{which}",
        "ask-many": "/ask/redrive-many?service=order&error_class=UNDECODABLE",
        "ask-cancel": f"/ask/cancel?order={parked[0].key}", "ask-intake": "/ask/intake?verb=resume",
        "ask-consumer": "/ask/consumer?service=order&verb=pause",
        "ask-resolve": f"/ask/resolve?order={parked[0].key}&participant=payment",
    }  # fmt: skip
    [(name, secret)] = dict(desk.http.cookies).items()
    wrong: list[str] = []
    with browser.page(width=width, dark=scheme == "dark") as page:
        page.ask("Network.setCookie", name=name, value=secret, url=here.address, httpOnly=True, sameSite="Strict")
        for shown, path in paths.items():
            page.goto(here.address + path)
            page.shot(shots / f"{shown}-{width}-{scheme}.png")
            if page.run("document.documentElement.scrollWidth") > width:
                wrong.append(f"{shown}: wider than {width}")
            page.run(AXE + ";true")
            wrong += [f"{shown}: {one}" for one in page.run(RULES)]
        wrong += page.told()
    assert not wrong, "\n".join(wrong)


def test_a_reader_sees_no_button(floor: Floor, here: Console) -> None:
    """Who is not logged in sees the same pages with commands to copy, and none that asks."""
    parked = floor.parks(floor.place())
    floor.tells_of([parked])
    for path in ("/", "/failures", f"/orders/{parked.key}", "/operations", "/audit"):
        text = httpx.get(here.address + path).text
        assert "/ask/" not in text, path
        assert "quadrille " in text, path


def test_what_waits_for_a_person_fits_one_screen(
    floor: Floor, outside: tuple[Console, str], browser: Browser, shots: Path
) -> None:
    """Two stuck orders and two parked groups on a busy day: from verdict to flow all is seen at 1280 by 800."""
    here, teller = outside[0], floor.teller
    floor.hears(*a_day(teller))
    order, back = teller.order(timedelta(minutes=1)), timedelta(minutes=1)
    body = {"service": "payment", "event_id": str(uuid4()), "error_class": "HANDLER", "behind": 2,
            "type": "stock.reserved", "error": "KeyError, payment/handlers.py:88:charge"}  # fmt: skip
    floor.hears(teller.placed(order, back), teller.says(order, "input.dead", back, body, topic="ops.events"))
    [(name, secret)] = dict(Desk(here).http.cookies).items()
    for scheme in ("light", "dark"):
        with browser.page(width=1280, height=800, dark=scheme == "dark") as page:
            page.ask("Network.setCookie", name=name, value=secret, url=here.address, httpOnly=True, sameSite="Strict")
            page.goto(f"{here.address}/")
            page.shot(shots / f"incident-1280-{scheme}.png")
            assert page.run("document.querySelectorAll('.person li').length") == 3
            assert page.run("document.querySelectorAll('[aria-labelledby=parked] tbody tr').length") == 2
            for part in ("person", "parked", "dance", "flow"):
                bottom = page.run(f"document.querySelector('[aria-labelledby={part}]').getBoundingClientRect().bottom")
                assert bottom <= 800, f"{part} ends at {bottom}"


@pytest.fixture
def outside(floor: Floor, console: OnPostgres[Shown], parts_of_the_stack: Start) -> Iterator[tuple[Console, str]]:
    """A console beside order and a real sandbox in peace: the console, and the sandbox's address."""
    sandbox = parts_of_the_stack("sandbox").url("sandbox")
    httpx.delete(f"{sandbox}/chaos")
    with console_served(console, floor.ops, {"order": floor.url, "sandbox": sandbox}) as there:
        yield there, sandbox
    httpx.delete(f"{sandbox}/chaos")


def test_chaos_begins_and_ends(outside: tuple[Console, str], browser: Browser, shots: Path) -> None:
    """The sandbox follows the plan that the form says; the verdict counts it down; ended, it is gone from both."""
    here, sandbox = outside
    desk = Desk(here)
    assert "chaos has begun" in desk.act("chaos", {"errors": "0.5", "latency": "0.25", "seconds": "600"}, back="/chaos")
    told = httpx.get(f"{sandbox}/chaos").json()
    assert (told["on"], told["errors"], told["latency"], told["seconds"]) == (True, 0.5, 0.25, 600)
    assert re.search(r"chaos in the sandbox, (10 min|9 min|59\d s) left", desk.http.get("/").text)
    [(name, secret)] = dict(desk.http.cookies).items()
    for width in (1280, 390):
        with browser.page(width=width) as page:
            page.ask("Network.setCookie", name=name, value=secret, url=here.address, httpOnly=True, sameSite="Strict")
            for shown, path in (("chaos", "/chaos"), ("ask-chaos", "/ask/chaos"), ("empty", "/")):
                page.goto(here.address + path)
                page.shot(shots / f"{shown}-{width}.png")
                page.run(AXE + ";true")
                assert page.run(RULES) == []
                assert page.run("document.documentElement.scrollWidth") <= width
            assert page.told() == []

    refused = desk.act("chaos", {"errors": "0.9", "timeouts": "0.9"})
    assert "sandbox refuses it, nothing was done: malformed. timeouts" in refused
    assert "shares of 1, together too" in refused
    assert "there is no chaos now" in desk.act("calm")
    assert httpx.get(f"{sandbox}/chaos").json()["on"] is False
    assert "chaos in the sandbox" not in desk.http.get("/").text


def test_without_a_sandbox_there_is_no_chaos(here: Console, desk: Desk) -> None:
    """No tab, no page, no test order: what is not the sandbox's is not played with."""
    assert 'href="/chaos"' not in desk.http.get("/").text
    assert [desk.http.get("/chaos").status_code, desk.asks("chaos").status_code, desk.asks("place").status_code] == [
        404, 404, 404,
    ]  # fmt: skip
    assert "Place a test order" not in desk.http.get("/").text
    assert "quadrille orders place" in desk.http.get("/").text


def test_a_test_order_is_placed_once(floor: Floor, outside: tuple[Console, str]) -> None:
    """From the empty first screen; the form sent twice is one order, by its key; the outcome leads to its page."""
    desk = Desk(outside[0])
    assert "Place a test order…" in desk.http.get("/").text
    page = desk.asks("place")
    came = [desk.does("place", page).text for _ in range(2)]
    [(order,)] = floor.sql("SELECT order_id::text FROM orders")
    assert all(f'href="/orders/{order}"' in text for text in came)
