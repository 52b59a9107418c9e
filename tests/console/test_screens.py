"""Every screen in a real Chromium: accessible, by keyboard, without a script, light and dark, wide and narrow."""

from __future__ import annotations

import gzip
import hashlib
import re
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from console.domain import Shown
from quadrille.testing import OnPostgres
from tests.console.browser import LOOKS, Browser
from tests.console.conftest import served
from tests.console.stories import Teller, inputs

HERE = Path(__file__).parent
AXE = gzip.decompress((HERE / "assets" / "axe.min.js.gz").read_bytes()).decode()
STATIC = HERE.parents[1] / "console/src/console/pages/static"
SCREENS = {
    "overview": "/",
    "orders": "/orders",
    "orders-waiting": "/orders?waits_for=payment",
    "events": "/events",
    "unreadable": "/events?unreadable=true",
    "failures": "/failures",
    "stuck": "/stuck",
    "findings": "/findings?closed=true",
    "flow": "/flow",
    "operations": "/operations",
    "catalogue": "/catalogue",
    "processes": "/processes",
    "traces": "/traces",
    "search": "/search?q=SKU-TEA",
    "not-found": "/orders/01a1fd62-57f0-7eeb-be96-e59ce40f9cb1",
}
RULES = """axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]})
 .then((found) => found.violations.map((one) => one.id + ": " + one.nodes.map((n) => n.target + " " +
   n.failureSummary.replace(/\\s+/g, " ")).slice(0, 3).join("; ")))"""


def order_of(shop: str, status: str) -> str:
    """The id of an order of this status."""
    found = httpx.get(f"{shop}/orders", params={"status": status}).text
    matched = re.search(r'href="/orders/([0-9a-f-]{36})"', found)
    assert matched, f"no order is {status}"
    return matched[1]


def places(shop: str) -> dict[str, str]:
    """Every screen by name, with one page of each kind of order and event."""
    kinds = ("CONFIRMED", "CANCELLED", "COMPENSATION_FAILED", "PAYMENT_CHARGED", "INVENTORY_RESERVED")
    orders = {f"order-{kind.lower()}": f"/orders/{order_of(shop, kind)}" for kind in kinds}
    listed = httpx.get(f"{shop}/v1/events", params={"unreadable": True}).json()["events"]
    event = httpx.get(f"{shop}/v1/events", params={"type": "order.placed"}).json()["events"][0]["event_id"]
    kept = httpx.get(f"{shop}/v1/findings", params={"closed": True}).json()["findings"]
    found = {
        "finding": next(one for one in kept if one["repairable"] and not one["closed_at"]),
        "finding-closed": next(one for one in kept if one["closed_at"]),
    }
    shown = {name: f"/findings/{one['finding_id']}" for name, one in found.items()}
    shown["order-disputed"] = f"/orders/{found['finding']['order_id']}"
    return {
        **SCREENS,
        **orders,
        **shown,
        "event": f"/events/{event}",
        "event-unreadable": f"/events/{listed[0]['event_id']}",
    }


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_every_screen_is_accessible_and_complains_of_nothing(
    shop: str, browser: Browser, shots: Path, width: int, scheme: str
) -> None:
    """The rules of WCAG 2.2 AA hold, the content security policy reports nothing, nothing is cut off sideways."""
    wrong: list[str] = []
    for name, path in places(shop).items():
        with browser.page(width=width, dark=scheme == "dark") as page:
            page.goto(shop + path)
            page.shot(shots / f"{name}-{width}-{scheme}.png")
            if page.run("document.documentElement.scrollWidth") > width:
                wrong.append(f"{name}: wider than {width}")
            complaints = [one for one in page.told() if "status of 404" not in one or name != "not-found"]
            page.run(AXE + ";true")
            wrong += [f"{name}: {one}" for one in (*page.run(RULES), *complaints)]
    assert not wrong, "\n".join(wrong)


def test_an_order_is_found_and_opened_by_keyboard_alone(shop: str, browser: Browser) -> None:
    """A slash leads to the search, Enter to the order; every place of the focus is seen; j and Enter open a row."""
    order = order_of(shop, "COMPENSATION_FAILED")
    with browser.page() as page:
        page.goto(f"{shop}/")
        page.until("document.documentElement.classList.contains('scripted')")
        page.press("/")
        assert page.run("document.activeElement.id") == "q"
        page.type(order[-6:])
        page.follow(lambda: page.press("Enter"))
        assert page.run("location.pathname") == f"/orders/{order}"
        assert "waits" in page.text()

        page.goto(f"{shop}/orders")
        page.until("document.documentElement.classList.contains('scripted')")
        page.press("j")
        chosen = page.run("document.activeElement.getAttribute('href')")
        assert chosen.startswith("/orders/")
        page.follow(lambda: page.press("Enter"))
        assert page.run("location.pathname") == chosen


def test_tab_reaches_everything_and_shows_where_it_is(shop: str, browser: Browser) -> None:
    """From the top of the first screen, Tab goes through every link and button in order, each with its outline."""
    with browser.page() as page:
        page.goto(f"{shop}/")
        page.until("document.documentElement.classList.contains('scripted')")
        wanted = page.run(
            "[...document.querySelectorAll('a[href], button, input, summary, [tabindex=\"0\"]')]"
            ".filter((e) => e.checkVisibility() && e.tabIndex >= 0).length"
        )
        reached = set()
        for _ in range(wanted + 2):
            page.press("Tab")
            place = page.run(
                "(() => { const e = document.activeElement; const all = [...document.querySelectorAll('*')];"
                " return e === document.body ? null : [all.indexOf(e), getComputedStyle(e).outlineStyle]; })()"
            )
            if place is None:
                break
            assert place[1] != "none", place
            reached.add(place[0])
    assert len(reached) == wanted


def test_every_screen_reads_without_a_script(shop: str, browser: Browser) -> None:
    """With scripts turned off each page says the same, and its links and forms work."""
    for name, path in places(shop).items():
        with browser.page(scripts=False) as page:
            page.goto(shop + path)
            page.ask("Emulation.setScriptExecutionDisabled", value=False)
            said = page.text()
            assert len(said) > 200, name
            assert page.run("[...document.querySelectorAll('button.js')].every((e) => !e.checkVisibility())"), name
    answer = httpx.get(f"{shop}/search", params={"q": order_of(shop, "CONFIRMED")})
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/orders/")


def test_what_is_new_appears_by_itself_and_can_be_paused(console: OnPostgres[Shown], browser: Browser) -> None:
    """An order placed while the first screen is open is there within moments; paused, the screen stays as it is."""
    teller = Teller()
    with served(console) as address, browser.page() as page:
        page.goto(f"{address}/")
        verdict = page.run("document.querySelector('[data-verdict]').innerText")
        assert verdict.endswith("All flows. No order has ended yet."), verdict
        assert "No orders yet" in page.text()
        page.until("document.documentElement.classList.contains('scripted')")
        console.takes(inputs(*teller.confirmed(timedelta(seconds=1), "cust_live")))
        page.until("document.body.innerText.includes('cust_live')")

        page.press("p")
        assert page.run("document.documentElement.classList.contains('paused')")
        console.takes(inputs(*teller.confirmed(timedelta(seconds=1), "cust_later")))
        page.run("new Promise((resolve) => document.body.addEventListener('htmx:sseMessage', resolve, {once: true}))")
        assert "cust_later" not in page.text()
        page.press("p")
        page.until("document.body.innerText.includes('cust_later')")
        assert page.told() == []


def test_an_orders_page_goes_on_with_the_order(console: OnPostgres[Shown], browser: Browser) -> None:
    """Opened while it waits for payment, it says so; when the order is confirmed the page says that by itself."""
    told = list(Teller().confirmed(timedelta(seconds=2)))
    console.takes(inputs(*told[:2]))
    with served(console) as address, browser.page() as page:
        page.goto(f"{address}/orders/{told[0].key}")
        assert "for payment: the goods are held" in page.text()
        page.until("document.documentElement.classList.contains('scripted')")
        console.takes(inputs(*told[2:]))
        page.until("document.body.innerText.includes('is confirmed after 300 ms')")
        page.until("document.querySelectorAll('.lanes circle.dot').length === 6")
        assert page.told() == []


def test_hostile_bytes_are_shown_as_text_only(console: OnPostgres[Shown], browser: Browser) -> None:
    """Markup in bytes, headers, ids and bodies runs nowhere; a megabyte is shown by its beginning."""
    teller, attack = Teller(), "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"
    order = teller.order(timedelta(seconds=9))
    large = teller.unreadable(order, attack.encode() * 13_000, f"larger than a payload may be {attack}", timedelta(0))
    said = teller.says(order, attack, timedelta(seconds=8), {attack: attack, "lines": [attack]}, topic="order.events")
    told = [teller.placed(order, timedelta(seconds=9), attack), large, said]
    console.takes(inputs(*told))
    paths = ("/", "/orders", f"/orders/{order}", "/events", f"/events/{large.id}", f"/events/{told[2].id}",
             f"/search?q={quote(attack)}", f"/orders?customer_id={quote(attack)}", "/catalogue")  # fmt: skip
    with served(console) as address, browser.page() as page:
        for path in paths:
            page.goto(address + path)
            assert page.run("document.title.includes('owned') && !document.title.includes('<')") is False, path
            assert page.run("document.querySelectorAll('main img, main script').length") == 0, path
            assert [one for one in page.told() if "404" not in one] == [], path


@pytest.mark.parametrize(
    "path",
    ["/orders/%00", "/search?q=%00%ff", "/orders?customer_id=%00&before=%00", "/events?before=9e9&until=x&key=%00",
     "/events/%00", "/traces/%00", "/findings/%00", "/findings?before=%00",
     "/failures?service=%00&error=", "/v1/events?key=%00", "/search?q=" + "%27%25" * 150],
)  # fmt: skip
def test_odd_addresses_are_answered(shop: str, path: str) -> None:
    """NUL, bytes that are no text, quotes, numbers that are none: a page that says so, never an error of ours."""
    assert httpx.get(shop + path, timeout=60).status_code in (200, 404, 422)


def test_answers_are_closed_to_the_world(shop: str) -> None:
    """No page may be kept, framed or sniffed, load anything from elsewhere; where one reads nothing is written."""
    for path in ("/", "/orders", "/nowhere", "/static/console.css"):
        headers = httpx.get(shop + path).headers
        if path != "/nowhere":
            policy = headers["content-security-policy"]
            assert "unsafe" not in policy
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert path.startswith("/static") or headers["cache-control"] == "no-store"
    for method in ("POST", "PUT", "DELETE"):
        assert httpx.request(method, f"{shop}/orders").status_code == 405


def test_vendored_files_are_those_that_were_named() -> None:
    """Each script from elsewhere has the checksum its ORIGIN.txt tells, and its licence beside it."""
    for folder, licence in ((STATIC, "LICENSE.htmx"), (HERE / "assets", "LICENSE.axe-core")):
        told = (folder / "ORIGIN.txt").read_text("utf-8")
        assert (folder / licence).stat().st_size > 100
        for file in folder.glob("*.min.js*"):
            raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            assert file.name in told
            assert hashlib.sha256(raw).hexdigest() in told, file.name
