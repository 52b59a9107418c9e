"""What a whole stack really tells at /metrics: all that rules and dashboard ask of, and what orders did."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from quadrille_cli.client import Client
from quadrille_cli.reference.metrics import all_metrics
from quadrille_cli.services import SERVICES
from quadrille_cli.stack import Stack, ports
from tests.alerts.test_rules import NAME, RECORDS, asked_for
from tests.conftest import Shop

Told = dict[str, dict[frozenset[tuple[str, str]], float]]


def scraped(stack: Stack) -> tuple[set[str], Told]:
    """The names of all metrics every process tells, and the values of all series, summed over the processes."""
    names: set[str] = set()
    values: Told = {}
    for process in (*(f"{service}-{role}" for service in SERVICES for role in ports.ROLES), "console-ops"):
        with Client(stack.url(process)) as ops:
            text = ops.ask("GET", "/metrics").raw.decode()
        for family in text_string_to_metric_families(text):
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
            names |= {f"{family.name}{suffix}" for suffix in suffixes}
            for sample in family.samples:
                labels = frozenset(sample.labels.items())
                series = values.setdefault(sample.name, {})
                series[labels] = series.get(labels, 0.0) + sample.value
    return names, values


def heard(stack: Stack) -> set[str]:
    """The services whose heartbeats some worker has heard."""
    _, values = scraped(stack)
    return {dict(labels)["source"] for labels in values.get("quadrille_service_heard_age_seconds", {})}


def test_a_stack_tells_what_is_asked_for(shop: Shop, stack: Stack) -> None:
    """Each metric of rules, dashboard and page is told by some process; an order leaves its trace in the numbers."""
    _, before = scraped(stack)
    kept, undone = shop.submit([("SKU-TEA", 1)]), shop.submit([("SKU-NONE", 1)])
    shop.ended(kept)
    shop.ended(undone)

    def counted(name: str, **labels: str) -> float:
        _, values = scraped(stack)
        wanted = frozenset(labels.items())
        return values.get(name, {}).get(wanted, 0.0) - before.get(name, {}).get(wanted, 0.0)

    shop.until(lambda: counted("quadrille_order_ended_total", status="CONFIRMED", reason="") >= 1, "its end is counted")
    shop.until(lambda: counted("quadrille_order_ended_total", status="CANCELLED", reason="OUT_OF_STOCK") >= 1, "as is")
    assert counted("quadrille_order_started_total") >= 2
    assert counted("quadrille_events_total", type="payment.charged") >= 1
    assert counted("quadrille_order_step_duration_seconds_count", step="stock.reserved") >= 1

    names, _ = scraped(stack)
    wanted = {name for _, expression in asked_for() for name in NAME.findall(expression)} - RECORDS
    assert wanted - names == set()
    assert {name for metric in all_metrics() for name in metric.series} - names == set()
    shop.until(lambda: heard(stack) == set(SERVICES), "every service has a hearer")
