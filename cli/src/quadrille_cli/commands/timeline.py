"""`quadrille timeline`: what was said of an order, as a tree: each event below the one it answers, with its time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import echo

from quadrille_cli import complete, console
from quadrille_cli.commands.events import FACTS, opened
from quadrille_cli.commands.shared import NOT_FOUND, UNREACHABLE, form, order_id, the_order
from quadrille_cli.event_log import Reading, Selection

EPILOG = """\b
Examples:
  quadrille timeline 01a1fd62-57f0-7eeb-be96-e59ce40f9cb1
  quadrille timeline 01a1fd62-57f0-7eeb-be96-e59ce40f9cb1 --mermaid"""
MOST = 10_000
FAILED = re.compile(r"(failed|rejected|declined|unknown|stuck|parked|dead)$")
"""How the type of an event ends that tells of a failure."""
Document = Mapping[str, Any]


def command(
    order: Annotated[
        str, typer.Argument(metavar="ID", help="The order, or the end of its id.", autocompletion=complete.orders)
    ],
    failed: Annotated[bool, typer.Option("--failed", help="Only what failed, and what led to it.")] = False,  # noqa: FBT002 - a flag
    mermaid: Annotated[bool, typer.Option("--mermaid", help="As a sequence diagram for Mermaid.")] = False,  # noqa: FBT002 - as above
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
    data: Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")] = None,
) -> None:
    """Print an order's events as a tree of causes, each with its seconds after the first; exit 5 if there is none."""
    form(output)
    wanted = order_id(order)
    with opened(data) as (stack, log):
        identity = the_order(stack, wanted)
        topics = (*FACTS, "ops.events") if failed else FACTS  # what operators are told of an order: what was parked
        reading = Reading(log.ranges(topics, None))
        every = [log.document(message) for message in log.newest(reading, Selection(topics, identity), MOST)]
    found = failing(every) if failed else every
    if output == "json":
        echo(json.dumps(found, indent=2, ensure_ascii=False))
    for line in (sequence(found) if mermaid else tree(found)) if output == "table" else ():
        echo(line)
    console.fail("\n".join(reading.lines()))
    if not reading.whole:
        raise typer.Exit(UNREACHABLE)
    if every and not found:
        console.fail(f"nothing of order {identity} failed: {len(every)} events")
    if not every:
        console.fail(f"nothing was said of order {identity}")
        raise typer.Exit(NOT_FOUND)


def failing(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events that tell of a failure, and those each came of, as they were said."""
    by_id = {one["event_id"]: one for one in found}
    kept = set[object]()
    for one in found:
        if one.get("undecodable") or FAILED.search(str(one["type"] or "")):
            this: Document | None = one
            while this is not None and this["event_id"] not in kept:
                kept.add(this["event_id"])
                this = by_id.get(this["causation_id"])
    return [one for one in found if one["event_id"] in kept]


def sequence(found: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a sequence diagram in Mermaid's words: each event from its service to those that answered it."""
    if not found:
        return
    events = sorted(found, key=lambda one: (one["time"], one["sequence"] or 0))
    began = datetime.fromisoformat(str(events[0]["time"]))
    yield "sequenceDiagram"
    yield from (f"    participant {name}" for name in dict.fromkeys(_service(one) for one in events))
    for one in events:
        after = (datetime.fromisoformat(str(one["time"])) - began).total_seconds()
        mine, said = _service(one), f"{one['type'] or 'unreadable'} ({after:.3f} s)"
        hearers = {_service(answer) for answer in events if answer["causation_id"] == one["event_id"]} - {mine}
        yield from (f"    {mine}->>{hearer}: {said}" for hearer in sorted(hearers))
        if not hearers:
            yield f"    Note over {mine}: {said}"


def _service(one: Document) -> str:
    """Return who said an event, by its source; of one that has none, by its topic."""
    return re.sub(r"\W", "_", str(one["source"] or "").rpartition("/")[2] or str(one["topic"]).partition(".")[0])


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
        yield f"{after:8.3f} s  {what:<36} {this['topic']}[{this['partition']}]@{this['offset']}"
        if this.get("undecodable"):
            yield f"{'':12}{'  ' * depth}UNDECODABLE: {this['undecodable']['reason']}"
        waiting += [(answer, depth + 1) for answer in reversed(below.get(this["event_id"], []))]
