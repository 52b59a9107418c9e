"""`quadrille load`: orders at a rate from an open loop, each held against its expected end, and what they cost.

Latency counts from the moment an order was meant to be sent, so a slow answer does not hide those behind it. Undoing
counts from the commit of the event that failed an order (quadrille_cli.loadtest.compensation).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from quadrille_cli import console as terminal
from quadrille_cli.commands.shared import CONFLICT, bad, running
from quadrille_cli.loadtest import compensation, curve
from quadrille_cli.loadtest.arrivals import ARRIVALS
from quadrille_cli.loadtest.client_log import ClientLog
from quadrille_cli.loadtest.curve import Objective, Point
from quadrille_cli.loadtest.run import KINDS, Plan, Run, measure
from quadrille_cli.stack import Stack
from quadrille_cli.stack.usage import cpu_by_group, percentile

STEP_SECONDS = 20.0
BUSY = 0.5
"""A machine of whose cores others use more than this share measures them rather than the stack."""
SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
app = typer.Typer()


@app.callback(invoke_without_command=True)
def load(  # noqa: PLR0913, PLR0917 - one parameter per option
    orders: Annotated[int, typer.Option("--orders", min=1, help="How many orders.")] = 2000,
    rate: Annotated[float, typer.Option("--rate", min=0.1, help="Orders per second; with --find-max the first.")] = 200,
    arrivals: Annotated[str, typer.Option("--arrivals", help=f"How they come: {', '.join(ARRIVALS)}.")] = "steady",
    mix: Annotated[
        str, typer.Option("--mix", help=f"Weights of {', '.join(KINDS)}.")
    ] = "ok=90,declined=5,out_of_stock=5",
    skus: Annotated[int, typer.Option("--skus", min=1, max=1000, help="Over how many goods they are spread.")] = 1,
    slo: Annotated[str, typer.Option("--slo", help="p99=2s: exit 1 when confirmed orders take longer.")] = "",
    seed: Annotated[int, typer.Option("--seed", help="Repeats a run: its kinds and arrivals.")] = 1,
    find_max: Annotated[bool, typer.Option("--find-max", help="Raise the rate until the objective breaks.")] = False,  # noqa: FBT002 - an option
    svg: Annotated[Path | None, typer.Option("--svg", help="Draw the curve of --find-max into a file.")] = None,
    log: Annotated[
        Path | None, typer.Option("--log", help="Add each request with its answer to a file, for the auditor.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Measure although the machine is busy.")] = False,  # noqa: FBT002 - an option
    data: Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")] = None,
) -> None:
    """Place orders at a rate, wait for every end, print latencies and the CPU an order costs.

    The loop is open: orders are sent when they are due, whatever became of those before, and timed from then. With
    --find-max runs of 20 s at growing rates find the most that meets the objective (p99=2s unless said).

    Undoing is timed by the databases' commit times: from the event that failed an order (stock.rejected,
    payment.declined or order.cancellation_requested, whichever was first) until the last participant has undone its
    part; of a cancelled order that includes the processor's answer to its refund.

    --log writes down, a line each, what was sent under which key and answered (accepted, refused, unknown), and which
    status a client saw of which order. What is there is held against it by: quadrille audit run --clients FILE

    Examples:  quadrille load --orders 2000 --rate 200   |   quadrille load --orders 500 --rate 50 --slo p99=500ms
    """
    if arrivals not in ARRIVALS:
        bad("--arrivals", f"one of {', '.join(ARRIVALS)}")
    if log is not None and (log.is_dir() or not log.absolute().parent.is_dir()):
        bad("--log", f"a file in a directory that is there, such as clients.jsonl; not {log}")
    plan, objective = Plan(orders, rate, _mix(mix), seed, arrivals, skus), _slo(slo)
    stack = running(data, "order-api")
    console = Console(highlight=False, soft_wrap=True)
    _mind_the_machine(console, stack, forced=force)
    if find_max:
        with _log(log, stack) as kept:
            wrong = _find_max(lambda step: _measure(console, stack, step, kept), console, plan, objective, svg)
    else:
        with _log(log, stack) as kept:
            run = _measure(console, stack, plan, kept)
        _report(console, run)
        _report_undone(console, run, compensation.measure(stack, run.sent, run.since))
        wrong = run.wrong()
        if objective and not wrong and (missed := objective.missed(run)):
            wrong.append(missed)
    for line in wrong:
        console.print(f"[red]wrong[/] {line}")
    if wrong:
        raise typer.Exit(1)


def _mind_the_machine(console: Console, stack: Stack, *, forced: bool) -> None:
    """Refuse a measurement that the machine's other work would spoil; say so where it is made all the same."""
    own = sum(cpu_by_group(stack).values())
    used = psutil.cpu_percent(interval=1) / 100
    busy = used - (sum(cpu_by_group(stack).values()) - own) / (psutil.cpu_count() or 1)
    if busy <= BUSY:
        return
    told = f"others use {busy:.0%} of this machine, {BUSY:.0%} at most for figures that mean something"
    if not forced:
        terminal.fail(f"{told}\n  fix: wait until it is quiet, or --force, and the result is marked")
        raise typer.Exit(CONFLICT)
    console.print(f"[yellow]marked[/] {told}")


def _log(path: Path | None, stack: Stack) -> AbstractContextManager[ClientLog | None]:
    return ClientLog(path, stack.url("order")) if path else nullcontext()


def _measure(console: Console, stack: Stack, plan: Plan, log: ClientLog | None = None) -> Run:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, refresh_per_second=2) as progress:
        task = progress.add_task(f"orders ended at {plan.rate:g}/s", total=plan.orders)

        def show(run: Run) -> None:
            progress.update(task, completed=len(run.ends))

        return measure(stack, plan, show, log)


def _find_max(
    step: Callable[[Plan], Run], console: Console, plan: Plan, wanted: Objective | None, svg: Path | None
) -> list[str]:
    points: list[Point] = []
    objective = wanted or Objective()
    for point in curve.search(step, plan, STEP_SECONDS, objective):
        points.append(point)
        run = point.run
        p50, p99 = (_ms(run.took_to("CONFIRMED"), share) for share in (0.5, 0.99))
        cost = sum(run.cost().values())
        console.print(f"{point.rate:6.0f}/s  p50 {p50}  p99 {p99} ms  {cost:5.2f} ms an order  {point.missed or 'met'}")
    console.print(_table(points))
    if svg:
        svg.write_text(curve.drawing(points))
        console.print(f"drawn: {svg}")
    best = max((p.rate for p in points if not p.missed), default=None)
    if best is None:
        return [f"no rate met the objective: {points[0].missed}; begin lower: --rate {plan.rate / 4:g}"]
    console.print(f"the most: {best:.0f} orders/s within p{objective.share * 100:g}={objective.seconds:g}s")
    return []


def _table(points: list[Point]) -> Table:
    groups = list(points[0].run.spent)
    table = Table(title="CPU an order by group, ms; inputs a commit", box=None, title_justify="left")
    for name in ("orders/s", "p50", "p99", "p99.9", "all", *groups, "batches"):
        table.add_column(name, justify="left" if name == "batches" else "right")
    for point in sorted(points, key=lambda one: one.rate):
        took, cost = point.run.took_to("CONFIRMED"), point.run.cost()
        figures = [f"{point.rate:.0f}", *(_ms(took, share) for share in SHARES.values()), f"{sum(cost.values()):.2f}"]
        table.add_row(*figures, *(f"{cost[name]:.2f}" for name in groups), _batches(point.run))
    return table


def _report(console: Console, run: Run) -> None:
    """Print what was measured."""
    plan = run.plan
    console.print(f"{len(run.sent)} accepted of {plan.orders} at {run.rate:.0f}/s (asked {plan.rate:g}/s)")
    console.print(f"all ended {run.took:.1f} s after the first was due, {run.ended_rate():.0f}/s")
    console.print(_line("POST to 202", run.posts()))
    for state in sorted({run.ends[order].state for order in run.sent if order in run.ends}):
        console.print(_line(f"order to {state}", run.took_to(state)))
    cost = run.cost()
    console.print(
        f"CPU per order {sum(cost.values()):.2f} ms: " + ", ".join(f"{name} {ms:.2f}" for name, ms in cost.items())
    )
    own = [seconds * 1000 / max(1, plan.orders) for seconds in (run.sender.cpu, run.observer)]
    console.print(
        f"beside it the instrument {sum(own):.2f} ms: sender {own[0]:.2f}, observer {own[1]:.2f}; "
        f"{run.sender.in_flight} in flight at most"
    )
    console.print(f"inputs a commit: {_batches(run)}")


def _batches(run: Run) -> str:
    return ", ".join(f"{name} {inputs / commits:.1f}" for name, (inputs, commits) in run.batches.items() if commits)


def _report_undone(console: Console, run: Run, found: list[compensation.Undone] | None) -> None:
    """Print how long undoing took, of all and by kind: until all was undone, and until the order had ended."""
    if found is None:
        console.print("undoing: not measured, these databases keep no commit times (track_commit_timestamp)")
        return
    for kind in ("", *run.plan.mix):
        mine = [one for one in found if kind in ("", run.sent[one.order_id].kind)]
        if mine:
            console.print(_line(f"failure to all undone{kind and f', {kind}'}", [one.undone for one in mine]))
    if found:
        console.print(_line("failure to order.cancelled", [one.cancelled for one in found]))


def _line(name: str, seconds: list[float]) -> str:
    figures = "  ".join(f"{label} {_ms(seconds, share)}" for label, share in SHARES.items())
    return f"{name:<36} {figures} ms   n {len(seconds)}"


def _ms(seconds: list[float], share: float) -> str:
    return f"{percentile(seconds, share) * 1000:,.1f}"


def _mix(text: str) -> dict[str, float]:
    return _pairs(text, "--mix", lambda name: name in KINDS, float)


def _slo(text: str) -> Objective | None:
    if not text:
        return None
    from quadrille.settings import parse_duration  # noqa: PLC0415 - only here

    found = _pairs(text, "--slo", SHARES.__contains__, lambda value: parse_duration(value).total_seconds())
    name, seconds = next(iter(found.items()))
    return Objective(SHARES[name], seconds)


def _pairs(text: str, option: str, known: Callable[[str], bool], read: Callable[[str], Any]) -> dict[str, Any]:
    found = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            found[name] = read(value) if known(name) else None
        except ValueError:
            found[name] = None
        if found[name] is None:
            raise typer.BadParameter(f"{part}: not understood", param_hint=option)  # noqa: TRY003, EM102 - typer prints it
    return found
