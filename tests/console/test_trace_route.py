"""One trace over the API: its spans with their waits; what is not here is refused: never, not yet, gone."""

from __future__ import annotations

from datetime import timedelta

import httpx
import psycopg
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from console.domain import Shown
from quadrille.testing import Logins, OnPostgres
from tests.console.browser import Browser
from tests.console.conftest import served
from tests.console.stories import Teller, inputs
from tests.console.test_screens import AXE, RULES
from tests.console.test_traces import PROTOBUF, STORY, export

NUMBER = "INSERT INTO trace (trace_id, number, heard_at) OVERRIDING SYSTEM VALUE VALUES (%s, %s, %s)"


def test_a_trace_is_told_with_its_waits(console: OnPostgres[Shown]) -> None:
    """Each span after what it came of, with its part and what it waited for; one that is no id is refused."""
    trace = (9).to_bytes(16).hex()
    with served(console) as address, httpx.Client(base_url=address) as http:
        http.post("/v1/traces", content=export(9, *STORY), headers=PROTOBUF).raise_for_status()
        told = http.get(f"/v1/traces/{trace}").json()
        wrong = [http.get(f"/v1/traces/{name}").status_code for name in ("x", trace.upper() + "A", "0" * 32)]

    assert (told["trace_id"], told["order"], told["complete"], told["took_ms"]) == (trace, None, True, 300)
    assert [(one["service"], one["depth"], [w["name"] for w in one["waits"]]) for one in told["spans"]] == [
        ("order", 0, []), ("inventory", 1, ["queue"]), ("payment", 2, ["queue"]),
    ]  # fmt: skip
    assert wrong == [422, 422, 404]


def test_what_is_not_here_is_told_apart(console: OnPostgres[Shown], logins: Logins) -> None:
    """Of an order that was heard of: not sent yet is 404 and says so, dropped is 410 with since when they are kept."""
    teller = Teller()
    order = teller.order(timedelta(hours=1))
    trace = order.replace("-", "")
    console.takes(inputs(teller.says(order, "order.placed", timedelta(hours=1), {"lines": []})))
    with served(console) as address, httpx.Client(base_url=address) as http:
        soon = http.get(f"/v1/traces/{trace}")
        with psycopg.connect(logins.owner) as db:  # as when ten thousand others came meanwhile
            db.execute(NUMBER, ["f" * 32, 10_001, teller.now])
        gone = http.get(f"/v1/traces/{trace}")

    assert (soon.status_code, "has come" in soon.json()["detail"]) == (404, True)
    assert (gone.status_code, gone.json()["type"].rpartition("/")[2]) == (410, "past-retention")
    assert "were dropped" in gone.json()["detail"]
    assert gone.json()["oldest_at"]


def test_the_page_of_a_trace_is_accessible(console: OnPostgres[Shown], browser: Browser) -> None:
    """In both schemes, wide and narrow, axe finds nothing; what is left out is a link away."""
    statement = ("order", 4, 1, 2, 4, "INSERT outbox")
    body = ExportTraceServiceRequest.FromString(export(11, *STORY, statement))
    written = body.resource_spans[-1].scope_spans[0].spans[0]
    written.attributes.add(key="db.system.name").value.string_value = "postgresql"
    url = f"/traces/{(11).to_bytes(16).hex()}"
    with served(console) as address, httpx.Client(base_url=address) as http:
        http.post("/v1/traces", content=body.SerializeToString(), headers=PROTOBUF).raise_for_status()
        assert "INSERT outbox" not in http.get(url).text
        assert "INSERT outbox" in http.get(url, params={"all": "true"}).text
        for width, dark in ((1280, False), (1280, True), (390, True)):
            with browser.page(width=width, dark=dark) as page:
                page.goto(f"{address}{url}")
                page.run(AXE)
                assert page.run(RULES) == []
                assert page.told() == []
