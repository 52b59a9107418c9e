"""The figures of docs/scaling.md: what an order costs and takes by rate, by knob, by workers and by goods.

On stacks of its own: ``python -m bench.scaling [curve batching workers goods sizes]``; a Markdown table a part.
Variants take turns, forwards and backwards, and the mean of both is shown: a machine that slows down slows all of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from statistics import mean
from typing import TypeAlias

import psycopg

from bench.cases import shops
from bench.cases.saga import MIX
from quadrille_cli.loadtest.run import Plan, Run, measure
from quadrille_cli.services import SERVICES
from quadrille_cli.stack import Stack
from quadrille_cli.stack.processes import Process
from quadrille_cli.stack.usage import percentile

RATES = (5.0, 10.0, 20.0, 40.0, 80.0, 120.0, 160.0, 200.0)
RATE = 110.0
"""Where variants are compared: about half of what the two cores of bench/README.md carry."""
SECONDS, ORDERS = 12.0, 60
WARM = Plan(200, 20.0, {"ok": 1.0})
WORKERS, STORED, SIZES = 4, 3000, "sizes"
GROUPS = ("worker", "postgres", "kafka", "api", "relay", "sandbox")
BATCHING: dict[str, Mapping[str, str]] = {
    "as it comes (`LINGER_MAX=100ms`, `BATCH_MAX=100`)": {},
    "`LINGER_MAX=0s`": {"LINGER_MAX": "0s"},
    "`LINGER_MAX=300ms`": {"LINGER_MAX": "300ms"},
    "`LINGER_MIN=20ms`": {"LINGER_MIN": "20ms"},
    "`BATCH_MAX=10`": {"BATCH_MAX": "10"},
}
GOODS = {"one good": 1, "100 goods": 100}
Figures: TypeAlias = dict[str, float]


def figures(run: Run) -> Figures:
    """Return what a run took and cost; raises ValueError for one that did not go as it should."""
    if wrong := run.wrong():
        raise ValueError("; ".join(wrong))
    cost, took = {name.lower(): ms for name, ms in run.cost().items()}, run.took_to("CONFIRMED")
    cost["worker"] += sum(cost.pop(name) for name in list(cost) if name.isdigit())  # a service's second, third, fourth
    inputs, commits = (sum(one[which] for one in run.batches.values()) for which in (0, 1))
    spans = {f"p{share * 100:g}": percentile(took, share) * 1000 for share in (0.5, 0.99, 0.999)}
    return {"rate": run.ended_rate(), "cpu": sum(cost.values()), "batch": inputs / commits, **spans, **cost}


def at(stack: Stack, rate: float, skus: int = 1) -> Figures:
    """Measure a rate on a stack that is warm."""
    return figures(measure(stack, Plan(max(ORDERS, round(rate * SECONDS)), rate, MIX, skus=skus)))


@contextmanager
def opened(settings: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """Have a shop that is warm."""
    with shops.ours(settings=settings) as shop, shop.open(WARM):
        yield shop.stack


@contextmanager
def more_workers(stack: Stack, workers: int) -> Iterator[None]:
    """Have so many workers of each service, on ops ports of their own."""
    with ExitStack() as running:
        for service in SERVICES:
            spec = stack.process(f"{service}-worker").spec
            for number in range(2, workers + 1):
                env = dict(spec.env) | {"QUADRILLE_OPS_BIND": "127.0.0.1:0"}
                log = spec.log.with_suffix(f".{number}.log")
                more = Process(replace(spec, name=f"{spec.name}-{number}", env=env, ports={}, log=log))
                more.launch()
                stack.processes[more.name] = more
                running.callback(stack.processes.pop, more.name)
                running.callback(more.stop)
        measure(stack, WARM)  # until each has its place
        yield


def curve() -> Iterator[tuple[str, Figures]]:
    """Yield what each rate costs."""
    with opened() as stack:
        for rate in RATES:
            yield f"{rate:g}/s", at(stack, rate)


def batching() -> Iterator[tuple[str, Figures]]:
    """Yield what each setting of batches costs at one rate."""

    def once(settings: Mapping[str, str]) -> Figures:
        with opened(settings) as stack:
            return at(stack, RATE)

    yield from _in_turn({name: partial(once, settings) for name, settings in BATCHING.items()})


def workers() -> Iterator[tuple[str, Figures]]:
    """Yield what one worker and four per service cost at one rate."""
    with opened() as stack:

        def several(number: int) -> Figures:
            with more_workers(stack, number):
                return at(stack, RATE)

        yield from _in_turn({f"{number} per service": partial(several, number) for number in (1, WORKERS)})


def goods() -> Iterator[tuple[str, Figures]]:
    """Yield what it costs that all want one good, or a hundred goods evenly."""
    with opened() as stack:
        yield from _in_turn({name: partial(at, stack, RATE, number) for name, number in GOODS.items()})


def sizes() -> Iterator[tuple[str, float, float]]:
    """Yield what an order leaves in each database and in the topics, and the log it makes Postgres write, in bytes."""
    with opened() as stack:
        before = dict(_bytes(stack))
        orders = len(measure(stack, Plan(STORED, RATE / 2, MIX)).sent)
        for name, (kept, written) in _bytes(stack):
            yield name, (kept - before[name][0]) / orders, (written - before[name][1]) / orders


def _bytes(stack: Stack) -> Iterator[tuple[str, tuple[float, float]]]:
    for service in SERVICES:
        with psycopg.connect(stack.database_url(service, "postgres")) as db:
            found = db.execute("SELECT pg_database_size(current_database()), pg_current_wal_lsn() - '0/0'").fetchone()
            yield f"{service}'s database", (float(found[0]), float(found[1])) if found else (0.0, 0.0)
    logs = sum(path.stat().st_size for path in (stack.data / "kafka").rglob("*.events-*/*.log"))
    yield "topics `*.events`", (float(logs), float(logs))


def _in_turn(variants: Mapping[str, Callable[[], Figures]]) -> Iterator[tuple[str, Figures]]:
    """Yield each variant's mean of two runs: all forwards, then all backwards."""
    found: dict[str, list[Figures]] = {name: [] for name in variants}
    for name in (*variants, *list(variants)[::-1]):
        found[name].append(variants[name]())
    for name, runs in found.items():
        yield name, {what: mean(run.get(what, 0.0) for run in runs) for what in runs[0]}


PARTS = {"curve": curve, "batching": batching, "workers": workers, "goods": goods}


def main(arguments: Sequence[str]) -> int:
    """Measure what is asked for, and print a table of each part."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS, SIZES], help="all of them unless said")
    for part in parser.parse_args(arguments).parts or (*PARTS, SIZES):
        if part == SIZES:
            sys.stdout.write("\n**sizes**\n\n| an order, kB | kept | written |\n|---|---:|---:|\n")
            for name, kept, written in sizes():
                sys.stdout.write(f"| {name} | {kept / 1000:.1f} | {written / 1000:.1f} |\n")
            continue
        head = ("", "ended/s", "p50", "p99", "p99.9, ms", "inputs a commit", "CPU an order, ms", *GROUPS)
        sys.stdout.write(f"\n**{part}**\n\n|{' | '.join(head)} |\n|---{'|---:' * (len(head) - 1)}|\n")
        for name, one in PARTS[part]():
            told = (one["rate"], one["p50"], one["p99"], one["p99.9"], one["batch"], one["cpu"])
            cells = [f"{figure:.3g}" for figure in (*told, *(one.get(group, 0.0) for group in GROUPS))]
            sys.stdout.write(f"| {name} | {' | '.join(cells)} |\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
