"""`quadrille trace`: an order's trace as a waterfall with its waits, as the console keeps it; exported as OTLP JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import echo

from quadrille_cli import complete, console
from quadrille_cli.client import Client
from quadrille_cli.commands.shared import asked, bad, form, order_id, running, the_order
from quadrille_cli.otlp_json import otlp_json
from quadrille_cli.services import CONSOLE
from quadrille_cli.stack import Stack
from quadrille_cli.terminal import ago, short, table, width
from quadrille_cli.waterfall import waterfall

SAMPLE = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"
EPILOG = f"\b\nExamples:\n  quadrille trace {SAMPLE}\n  quadrille trace --limit 5"
PAGE = 200
TRACE_ID = re.compile(r"[0-9a-f]{32}")
Document = Mapping[str, Any]


def command(  # noqa: PLR0913, PLR0917 - one parameter per option
    name: Annotated[
        str,
        typer.Argument(
            metavar="[ID]", help="An order, the end of its id, or a trace's id.", autocompletion=complete.orders
        ),
    ] = "",
    export: Annotated[Path | None, typer.Option("--export", help="Write it to this file as OTLP JSON.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Statements of databases and connections too.")] = False,  # noqa: FBT002 - a flag
    output: Annotated[str, typer.Option("-o", "--output", help="table, wide or json.")] = "table",
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Without ID: how many are listed.")] = 20,
    data: Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")] = None,
) -> None:
    """Draw an order's trace: each span below what it came of, and what it waited for before; without ID list the last.

    outbox: said, not committed; relay: committed, not sent; broker: sent, not acknowledged; queue: there, not begun;
    handler: worked on; retry: between two tries; parked: set aside. What is exported, Jaeger and collectors take.
    Exit codes: 0 drawn, 2 wrong usage, 5 unknown, or no span of it is kept, 7 console or order does not answer.
    """
    form(output, ("table", "wide", "json"))
    if not name:
        if export is not None or every:
            bad("ID", "the trace that --export and --all are about")
        _list(running(data, CONSOLE), output, limit)
        return
    wanted = order_id(name)
    if export is not None and (export.is_dir() or not export.absolute().parent.is_dir()):
        bad("--export", f"a file in a directory that is there, such as trace.json; not {export}")
    stack = running(data, CONSOLE)
    with asked(stack.url(CONSOLE)) as api:
        trace: Document = api.demand("GET", f"/v1/traces/{_trace_of(stack, wanted)}").body
    if export is not None:
        _write(export, trace)
    elif output == "json":
        echo(json.dumps(trace, indent=2, ensure_ascii=False))
    else:
        echo("\n".join(waterfall(trace, width() if output == "table" else max(160, width()), every=every)))
    for text in trace["missing"]:
        console.fail(f"not complete: {text}\n  fix: ask again when it has ended")


def _list(stack: Stack, output: str, limit: int) -> None:
    """Print the traces that were heard of last, and whether there are more."""
    with asked(stack.url(CONSOLE)) as api:
        found = list(_pages(api, limit + 1))
    shown = found[:limit]
    if output == "json":
        echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    wide = output == "wide"
    rows = [
        (one["trace_id"] if wide else short(one["trace_id"]),
         "–" if one["order_id"] is None else one["order_id"] if wide else short(one["order_id"]),
         ago(one["began_at"]), f"{one['took_ms'] / 1000:.3f} s", str(one["spans"]), str(one["errors"]), one["first"])
        for one in shown
    ]  # fmt: skip
    head = ("trace", "order", "began", "took", "spans", "errors", "first")
    echo("\n".join(table(head, rows, right=("began", "took", "spans", "errors"), wide=wide)))
    echo(
        f"the newest {len(shown)}; there are more: --limit"
        if len(found) > limit
        else f"{len(shown)}, all that are kept"
    )


def _pages(api: Client, limit: int) -> Iterator[Document]:
    """Yield so many traces at most, a page at a time."""
    cursor = ""
    while limit > 0:
        page = api.demand("GET", f"/v1/traces?limit={min(limit, PAGE)}{cursor}").body
        yield from page["traces"]
        limit -= len(page["traces"])
        if page["next"] is None:
            return
        cursor = f"&cursor={page['next']}"


def _trace_of(stack: Stack, wanted: str) -> str:
    """Return the id of the trace that is meant; one of an order is asked of order."""
    if TRACE_ID.fullmatch(wanted.lower()):
        return wanted.lower()
    with asked(stack.url("order-api")) as ops:
        identity = the_order(stack, wanted)
        return str(ops.demand("GET", f"/ops/orders/{identity}").body["trace_id"])


def _write(file: Path, trace: Document) -> None:
    try:
        file.write_text(json.dumps(otlp_json(trace), indent=1) + "\n", encoding="utf-8")
    except OSError as refused:
        bad("--export", f"a file that can be written: {file}: {refused.strerror}")
    echo(f"{len(trace['spans'])} spans of trace {trace['trace_id']} written to {file}")
    echo("it is OTLP JSON: POST it to /v1/traces of Jaeger or a collector (port 4318)")
