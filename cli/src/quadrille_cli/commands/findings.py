"""`quadrille findings`: on what the services do not agree about orders, where that can be seen, and its repair."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import echo

from quadrille_cli import console
from quadrille_cli.commands.shared import CONFLICT, UNREACHABLE, an_id, asked, form, named, reason, running
from quadrille_cli.services import CONSOLE
from quadrille_cli.stack import Stack
from quadrille_cli.terminal import ago, folded, short, table

SAMPLE = "0f6e0f0e-6b5c-4f0e-9d55-6f4f2f0f6a01"
LIST = "\b\nExamples:\n  quadrille findings list\n  quadrille findings list --closed -o json"
SHOW = f"\b\nExamples:\n  quadrille findings show {SAMPLE}\n  quadrille findings show {SAMPLE[-8:]}"
REPAIR = f"\b\nExamples:\n  quadrille findings repair {SAMPLE} \\\n      --reason 'the row was lost with the disk'"
PAGE = 200
FAILED = 1
HELP = "On what the services do not agree about orders."
Row = Mapping[str, Any]
app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode=None, epilog=LIST)
Data = Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")]
Output = Annotated[str, typer.Option("-o", "--output", help="table or json.")]
Identity = Annotated[str, typer.Argument(metavar="ID", help="The finding: its id or the end of it.")]


@app.callback()
def _findings() -> None:
    """On what the services do not agree about orders, as the reconciler in the console finds it every minute."""


@app.command("list", epilog=LIST)
def list_(
    *,
    closed: Annotated[bool, typer.Option("--closed", help="What is so no more, too.")] = False,
    output: Output = "table",
    data: Data = None,
) -> None:
    """List what is found and still so, newest first, and how the last round went; exits 1 when there is anything."""
    form(output)
    page = _page(running(data, CONSOLE), closed=closed)
    if output == "json":
        echo(json.dumps(page, indent=2, ensure_ascii=False))
    else:
        echo("\n".join(_lines(page)))
    if any(one["closed_at"] is None for one in page["findings"]):
        raise typer.Exit(FAILED)


@app.command("show", epilog=SHOW)
def show(identity: Identity, output: Output = "table", data: Data = None) -> None:
    """Show a finding with its evidence, and how it is now: its order is looked at anew in every service."""
    form(output)
    stack = running(data, CONSOLE)
    found = _looked_at(stack, _named(stack, identity))
    echo(json.dumps(found, indent=2, ensure_ascii=False) if output == "json" else "\n".join(_shown(found)))


@app.command("repair", epilog=REPAIR)
def repair(
    identity: Identity,
    why: Annotated[str, typer.Option("--reason", help="Why; kept for ever with the action.")],
    data: Data = None,
) -> None:
    """Repair what is found: a service hears again, under a new id, the event whose effect is not there.

    Nothing is written by hand: the event goes through its handler like any input, and its rules decide. Exit codes:
    0 done, 5 unknown, 6 refused with nothing changed: it is so no more (NOT_NEEDED), something of the order is under
    way (MOVING), no event mends it (NOT_REPAIRABLE), or its handler would not; 7 somebody who must be asked is away.
    """
    reason(why)
    stack = running(data, CONSOLE)
    found = _looked_at(stack, _named(stack, identity))
    call = found["repair"]
    if call is None:
        _refused(found)
    with asked(stack.url(call["process"])) as ops:
        told = ops.demand("POST", call["path"], call["body"] | {"reason": why}).body
    said = f", which said {', '.join(told['said'])}" if told["said"] else ""
    done = f"{call['process'].removesuffix('-worker')} has heard {told['event']} of {found['order_id']} again{said}"
    echo("\n".join(folded(f"{done} (audit row {told['audit_number']})")))
    echo("the finding closes itself with a later round: quadrille findings list")


def _refused(found: Row) -> None:
    rule, words = {
        "GONE": ("NOT_NEEDED", "It is so no more; it closes itself with the next round."),
        "MOVING": ("MOVING", f"Something of its order is under way: {found['why']}"),
        "OPEN": ("NOT_REPAIRABLE", str(found["why"])),
    }.get(found["now"], ("UNKNOWN", str(found["why"])))
    console.fail("\n".join(folded(f"not repaired, nothing changed ({rule}): {words}", "  ")))
    raise typer.Exit(UNREACHABLE if rule == "UNKNOWN" else CONFLICT)


def _named(stack: Stack, text: str) -> str:
    wanted = an_id("ID", text, "a finding")
    known = [one["finding_id"] for one in _page(stack, closed=True)["findings"]]
    return named("ID", wanted, known, "a finding")


def _looked_at(stack: Stack, finding_id: str) -> dict[str, Any]:
    with asked(stack.url(CONSOLE)) as api:
        found: dict[str, Any] = api.demand("GET", f"/v1/findings/{finding_id}").body
    return found


def _page(stack: Stack, *, closed: bool) -> dict[str, Any]:
    """Return all findings as one page."""
    found: list[Row] = []
    cursor, query = "", f"?limit={PAGE}&closed={str(closed).lower()}"
    with asked(stack.url(CONSOLE)) as api:
        while True:
            page: dict[str, Any] = api.demand("GET", f"/v1/findings{query}{cursor}").body
            found += page["findings"]
            if page["next"] is None:
                return page | {"findings": found}
            cursor = f"&cursor={page['next']}"


def _lines(page: Row) -> Iterator[str]:
    rows = [
        (ago(one["raised_at"]), short(one["finding_id"]), one["kind"], short(one["order_id"]), _state(one),
         f"expected {one['expected']}; found {one['found']}")
        for one in page["findings"]
    ]  # fmt: skip
    if rows:
        yield from table(("ago", "finding", "kind", "order", "state", "what"), rows, right=("ago",))
    else:
        yield "nothing is found"
    last = page["round"]
    if last is None:
        yield "no round was held yet: the first comes within QUADRILLE_RECONCILE_EVERY of the console's start"
    elif last["outcome"] == "JUDGED":
        yield f"last round {ago(last['at'])} ago: {last['judged']} orders judged, {last['moving']} under way"
    else:
        yield f"the last round, {ago(last['at'])} ago, judged nothing ({last['outcome']}): {last['detail']}"


def _state(one: Row) -> str:
    return "closed" if one["closed_at"] else "repairable" if one["repairable"] else "for a person"


def _shown(found: Row) -> Iterator[str]:
    yield f"{found['finding_id']}  {found['kind']}  order {found['order_id']}"
    yield f"  expected  {found['expected']}"
    yield f"  found     {found['found']}"
    closed = f", closed {found['closed_at']}" if found["closed_at"] else ""
    yield f"  since     {found['raised_at']}{closed}; said on ops.events: {'yes' if found['said'] else 'not yet'}"
    yield from (f"  evidence  {line}" for line in found["evidence"])
    yield f"  now       {found['now']}{': ' + found['why'] if found['why'] else ''}"
    if found["repair"]:
        yield f"  repair    quadrille findings repair {short(found['finding_id']).lstrip('…')} --reason TEXT"
