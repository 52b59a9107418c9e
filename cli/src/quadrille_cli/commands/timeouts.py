"""`quadrille stuck --suggest`: time-outs proposed from what each step took here: its own P99 and a fifth more."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from typer import echo

from quadrille_cli.commands.shared import asked
from quadrille_cli.stack import Stack
from quadrille_cli.terminal import table

MARGIN = 1.2
ENOUGH = 100
"""Of fewer orders the slowest is the P99: nothing is proposed."""
DECIDED, UNDONE = "placed to decided", "decided to undone"
WAITS = {
    "order_deadline": "an outage of a participant that is longer costs orders: no less than you want to wait one out",
    "stuck_warn": "the slowest step; who waits longer is told of",
}
Row = Mapping[str, Any]


def suggested(stack: Stack, output: str) -> None:
    """Print what each step took, and the time-outs that follow from it."""
    with asked(stack.url("order-api")) as ops:
        found = ops.demand("GET", "/ops/steps").body
    rows = [{**row, "timeout": timeout_of(row)} for row in found["steps"]]
    proposals = proposed(rows)
    if output == "json":
        document = {"steps": rows, "settings": found["settings"], "proposed": proposals}
        echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        echo("\n".join(_told(rows, found["settings"], proposals)))


def timeout_of(row: Row) -> float | None:
    """Return a step's time-out in seconds, None where too few orders took it."""
    return round(row["p99"] * MARGIN, 3) if row["orders"] >= ENOUGH else None


def proposed(rows: Sequence[Row]) -> dict[str, str]:
    """Return settings with what is proposed for each: whole seconds, so that none is closer than it can be kept."""
    steps = [row["timeout"] for row in rows if row["timeout"] is not None and row["step"] not in (DECIDED, UNDONE)]
    whole = [row["timeout"] for row in rows if row["timeout"] is not None and row["step"] == DECIDED]
    found = {"order_deadline": max(whole, default=None), "stuck_warn": max(steps, default=None)}
    return {name: f"{max(1, math.ceil(value))}s" for name, value in found.items() if value is not None}


def _told(rows: Sequence[Row], settings: Row, proposals: Mapping[str, str]) -> Iterator[str]:
    if not rows:
        yield "no order has ended yet: nothing is known of how long steps take"
        return
    shown = [
        (row["step"], row["owes"] or "–", f"{row['orders']:,}", _time(row["p50"]), _time(row["p99"]),
         "too few" if row["timeout"] is None else _time(row["timeout"]))
        for row in rows
    ]  # fmt: skip
    yield from table(("step", "owed by", "orders", "P50", "P99", "time-out"), shown)
    for name, value in proposals.items():
        yield f"{name}: is {settings[name]}, proposed {value}: {WAITS[name]}"
    if len(proposals) < len(WAITS):
        yield f"of fewer than {ENOUGH} orders nothing is proposed"


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
