"""One trace per order, read back from a real Jaeger: every service that acted is in it, and every parent is there."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import pytest

from quadrille.client import Client
from quadrille.shop import order_of
from quadrille.stack import Stack, jaeger
from tests.conftest import Shop

TEA = [("SKU-TEA", 1)]


@dataclass(frozen=True, slots=True)
class Span:
    """A span as Jaeger knows it."""

    id: str
    name: str
    service: str
    parent: str | None
    tags: dict[str, Any]
    links: tuple[str, ...]


class Traces:
    """What Jaeger holds of an order."""

    def __init__(self, shop: Shop, stack: Stack) -> None:
        self.shop = shop
        self.stack = stack

    def of(self, trace_id: str) -> dict[str, Span]:
        """Every span of a trace, by id."""
        with Client(self.stack.url("jaeger")) as api:
            reply = api.ask("GET", f"/api/traces/{trace_id}")
        traces = reply.body["data"] if reply.status == 200 else []
        found = [_span(raw, trace) for trace in traces for raw in trace["spans"]]
        return {span.id: span for span in found}

    def complete(self, trace_id: str, *last: str) -> dict[str, Span]:
        """The trace, as soon as the spans of these names are in it and no parent is missing."""

        def there() -> dict[str, Span] | None:
            spans = self.of(trace_id)
            names = [span.name for span in spans.values()]
            whole = all(span.parent is None or span.parent in spans for span in spans.values())
            return spans if whole and all(name in names for name in last) else None

        return self.shop.until(there, f"trace {trace_id} is whole, with {last}", 30)


def _span(raw: dict[str, Any], trace: dict[str, Any]) -> Span:
    references = raw.get("references", [])
    # Jaeger shows a parent that is linked too, as the messaging conventions ask, as FOLLOWS_FROM
    parents = [r["spanID"] for r in references if r["traceID"] == raw["traceID"]]
    links = tuple(r["traceID"] for r in references if r["traceID"] != raw["traceID"])
    tags = {tag["key"]: tag["value"] for tag in raw["tags"]}
    service = trace["processes"][raw["processID"]]["serviceName"]
    return Span(raw["spanID"], raw["operationName"], service, parents[0] if parents else None, tags, links)


@pytest.fixture(scope="module")
def traces(shop: Shop, stack: Stack) -> Traces:
    if "jaeger" not in stack.parts:
        pytest.skip(jaeger.NO_GO)
    return Traces(shop, stack)


def _follow(traces: Traces, order: str, *last: str) -> dict[str, Span]:
    document = traces.shop.ended(order)
    return traces.complete(document["trace_id"], *last)


def _named(spans: dict[str, Span], name: str, service: str) -> list[Span]:
    return [span for span in spans.values() if span.name == name and span.service == service]


def _check_parents(spans: dict[str, Span]) -> None:
    """One root, the request; a record is processed below its sending, and sent below what said it."""
    roots = [span for span in spans.values() if span.parent is None]
    assert [(root.service, root.tags["span.kind"]) for root in roots] == [("order", "server")]
    for span in spans.values():
        parent = spans[span.parent] if span.parent else None
        if span.name.startswith("process ") and span.tags.get("messaging.system") == "kafka":
            assert parent is not None
            assert parent.name == span.name.replace("process", "send")
        if span.name.startswith("send "):
            assert parent is not None
            assert parent.name.startswith("process ")
            assert parent.service == span.service


def test_a_confirmed_order_is_one_trace_from_the_request_to_the_mail(traces: Traces) -> None:
    """All four services are in the trace, with send and process spans, the charge and the mail."""
    order = traces.shop.submit(TEA)
    spans = _follow(traces, order, "send notification.events", "send_mail", "charge_card")
    assert {span.service for span in spans.values()} == {"order", "inventory", "payment", "notification"}
    _check_parents(spans)
    for service in ("order", "inventory", "payment", "notification"):
        assert _named(spans, f"send {service}.events", service)
    assert _named(spans, "process order.events", "inventory")
    assert _named(spans, "process inventory.events", "payment")
    assert _named(spans, "process payment.events", "order")
    assert _named(spans, "process order.events", "notification")


def test_a_rejected_order_is_one_trace(traces: Traces) -> None:
    """Out of stock: order, inventory, payment's tombstone and the mail of the cancellation hang in one trace."""
    order = traces.shop.submit([("SKU-NONE", 1)])
    spans = _follow(traces, order, "send notification.events", "send_mail")
    assert {span.service for span in spans.values()} == {"order", "inventory", "payment", "notification"}
    _check_parents(spans)
    assert not _named(spans, "charge_card", "payment")


def test_a_declined_order_is_one_trace_through_its_compensation(traces: Traces) -> None:
    """Declined: the release of the stock is in the trace, below the payment's refusal."""
    order = traces.shop.submit(TEA, "tok_declined_funds")
    spans = _follow(traces, order, "send notification.events", "charge_card")
    _check_parents(spans)
    assert _named(spans, "process payment.events", "inventory")
    assert {span.service for span in spans.values()} == {"order", "inventory", "payment", "notification"}


def test_a_callers_own_trace_becomes_a_link(traces: Traces) -> None:
    """A traceparent from outside does not become our parent: the order's own trace links to it."""
    theirs = secrets.token_hex(16)
    headers = {"Idempotency-Key": f"trace-{theirs}", "traceparent": f"00-{theirs}-{secrets.token_hex(8)}-01"}
    order = traces.shop.ask("order", "POST", "/v1/orders", order_of(TEA), headers)
    assert order["trace_id"] != theirs
    traces.shop.ended(order["order_id"])
    spans = traces.complete(order["trace_id"], "send notification.events")
    (root,) = [span for span in spans.values() if span.parent is None]
    assert theirs in root.links
