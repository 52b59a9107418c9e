"""The knee of a stack: load runs at growing rates until one misses its objective, then closer to where it broke."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape

from quadrille_cli.loadtest.run import Plan, Run
from quadrille_cli.stack.usage import percentile

GROWTH = 1.5
CLOSE = 1.1
"""The search ends when the best rate and the worst differ by less than this factor."""
KEPT_UP = 0.9
"""A stack keeps up when orders end at this share of the rate asked at least."""
WIDE, HIGH, LEFT, TOP, GAP = 640, 220, 56, 28, 48


@dataclass(frozen=True, slots=True)
class Objective:
    """What a run has to meet: a percentile of confirmed orders within so many seconds."""

    share: float = 0.99
    seconds: float = 2.0

    def missed(self, run: Run) -> str:
        """Return what a run missed of it, in words; empty if nothing."""
        if wrong := run.wrong():
            return wrong[0]
        found = percentile(run.took_to("CONFIRMED"), self.share)
        if found > self.seconds:
            return f"p{self.share * 100:g} of confirmed orders is {found:.3f} s, objective {self.seconds:.3f} s"
        if run.ended_rate() < KEPT_UP * run.rate:
            return f"a backlog: {run.rate:.0f} orders/s were accepted, {run.ended_rate():.0f} ended"
        return ""


@dataclass(frozen=True, slots=True)
class Point:
    """A rate that was tried, what was measured, and what was missed."""

    run: Run
    missed: str

    @property
    def rate(self) -> float:
        """The rate asked."""
        return self.run.plan.rate


def search(measure: Callable[[Plan], Run], plan: Plan, seconds: float, objective: Objective) -> Iterator[Point]:
    """Yield a point for each rate tried, from the plan's on; each run lasts so many seconds."""
    best, worst, rate = 0.0, 0.0, plan.rate
    while not worst or (best and worst / best > CLOSE):
        run = measure(replace(plan, rate=rate, orders=max(1, round(rate * seconds))))
        missed = objective.missed(run)
        yield Point(run, missed)
        if missed:
            worst = rate
        else:
            best = rate
        if not best:
            return  # the first rate is too much already
        rate = best * GROWTH if not worst else (best * worst) ** 0.5


def drawing(points: Sequence[Point]) -> str:
    """Return an SVG of the curve: latency and CPU an order over the rate; what missed its objective is drawn hollow."""
    found = sorted(points, key=lambda point: point.rate)
    latency = [
        ("p50", [percentile(p.run.took_to("CONFIRMED"), 0.5) * 1000 for p in found]),
        ("p99", [percentile(p.run.took_to("CONFIRMED"), 0.99) * 1000 for p in found]),
    ]
    cost = [("CPU an order", [sum(p.run.cost().values()) for p in found])]
    high = 2 * (TOP + HIGH + GAP)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDE + 20} {high}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-label="Latency and CPU an order over the rate">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n'
        f"{_panel(found, 'order to CONFIRMED, ms', latency, TOP)}"
        f"{_panel(found, 'CPU an order, ms', cost, 2 * TOP + HIGH + GAP)}</svg>\n"
    )


def _panel(points: Sequence[Point], title: str, lines: Sequence[tuple[str, Sequence[float]]], top: int) -> str:
    most = max((value for _, values in lines for value in values if not math.isnan(value)), default=0.0) or 1.0
    fastest = max(point.rate for point in points)
    bottom, drawn = top + HIGH, [f'<text x="{LEFT}" y="{top - 8}" font-weight="bold">{escape(title)}</text>']
    drawn.append(f'<path d="M{LEFT} {top}V{bottom}H{LEFT + WIDE}" fill="none" stroke="#777"/>')
    drawn += [
        f'<text x="{LEFT - 6}" y="{bottom - HIGH * share + 4:.0f}" text-anchor="end">{most * share:,.4g}</text>'
        for share in (0.0, 0.5, 1.0)
    ]
    drawn += [
        f'<text x="{LEFT + WIDE * p.rate / fastest:.0f}" y="{bottom + 16}" text-anchor="middle">{p.rate:.0f}</text>'
        for p in points
    ]
    drawn.append(f'<text x="{LEFT + WIDE}" y="{bottom + 32}" text-anchor="end">orders/s asked</text>')
    for colour, (name, values) in zip(("#0b6e99", "#b3261e"), lines, strict=False):
        places = [
            (LEFT + WIDE * point.rate / fastest, bottom - HIGH * value / most, bool(point.missed))
            for point, value in zip(points, values, strict=True)
            if not math.isnan(value)  # nothing was confirmed
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{"#fff" if hollow else colour}" stroke="{colour}"/>'
            for x, y, hollow in places
        ]
        if places:
            x, y, _ = places[-1]
            place = f'x="{x - 8:.0f}" y="{y - 8:.0f}" text-anchor="end" fill="{colour}"'
            drawn.append(f"<text {place}>{escape(name)}</text>")
    return "\n".join(drawn) + "\n"
