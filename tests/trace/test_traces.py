"""One trace per order, read back from a real Jaeger: every service that acted is in it, and every parent is there."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest

from quadrille_cli.client import Client
from quadrille_cli.demo_data import order_of
from quadrille_cli.services import SERVICES
from quadrille_cli.stack import Stack
from quadrille_cli.stack.servers import jaeger
from tests.conftest import Shop
from tests.replay.operator_desk import Operator, forget

TEA = [("SKU-TEA", 1)]


@dataclass(frozen=True, slots=True)
class Span:
    """A span as Jaeger knows it."""

    trace: str
    id: str
    name: str
    service: str
    began: float
    parent: str | None
    tags: dict[str, Any]
    links: tuple[tuple[str, str], ...]


class Traces:
    """What Jaeger holds of an order."""

    def __init__(self, shop: Shop, stack: Stack) -> None:
        self.shop = shop
        self.stack = stack

    def of(self, trace_id: str) -> dict[str, Span]:
        """Every span of a trace, by id."""
        return {span.id: span for span in self._ask(f"/api/traces/{trace_id}")}

    def replayed(self, service: str, topic: str, operation: str) -> Span:
        """The one span of a record that an operation has handled, as soon as it is there."""
        name, tags = f"replay {topic}", json.dumps({"quadrille.operation_id": operation})
        wanted = urlencode({"service": service, "operation": name, "tags": tags})

        def there() -> list[Span]:
            found = self._ask(f"/api/traces?{wanted}")
            return [span for span in found if (span.name, span.service) == (name, service)]

        (span,) = self.shop.until(there, f"{service}'s span {name} is there")
        return span

    def _ask(self, path: str) -> list[Span]:
        with Client(self.stack.url("jaeger")) as api:
            reply = api.ask("GET", path)
        traces = reply.body["data"] if reply.status == 200 else []
        return [_span(raw, trace) for trace in traces for raw in trace["spans"]]

    def complete(self, trace_id: str, *last: str) -> dict[str, Span]:
        """The trace, as soon as the spans of these names are in it and no parent is missing."""

        def there() -> dict[str, Span] | None:
            spans = self.of(trace_id)
            names = [span.name for span in spans.values()]
            whole = all(span.parent is None or span.parent in spans for span in spans.values())
            return spans if whole and all(name in names for name in last) else None

        return self.shop.until(there, f"trace {trace_id} is whole, with {last}")


def _span(raw: dict[str, Any], trace: dict[str, Any]) -> Span:
    references = raw.get("references", [])
    # Jaeger shows a parent that is linked too, as the messaging conventions ask, as FOLLOWS_FROM
    parents = [r["spanID"] for r in references if r["traceID"] == raw["traceID"]]
    links = tuple((r["traceID"], r["spanID"]) for r in references if r["traceID"] != raw["traceID"])
    tags = {tag["key"]: tag["value"] for tag in raw["tags"]}
    service = trace["processes"][raw["processID"]]["serviceName"]
    place, parent = (raw["traceID"], raw["spanID"]), parents[0] if parents else None
    return Span(*place, raw["operationName"], service, raw["startTime"] / 1e6, parent, tags, links)


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


def _check_parents(spans: dict[str, Span], *requests: str) -> None:
    """The roots are the requests; a record is processed below its sending, and sent below what said it."""
    roots = [span for span in spans.values() if span.parent is None]
    assert sorted((root.service, root.name) for root in roots) == [
        ("order", name) for name in sorted(("POST /v1/orders", *requests))
    ]
    assert {root.tags["span.kind"] for root in roots} == {"server"}
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
    assert {span.service for span in spans.values()} == set(SERVICES)
    _check_parents(spans)
    for service in SERVICES:
        assert _named(spans, f"send {service}.events", service)
    assert _named(spans, "process order.events", "inventory")
    assert _named(spans, "process inventory.events", "payment")
    assert _named(spans, "process payment.events", "order")
    assert _named(spans, "process order.events", "notification")


def test_statements_calls_and_mails_hang_below_what_they_are_for(traces: Traces) -> None:
    """The transactions of each service, the processor's call and the mail's delivery are a client's spans."""
    order = traces.shop.submit(TEA)
    spans = _follow(traces, order, "send notification.events", "send_mail", "charge_card", "POST", "smtp")

    def above(name: str, service: str) -> set[str]:
        found = _named(spans, name, service)
        assert {span.tags["span.kind"] for span in found} == {"client"}
        return {spans[str(span.parent)].name for span in found}

    assert above("POST", "payment") == {"charge_card"}
    assert above("smtp", "notification") == {"send_mail"}
    for service in SERVICES:
        for name in ("SELECT inbox", "INSERT outbox"):
            assert all(parent.startswith("process ") for parent in above(name, service))
            assert {span.tags["db.system.name"] for span in _named(spans, name, service)} == {"postgresql"}


def test_a_rejected_order_is_one_trace(traces: Traces) -> None:
    """Out of stock: order, inventory, payment's tombstone and the mail of the cancellation hang in one trace."""
    order = traces.shop.submit([("SKU-NONE", 1)])
    spans = _follow(traces, order, "send notification.events", "send_mail")
    assert {span.service for span in spans.values()} == set(SERVICES)
    _check_parents(spans)
    assert not _named(spans, "charge_card", "payment")


def test_a_declined_order_is_one_trace_through_its_compensation(traces: Traces) -> None:
    """Declined: the release of the stock is in the trace, below the payment's refusal."""
    order = traces.shop.submit(TEA, "tok_declined_funds")
    spans = _follow(traces, order, "send notification.events", "charge_card")
    _check_parents(spans)
    assert _named(spans, "process payment.events", "inventory")
    assert {span.service for span in spans.values()} == set(SERVICES)


def test_an_order_its_customer_cancels_is_one_trace(traces: Traces) -> None:
    """Cancelled after its confirmation: goods, money and the second mail hang in the order's own trace."""
    order = traces.shop.submit(TEA)
    _follow(traces, order, "send_mail")
    trace = str(traces.shop.order(order)["trace_id"])
    asked = traces.shop.cancel(order)
    assert (asked.status, asked.headers["x-trace-id"]) == (202, trace)
    traces.shop.until(lambda: traces.shop.mails(order)[1:], "the second mail is there")
    spans = _follow(traces, order, "refund_card", "send notification.events")
    traces.shop.until(lambda: len(_named(traces.of(trace), "send_mail", "notification")) == 2, "both mails are in it")
    _check_parents(spans, "POST /v1/orders/{order_id}/cancel")


def test_a_callers_own_trace_becomes_a_link(traces: Traces) -> None:
    """A traceparent from outside does not become our parent: the order's own trace links to it."""
    theirs = secrets.token_hex(16)
    headers = {"Idempotency-Key": f"trace-{theirs}", "traceparent": f"00-{theirs}-{secrets.token_hex(8)}-01"}
    order = traces.shop.ask("order", "POST", "/v1/orders", order_of(TEA), headers)
    assert order["trace_id"] != theirs
    traces.shop.ended(order["order_id"])
    spans = traces.complete(order["trace_id"], "send notification.events")
    (root,) = [span for span in spans.values() if span.parent is None]
    assert theirs in [trace for trace, _ in root.links]


def test_a_replay_is_a_trace_of_its_own_that_links_to_what_it_repeats(traces: Traces) -> None:
    """Each record handled again begins a new trace with a link to its sending; the order's own trace gains nothing.

    Payment has forgotten the order, so that the replay charges and says again: all of it hangs in the new trace.
    """
    shop, operator = traces.shop, Operator(traces.shop)
    order = shop.submit(TEA)
    own = _follow(traces, order, "send notification.events", "send_mail", "charge_card")
    forget(shop, order)
    began = time.time()
    placed = operator.live(operator.dry("payment", "order.events", order=order, type="order.placed"))
    charged = operator.live(operator.dry("payment", "inventory.events", order=order), allow_effects=["charge"])
    assert [
        one["progress"]["verdicts"][kind] for one, kind in ((placed, "order.placed"), (charged, "stock.reserved"))
    ] == [{"NEW": 1}] * 2
    shop.until(shop.all_read, "what was said again is read")

    first, second = [_replayed(traces, own, one) for one in (placed, charged)]
    again = traces.complete(second.trace, "charge_card", "send payment.events", "process payment.events")
    assert len({first.trace, second.trace, *(span.trace for span in own.values())}) == 3
    assert [span.name for span in again.values() if span.parent is None] == [second.name]
    assert {span.tags["quadrille.outcome"] for span in _named(again, "process payment.events", "order")} == {
        "duplicate"
    }
    assert all(span.began < began for span in traces.of(shop.order(order)["trace_id"]).values())


def _replayed(traces: Traces, own: dict[str, Span], operation: dict[str, Any]) -> Span:
    """The span of the one record an operation handled: a root, linked to where the record was sent."""
    topic = operation["plan"]["topic"]
    span = traces.replayed("payment", topic, operation["operation_id"])
    (sent,) = [own[place] for _, place in span.links]
    assert (span.parent, span.links, sent.name) == (None, ((sent.trace, sent.id),), f"send {topic}")
    return span


def test_what_an_operator_asks_for_begins_with_his_request(traces: Traces) -> None:
    """A refund tried again at his word hangs below the request at the ops port, whose trace he was answered with."""
    shop = traces.shop
    order = shop.submit(TEA, "tok_refund_fails_business")
    shop.ended(order)
    shop.cancel(order)
    shop.until(lambda: shop.order(order)["status"] == "COMPENSATION_FAILED", "the refund is refused")
    with Client(shop.stack.url("payment-worker")) as ops:
        answer = ops.ask("POST", f"/ops/orders/{order}/retry-compensation", {"reason": "a test"})
    assert answer.status == 202

    spans = traces.complete(
        answer.headers["x-trace-id"], "refund_card", "send payment.events", "process payment.events"
    )
    (root,) = [span for span in spans.values() if span.parent is None]
    name = "POST /ops/orders/{order_id}/retry-compensation"
    assert (root.service, root.name, root.tags["span.kind"]) == ("payment", name, "server")
    assert root.tags["quadrille.order_id"] == order
    assert {span.service for span in spans.values()} >= {"payment", "order"}
