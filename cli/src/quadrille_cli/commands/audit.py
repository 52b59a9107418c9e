"""`quadrille audit`: whether the whole holds, judged from outside; and what was done by hand, by whom and why."""

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
from quadrille_cli.commands.shared import UNREACHABLE, bad, form, moment, order_id, running, the_order, told
from quadrille_cli.commands.stack import FAILED
from quadrille_cli.services import worker_ops
from quadrille_cli.stack import Stack
from quadrille_cli.terminal import ago, table
from quadrille_why.words import short

LIST = "\b\nExamples:\n  quadrille audit list\n  quadrille audit list --service payment --limit 5 -o json"
VERIFY = "\b\nExamples:\n  quadrille audit verify\n  quadrille audit verify --service payment"
RUN = "\b\nExamples:\n  quadrille audit run\n  quadrille audit run --only money --only outbox-on-topic -o json"
WHOLE_ID = 36
Row = Mapping[str, Any]
HELP = "Whether the whole holds; and what was done by hand."
app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode=None, epilog=LIST)


@app.callback()
def _audit() -> None:
    """Whether the whole holds, judged from outside; and what was done by hand, as each service's chain has it."""


@app.command("run", epilog=RUN)
def run(
    only: Annotated[list[str] | None, typer.Option("--only", help="Only this invariant: its name or number.")] = None,
    clients: Annotated[Path | None, typer.Option("--clients", help="What clients sent and saw: JSON lines.")] = None,
    wait: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for what is under way.")] = 60.0,
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
    data: Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")] = None,
) -> None:
    """Audit the whole from outside, by 21 invariants: databases, topics, the processor's ledger, mailbox, logs.

    Nothing is changed. Orders in flight are told, not accused. Exit codes: 0 clean, 1 an invariant is broken, 8
    something could not be read, or did not come to a common moment in the time there was: nothing is said of it.
    """
    form(output)
    from quadrille_auditor import INVARIANTS, lines  # noqa: PLC0415 - Kafka's client and more that others can spare
    from quadrille_cli.auditing import audited  # noqa: PLC0415 - as above

    known = {one.name for one in INVARIANTS.values()} | {str(number) for number in INVARIANTS}
    if strange := [name for name in only or () if name not in known]:
        bad("--only", f"{strange[0]} is no invariant; there are {', '.join(one.name for one in INVARIANTS.values())}")
    stack = running(data)
    report = audited(stack, only or (), clients=clients, logs=stack.logs, wait=wait)
    echo(json.dumps(report.document(), indent=2, ensure_ascii=False) if output == "json" else "\n".join(lines(report)))
    if report.code:
        raise typer.Exit(report.code)


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
    services_told, silent = told_by(stack, names, f"/ops/audit?{query}")
    rows = [row for one in services_told for row in one["actions"]]
    rows = sorted(rows, key=lambda row: str(row["at"]), reverse=True)[:limit]
    none = "nothing was done by hand" + (" that is asked for" if any(list(filters.values())[:-1]) else "")
    shown = "\n".join(_table(rows, wide=output == "wide")) if rows else none
    echo(json.dumps(rows, indent=2, ensure_ascii=False) if output == "json" else shown)
    name_silent(silent)


@app.command("verify", epilog=VERIFY)
def verify(
    service: Annotated[str, typer.Option("--service", help="Only at this service.")] = "",
    data: Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")] = None,
) -> None:
    """Verify each service's chain: every row holds the hash of the one before it; exits 1 when one was changed."""
    names, stack = services(service), running(data)
    chains, silent = told_by(stack, names, "/ops/audit/verify")
    broken = [one for one in chains if one["flaw"]]
    for one in chains:
        echo(f"{one['service']:<14}{one['flaw'] or 'whole'}, {one['actions']} rows")
    if broken:
        raise typer.Exit(FAILED)
    name_silent(silent)


def told_by(stack: Stack, names: Sequence[str], path: str) -> tuple[list[Row], list[str]]:
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


def name_silent(silent: Sequence[str]) -> None:
    """Say who was not asked, and exit accordingly; nothing if everybody was."""
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
