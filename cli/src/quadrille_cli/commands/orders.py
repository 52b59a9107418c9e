"""`quadrille orders`: list, get and cancel, as the order API has them; an operator's cancel goes over its ops port."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer
from rich.console import Console
from rich.table import Table
from typer import echo

from quadrille_cli.client import Client
from quadrille_cli.commands.resolve import PARTLY, line
from quadrille_cli.commands.shared import asked, bad, form, order_id, reason, running
from quadrille_cli.commands.why import parked_here

PAGE = 200
WIDE = 152  # columns that show every participant
COLOURS = {"CONFIRMED": "green", "COMPENSATION_FAILED": "red"}
FORMS = ("table", "json", "jsonl")
Data = Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")]
Output = Annotated[str, typer.Option("-o", "--output", help="table, json or jsonl.")]
SAMPLE = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"
LIST = "\b\nExamples:\n  quadrille orders list --status COMPENSATION_FAILED\n  quadrille orders list --limit 5 -o jsonl"
GET = f"\b\nExamples:\n  quadrille orders get {SAMPLE}\n  quadrille orders get {SAMPLE} -o json"
CANCEL = f"""\b
Examples:
  quadrille orders cancel {SAMPLE}
  quadrille orders cancel {SAMPLE} --operator --reason fraud"""

app = typer.Typer(help="Orders: list, get, cancel.", no_args_is_help=True, rich_markup_mode=None, epilog=LIST)


@app.command("list", epilog=LIST)
def list_(  # noqa: PLR0913 - one parameter per option
    status: Annotated[str, typer.Option("--status", help="Only orders of this status.")] = "",
    why: Annotated[str, typer.Option("--reason", help="Only orders cancelled for this reason.")] = "",
    since: Annotated[str, typer.Option("--since", help="Only orders placed after this time (RFC 3339).")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many at most.")] = 50,
    output: Output = "table",
    *,
    data: Data = None,
) -> None:
    """List orders, newest first."""
    form(output, FORMS)
    filters = {"status": status, "reason": why, "placed_after": since}
    with asked(running(data, "order-api").url("order")) as api:
        found = list(_pages(api, {name: value for name, value in filters.items() if value}, limit))
    if output == "json":
        echo(json.dumps(found, indent=2, ensure_ascii=False))
    elif output == "jsonl":
        for one in found:
            echo(json.dumps(one, ensure_ascii=False))
    else:
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = 2 * WIDE
        console.print(_table(found, wide=console.width >= WIDE))


@app.command("get", epilog=GET)
def get(
    order: Annotated[str, typer.Argument(metavar="ID", help="The order.")],
    output: Output = "table",
    *,
    data: Data = None,
) -> None:
    """Show an order as it stands, with every status it passed through."""
    form(output, FORMS)
    identity = order_id(order)
    with asked(running(data, "order-api").url("order")) as api:
        document = api.demand("GET", f"/v1/orders/{identity}").body
    _show(document, output)


@app.command("cancel", epilog=CANCEL)
def cancel(
    order: Annotated[str, typer.Argument(metavar="ID", help="The order.")],
    operator: Annotated[bool, typer.Option("--operator", help="As an operator, not as its customer.")] = False,  # noqa: FBT002 - a flag
    why: Annotated[str, typer.Option("--reason", help="Why an operator does it; kept for ever.")] = "",
    output: Output = "table",
    *,
    data: Data = None,
) -> None:
    """Cancel an order that is not decided yet, or confirmed and before its cut-off.

    Exit code 8: it is cancelled, and what was taken goes back, but order itself holds something parked (PARKED_HERE),
    and cannot end it before that is gone.
    """
    form(output, FORMS)
    identity = order_id(order)
    if bool(why) != operator:
        bad("--reason", "an operator says why, a customer need not: --operator --reason TEXT")
    stack = running(data, "order-api")
    if operator:
        with asked(stack.url("order-api")) as ops:
            ops.demand("POST", f"/ops/orders/{identity}/cancel", {"reason": reason(why)})
        with asked(stack.url("order")) as api:
            document = api.demand("GET", f"/v1/orders/{identity}").body
    else:
        with asked(stack.url("order")) as api:
            document = api.demand("POST", f"/v1/orders/{identity}/cancel").body
    _show(document, output)
    if not document["final"] and parked_here(stack, identity):
        raise typer.Exit(PARTLY)


def _pages(api: Client, filters: dict[str, str], limit: int) -> Iterator[dict[str, Any]]:
    """Yield so many orders at most, a page at a time, following each page's link to the next."""
    path, left = f"/v1/orders?{urlencode({**filters, 'limit': min(limit, PAGE)})}", limit
    while path and left:
        reply = api.demand("GET", path)
        page = reply.body["orders"][:left]
        yield from page
        left -= len(page)
        url = reply.headers.get("link", "").partition("<")[2].partition(">")[0]
        path = url[url.index("/v1/") :] if url else ""


def _table(found: list[dict[str, Any]], *, wide: bool) -> Table:
    """Draw orders; where the screen is narrow, what cannot be left out: which, where it stands, and why."""
    table = Table(box=None, pad_edge=False)
    more = ("inventory", "payment", "customer_id", "placed_at") if wide else ()
    for name in ("order", "status", "reason", *more):
        table.add_column(name.partition("_")[0], no_wrap=True)
    for one in found:
        colour = COLOURS.get(one["status"], "default" if one["final"] else "yellow")
        attention = f" [red]{one['attention']}[/]" if one["attention"] else ""
        status = f"[{colour}]{one['status']}[/]{attention}"
        table.add_row(one["order_id"], status, one["reason"] or "", *(one[name] for name in more))
    return table


def _show(document: dict[str, Any], output: str) -> None:
    if output != "table":
        echo(json.dumps(document, indent=2 if output == "json" else None, ensure_ascii=False))
        return
    echo(line(document))
    for entry in document["history"]:
        echo(f"  {entry['at']}  {entry['status']:<20} {entry['because']}")
