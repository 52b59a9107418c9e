"""The whole saga: how many orders a second, and what one costs, ours against a naive build of the same."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import ClassVar

from bench.cases import shops
from bench.cases.shops import Shop
from bench.model import OURS, CannotMeasureError, Contestant, Ratio, Run, Size
from quadrille_cli.loadtest import compensation, curve
from quadrille_cli.loadtest.curve import Objective, Point
from quadrille_cli.loadtest.run import Plan
from quadrille_cli.loadtest.run import Run as Load
from quadrille_cli.stack.usage import percentile

MIX = {"ok": 0.9, "declined": 0.05, "out_of_stock": 0.05}
STEP_SECONDS = 20.0
FIRST = {"ours": 150.0}
"""Orders a second the search begins with; of the naive builds 20."""
SETTLE_SECONDS = 5.0
JVMS = frozenset({"kafka", "registry"})
ASYNC = "naive, asynchronous commits"
BUILDS: dict[str, Callable[[], AbstractContextManager[Shop]]] = {
    "ours": shops.ours,
    "naive": shops.naive,
    ASYNC: partial(shops.naive, async_commits=True),
    "dbos": shops.dbos,
    shops.TRACED: shops.traced,
}


def figures(run: Load) -> dict[str, float]:
    """Return what a load run says: rate of ends, CPU an order by group, latency to CONFIRMED."""
    cost, took = run.cost(), run.took_to("CONFIRMED")
    groups = {f"{name.lower()}_ms": ms for name, ms in cost.items()}
    spans = {"p50_ms": percentile(took, 0.5) * 1000, "p99_ms": percentile(took, 0.99) * 1000}
    return {"orders_per_s": run.ended_rate(), "cpu_ms": sum(cost.values()), **spans, **groups}


class _Shopping:
    """A shop in a cell: opened for a run and closed after it."""

    def __init__(self, shop: Shop, work: Callable[[Shop], tuple[dict[str, float], list[Load], list[str]]]) -> None:
        self.name, self._shop, self._work = shop.name, shop, work

    def run(self) -> Run:
        """Do the cell's work, then hold the books against it."""
        with self._shop.open() as shop:
            found, loads, wrong = self._work(shop)
            return Run(self.name, found, wrong + shops.audit(shop, loads))


class _Saga:
    """What the saga's cells share: both shops, one open at a time."""

    variants: Sequence[str] = ("ours", "naive")
    warm = False

    def work(self, size: Size) -> Callable[[Shop], tuple[dict[str, float], list[Load], list[str]]]:
        """Return what is done with an open shop: its figures, its load runs, what was wrong."""
        raise NotImplementedError

    @contextmanager
    def contestants(self, size: Size, absent: dict[str, str]) -> Iterator[Sequence[Contestant]]:
        """Have both shops; the stack of each runs only while it is measured."""
        with ExitStack() as opened:
            found = []
            for name in self.variants:
                try:
                    found.append(_Shopping(opened.enter_context(BUILDS[name]()), self.work(size)))
                except CannotMeasureError as reason:
                    absent[name] = str(reason)
            yield found


class SagaKnee(_Saga):
    """The most orders a second that end as they should within p99 = 2 s, and how half of that feels."""

    name = "saga_knee"
    question = "How many orders a second does a shop end as it should, and what does one cost then?"
    variants = ("ours", "naive", ASYNC)
    units: ClassVar = {
        "orders_per_s": "orders/s",
        "cpu_ms": "CPU an order there, ms",
        "postgres_ms": "of that Postgres",
        "kafka_ms": "Kafka",
        "worker_ms": "workers",
        "api_ms": "api",
        "half_p50_ms": "p50 at half of it, ms",
        "half_p99_ms": "p99 at half, ms",
        "undone_p50_ms": "failure → all undone p50 at half, ms",
        "undone_p99_ms": "p99, ms",
        "over_202_p99_ms": "accepted POST → 202 p99 at 1.5 of it, ms",
    }
    ratios: ClassVar = [
        Ratio("orders/s ÷ naive build's", "orders_per_s", "ours", "naive", more=True, must=10.0, aim=16.0),
        Ratio("orders/s ÷ the same with asynchronous commits", "orders_per_s", "ours", ASYNC, more=True),
        Ratio("CPU an order ÷ naive build's", "cpu_ms", "ours", "naive", more=False),
        Ratio("p50 at half of the own maximum ÷ naive", "half_p50_ms", "ours", "naive", more=False),
        Ratio("p99 at half of the own maximum ÷ naive", "half_p99_ms", "ours", "naive", more=False),
        Ratio("orders/s", "orders_per_s", "ours", "", more=True, must=600, aim=1000),
        Ratio("CPU an order there, ms", "cpu_ms", "ours", "", more=False, must=2.8, aim=1.8),
        Ratio("p50 at half of the own maximum, ms", "half_p50_ms", "ours", "", more=False, must=60, aim=20),
        Ratio("p99 at half of the own maximum, ms", "half_p99_ms", "ours", "", more=False, must=200, aim=75),
        Ratio("failure → all undone p50, ms", "undone_p50_ms", "ours", "", more=False, must=40, aim=15),
        Ratio("failure → all undone p99, ms", "undone_p99_ms", "ours", "", more=False, must=150, aim=60),
        Ratio("accepted POST → 202 p99 at 1.5, ms", "over_202_p99_ms", "ours", "", more=False, must=1000, aim=500),
    ]

    def work(self, size: Size) -> Callable[[Shop], tuple[dict[str, float], list[Load], list[str]]]:
        """Return the search for the knee, then a run at half of it."""
        seconds = max(5.0, STEP_SECONDS * size.share)

        def searched(shop: Shop) -> tuple[dict[str, float], list[Load], list[str]]:
            loads: list[Load] = []

            def measure(plan: Plan) -> Load:
                loads.append(shops.measure(shop, plan))
                return loads[-1]

            first = Plan(0, FIRST.get(shop.name, 20.0), MIX)
            points: list[Point] = list(curve.search(measure, first, seconds, Objective()))
            kept = [point for point in points if not point.missed]
            if not kept:
                return {}, loads, [f"{first.rate:g}/s is too much: {points[0].missed}"]
            best = max(kept, key=lambda point: point.rate)
            half, over = (
                measure(replace(first, rate=best.rate * share, orders=round(best.rate * share * seconds)))
                for share in (0.5, 1.5)
            )
            told = figures(half)
            later = {"half_p50_ms": told["p50_ms"], "half_p99_ms": told["p99_ms"]} | _undone(shop, half)
            later["over_202_p99_ms"] = percentile(over.posts(), 0.99) * 1000
            return figures(best.run) | later, loads, half.wrong()

        return searched


def _undone(shop: Shop, run: Load) -> dict[str, float]:
    """Return how long undoing took, where the databases are such that it can be read from them."""
    found = compensation.measure(shop.stack, run.sent, run.since) if shop.built == OURS else None
    if not found:
        return {}
    took = [one.undone * 1000 for one in found]
    return {"undone_p50_ms": percentile(took, 0.5), "undone_p99_ms": percentile(took, 0.99)}


class SagaTraced(_Saga):
    """What it costs that every order is traced."""

    name = "saga_traced"
    question = "What does an order cost at 100 orders a second, each traced and its spans taken, and untraced?"
    variants = (shops.TRACED, "ours")
    units: ClassVar = {"cpu_ms": "CPU an order, ms", "worker_ms": "of that workers", "p50_ms": "p50, ms"}
    ratios: ClassVar = [
        Ratio("CPU an order, traced ÷ untraced", "cpu_ms", shops.TRACED, "ours", more=False, must=1.15, aim=1.08)
    ]

    def work(self, size: Size) -> Callable[[Shop], tuple[dict[str, float], list[Load], list[str]]]:
        """Return one run at the rate."""
        return _at(Plan(max(100, int(100 * 60 * size.share)), 100, MIX))


def _at(plan: Plan) -> Callable[[Shop], tuple[dict[str, float], list[Load], list[str]]]:
    def sent(shop: Shop) -> tuple[dict[str, float], list[Load], list[str]]:
        run = shops.measure(shop, plan)
        return figures(run), [run], run.wrong()

    return sent


class SagaSteady(_Saga):
    """A trickle: twenty orders a second, where most shops live."""

    name = "saga_trickle"
    variants = ("ours", "naive", "dbos")
    question = "What does an order cost and how long does it take at 20 orders a second?"
    units: ClassVar = {
        "cpu_ms": "CPU an order, ms",
        "postgres_ms": "of that Postgres",
        "kafka_ms": "Kafka",
        "worker_ms": "workers",
        "p50_ms": "order → CONFIRMED p50, ms",
        "p99_ms": "p99, ms",
    }
    ratios: ClassVar = [
        Ratio("CPU an order ÷ naive build's", "cpu_ms", "ours", "naive", more=False),
        Ratio("Postgres' part ÷ naive build's", "postgres_ms", "ours", "naive", more=False),
        Ratio("p50 ÷ naive build's", "p50_ms", "ours", "naive", more=False),
        Ratio("p99 ÷ naive build's", "p99_ms", "ours", "naive", more=False),
        Ratio("CPU an order ÷ DBOS' (other guarantees)", "cpu_ms", "ours", "dbos", more=False),
        Ratio("p50 ÷ DBOS'", "p50_ms", "ours", "dbos", more=False),
        Ratio("CPU an order, ms", "cpu_ms", "ours", "", more=False, must=25, aim=12),
        Ratio("p50, ms", "p50_ms", "ours", "", more=False, must=20, aim=15),
        Ratio("p99, ms", "p99_ms", "ours", "", more=False, must=35, aim=25),
    ]

    def work(self, size: Size) -> Callable[[Shop], tuple[dict[str, float], list[Load], list[str]]]:
        """Return one run at the rate."""
        return _at(Plan(max(400, int(20 * 60 * size.share)), 20, MIX))


class SagaOutage(_Saga):
    """The worker that reserves stock is frozen while orders come in, and thawed: how soon is nobody behind?"""

    name = "saga_outage"
    variants = ("ours", "naive")
    question = "Inventory's worker is frozen while 40 orders a second come in: how are they caught up then?"
    units: ClassVar = {
        "orders_per_s": "orders/s caught up",
        "catch_up": "catch-up ÷ outage",
        "cpu_ms": "CPU an order, ms",
        "worker_ms": "of that workers",
        "postgres_ms": "Postgres",
    }
    ratios: ClassVar = [
        Ratio("orders/s caught up ÷ naive build's", "orders_per_s", "ours", "naive", more=True),
        Ratio("CPU an order ÷ naive build's", "cpu_ms", "ours", "naive", more=False),
    ]

    def work(self, size: Size) -> Callable[[Shop], tuple[dict[str, float], list[Load], list[str]]]:
        """Return one outage."""
        rate, seconds = 40.0, max(10.0, 600 * size.share)  # an order's deadline is fifteen minutes

        def outlived(shop: Shop) -> tuple[dict[str, float], list[Load], list[str]]:
            worker = shop.processes.get("inventory-worker") or shop.stack.process("inventory-worker").pid or 0
            os.kill(worker, signal.SIGSTOP)
            thaw = threading.Timer(seconds, os.kill, (worker, signal.SIGCONT))
            thaw.start()
            thawed = time.monotonic() + seconds
            run = shops.measure(shop, Plan(round(rate * seconds), rate, MIX))
            thaw.join()
            late = [end.at for end in run.ends.values() if end.at > thawed]
            took = max(late, default=thawed) - thawed
            caught = {"orders_per_s": len(late) / took if took else 0.0, "catch_up": took / seconds}
            return figures(run) | caught, [run], run.wrong()

        return outlived


class SagaIdle(_Saga):
    """What a stack costs that nobody asks anything."""

    name = "saga_idle"
    variants = ("ours", "naive")
    question = "What does a stack cost, in percent of a core, while nobody orders anything?"
    units: ClassVar = {"percent": "% of a core, without JVMs", "postgres": "of that Postgres", "kafka": "Kafka besides"}
    ratios: ClassVar = [
        Ratio("% of a core, without JVMs", "percent", "ours", "", more=False, must=4.0),
        Ratio("% of a core ÷ naive build's", "percent", "ours", "naive", more=False),
    ]

    def work(self, size: Size) -> Callable[[Shop], tuple[dict[str, float], list[Load], list[str]]]:
        """Return a while of rest."""
        seconds = max(10.0, 60 * size.share)

        def rested(shop: Shop) -> tuple[dict[str, float], list[Load], list[str]]:
            time.sleep(SETTLE_SECONDS)
            before = shop.spent()
            time.sleep(seconds)
            share = {name.lower(): (s - before.get(name, 0.0)) / seconds * 100 for name, s in shop.spent().items()}
            return share | {"percent": sum(v for n, v in share.items() if n not in JVMS)}, [], []

        return rested
