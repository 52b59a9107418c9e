"""`quadrille relay`: how each service's relay stands: its slot, what PostgreSQL keeps for it, how old its news is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import echo

from quadrille_cli import complete, console
from quadrille_cli.client import Client, NoAnswerError, ProblemError
from quadrille_cli.commands.shared import UNREACHABLE, bad, form, running
from quadrille_cli.services import SERVICES
from quadrille_cli.terminal import age, table

STATUS = "\b\nExamples:\n  quadrille relay status\n  quadrille relay status --service payment -o json"
FAILED = 1
WELL = ("streaming", "standby")
UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))
Document = Mapping[str, Any]
app = typer.Typer(help="Relays of the services: status.", no_args_is_help=True, rich_markup_mode=None, epilog=STATUS)


@app.callback()
def _all() -> None:
    """Relays of the services: how each stands."""


@app.command("status", epilog=STATUS)
def status(
    service: Annotated[
        str, typer.Option("--service", help="Only this service's.", autocompletion=complete.services)
    ] = "",
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
    data: Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")] = None,
) -> None:
    """Tell of each relay what it does, its slot, the WAL kept for it, and how old what it published last is.

    A beat is said every two seconds: one whose canary is much older publishes nothing. Exit codes: 0 all stream, 1 one
    waits or has no slot, 7 one does not answer.
    """
    form(output)
    if service and service not in SERVICES:
        bad("--service", ", ".join(SERVICES))
    stack = running(data)
    found: list[Document] = []
    silent: dict[str, str] = {}
    for name in (service,) if service else SERVICES:
        try:
            with Client(stack.url(f"{name}-relay")) as ops:
                found.append(ops.demand("GET", "/ops/relay").body)
        except NoAnswerError:
            silent[name] = f"{name}-relay does not answer\n  fix: quadrille start {name}-relay"
        except ProblemError:
            silent[name] = f"{name}-relay cannot ask its database\n  fix: quadrille start postgres:{name}"
    echo(json.dumps(found, indent=2, ensure_ascii=False) if output == "json" else "\n".join(_table(found)))
    for why in silent.values():
        console.fail(why)
    if silent:
        raise typer.Exit(UNREACHABLE)
    if any(one["state"] not in WELL or one["slot"] is None for one in found):
        raise typer.Exit(FAILED)


def _table(found: list[Document]) -> Iterator[str]:
    rows = [
        (
            one["service"], one["state"], one["slot"]["wal_status"] if one["slot"] else "no slot",
            _size(one["slot"]["wal_kept_bytes"]) if one["slot"] else "–", _size(one["behind_bytes"]),
            "–" if one["canary_age_seconds"] is None else age(max(0.0, one["canary_age_seconds"])),
            str(one["recoveries"]), one["trouble"] or one["rescan"] or "",
        )
        for one in found
    ]  # fmt: skip
    head = ("service", "state", "slot", "WAL kept", "behind", "canary", "recoveries", "note")
    return table(head, rows, right=head[3:7])


def _size(count: int | None) -> str:
    """Return bytes as people read them; nothing where nobody knows."""
    if count is None:
        return "–"
    return next((f"{count / size:.1f} {unit}" for unit, size in UNITS if count >= size), f"{count} B")
