"""`quadrille load`: orders at a steady rate from an open loop, each held against its expected end, and what they cost.

Latency counts from the moment an order was meant to be sent, so a slow answer does not hide those behind it. Undoing
counts from the commit of the event that failed an order (quadrille.undone).
"""

from __future__ import annotations

import itertools
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from quadrille_cli.commands.shared import running
from quadrille_cli.demo_data import order_of, stock_up, write_addresses
from quadrille_cli.loadtest import compensation
from quadrille_cli.loadtest.observer import End, Observer
from quadrille_cli.loadtest.sender import NotAcceptedError, Sender
from quadrille_cli.stack import Stack
from quadrille_cli.stack.usage import cpu_by_group, percentile

SENDERS = 24
STALLED_SECONDS = 30.0
KINDS: dict[str, tuple[str, str, str]] = {  # token, SKU, expected end
    "ok": ("tok_ok", "SKU-TEA", "CONFIRMED"),
    "declined": ("tok_declined_funds", "SKU-TEA", "CANCELLED PAYMENT_DECLINED"),
    "out_of_stock": ("tok_ok", "SKU-NONE", "CANCELLED OUT_OF_STOCK"),
    "cancel": ("tok_ok", "SKU-TEA", "CANCELLED CUSTOMER"),  # as soon as it is accepted
}
app = typer.Typer()


@dataclass(frozen=True, slots=True)
class Sent:
    """An order that was accepted: its kind, when it was meant to be sent and when its 202 came, monotonic seconds."""

    kind: str
    intended: float
    accepted: float


@dataclass(slots=True)
class Run:
    """What one load run is, and what became of it."""

    orders: int
    rate: float
    mix: Mapping[str, float]
    seed: int
    sent: dict[str, Sent] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    took: float = 0.0

    def kinds(self) -> list[str]:
        """Return the kind of every order, shuffled by the seed."""
        rng = random.Random(self.seed)  # noqa: S311 - a repeatable mix
        return rng.choices(list(self.mix), list(self.mix.values()), k=self.orders)

    def over(self, order: str, ends: Mapping[str, End]) -> bool:
        """Tell whether an order has ended; one that is cancelled may be confirmed on its way."""
        end = ends.get(order)
        return end is not None and not (self.sent[order].kind == "cancel" and end.state == "CONFIRMED")


@app.callback(invoke_without_command=True)
def load(  # noqa: PLR0913, PLR0917 - one parameter per option
    orders: Annotated[int, typer.Option("--orders", min=1, help="How many orders.")] = 2000,
    rate: Annotated[float, typer.Option("--rate", min=0.1, help="Orders per second.")] = 200.0,
    mix: Annotated[
        str, typer.Option("--mix", help=f"Weights of {', '.join(KINDS)}.")
    ] = "ok=90,declined=5,out_of_stock=5",
    slo: Annotated[str, typer.Option("--slo", help="p99=2s: exit 1 when confirmed orders take longer.")] = "",
    seed: Annotated[int, typer.Option("--seed", help="Repeats a run's order of kinds.")] = 1,
    data: Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")] = None,
) -> None:
    """Place orders at a rate, wait for every end, print latencies and the CPU an order costs.

    Undoing is timed by the databases' commit times: from the event that failed an order (stock.rejected,
    payment.declined or order.cancellation_requested, whichever was first) until the last participant has undone its
    part; of a cancelled order that includes the processor's answer to its refund.

    Examples:  quadrille load --orders 2000 --rate 200   |   quadrille load --orders 500 --rate 50 --slo p99=500ms
    """
    run, bar = Run(orders, rate, _mix(mix), seed), _slo(slo)
    stack = running(data, "order-api")
    stock_up(stack, {"SKU-TEA": orders * 10 + 1000, "SKU-NONE": 0})
    write_addresses(stack)
    console, since = Console(highlight=False, soft_wrap=True), datetime.now(UTC)
    with Observer(stack) as observer:
        before = cpu_by_group(stack)
        _send_and_wait(stack, run, observer, console)
        spent = {name: seconds - before.get(name, 0.0) for name, seconds in cpu_by_group(stack).items()}
        ends = dict(observer.ends)
    wrong = _report(console, run, ends, spent)
    _report_undone(console, run, compensation.measure(stack, run.sent, since))
    slow = _too_slow(run, ends, bar)
    for line in (*wrong, *slow):
        console.print(f"[red]wrong[/] {line}")
    if wrong or slow:
        raise typer.Exit(1)


def _send_and_wait(stack: Stack, run: Run, observer: Observer, console: Console) -> None:
    began, columns = time.monotonic(), (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    sender = threading.Thread(target=_send, args=(stack, run))
    sender.start()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("orders ended", total=run.orders)
        quiet = time.monotonic()
        while sender.is_alive() or any(not run.over(order, observer.ends) for order in list(run.sent)):
            if observer.wait(0.2):
                quiet = time.monotonic()
            elif not sender.is_alive() and time.monotonic() - quiet > STALLED_SECONDS:
                break
            progress.update(task, completed=len(observer.ends))
    sender.join()
    run.took = time.monotonic() - began


def _send(stack: Stack, run: Run) -> None:
    """Send from an open loop: the n-th order at n / rate, whatever became of the others."""
    numbers, lock, kinds, began = itertools.count(), threading.Lock(), run.kinds(), time.monotonic() + 0.05

    def next_number() -> int:
        with lock:
            return next(numbers)

    def work() -> None:
        with Sender(stack.url("order")) as api:
            while (number := next_number()) < run.orders:
                intended = began + number / run.rate
                time.sleep(max(0.0, intended - time.monotonic()))
                _post(api, run, kinds[number], intended)

    threads = [threading.Thread(target=work) for _ in range(min(SENDERS, run.orders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _post(api: Sender, run: Run, kind: str, intended: float) -> None:
    token, sku, _ = KINDS[kind]
    try:
        accepted = api.post("/v1/orders", order_of([(sku, 1)], token), f"load-{uuid.uuid4()}")
    except NotAcceptedError as refused:
        run.refused[str(refused)] += 1
    else:
        order = accepted["order_id"]
        run.sent[order] = Sent(kind, intended, time.monotonic())
        if kind == "cancel":
            _cancel(api, run, order)


def _cancel(api: Sender, run: Run, order: str) -> None:
    try:
        api.post(f"/v1/orders/{order}/cancel")
    except NotAcceptedError as refused:
        run.refused[f"cancel: {refused}"] += 1


def _report(console: Console, run: Run, ends: Mapping[str, End], spent: Mapping[str, float]) -> list[str]:
    """Print what was measured; return what is wrong."""
    mine = {order: end for order, end in ends.items() if order in run.sent}
    span = max((s.accepted for s in run.sent.values()), default=0.0) - min(
        (s.intended for s in run.sent.values()), default=0.0
    )
    achieved = len(run.sent) / max(span, 0.001)
    console.print(f"{len(run.sent)} accepted of {run.orders} at {achieved:.0f}/s (asked {run.rate:g}/s)")
    console.print(f"all ended {run.took:.1f} s after the first was due")
    console.print(_line("POST to 202", [s.accepted - s.intended for s in run.sent.values()]))
    for state in sorted({end.state for end in mine.values()}):
        took = [end.at - run.sent[order].intended for order, end in mine.items() if end.state == state]
        console.print(_line(f"order to {state}", took))
    cost = {name: seconds * 1000 / max(1, len(run.sent)) for name, seconds in spent.items()}
    console.print(
        f"CPU per order {sum(cost.values()):.2f} ms: " + ", ".join(f"{name} {ms:.2f}" for name, ms in cost.items())
    )
    wrong = [f"{n} posts refused: {why}" for why, n in run.refused.items()]
    lost = Counter(s.kind for order, s in run.sent.items() if order not in mine)
    wrong += [f"{n} orders ({kind}) never ended" for kind, n in lost.items()]
    strange = Counter(
        (run.sent[o].kind, end.state) for o, end in mine.items() if end.state != KINDS[run.sent[o].kind][2]
    )
    return wrong + [f"{n} orders ({kind}) ended {state}" for (kind, state), n in strange.items()]


def _report_undone(console: Console, run: Run, found: list[compensation.Undone] | None) -> None:
    """Print how long undoing took, of all and by kind: until all was undone, and until the order had ended."""
    if found is None:
        console.print("undoing: not measured, these databases keep no commit times (track_commit_timestamp)")
        return
    for kind in ("", *run.mix):
        mine = [one for one in found if kind in ("", run.sent[one.order_id].kind)]
        if mine:
            console.print(_line(f"failure to all undone{kind and f', {kind}'}", [one.undone for one in mine]))
    if found:
        console.print(_line("failure to order.cancelled", [one.cancelled for one in found]))


def _line(name: str, seconds: list[float]) -> str:
    figures = "  ".join(
        f"{label} {percentile(seconds, share) * 1000:,.1f}"
        for label, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
    )
    return f"{name:<36} {figures} ms   n {len(seconds)}"


def _too_slow(run: Run, ends: Mapping[str, End], bar: tuple[float, float] | None) -> list[str]:
    took = [end.at - run.sent[o].intended for o, end in ends.items() if o in run.sent and end.state == "CONFIRMED"]
    if bar is None or percentile(took, bar[0]) <= bar[1]:
        return []
    return [f"p{bar[0] * 100:g} of confirmed orders is {percentile(took, bar[0]):.3f} s, objective {bar[1]:.3f} s"]


def _mix(text: str) -> dict[str, float]:
    return _pairs(text, "--mix", lambda name: name in KINDS, float)


def _slo(text: str) -> tuple[float, float] | None:
    if not text:
        return None
    from quadrille.settings import parse_duration  # noqa: PLC0415 - only here

    known = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
    found = _pairs(text, "--slo", known.__contains__, lambda value: parse_duration(value).total_seconds())
    name, seconds = next(iter(found.items()))
    return known[name], seconds


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
