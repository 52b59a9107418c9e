"""`quadrille why`: why an order waits, or how it ended, in one sentence with its evidence from every service."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import echo

from quadrille_cli import complete
from quadrille_cli.commands.shared import NOT_FOUND, UNREACHABLE, form, order_id, running, the_order
from quadrille_cli.console import fail
from quadrille_cli.explain import tell
from quadrille_cli.stack import Stack
from quadrille_cli.terminal import width
from quadrille_why import Answer, Fetch, explain, gather, in_the_way, over_http
from quadrille_why.answer import Line

SAMPLE = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"
EPILOG = f"\b\nExamples:\n  quadrille why {SAMPLE}\n  quadrille why {SAMPLE[-12:]} -o json"
SURE_SECONDS = 5.0
"""How long a command asks what stands in its way: it is not to say done because a service was slow."""
TOLD = ("parked", "error", "behind")
CODES = {"UNKNOWN": NOT_FOUND, "INTAKE_SHUT": NOT_FOUND, "ORDER_AWAY": UNREACHABLE}


def command(
    order: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="Its id, the last 4 characters or more, its reference.", autocompletion=complete.orders
        ),
    ],
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
    data: Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")] = None,
) -> None:
    """Say why an order waits, or how it ended: one sentence, the evidence of every service, what to do now.

    Whoever waits is asked first whether it holds the thing itself. Whatever does not answer is named. Exit codes: 0
    told, 2 several orders are meant, 5 nobody knows it, 7 order itself does not answer.
    """
    form(output)
    named = order_id(order)
    stack = running(data)
    answer = why(stack, the_order(stack, named))
    shown = "\n".join(answer.shown(width()))
    echo(json.dumps(answer.document(), indent=2, ensure_ascii=False) if output == "json" else shown)
    if code := CODES.get(answer.code):
        raise typer.Exit(code)


def why(stack: Stack, order_id: str) -> Answer:
    """Return why an order of a stack waits."""
    return explain(gather(_fetch(stack), order_id))


def parked_here(stack: Stack, order_id: str) -> bool:
    """Tell whether order itself holds something parked that stands in the way of whatever is done; then says so."""
    held = in_the_way(gather(_fetch(stack), order_id, SURE_SECONDS))
    if held is not None:
        fail("\n".join(textwrap.wrap(f"PARKED_HERE: {held.sentence}", width(), break_on_hyphens=False)))
        fix = Line("fix:", held.command)
        fail("\n".join(line.shown(width()) for line in (*(one for one in held.lines if one.label in TOLD), fix)))
    return held is not None


def _fetch(stack: Stack) -> Fetch:
    """Return the way to ask; what is asked is told where `--explain` wants it."""
    fetch = over_http(stack.url)

    def told(process: str, path: str, seconds: float) -> tuple[int, Any]:
        if process in stack.ports:
            tell("GET", f"{stack.url(process)}{path}")
        return fetch(process, path, seconds)

    return told
