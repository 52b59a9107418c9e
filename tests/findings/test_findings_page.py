"""Findings on the pages of the console: listed, shown with evidence, repaired by a button, linked from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from console.findings.domain import Kind
from tests.conftest import Shop
from tests.console.browser import LOOKS, Browser
from tests.console.conftest import Console
from tests.console.desk import Desk, form, said
from tests.console.test_screens import AXE, RULES
from tests.findings.test_findings import closed, confirmed, found, nobodys, spoil

LOST = "DELETE FROM notice WHERE order_id = %(order)s AND kind = 'confirmed'"
DONE = "SELECT actor, action, reason, after ->> 'event' FROM audit WHERE subject = %s"


@pytest.fixture
def desk(spoilt: Shop) -> Iterator[Desk]:
    """A person who is logged in at the console of the stack that is spoilt."""
    there = Desk(Console(spoilt.stack.url("console"), spoilt.stack.url("console-ops")))
    yield there
    there.http.close()


def test_a_finding_is_repaired_from_its_page(spoilt: Shop, desk: Desk) -> None:
    """Overview, list and order lead to it; its page has the evidence; its button asks why and has the event heard."""
    order = confirmed(spoilt)
    spoil(spoilt, "notification", LOST, order=order)
    one = found(spoilt, order, Kind.ENDED_WITHOUT_NOTICE)
    link = f"/findings/{one['finding_id']}"
    assert re.search(r"\d+ findings?: services do not agree", desk.http.get("/").text)
    for path in ("/", "/findings", f"/orders/{order}"):
        assert f'href="{link}"' in desk.http.get(path).text, path
    shown = desk.http.get(link).text
    assert "It is so still." in shown
    assert "notification hears order.confirmed again" in shown
    assert all(line.replace("'", "&#39;") in shown for line in one["evidence"])
    assert f"/ask/repair?finding={one['finding_id']}" in shown

    page = desk.asks("repair", finding=one["finding_id"], back=link)
    assert f"quadrille findings repair {one['finding_id']} --reason" in page.text
    assert desk.does("repair", page, reason=" ").status_code == 422
    assert spoilt.sql("notification", DONE, order) == []
    came = said(desk.does("repair", page, reason="the row was lost"))
    assert came.startswith("good: ✓ notification has heard order.confirmed"), came
    assert "(audit row " in came
    [(_, *done)] = spoilt.sql("notification", DONE, order)
    assert done == ["hear-again", "the row was lost", "order.confirmed"]

    closed(spoilt, one["finding_id"])
    shown = desk.http.get(link).text
    assert "It is so no more." in shown
    assert "/ask/repair" not in shown
    assert link not in desk.http.get("/findings").text
    assert link in desk.http.get("/findings?closed=true").text
    late = desk.does("repair", page, reason="once more")  # the form was still open in another window
    assert late.status_code == 422
    assert "It is not repaired from here. It is so no more" in late.text
    assert len(spoilt.sql("notification", DONE, order)) == 1


def test_what_no_event_mends_is_for_a_person(spoilt: Shop, desk: Desk) -> None:
    """It is shown without a button; asked for all the same it says why; whoever is not logged in gets the command."""
    order = nobodys(spoilt)
    spoil(spoilt, "inventory", "INSERT INTO hold VALUES (%(order)s, '{SKU-TEA}', '{0}', 'RESERVED')", order=order)
    one = found(spoilt, order, Kind.HOLD_WITHOUT_ORDER)
    try:
        shown = desk.http.get(f"/findings/{one['finding_id']}").text
        assert "a person has to decide" in shown
        assert "/ask/repair" not in shown
        page = desk.asks("repair", finding=one["finding_id"]).text
        assert "It is not repaired from here. No event that was said would mend it" in page
        with pytest.raises(AssertionError, match="no form to /do/repair"):
            form(page, "/do/repair")
        stranger = Desk(desk.console, logged_in=False)
        refused = stranger.asks("repair", finding=one["finding_id"])
        assert refused.status_code == 403
        assert f"quadrille findings repair {one['finding_id']}" in refused.text
        stranger.http.close()
    finally:
        spoil(spoilt, "inventory", "DELETE FROM hold WHERE order_id = %(order)s", order=order)
    closed(spoilt, one["finding_id"])


def test_how_the_last_round_went_is_told(spoilt: Shop, desk: Desk) -> None:
    """The list says when the services' books were last held against each other, and of how many orders."""
    confirmed(spoilt)
    spoilt.until(lambda: "orders judged" in desk.http.get("/findings").text, "a round is told")
    assert desk.http.get("/findings/01a1fd62-57f0-7eeb-be96-e59ce40f9cb1").status_code == 404


def test_what_can_be_repaired_is_accessible(spoilt: Shop, desk: Desk, browser: Browser, shots: Path) -> None:
    """List, finding, the question before its repair and its order hold WCAG 2.2 AA, light and dark, wide and narrow."""
    order = confirmed(spoilt)
    spoil(spoilt, "notification", LOST, order=order)
    one = found(spoilt, order, Kind.ENDED_WITHOUT_NOTICE)
    base, which = desk.console.address, one["finding_id"]
    paths = {"acting-findings": "/findings", "acting-finding": f"/findings/{which}", "overview-findings": "/",
             "ask-repair": f"/ask/repair?finding={which}", "acting-order-finding": f"/orders/{order}"}  # fmt: skip
    [(name, secret)] = dict(desk.http.cookies).items()
    wrong: list[str] = []
    for width, scheme in LOOKS:
        with browser.page(width=width, dark=scheme == "dark") as page:
            page.ask("Network.setCookie", name=name, value=secret, url=base, httpOnly=True, sameSite="Strict")
            for shown, path in paths.items():
                page.goto(base + path)
                page.shot(shots / f"{shown}-{width}-{scheme}.png")
                if page.run("document.documentElement.scrollWidth") > width:
                    wrong.append(f"{shown}: wider than {width}")
                page.run(AXE + ";true")
                wrong += [f"{shown}: {told}" for told in (*page.run(RULES), *page.told())]
    desk.act("repair", finding=which)
    closed(spoilt, which)
    assert not wrong, "\n".join(wrong)
