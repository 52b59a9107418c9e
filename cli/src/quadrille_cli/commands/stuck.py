"""`quadrille stuck`: which orders wait for whom and what, since when, and why: money that needs a person first."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import echo

from quadrille_cli.commands.shared import asked, bad, form, running
from quadrille_cli.commands.timeouts import suggested
from quadrille_cli.commands.why import why
from quadrille_cli.stack import Stack
from quadrille_cli.terminal import table
from quadrille_why.words import length, moment, short

EPILOG = (
    "\b\nExamples:\n  quadrille stuck\n  quadrille stuck --older-than 10m --group-by error\n  quadrille stuck --suggest"
)
GROUPS = ("step", "service", "error")
ASKED_AT_ONCE = 2
Row = Mapping[str, Any]


def command(  # noqa: PLR0913, PLR0917 - one parameter per option
    older_than: Annotated[str, typer.Option("--older-than", help="All that waits so long: 10m; else the stuck.")] = "",
    group_by: Annotated[str, typer.Option("--group-by", help="Count by step, service or error.")] = "",
    suggest: Annotated[bool, typer.Option("--suggest", help="Propose time-outs: own P99 + 20 %, by step.")] = False,  # noqa: FBT002 - a flag
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many are looked into.")] = 20,
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
    data: Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")] = None,
) -> None:
    """List the orders that wait, who holds each and why, money that needs a person first.

    Each is looked into as `quadrille why` does; the service named is the one that holds it, which may be order itself.
    """
    form(output)
    if group_by and group_by not in GROUPS:
        bad("--group-by", ", ".join(GROUPS))
    stack = running(data, "order-api")
    if suggest:
        suggested(stack, output)
        return
    with asked(stack.url("order-api")) as ops:
        queue = ops.demand("GET", "/ops/stuck" + (f"?older_than={older_than}" if older_than else "")).body
    rows = _looked_into(stack, queue["stuck"][:limit])
    if output == "json":
        echo(json.dumps({"count": queue["count"], "stuck": rows}, indent=2, ensure_ascii=False))
    else:
        echo("\n".join(_groups(rows, group_by) if group_by else _table(rows, queue["count"])))


def _looked_into(stack: Stack, queue: Sequence[Row]) -> list[dict[str, Any]]:
    """Add to each order what `why` finds: the kind of cause, who holds it, what to do."""
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        answers = list(pool.map(lambda row: why(stack, row["order_id"]), queue))
    return [{**row, "why": answer.document()} for row, answer in zip(queue, answers, strict=True)]


def _table(rows: Sequence[Row], count: int) -> Iterator[str]:
    if not rows:
        yield "nothing is stuck; what waits at all: quadrille stuck --older-than 0s"
        return
    now = datetime.now(UTC)
    found = []
    for row in rows:
        since = length(max(0.0, (now - moment(row["since_at"])).total_seconds()))
        holder = row["why"]["waits_for"] or ", ".join(sorted({one["owes"] for one in row["owed"]})) or "nobody"
        cause = str(row["why"]["sentence"]).partition(": ")[2]
        found.append((short(row["order_id"]), holder, since, row["level"] or "–", cause))
    yield from table(("order", "waits for", "since", "level", "why"), found)
    yield f"all of one, and what to do now: quadrille why {short(rows[0]['order_id'])}"
    if count > len(rows):
        yield f"{count - len(rows)} more: --limit {count}"


def _groups(rows: Sequence[Row], by: str) -> Iterator[str]:
    named = {
        "step": lambda row: ", ".join(sorted({one["fact"] for one in row["owed"]})) or "nothing",
        "service": lambda row: row["why"]["waits_for"] or "nobody",
        "error": lambda row: row["why"]["code"],
    }[by]
    yield f"{'orders':>6}  {by}"
    yield from (f"{number:>6}  {name}" for name, number in Counter(map(named, rows)).most_common())
