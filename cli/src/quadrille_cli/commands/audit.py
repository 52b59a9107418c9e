"""`quadrille audit`: what was done by hand, at every service: who, what, on which order, why, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer
from typer import echo

from quadrille_cli import console
from quadrille_cli.client import Client, NoAnswerError, ProblemError
from quadrille_cli.commands.operations import services
from quadrille_cli.commands.shared import UNREACHABLE, form, moment, order_id, running, the_order, told
from quadrille_cli.commands.stack import FAILED
from quadrille_cli.services import worker_ops
from quadrille_cli.stack import Stack
from quadrille_cli.terminal import ago, table
from quadrille_why.words import short

LIST = "\b\nExamples:\n  quadrille audit list\n  quadrille audit list --service payment --limit 5 -o json"
VERIFY = "\b\nExamples:\n  quadrille audit verify\n  quadrille audit verify --service payment"
WHOLE_ID = 36
Row = Mapping[str, Any]
app = typer.Typer(help="What was done by hand.", no_args_is_help=True, rich_markup_mode=None, epilog=LIST)


@app.callback()
def _audit() -> None:
    """What was done by hand, as each service keeps it in its chain."""


@app.command("list", epilog=LIST)
def list_(  # noqa: PLR0913, PLR0917 - one parameter per option
    order: Annotated[str, typer.Option("--order", help="Only about this order: its id or the end of it.")] = "",
    service: Annotated[str, typer.Option("--service", help="Only at this service.")] = "",
    action: Annotated[str, typer.Option("--action", help="Only this: cancel, resolve, parked-discard, …")] = "",
    actor: Annotated[str, typer.Option("--actor", help="Only what he did.")] = "",
    since: Annotated[str, typer.Option("--since", help="Only from then on: 10m ago, or a time.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many at most.")] = 20,
    output: Annotated[str, typer.Option("-o", "--output", help="table, wide or json.")] = "table",
    data: Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")] = None,
) -> None:
    """List what was done by hand, newest first: who, what, why, what came of it; exits 7 when a service is silent."""
    form(output, ("table", "wide", "json"))
    names, stack = services(service), running(data)
    filters = {
        "subject": the_order(stack, order_id(order), "--order") if order else "", "action": action, "actor": actor,
        "since": moment("--since", since) if since else "", "limit": str(limit),
    }  # fmt: skip
    query = urlencode({name: value for name, value in filters.items() if value})
    services_told, silent = _told(stack, names, f"/ops/audit?{query}")
    rows = [row for one in services_told for row in one["actions"]]
    rows = sorted(rows, key=lambda row: str(row["at"]), reverse=True)[:limit]
    none = "nothing was done by hand" + (" that is asked for" if any(list(filters.values())[:-1]) else "")
    shown = "\n".join(_table(rows, wide=output == "wide")) if rows else none
    echo(json.dumps(rows, indent=2, ensure_ascii=False) if output == "json" else shown)
    _name_silent(silent)


@app.command("verify", epilog=VERIFY)
def verify(
    service: Annotated[str, typer.Option("--service", help="Only at this service.")] = "",
    data: Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")] = None,
) -> None:
    """Verify each service's chain: every row holds the hash of the one before it; exits 1 when one was changed."""
    names, stack = services(service), running(data)
    chains, silent = _told(stack, names, "/ops/audit/verify")
    broken = [one for one in chains if one["flaw"]]
    for one in chains:
        echo(f"{one['service']:<14}{one['flaw'] or 'whole'}, {one['actions']} rows")
    if broken:
        raise typer.Exit(FAILED)
    _name_silent(silent)


def _told(stack: Stack, names: Sequence[str], path: str) -> tuple[list[Row], list[str]]:
    """Return what every service tells, by its worker or its api, and the names of those that do not answer."""
    found: list[Row] = []
    silent = []
    for name in names:
        for process in [one for one in (worker_ops(name), f"{name}-api") if one in stack.ports]:
            try:
                with Client(stack.url(process)) as ops:
                    found.append(ops.demand("GET", path).body)
                break
            except NoAnswerError:
                continue
            except ProblemError as refused:
                raise typer.Exit(told(refused)) from None
        else:
            silent.append(name)
    return found, silent


def _name_silent(silent: Sequence[str]) -> None:
    if silent:
        console.fail(f"not asked, for they do not answer: {', '.join(silent)}\n  fix: quadrille up --detach")
        raise typer.Exit(UNREACHABLE)


def _table(rows: Sequence[Row], *, wide: bool) -> Iterator[str]:
    now = datetime.now(UTC)
    found = []
    for row in rows:
        subject = str(row["subject"])
        on = short(subject) if len(subject) == WHOLE_ID else subject
        outcome = (row["after"] or {}).get("outcome")
        why = f"{row['reason']} ({outcome})" if outcome else str(row["reason"])
        found.append((ago(row["at"], now), row["service"], row["actor"], row["action"], on, why))
    yield from table(("ago", "service", "who", "what", "on", "why (outcome)"), found, right=("ago",), wide=wide)
