"""`quadrille status`: process, state, since when, ports and a note; what flows; and in the last line what to do now."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer import echo

from quadrille_cli import console
from quadrille_cli.commands.stack import FAILED, UNREACHABLE
from quadrille_cli.stack import Stack, condition, paths, usage
from quadrille_cli.terminal import age, ago, painted, short, table, width

if TYPE_CHECKING:
    from quadrille_cli.stack.condition import Condition, Flow

WIDTH, BROAD = 21, 10_000
MEMORY_BAR_MB, CPU_BAR = 2048, 10
SAMPLE_SECONDS = 2.0
STUCK_SHOWN = 3


def status(data: Path | None, output: str, sample: float | None, *, resources: bool = False) -> int:
    """Print how the stack stands; exit 1 when something is gone or not ready, 7 when nothing runs."""
    stack = Stack.found(paths.data_dir(data))
    if stack is None or not any(process.running for process in stack.processes.values()):
        console.fail("no stack runs here\n  fix: quadrille up --detach")
        return UNREACHABLE
    found, flow = condition.look(stack)
    if output == "json" or resources:
        costs = usage.costs(stack, SAMPLE_SECONDS if resources and sample is None else sample or 0.0)
        if output == "json":
            echo(json.dumps(_document(found, flow, costs), indent=2))
        else:
            _resources(costs)
    else:
        for line in lines(found, flow, wide=output == "wide"):
            echo(line)
    return 0 if all(one.well for one in found) else FAILED


def lines(found: list[Condition], flow: Flow, *, wide: bool = False) -> Iterator[str]:
    """Yield the table, what flows, and what to do now."""
    head = ("process", "state", "since", "API", "ops", *(("pid",) if wide else ()), "note")
    rows = [_row(one, wide=wide) for one in found]
    yield from table(head, rows, right=("since", "API", "ops", "pid"), wide=wide)
    for one in found:
        for why in one.not_ready:
            yield from _folded(f"not ready: {one.name}: {why}", "red", wide=wide)
        for why in one.degraded:
            yield from _folded(f"degraded: {one.name}: {why}", "yellow", wide=wide)
    yield ""
    for what, text in _flow(flow):
        yield from textwrap.wrap(f"{what:<9} {text}", BROAD if wide else width(), subsequent_indent=" " * 10)
    yield f"{'now':<9} {condition.advice(found, flow)}"


def _row(one: Condition, *, wide: bool) -> list[str]:
    """Return a process's row; of what it lacks only the name: why stands below, in lines of their own."""
    ports = list(one.ports.items())
    mine = one.name.endswith(condition.OURS)
    ops = next((str(port) for name, port in ports if mine and name == one.name), "")
    api = next((str(port) for _, port in ports if str(port) != ops), "")
    names = dict.fromkeys(why.partition(":")[0] for why in (*one.not_ready, *one.degraded))
    more = [f"{name.rpartition('-')[2]} {port}" for name, port in ports if str(port) not in (api, ops)]
    since = "" if one.since is None else age(one.since)
    pid = [str(one.pid or "")] if wide else []
    return [one.name, one.state, since, api, ops, *pid, "; ".join([*one.notes, *names, *more])]


def _folded(text: str, colour: str, *, wide: bool) -> Iterator[str]:
    for line in textwrap.wrap(text, BROAD if wide else width(), subsequent_indent="    "):
        yield painted(line, colour)


def _flow(flow: Flow) -> Iterator[tuple[str, str]]:
    """Yield a line each for intake, stuck, parked, lag and breakers."""
    if flow.intake:
        since = f", for {ago(flow.intake['since'])}" if flow.intake["since"] else ""
        cause = (
            f": {flow.intake['cause']}"
            if flow.intake["cause"] != flow.intake["intake"] and flow.intake["cause"]
            else ""
        )
        yield "intake", f"{flow.intake['intake'].lower()}{cause}{since}"
        if detail := flow.intake.get("detail"):
            yield "", detail
    if flow.stuck is not None:
        yield from _stuck(flow.stuck)
    for what, why in flow.unknown.items():
        yield what, f"not known: {why}"
    parked = [f"{service}: {why}" for service, why in sorted(flow.parked.items())]
    for n, text in enumerate(parked or ["none"]):
        yield "parked" if n == 0 else "", text
    yield "lag", _lag(flow)
    breakers = [f"{service} {state}" for service, state in sorted(flow.breakers.items())]
    yield "breakers", ", ".join(breakers) or "none is known: no worker that has one answers"


def _lag(flow: Flow) -> str:
    behind = [f"{service} {lag:,}" for service, lag in sorted(flow.lag.items()) if lag]
    silent = [service for service in flow.services if service not in flow.lag]
    said = ", ".join(behind) + " records" if behind else f"none at {', '.join(sorted(flow.lag)) or 'any that answers'}"
    return said + (f"; not known of {', '.join(silent)}, whose worker does not answer" if silent else "")


def _stuck(queue: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - a JSON document
    if not queue["count"]:
        yield "stuck", "none"
        return
    yield "stuck", f"{queue['count']} orders; the first of them:"
    for one in queue["stuck"][:STUCK_SHOWN]:
        owes = ", ".join(f"{debt['owes']} ({debt['fact']})" for debt in one["owed"]) or "nobody"
        yield "", f"{short(one['order_id'])} {one['status']}, waits for {owes}"


def _document(found: list[Condition], flow: Flow, costs: Sequence[usage.Cost]) -> dict[str, object]:
    by_name = {one.name: one for one in found}
    rows = [_joined(cost, by_name.get(cost.name)) for cost in costs]
    return {"processes": rows, "total": dataclasses.asdict(usage.total(costs)), **condition.shown(found, flow)}


def _joined(cost: usage.Cost, one: Condition | None) -> dict[str, object]:
    document = dataclasses.asdict(cost) | {"not_ready": one.not_ready if one else []}
    if one:
        document |= {
            "state": one.state,
            "since_seconds": one.since and round(one.since, 1),
            "notes": one.notes,
            "degraded": one.degraded,
        }
    return document


def _resources(found: Sequence[usage.Cost]) -> None:
    echo(f"{'process':<{WIDTH}} {'pid':>7} {'RSS MB':>8} {'PSS MB':>8} {'CPU %':>6}  ports")
    for cost in (*found, usage.total(found)):
        pid = "gone" if not cost.running else (cost.pid or "")
        ports = " ".join(str(port) for port in cost.ports.values())
        echo(f"{cost.name:<{WIDTH}} {pid:>7} {cost.rss_mb:8.1f} {cost.pss_mb:8.1f} {cost.cpu_percent:6.1f}  {ports}")
    echo(f"bars for the idle stack: {MEMORY_BAR_MB} MB resident, {CPU_BAR} % of one core (pages shared between")
    echo("processes count once in PSS and each time in RSS)")
