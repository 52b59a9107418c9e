"""`quadrille watch`: what is said of an order, or of all, as it is said; of one order from its beginning on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from typer import echo

from quadrille_cli import complete
from quadrille_cli.commands import stack as supervisor
from quadrille_cli.commands.events import FACTS, Kind, follow, opened, told
from quadrille_cli.commands.shared import Key, OrderApi, Url, asked, form, order_api, order_id, the_order
from quadrille_cli.event_log import Reading, Selection
from quadrille_cli.order_stream import changes
from quadrille_cli.terminal import short

EPILOG = """\b
Examples:
  quadrille watch
  quadrille watch 01a1fd62-57f0-7eeb-be96-e59ce40f9cb1 --limit 1"""

MOST = 10_000


def command(  # noqa: PLR0913, PLR0917 - one parameter per option
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
    url: Url = "",
    key: Key = "",
) -> None:
    """Print each event as it comes, until Ctrl-C; of an order, what was said of it so far comes first.

    Of an order API elsewhere, each change of status of your orders.
    """
    form(output, ("table", "jsonl"))
    wanted = order_id(order) if order else ""
    try:
        if url and data is None:
            _watch(order_api(None, url, key), wanted, kind, limit, output)
            return
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


def _watch(there: OrderApi, wanted: str, kind: str, limit: int, output: str) -> None:
    """Print the changes of orders of an API elsewhere, so many at most if a number is given."""
    number = 0
    with asked(there.url):
        for one in changes(there.url, there.named(wanted) if wanted else ""):
            if not one["type"].startswith(kind):
                continue
            number += 1
            if output == "jsonl":
                echo(json.dumps(one, ensure_ascii=False))
            else:
                echo(
                    f"{one['at']}  {one['type']:<28}  {short(one['order_id'])}  {one['sequence']:>2}  {one['because']}"
                )
            if number == limit:
                return
