"""A trace on the terminal: drawn with its waits within 80 columns, exported as what Jaeger takes; what is not there."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from console.otlp import spans_of
from console.trace_document import trace_document
from quadrille.ids import uuid7
from quadrille_cli.otlp_json import otlp_json
from quadrille_cli.services import SERVICES
from quadrille_cli.stack.servers import jaeger
from quadrille_cli.waterfall import waterfall, words
from tests.conftest import Shop, away

MS = 1_000_000
BEGAN = 1_763_716_443_120 * MS
TRACE = "04a75036e9d520bb983c5ed03b8d0182"
ORDER = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"
IDS = ("traceId", "spanId", "parentSpanId")
PARKED, HANDLED = {"quadrille.outcome": "parked"}, {"quadrille.outcome": "handled"}
NAMES = ("outbox", "relay", "broker", "queue", "handler", "retry", "parked")


def span(number: int, parent: int, name: str, at: tuple[float, float], kind: int, **told: Any) -> dict[str, Any]:  # noqa: ANN401 - members of a row
    """A span as the console keeps it, its times in milliseconds after the first."""
    began, ended = (BEGAN + int(one * MS) for one in at)
    return {
        "trace_id": TRACE, "span_id": f"{number:016x}", "parent_id": f"{parent:016x}" if parent else "",
        "service": "payment", "role": "worker", "name": name, "kind": kind, "began_ns": began, "ended_ns": ended,
        "error": None, "attributes": {}, **told,
    }  # fmt: skip


def story() -> list[dict[str, Any]]:
    """An order's trace in which every kind of wait occurs."""
    message = {"messaging.message.id": "m"}
    return [
        span(1, 0, "POST /v1/orders", (0, 12), 2, service="order", role="api"),
        span(2, 1, "process place_order", (2, 10), 1, service="order", role="api", attributes=HANDLED),
        span(3, 2, "send order.events", (40, 44), 4, service="order", role="relay",
             attributes={"quadrille.outbox_wait_ms": "36.0"}),
        span(4, 3, "process order.events", (64, 70), 5, attributes=message | PARKED, error="HANDLER"),
        span(5, 3, "process order.placed", (1070, 1080), 1, attributes=HANDLED),
        span(6, 5, "charge_card", (1100, 1150), 3, attributes={"quadrille.attempt": 1}, error="TransientError"),
        span(7, 5, "charge_card", (1650, 1700), 3, attributes={"quadrille.attempt": 2}),
        span(9, 7, "POST", (1651, 1699), 3),
        span(10, 5, "process card_charged", (1720, 1730), 1, attributes=HANDLED),
        span(8, 5, "INSERT outbox", (1079, 1080), 3, attributes={"db.system.name": "postgresql"}),
    ]  # fmt: skip


def told(spans: list[dict[str, Any]], **order: object) -> dict[str, Any]:
    """The console's document of a trace of these spans."""
    kept = {"order_id": ORDER, "status": "CONFIRMED", "final": True, **order}
    return trace_document(TRACE, spans, kept)


def test_every_wait_has_its_name() -> None:
    """Said and not committed, committed and not sent, sent and not begun, between two tries, set aside."""
    waits = {
        (one["span_id"][-1], wait["name"], (int(wait["ended_unix_nano"]) - int(wait["began_unix_nano"])) // MS)
        for one in told(story())["spans"]
        for wait in one["waits"]
    }
    assert waits == {
        ("3", "outbox", 6), ("3", "relay", 30), ("4", "queue", 20), ("5", "parked", 1000), ("6", "queue", 20),
        ("7", "retry", 500), ("a", "queue", 20),
    }  # fmt: skip


def test_the_waterfall_fits_the_screen() -> None:
    """Bars and waits on one axis, within 80 columns; the parts of the time in all; a database's statements if asked."""
    lines = list(waterfall(told(story()), 80))

    assert max(map(len, lines)) <= 80
    assert lines[0] == f"trace {TRACE}"
    assert lines[1].startswith(f"order …{ORDER[-8:]} CONFIRMED   10 spans, 1.73s")
    assert [name for name in NAMES if any(name in line for line in lines)] == list(NAMES)
    assert "INSERT outbox" not in "\n".join(lines)
    assert "INSERT outbox" in "\n".join(waterfall(told(story()), 80, every=True))
    assert [line for line in lines if "parked" in line and "1.00s" in line and "░" in line]
    assert any("failed: TransientError" in line for line in lines)
    assert lines[-1] == "2 statements and connections are not shown: --all"


@pytest.mark.parametrize(
    ("ms", "said"),
    [(0.4, "0.4ms"), (12, "12ms"), (1250, "1.25s"), (200_000, "3m20s"), (7_200_000, "2h00m")],
)
def test_lengths_are_short(ms: float, said: str) -> None:
    """Every length of time fits its column."""
    assert words(int(ms * MS)) == said


def test_what_is_not_here_yet_is_said() -> None:
    """An order that goes on, a span whose parent is not there: each is named, and the trace is not complete."""
    broken = told(story()[2:], status="PENDING", final=False)
    assert (broken["complete"], len(broken["missing"])) == (False, 2)
    assert told(story())["complete"] is True


def as_protobuf(document: dict[str, Any]) -> dict[str, Any]:
    """OTLP JSON writes ids in hexadecimal, protobuf's JSON in base64: the same with the latter."""
    for resource in document["resourceSpans"]:
        for one in resource["scopeSpans"][0]["spans"]:
            one.update({name: base64.b64encode(bytes.fromhex(one[name])).decode() for name in IDS if name in one})
    return document


def test_the_export_is_otlp() -> None:
    """The official parser takes it without an unknown member, and every span comes back as it was."""
    request = ParseDict(as_protobuf(otlp_json(told(story()))), ExportTraceServiceRequest())
    back = {one.span_id: one for one in spans_of(request.SerializeToString())}

    assert len(back) == len(story())
    for one in story():
        kept = back[one["span_id"]]
        assert {name: getattr(kept, name) for name in one} == one


class Terminal:
    """The command on a screen of 80 columns."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop

    def run(self, *words_: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        env = {**os.environ, "QUADRILLE_DATA": str(self.shop.stack.data), "COLUMNS": "80"}
        line = [sys.executable, "-m", "quadrille_cli", *words_]
        done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def whole(self, order: str) -> dict[str, Any]:
        """The order's trace when all has been sent: it is of every service, and no parent is missing."""

        def there() -> dict[str, Any] | None:
            code, out, _ = self.run("trace", order[-8:], "-o", "json")
            found: dict[str, Any] = json.loads(out) if code == 0 else {"spans": [], "complete": False}
            services = {one["service"] for one in found["spans"]}
            return found if found["complete"] and services == set(SERVICES) else None

        return self.shop.until(there, f"the trace of {order} is whole")


@pytest.fixture
def terminal(shop: Shop) -> Terminal:
    """The command line about the session's stack."""
    return Terminal(shop)


def test_an_order_s_trace_is_drawn_exported_and_a_page(terminal: Terminal, tmp_path: Path) -> None:
    """By the end of its id, by itself; the link of the order's document and of the command line is its page."""
    order = terminal.shop.submit([("SKU-TEA", 1)])
    terminal.shop.ended(order)
    trace = terminal.whole(order)
    trace_id = trace["trace_id"]

    code, out, err = terminal.run("trace", trace_id)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert [name for name in ("broker", "queue", "handler") if name in out] == ["broker", "queue", "handler"]
    assert all(name in out for name in ("POST /v1/orders", "charge_card", "send_mail", "process payment.events"))

    file = tmp_path / "trace.json"
    code, out, err = terminal.run("trace", order, "--export", str(file))
    assert (code, trace_id in out) == (0, True), err
    exported = json.loads(file.read_text("utf-8"))
    request = ParseDict(as_protobuf(exported), ExportTraceServiceRequest())
    assert {one.span_id for one in spans_of(request.SerializeToString())} == {one["span_id"] for one in trace["spans"]}

    link = str(terminal.shop.order(order)["links"]["trace"])
    assert link in terminal.run("orders", "show", order)[1]
    page = httpx.get(link)
    assert (page.status_code, "charge_card" in page.text, "waterfall" in page.text) == (200, True, True)


def test_jaeger_takes_what_is_exported(terminal: Terminal, tmp_path: Path) -> None:
    """Posted as JSON to its OTLP port under another trace's id, all spans are there with their parents."""
    stack = terminal.shop.stack
    if "jaeger" not in stack.parts:
        pytest.skip(jaeger.NO_GO)
    order = terminal.shop.submit([("SKU-TEA", 1)])
    terminal.shop.ended(order)
    trace, file, other = terminal.whole(order), tmp_path / "trace.json", uuid7().hex
    assert terminal.run("trace", order, "--export", str(file))[0] == 0
    text = file.read_text("utf-8").replace(trace["trace_id"], other)

    sent = httpx.post(
        f"{stack.url('jaeger-otlp')}/v1/traces", content=text, headers={"Content-Type": "application/json"}
    )
    assert sent.status_code == 200, sent.text

    def there() -> list[Any] | None:
        found = httpx.get(f"{stack.url('jaeger')}/api/traces/{other}")
        spans = found.json()["data"][0]["spans"] if found.status_code == 200 and found.json()["data"] else []
        return spans if len(spans) == len(trace["spans"]) else None

    spans = terminal.shop.until(there, "Jaeger has them all")
    assert {one["spanID"] for one in spans} == {one["span_id"] for one in trace["spans"]}
    assert {one["operationName"] for one in spans} == {one["name"] for one in trace["spans"]}


def test_what_cannot_be_drawn_is_said_with_the_way_out(terminal: Terminal, tmp_path: Path) -> None:
    """Unknown, an order that goes on, an export that cannot be written, a console that is away: each its exit code."""
    shop = terminal.shop
    code, _, err = terminal.run("trace", "f" * 32)
    assert (code, "No span of such a trace is kept" in err) == (5, True), err
    assert [terminal.run("trace", name)[0] for name in (str(uuid7()), "zzzz-nobody", "abc")] == [5, 5, 2]
    assert terminal.run("trace", "f" * 32, "--export", str(tmp_path))[0] == 2
    assert terminal.run("trace", "f" * 32, "--export", str(tmp_path / "none" / "x.json"))[0] == 2

    order = shop.submit([("SKU-TEA", 1)], "tok_pending_15s")
    shop.until(lambda: terminal.run("trace", order)[0] == 0, "its first spans are there")
    said = terminal.run("trace", order)[2]
    assert re.search(r"not complete: the order is \w+: more is to come", said), said
    shop.ended(order)

    with away(shop.stack, "console"):
        code, _, err = terminal.run("trace", order)
        assert (code, "console does not run" in err, "quadrille up --detach" in err) == (7, True, True)


def test_every_call_is_told_when_asked(terminal: Terminal) -> None:
    """With --explain, anywhere on the line, the API calls behind a command stand on stderr, and can be typed."""
    order = terminal.shop.submit([("SKU-TEA", 1)])
    terminal.shop.ended(order)
    code, out, err = terminal.run("orders", "show", order[-8:], "--explain")
    calls = [line for line in err.splitlines() if line.startswith("curl ")]
    assert (code, len(calls)) == (0, 2), err
    again = subprocess.run(["bash", "-c", calls[-1]], capture_output=True, text=True, check=False)
    assert json.loads(again.stdout)["order_id"] == order
    assert (order in out, "curl " in out) == (True, False)
    why = terminal.run("--explain", "why", order)[2]
    assert f"/ops/evidence/{order}" in why
