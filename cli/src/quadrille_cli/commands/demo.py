"""`quadrille demo`: the stack started, twenty orders placed over every outcome, expected held against actual."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
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

from quadrille_cli import console as screen
from quadrille_cli.client import Client, ProblemError
from quadrille_cli.commands import stack as supervisor
from quadrille_cli.commands.shared import told
from quadrille_cli.demo_data import block, order_of, stock_up, write_addresses
from quadrille_cli.login_link import first_link
from quadrille_cli.stack import CannotRun, Stack, dev_keys, paths
from quadrille_cli.terminal import COLUMNS, short

# Deadlines that pass while one watches; and so many failures on purpose must not shut the intake.
SETTINGS = {"ORDER_DEADLINE": "12s", "INTAKE_FAILURE_MINIMUM": "1000"}
PATIENCE_SECONDS = 40.0
LOOK_SECONDS = 0.1
SIGNS = {"CAPTURE": 1, "VOID": -1, "REFUND": -1}  # of the processor's ledger
KEPT = ("CONFIRMED", "COMPENSATION_FAILED")  # the ends in which the price stays with us
UNCHARGED = ("CANCELLED OUT_OF_STOCK", "CANCELLED PAYMENT_DECLINED")
LEVELS = {"SKU-TEA": 1000, "SKU-HOT": 100, "SKU-SEALED": 100, "SKU-NONE": 0, "SKU-LAST": 1}
TEA = (("SKU-TEA", 2),)
EITHER = "CONFIRMED or OUT_OF_STOCK"
ORDER = {"CONFIRMED": 0, "CANCELLED": 1, "COMPENSATION_FAILED": 2}
CONFIRMED, DECLINED, SHORT = "CONFIRMED", "CANCELLED PAYMENT_DECLINED", "CANCELLED OUT_OF_STOCK"
UNDONE, REFUSED = "CANCELLED CUSTOMER", "COMPENSATION_FAILED CUSTOMER"
RESOLVE = "--participant payment --how EXTERNAL --evidence 'bank transfer 4711' --reason 'card closed'"
CURL = """or        curl -s {}/v1/orders -H 'Idempotency-Key: mine-1' \\
               -H 'Content-Type: application/json' -d '{{"customer_id": "cust_demo",
               "payment_token": "tok_ok", "currency": "EUR", "lines": [{{
               "sku": "SKU-TEA", "quantity": 2, "unit_price_minor": 1250}}]}}'"""
app = typer.Typer()


@dataclass(frozen=True, slots=True)
class Scene:
    """One order to place: what it shows, what is sent, how it must end, how often it is posted under one key.

    ``cancel`` is the status in which it is cancelled, by its customer or by an operator.
    """

    shows: str
    body: Mapping[str, Any]
    ends: str = CONFIRMED
    posts: int = 1
    cancel: str = ""
    operator: bool = False


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
        wanted = (CONFIRMED, SHORT) if self.scene.ends == EITHER else (self.scene.ends,)
        return self.final and self.actual in wanted


def scenes() -> list[Scene]:
    """Return the twenty orders of the demo; the one that takes longest goes first."""
    last = Scene("two buyers, one last piece", order_of([("SKU-LAST", 1)]), EITHER)
    return [
        Scene("unknown past the deadline", order_of(TEA, "tok_pending_15s"), "CANCELLED DEADLINE"),
        Scene("happy path", order_of(TEA)),
        Scene("happy path", order_of(TEA)),
        Scene("several lines", order_of([("SKU-TEA", 1), ("SKU-HOT", 3), ("SKU-TEA", 1)])),
        Scene("mail bounces", order_of(TEA, customer="cust_bounce")),
        Scene("same POST five times", order_of(TEA), posts=5),
        last,
        last,
        Scene("out of stock", order_of([("SKU-NONE", 1)]), SHORT),
        Scene("out of stock, 1 of 2 lines", order_of([("SKU-TEA", 1), ("SKU-NONE", 1)]), SHORT),
        Scene("declined: no funds", order_of(TEA, "tok_declined_funds"), DECLINED),
        Scene("declined: card expired", order_of(TEA, "tok_declined_expired"), DECLINED),
        Scene("processor slow", order_of(TEA, "tok_slow_6s")),
        Scene("processor fails twice", order_of(TEA, "tok_flaky_2")),
        Scene("processor's answer lost", order_of(TEA, "tok_timeout_after_charge")),
        Scene("cancelled during the charge", order_of(TEA, "tok_slow_6s"), UNDONE, cancel="INVENTORY_RESERVED"),
        Scene("cancelled after confirmation", order_of(TEA), UNDONE, cancel=CONFIRMED),
        Scene("confirmation rejected", order_of(TEA, customer="cust_blocked"), "CANCELLED CONFIRMATION_REJECTED"),
        Scene("operator cancels", order_of(TEA), "CANCELLED OPERATOR", cancel=CONFIRMED, operator=True),
        Scene("refund refused", order_of(TEA, "tok_refund_fails_business"), REFUSED, cancel=CONFIRMED),
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
            stack = supervisor.start(paths.data_dir(data), asked, progress)
    except CannotRun as refused:
        screen.fail(str(refused))
        raise typer.Exit(supervisor.NOT_HERE) from None
    console = Console(highlight=False)
    console.width = max(console.width, COLUMNS)
    if "console" in stack.ports:
        console.print(f"console   {first_link(stack, 'quadrille demo')}", soft_wrap=True)
    try:
        wrong = _play(stack, console, began)
    except ProblemError as refused:
        raise typer.Exit(told(refused)) from None
    if wrong:
        raise typer.Exit(1)


def _play(stack: Stack, console: Console, began: float) -> list[str]:
    """Place the orders, watch them end, and tell how; return what went wrong."""
    stock_up(stack, LEVELS)
    write_addresses(stack)
    block(stack, "cust_blocked")
    placed = _place(stack)
    _watch(console, stack, placed)
    wrong = [*_settle(placed), *_wrong_charges(stack, placed)]
    _conclude(console, stack, placed, wrong, time.monotonic() - began)
    return wrong


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
    table = Live(console=console, refresh_per_second=4)
    with Client(stack.url("order")) as api, Client(stack.url("order-api")) as ops, table as live:
        while time.monotonic() < deadline and not all(one.final for one in placed):
            for one in placed:
                if not one.final:
                    _look(api, ops, one)
            live.update(_table(stack, placed, console))
            time.sleep(LOOK_SECONDS)
        live.update(_table(stack, placed, console))


def _look(api: Client, ops: Client, one: Placed) -> None:
    """Look at an order, and cancel it when it is where its scene wants it cancelled."""
    document = api.demand("GET", f"/v1/orders/{one.order_id}").body
    if document["status"] == one.scene.cancel and not one.cancelled:
        why = {"reason": "the demo shows it"} if one.scene.operator else None
        where, face = (ops, "ops") if one.scene.operator else (api, "v1")
        where.demand("POST", f"/{face}/orders/{one.order_id}/cancel", why)
        one.cancelled = True
        document = api.demand("GET", f"/v1/orders/{one.order_id}").body
    one.actual = " ".join(part for part in (document["status"], document["reason"]) if part)
    over = document["final"] or document["status"] == "COMPENSATION_FAILED"
    if over and one.cancelled == bool(one.scene.cancel):
        one.final, one.ended = True, time.monotonic()


def _settle(placed: Sequence[Placed]) -> Iterator[str]:
    """Yield what ended otherwise than it must; of two buyers of one last piece exactly one is served."""
    last = [one for one in placed if one.scene.ends == EITHER]
    if Counter(one.actual for one in last) != Counter({CONFIRMED: 1, SHORT: 1}):
        yield f"one last piece went to {[one.actual for one in last]}"
    for one in placed:
        if not one.right:
            yield f"{one.scene.shows}: {one.order_id} is {one.actual}, expected {one.scene.ends}"


def _wrong_charges(stack: Stack, placed: Sequence[Placed]) -> Iterator[str]:
    """Hold the processor's own ledger against the orders: the price of each confirmed one once, else given back."""
    with Client(stack.url("sandbox")) as processor:
        lines = processor.demand("GET", "/ledger").raw.splitlines()
    charged, kept = Counter[str](), Counter[str]()
    for entry in map(json.loads, lines):
        charged[entry["order_id"]] += entry["kind"] == "CAPTURE"
        kept[entry["order_id"]] += SIGNS.get(entry["kind"], 0)
    for one in placed:
        wanted, order = int(one.actual.split()[0] in KEPT), one.order_id
        if kept[order] != wanted or charged[order] > int(one.actual not in UNCHARGED):
            times = f"charged {charged[order]} times and refunded {charged[order] - kept[order]}"
            yield f"{one.scene.shows}: {order} was {times}, expected to keep {wanted}"


def _table(stack: Stack, placed: Sequence[Placed], console: Console) -> Table:
    """Draw what came of each, within 80 columns; what was expected instead is told below."""
    table = Table(box=None, pad_edge=False)
    for name in ("scenario", "actual", "took", "order"):
        table.add_column(name, no_wrap=True, justify="right" if name == "took" else "left")
    for one in placed:
        mark, colour = ("✓", "green") if one.right else ("✗", "red") if one.final else ("…", "yellow")
        took = f"{one.ended - one.began:.1f}s" if one.final else ""
        page = f"{stack.url('console')}/orders" if "console" in stack.ports else f"{stack.url('order')}/v1/orders"
        url, order = f"{page}/{one.order_id}", short(one.order_id)
        linked = f"[link={url}]{order}[/]" if console.is_terminal else order
        table.add_row(one.scene.shows, f"[{colour}]{mark} {one.actual}[/]", took, linked)
    return table


def _conclude(console: Console, stack: Stack, placed: Sequence[Placed], wrong: Sequence[str], seconds: float) -> None:
    ends = Counter(one.actual.split()[0] for one in placed)
    verdict = "[green]expected = actual[/]" if not wrong else f"[red]{len(wrong)} differ[/]"
    told = ", ".join(f"{ends[end]} {end}" for end in sorted(ends, key=lambda end: (ORDER.get(end, 9), end)))
    console.print(f"\n{len(placed)} orders: {told}     ", verdict, soft_wrap=True)
    for line in wrong:
        console.print(f"[red]wrong[/] {line}")
    api, quick = stack.url("order"), short(placed[1].order_id)
    first = min((one.ended - one.began for one in placed if one.actual == "CONFIRMED"), default=0.0)
    console.print(f"first order confirmed after {first:.2f} s; all of this took {seconds:.1f} s")
    console.print(f"API docs  {api}/docs", soft_wrap=True)
    console.print(f"mail      {stack.url('sandbox')}/mail", soft_wrap=True)
    for one in placed:
        if one.actual == REFUSED:
            console.print(f"resolve   {_resolve(stack, one.order_id)}", soft_wrap=True, markup=False)
    console.print(f"look      quadrille status | trace {quick} | logs --order {quick}", soft_wrap=True)
    console.print("place     quadrille orders place --wait      stop  make down", soft_wrap=True)
    if dev_keys.own(stack):
        console.print("key       quadrille env --secrets, or -H 'Authorization: Bearer …' with what is in")
        console.print(f"          {stack.data / dev_keys.PERSON}", soft_wrap=True, markup=False)
    console.print(CURL.format(api), soft_wrap=True, markup=False)


def _resolve(stack: Stack, order_id: str) -> str:
    """Return the command that ends a refused refund with evidence, as it must be typed here."""
    beside = Path(sys.executable).with_name("quadrille")  # the virtual environment's, when it is not on the path
    name = "quadrille" if shutil.which("quadrille") or not beside.exists() else shlex.quote(os.path.relpath(beside))
    elsewhere = "" if stack.data == paths.data_dir() else f" --data {shlex.quote(str(stack.data))}"
    return f"{name} resolve {short(order_id)} {RESOLVE}{elsewhere}"
