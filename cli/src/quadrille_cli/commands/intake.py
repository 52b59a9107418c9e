"""`quadrille intake`: whether new orders are taken; an operator pauses that for a while, and resumes it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from typer import echo

from quadrille_cli import console
from quadrille_cli.client import Client
from quadrille_cli.commands.shared import CONFLICT, TIMEOUT, asked, reason, running
from quadrille_cli.terminal import ago

Data = Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")]
Why = Annotated[str, typer.Option("--reason", help="Why; kept for ever with the action.")]
LOOK_SECONDS, PATIENCE_SECONDS = 0.1, 20.0
SHOW = "\b\nExamples:\n  quadrille intake show\n  quadrille intake resume --reason 'stocktaking is over'"
PAUSE = "\b\nExamples:\n  quadrille intake pause --reason stocktaking\n  quadrille intake show"
app = typer.Typer(help="New orders: shown, paused, resumed.", no_args_is_help=True, rich_markup_mode=None, epilog=SHOW)


@app.command("show", epilog=SHOW)
def show(*, data: Data = None) -> None:
    """Say whether new orders are taken, and since when."""
    with asked(running(data, "order-api").url("order-api")) as ops:
        told = ops.demand("GET", "/ops/intake").body
    since = f" for {ago(told['since'])}, since {told['since']}" if told["since"] else ""
    echo(f"{told['intake']}{since}" + (f": {told['cause']}" if told["cause"] else ""))
    if detail := told.get("detail"):
        echo(f"  {detail}; it opens by itself when there is room")


@app.command("pause", epilog=PAUSE)
def pause(why: Why, *, data: Data = None) -> None:
    """Take no new orders until they are resumed; what is under way goes on.

    Done when order's api refuses them. Exit code 4: it is noted, and the api has not said so within 20 s.
    """
    _turn("pause", why, data)


@app.command("resume", epilog=SHOW)
def resume(why: Why, *, data: Data = None) -> None:
    """Take new orders again; done when order's api takes them.

    Refused while the disk of order's database is filling: it opens by itself when there is room.
    """
    _turn("resume", why, data)


def _turn(verb: str, why: str, data: Path | None) -> None:
    text = reason(why)
    with asked(running(data, "order-api").url("order-api")) as ops:
        told = ops.demand("POST", f"/ops/intake/{verb}", {"reason": text}).body
        heeded = _heeded(ops, told["intake"])
    if not heeded:
        console.fail(f"noted as {told['intake']}, but order-api has not said that it heeds it\n  fix: quadrille status")
        raise typer.Exit(TIMEOUT)
    echo(f"{told['intake']}, it was {told['before']} before")
    if told["intake"] == "GUARDED":
        console.fail("resumed, and the disk guard holds: no orders are taken yet\n  fix: quadrille intake show")
        raise typer.Exit(CONFLICT)


def _heeded(ops: Client, wanted: str) -> bool:
    """Wait until the api acts by it, or by what came after it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (told := ops.demand("GET", "/ops/intake").body)["here"] != wanted and told["intake"] == wanted:
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_SECONDS)
    return True
