"""`quadrille demo`: the stack started, twenty orders placed over every outcome, expected held against actual."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from quadrille import screen, supervisor
from quadrille.client import Client
from quadrille.shop import order_of, stock_up, write_addresses
from quadrille.stack import CannotRun, Stack, places

SETTINGS = {"ORDER_DEADLINE": "12s"}
PATIENCE_SECONDS = 40.0
LOOK_SECONDS = 0.1
SIGNS = {"CAPTURE": 1, "VOID": -1, "REFUND": -1}  # of the processor's ledger
LEVELS = {"SKU-TEA": 1000, "SKU-HOT": 100, "SKU-NONE": 0, "SKU-LAST": 1}
TEA = (("SKU-TEA", 2),)
WIDE = 132  # columns that show expected beside actual
app = typer.Typer()


@dataclass(frozen=True, slots=True)
class Scene:
    """One order to place: what it shows, what is sent, how it must end, how often it is posted under one key.

    ``cancel`` is the status in which its customer cancels it.
    """

    shows: str
    body: Mapping[str, Any]
    ends: str
    posts: int = 1
    cancel: str = ""


@dataclass(slots=True)
class Placed:
    """An order on its way."""

    scene: Scene
    order_id: str
    began: float
    ended: float = 0.0
    actual: str = "PENDING"
    final: bool = False
    cancelled: bool = False

    @property
    def right(self) -> bool:
        """Whether it ended as it must."""
        return self.final and self.actual == self.scene.ends


def scenes() -> list[Scene]:
    """Return the twenty orders of the demo."""
    confirmed, declined, short = "CONFIRMED", "CANCELLED PAYMENT_DECLINED", "CANCELLED OUT_OF_STOCK"
    undone = "CANCELLED CUSTOMER"
    return [
        *(Scene("happy path", order_of(TEA), confirmed) for _ in range(4)),
        Scene("several lines", order_of([("SKU-TEA", 1), ("SKU-HOT", 3)]), confirmed),
        Scene("several lines", order_of([("SKU-TEA", 2), ("SKU-TEA", 2)]), confirmed),
        Scene("mail bounces", order_of(TEA, customer="cust_bounce"), confirmed),
        Scene("same POST five times", order_of(TEA), confirmed, posts=5),
        Scene("two buyers, one last piece", order_of([("SKU-LAST", 1)]), "either"),
        Scene("two buyers, one last piece", order_of([("SKU-LAST", 1)]), "either"),
        Scene("out of stock", order_of([("SKU-NONE", 1)]), short),
        Scene("out of stock, one of two lines", order_of([("SKU-TEA", 1), ("SKU-NONE", 1)]), short),
        Scene("declined: no funds", order_of(TEA, "tok_declined_funds"), declined),
        Scene("declined: no funds", order_of(TEA, "tok_declined_funds"), declined),
        Scene("declined: card expired", order_of(TEA, "tok_declined_expired"), declined),
        Scene("processor slow", order_of(TEA, "tok_slow_6s"), confirmed),
        Scene("processor fails twice", order_of(TEA, "tok_flaky_2"), confirmed),
        Scene("processor's answer lost", order_of(TEA, "tok_timeout_after_charge"), confirmed),
        Scene("cancelled during the charge", order_of(TEA, "tok_slow_6s"), undone, cancel="INVENTORY_RESERVED"),
        Scene("cancelled after confirmation", order_of(TEA), undone, cancel="CONFIRMED"),
    ]


@app.callback(invoke_without_command=True)
def demo(
    data: Annotated[Path | None, typer.Option("--data", help="Data directory.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin with empty data.")] = False,  # noqa: FBT002 - a flag
) -> None:
    """Start the stack, place twenty orders, show expected = actual; the stack is left running.

    Examples:  quadrille demo   |   quadrille demo --fresh
    """
    began = time.monotonic()
    try:
        with screen.Checklist() as progress:
            asked = supervisor.Asked(settings=SETTINGS, fresh=fresh)
            stack = supervisor.start(data or places.data_dir(), asked, progress)
    except CannotRun as refused:
        screen.fail(str(refused))
        raise typer.Exit(supervisor.NOT_HERE) from None
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 2 * WIDE
    stock_up(stack, LEVELS)
    write_addresses(stack)
    placed = _place(stack)
    _watch(console, stack, placed)
    wrong = [*_settle(placed), *_wrong_charges(stack, placed)]
    _conclude(console, stack, placed, wrong, time.monotonic() - began)
    if wrong:
        raise typer.Exit(1)


def _place(stack: Stack) -> list[Placed]:
    placed = []
    with Client(stack.url("order")) as api:
        for scene in scenes():
            key = {"Idempotency-Key": f"demo-{uuid.uuid4()}"}
            began = time.monotonic()
            replies = [api.demand("POST", "/v1/orders", scene.body, key) for _ in range(scene.posts)]
            if len({reply.raw for reply in replies}) != 1:
                message = "one Idempotency-Key was answered in two ways"
                raise AssertionError(message)
            placed.append(Placed(scene, replies[0].body["order_id"], began))
    return placed


def _watch(console: Console, stack: Stack, placed: Sequence[Placed]) -> None:
    """Look at every order until all have ended, or patience is at its end."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    with Client(stack.url("order")) as api, Live(console=console, refresh_per_second=4) as live:
        while time.monotonic() < deadline and not all(one.final for one in placed):
            for one in placed:
                if not one.final:
                    _look(api, one)
            live.update(_table(stack, placed, console))
            time.sleep(LOOK_SECONDS)
        live.update(_table(stack, placed, console))


def _look(api: Client, one: Placed) -> None:
    document = api.demand("GET", f"/v1/orders/{one.order_id}").body
    if document["status"] == one.scene.cancel and not one.cancelled:
        document = api.demand("POST", f"/v1/orders/{one.order_id}/cancel").body
        one.cancelled = True
    one.actual = " ".join(part for part in (document["status"], document["reason"]) if part)
    if document["final"] and one.cancelled == bool(one.scene.cancel):
        one.final, one.ended = True, time.monotonic()


def _settle(placed: Sequence[Placed]) -> Iterator[str]:
    """Yield what ended otherwise than it must; of two buyers of one last piece exactly one is served."""
    last = [one for one in placed if one.scene.ends == "either"]
    if Counter(one.actual for one in last) != Counter({"CONFIRMED": 1, "CANCELLED OUT_OF_STOCK": 1}):
        yield f"one last piece went to {[one.actual for one in last]}"
    for one in placed:
        if one not in last and not one.right:
            yield f"{one.scene.shows}: {one.order_id} is {one.actual}, expected {one.scene.ends}"


def _wrong_charges(stack: Stack, placed: Sequence[Placed]) -> Iterator[str]:
    """Hold the processor's own ledger against the orders: the price of each confirmed one once, else nothing."""
    with Client(stack.url("sandbox")) as processor:
        lines = processor.demand("GET", "/ledger").raw.splitlines()
    charged, kept = Counter[str](), Counter[str]()
    for entry in map(json.loads, lines):
        charged[entry["order_id"]] += entry["kind"] == "CAPTURE"
        kept[entry["order_id"]] += SIGNS.get(entry["kind"], 0)
    for one in placed:
        wanted, order = int(one.actual == "CONFIRMED"), one.order_id
        if kept[order] != wanted or charged[order] > max(wanted, int(one.cancelled)):
            times = f"charged {charged[order]} times and refunded {charged[order] - kept[order]}"
            yield f"{one.scene.shows}: {order} was {times}, expected to keep {wanted}"


def _table(stack: Stack, placed: Sequence[Placed], console: Console) -> Table:
    """Draw expected beside actual; where the screen is narrow, expected only where it is not what came."""
    wide = console.width >= WIDE
    table = Table(box=None, pad_edge=False)
    for name in ("scenario", *(("expected",) if wide else ()), "actual", "took", "order"):
        table.add_column(name, no_wrap=True, justify="right" if name == "took" else "left")
    for one in placed:
        wanted = "CONFIRMED or OUT_OF_STOCK" if one.scene.ends == "either" else one.scene.ends
        well = one.right or (one.final and one.scene.ends == "either")
        mark, colour = ("✓", "green") if well else ("✗", "red") if one.final else ("…", "yellow")
        actual = f"[{colour}]{mark} {one.actual}{'' if well or wide else f' (expected {wanted})'}[/]"
        took = f"{one.ended - one.began:.1f} s" if one.final else ""
        url = f"{stack.url('order')}/v1/orders/{one.order_id}"
        link = f"[link={url}]{one.order_id}[/]" if console.is_terminal else url
        table.add_row(one.scene.shows, *((wanted,) if wide else ()), actual, took, link)
    return table


def _conclude(console: Console, stack: Stack, placed: Sequence[Placed], wrong: Sequence[str], seconds: float) -> None:
    ends = Counter(one.actual.split()[0] for one in placed)
    verdict = "[green]expected = actual[/]" if not wrong else f"[red]{len(wrong)} differ[/]"
    console.print(
        f"\n{len(placed)} orders: " + ", ".join(f"{n} {end}" for end, n in sorted(ends.items(), reverse=True)), verdict
    )
    for line in wrong:
        console.print(f"[red]wrong[/] {line}")
    first = min((one.ended - one.began for one in placed if one.actual == "CONFIRMED"), default=0.0)
    console.print(f"first order confirmed after {first:.2f} s; all of this took {seconds:.1f} s")
    console.print(f"API docs  {stack.url('order')}/docs")
    console.print(f"mail      {stack.url('sandbox')}/mail")
    console.print("look      quadrille status, quadrille logs -f      stop  make down")
