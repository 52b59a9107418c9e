"""`quadrille watch`: what is said of an order, or of all, as it is said; of one order from its beginning on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quadrille_cli import complete
from quadrille_cli.commands import stack as supervisor
from quadrille_cli.commands.events import FACTS, Kind, follow, opened, told
from quadrille_cli.commands.shared import form, order_id, the_order
from quadrille_cli.event_log import Reading, Selection

EPILOG = """\b
Examples:
  quadrille watch
  quadrille watch 01a1fd62-57f0-7eeb-be96-e59ce40f9cb1 --limit 1"""

MOST = 10_000


def command(
    order: Annotated[
        str,
        typer.Argument(
            metavar="[ID]", help="The order, or the end of its id; else all.", autocompletion=complete.orders
        ),
    ] = "",
    kind: Kind = "",
    limit: Annotated[int, typer.Option("--limit", min=0, help="End after so many; 0 is never.")] = 0,
    output: Annotated[str, typer.Option("-o", "--output", help="table or jsonl.")] = "table",
    data: Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")] = None,
) -> None:
    """Print each event as it comes, until Ctrl-C; of an order, what was said of it so far comes first."""
    form(output, ("table", "jsonl"))
    wanted = order_id(order) if order else ""
    try:
        with opened(data) as (stack, log):
            identity = the_order(stack, wanted) if wanted else ""
            ranges, selection = log.ranges(FACTS, None), Selection(FACTS, identity, kind)
            past = log.newest(Reading(ranges), selection, MOST) if identity else []
            shown = told(log, past, output, limit)
            if not limit or shown < limit:
                coming = {place: (upto, upto) for place, (_, upto) in ranges.items()}
                follow(log, selection, coming, output, limit and limit - shown)
    except KeyboardInterrupt:
        raise typer.Exit(supervisor.INTERRUPTED) from None
