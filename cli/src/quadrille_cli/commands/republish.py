"""`quadrille republish`: events are sent once more from the outboxes: same bytes, same ids, each key in its order."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from typer import echo

from quadrille_cli import complete, console
from quadrille_cli.client import Client
from quadrille_cli.commands.shared import TIMEOUT, asked, bad, moment, reason, running, the_order
from quadrille_cli.services import SERVICES

LOOK_SECONDS = 0.2
EPILOG = (
    "\b\nExamples:\n"
    "  quadrille republish --since 2d --reason 'payment was away for 8 days'\n"
    "  quadrille republish --order …9cb1 --service inventory --reason 'deleted from the topic by hand'"
)


def command(  # noqa: PLR0913 - one parameter per option
    *,
    since: Annotated[str, typer.Option("--since", help="All since then: 2h (ago), or a time of RFC 3339.")] = "",
    order: Annotated[str, typer.Option("--order", help="All of one order.", autocompletion=complete.orders)] = "",
    why: Annotated[str, typer.Option("--reason", help="Why; kept for ever with the action.")],
    service: Annotated[
        str, typer.Option("--service", help="Only of this service's outbox.", autocompletion=complete.services)
    ] = "",
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait for it to be done.")] = 600.0,
    data: Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")] = None,
) -> None:
    """Send events once more from the outboxes: for consumers that retention overtook, or a Kafka that was lost.

    Same bytes and ids, each key in its order: whoever has handled an event takes no effect from it a second time.
    Nothing new is published meanwhile. An event older than INBOX_WINDOW (7 days) is parked where it is heard. Exit
    code 4: it goes on by itself, and was not done in time.
    """
    if bool(since) == bool(order):
        bad("--since, --order", "one of the two")
    if service and service not in SERVICES:
        bad("--service", ", ".join(SERVICES))
    stack = running(data)
    what = {"since": moment("--since", since)} if since else {"order_id": the_order(stack, order)}
    names = (service,) if service else SERVICES
    waiting: dict[str, str] = {}
    for name in names:
        with asked(stack.url(f"{name}-relay")) as ops:
            told = ops.demand("POST", "/ops/relay/republish", {**what, "reason": reason(why)}).body
        if told["id"] is None:
            echo(f"{name}: its outbox holds none of it")
        else:
            waiting[name] = told["id"]
    deadline = time.monotonic() + timeout
    while waiting:
        for name, identity in list(waiting.items()):
            with asked(stack.url(f"{name}-relay")) as ops:
                done = _done(ops, identity)
            if done is not None:
                echo(f"{name}: {done} events sent once more")
                del waiting[name]
        if waiting and time.monotonic() > deadline:
            console.fail(f"not done yet, and going on: {', '.join(waiting)}\n  fix: quadrille relay status")
            raise typer.Exit(TIMEOUT)
        time.sleep(LOOK_SECONDS if waiting else 0)


def _done(ops: Client, identity: str) -> int | None:
    """Return how many events were sent, None while they are being."""
    told = ops.demand("GET", f"/ops/relay/republish/{identity}").body
    return int(told["rows"]) if told["done"] else None
