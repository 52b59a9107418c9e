"""`quadrille timeline`: what was said of an order, as a tree: each event below the one it answers, with its time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import echo

from quadrille_cli import console
from quadrille_cli.commands.events import FACTS, opened
from quadrille_cli.commands.shared import NOT_FOUND, UNREACHABLE, form, order_id, the_order
from quadrille_cli.event_log import Reading, Selection

EPILOG = """\b
Examples:
  quadrille timeline 01a1fd62-57f0-7eeb-be96-e59ce40f9cb1
  quadrille timeline 01a1fd62-57f0-7eeb-be96-e59ce40f9cb1 -o json"""
MOST = 10_000
Document = Mapping[str, Any]


def command(
    order: Annotated[str, typer.Argument(metavar="ID", help="The order, or the end of its id.")],
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
    data: Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")] = None,
) -> None:
    """Print an order's events as a tree of causes, each with its seconds after the first; exit 5 if there is none."""
    form(output)
    wanted = order_id(order)
    with opened(data) as (stack, log):
        identity = the_order(stack, wanted)
        reading = Reading(log.ranges(FACTS, None))
        found = [log.document(message) for message in log.newest(reading, Selection(FACTS, identity), MOST)]
    if output == "json":
        echo(json.dumps(found, indent=2, ensure_ascii=False))
    for line in tree(found) if output == "table" else ():
        echo(line)
    console.fail("\n".join(reading.lines()))
    if not reading.whole:
        raise typer.Exit(UNREACHABLE)
    if not found:
        console.fail(f"nothing was said of order {identity}")
        raise typer.Exit(NOT_FOUND)


def tree(found: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each event, below its cause; what answers none (a command, a timer, a call) begins a tree."""
    if not found:
        return
    began = datetime.fromisoformat(min(str(one["time"]) for one in found))
    known = {one["event_id"] for one in found}
    below: dict[object, list[Document]] = {}
    for one in sorted(found, key=lambda one: (one["time"], one["sequence"] or 0)):
        cause = one["causation_id"]
        below.setdefault(cause if cause in known and cause != one["event_id"] else None, []).append(one)
    waiting, shown = [(one, 0) for one in reversed(below.get(None, []))], set[object]()
    while waiting:
        this, depth = waiting.pop()
        if this["event_id"] in shown:  # the same event lies on its topic twice
            continue
        shown.add(this["event_id"])
        after = (datetime.fromisoformat(this["time"]) - began).total_seconds()
        what = f"{'  ' * depth}{this['type'] or '?'}"
        broken = f"  UNDECODABLE: {this['undecodable']['reason']}" if this.get("undecodable") else ""
        yield f"{after:8.3f} s  {what:<40} {this['topic']}[{this['partition']}]@{this['offset']}{broken}"
        waiting += [(answer, depth + 1) for answer in reversed(below.get(this["event_id"], []))]
