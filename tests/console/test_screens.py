"""Every screen in a real Chromium: accessible, by keyboard, without a script, light and dark, wide and narrow."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from tests.console.browser import Browser

HERE = Path(__file__).parent
AXE = (HERE / "assets" / "axe.min.js").read_text("utf-8")
STATIC = HERE.parents[1] / "console/src/console/pages/static"
SCREENS = {
    "overview": "/",
    "orders": "/orders",
    "orders-waiting": "/orders?waits_for=payment",
    "events": "/events",
    "unreadable": "/events?unreadable=true",
    "failures": "/failures",
    "stuck": "/stuck",
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
    return {**SCREENS, **orders, "event": f"/events/{event}", "event-unreadable": f"/events/{listed[0]['event_id']}"}


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
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
