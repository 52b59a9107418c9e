"""What the console tells for reference: AsyncAPI, groups of failures, test values; and events found by a header."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from console import reads
from console.domain import Shown
from quadrille.testing import OnPostgres
from quadrille_cli.reference import asyncapi
from quadrille_sandbox.cards import TOKENS
from quadrille_sandbox.testing import running
from tests.console.conftest import console_served, served
from tests.console.desk import form
from tests.console.stories import Teller, a_day, inputs
from tests.console.test_reading import reading

ROOT = Path(__file__).parents[2]


def test_the_console_answers_with_the_asyncapi_document(shop: str) -> None:
    """It is the one that schemas, topics and handlers give now, as JSON."""
    answer = httpx.get(f"{shop}/asyncapi.json")

    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == asyncapi.document(ROOT)


def test_failures_are_grouped(shop: str) -> None:
    """One group by service, type and error, counted, with one of its orders and inputs to begin with."""
    groups = httpx.get(f"{shop}/v1/failures/groups").json()["groups"]
    told = httpx.get(f"{shop}/openapi.json").json()["components"]["schemas"]["FailureGroup"]

    assert groups == httpx.get(f"{shop}/v1/failures").json()["groups"]
    assert groups
    assert {frozenset(one) for one in groups} == {frozenset(told["properties"])}
    assert all(httpx.get(f"{shop}/v1/orders/{one['order_id']}/timeline").status_code == 200 for one in groups)


def test_without_a_sandbox_there_are_no_test_values(shop: str) -> None:
    """Whose money is real is told that none is set, not an empty list; the catalogue has no such table."""
    answer = httpx.get(f"{shop}/v1/meta/test-values")

    assert (answer.status_code, "QUADRILLE_APIS" in answer.json()["detail"]) == (404, True)
    assert "Test values" not in httpx.get(f"{shop}/catalogue").text


def test_events_are_found_by_a_header(shop: str) -> None:
    """By name and value as they are shown, or by name alone; value and name are not mistaken for each other."""

    def found(header: str, **more: str) -> list[str]:
        events = httpx.get(f"{shop}/v1/events", params={"header": header, "limit": 200, **more}).json()["events"]
        return [one["type"] for one in events]

    told = httpx.get(f"{shop}/v1/events", params={"type": "order.placed", "limit": 200}).json()["events"]
    placed = [one["type"] for one in told]
    assert placed
    assert found("ce_type=order.placed") == placed
    assert len(found("ce_type", type="order.placed")) == len(placed)
    assert found("x-why=0xff003c623e") == found("x-why") == [""]
    assert found("ce_type=order.placed", topic="payment.events") == []
    assert [found(odd) for odd in ("order.placed=ce_type", "ce_type=order", "ce_type=", "CE_TYPE")] == [[]] * 4
    for wrong in ("", "=x", "x" * 513):
        assert httpx.get(f"{shop}/v1/events", params={"header": wrong}).status_code == 422


def test_the_page_of_events_has_a_field_for_a_header(shop: str) -> None:
    """What is filtered by stands in the form again, a hostile one as text; it narrows the list down."""
    page = httpx.get(f"{shop}/events", params={"header": "ce_type=order.placed"}).text
    odd = '"><script>a=1</script>'

    assert form(page, "/events")["header"] == "ce_type=order.placed"
    assert "payment.charged" not in page
    assert form(httpx.get(f"{shop}/events", params={"header": odd}).text, "/events")["header"] == odd


# From here on over a database of the test's own story: the day above is gone with it.
def test_test_values_are_the_sandboxs_own(console: OnPostgres[Shown], tmp_path: Path) -> None:
    """Each token with what it does, on the catalogue's page too; a sandbox that is away is said to be."""
    with running(tmp_path) as sandbox, console_served(console, {}, {"sandbox": f"http://{sandbox.http}"}) as there:
        told = httpx.get(f"{there.address}/v1/meta/test-values").json()["test_values"]
        page = httpx.get(f"{there.address}/catalogue").text
        sandbox.process.terminate()
        sandbox.process.wait()
        away = httpx.get(f"{there.address}/v1/meta/test-values")

    known = {one["value"]: one["does"] for one in told if one["given_as"] == "payment_token"}
    assert list(known) == list(TOKENS)
    assert len(set(known.values())) == len(known)
    assert known["tok_declined_funds"] == "declines: insufficient_funds"
    assert [one["value"] for one in told if one["given_as"] == "email"] == ["nobody@bounce.example"]
    assert all(f"<code>{value}</code>" in page for value in known)
    assert (away.status_code, away.json()["dependency"]) == (503, "sandbox")


def test_a_header_is_looked_for_in_so_many_records_a_page(
    console: OnPostgres[Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page may be empty and not the last, and says so; page by page everything is found, each record once."""
    monkeypatch.setattr(reads, "LOOKED", 7)
    teller = Teller()
    rare = teller.placed(teller.order(timedelta(hours=1)), timedelta(hours=1))
    sought = f"ce_id={rare.id}"
    console.takes(inputs(rare, *a_day(teller)))
    with reading(console) as db:
        [total] = reads.rows(db, "SELECT count(*) AS n FROM event")

    with served(console) as address, httpx.Client(base_url=address) as http:
        pages: list[list[str]] = []
        cursor = ""
        while not pages or cursor:
            asked = {"header": sought, **({"cursor": cursor} if cursor else {})}
            told = http.get("/v1/events", params=asked).json()
            pages.append([one["event_id"] for one in told["events"]])
            cursor = told["next"]
        first = http.get("/events", params={"header": sought}).text
        whole = http.get("/events", params={"header": sought, "topic": "payment.events", "type": "none"}).text

    assert str(rare.id) in pages[-1]
    assert not any(pages[:-1])
    assert len(pages) == -(-total["n"] // 7)
    assert "7 records were looked at" in first
    assert "Older events" in first
    assert "were looked at" not in whole
