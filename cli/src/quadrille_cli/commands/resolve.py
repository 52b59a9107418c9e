"""`quadrille resolve`: an undo that failed is tried again, or ended with evidence, at the participant that owes it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import echo

from quadrille_cli import complete
from quadrille_cli.client import Client
from quadrille_cli.commands.shared import (
    CONFLICT,
    REFUSED,
    TIMEOUT,
    asked,
    bad,
    order_id,
    reason,
    running,
    the_order,
)
from quadrille_cli.commands.why import parked_here
from quadrille_cli.stack import Stack
from quadrille_cli.terminal import folded

PARTLY = 8
LOOK_SECONDS = 0.1
PARTICIPANTS = ("payment", "inventory")
SAMPLE = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"
EPILOG = f"""\b
Examples:
  quadrille resolve {SAMPLE} --participant payment \\
      --retry --reason 'card reopened'
  quadrille resolve {SAMPLE} --participant payment \\
      --how EXTERNAL --evidence 'transfer 4711' --reason 'card closed'"""
WAYS = ("EXTERNAL", "WRITTEN_OFF")


def command(  # noqa: PLR0913, PLR0917 - one parameter per option
    order: Annotated[str, typer.Argument(metavar="ID", help="The order.", autocompletion=complete.orders)],
    participant: Annotated[str, typer.Option("--participant", help="Who owes the undo: payment or inventory.")],
    why: Annotated[str, typer.Option("--reason", help="Why; kept for ever with the action.")],
    retry: Annotated[bool, typer.Option("--retry", help="Try the undo again.")] = False,  # noqa: FBT002 - a flag
    how: Annotated[str, typer.Option("--how", help="EXTERNAL: undone elsewhere; WRITTEN_OFF: never will be.")] = "",
    evidence: Annotated[str, typer.Option("--evidence", help="What proves it: a receipt, a ticket.")] = "",
    wait: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for the order's end.")] = 30.0,
    data: Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")] = None,
) -> None:
    """Retry the undo an order waits for, or end it with evidence, at the participant that owes it.

    Prints how the order ends. Exit codes: 0 ended, 2 wrong usage, 3 the undo failed again, 4 not ended in time,
    5 unknown there, 6 nothing is owed, or order itself holds something parked (PARKED_HERE) and would not hear of it,
    7 nothing answers, 8 the other participant still owes its undo.
    """
    identity, body = order_id(order), {"reason": reason(why)}
    if participant not in PARTICIPANTS:
        bad("--participant", " or ".join(PARTICIPANTS))
    if retry == bool(how or evidence):
        bad("--retry", "either --retry, or --how with --evidence")
    if not retry:
        body |= _ending(how, evidence)
    stack = running(data, "order-api", f"{participant}-worker", f"{participant}-api")
    identity = the_order(stack, identity)
    if parked_here(stack, identity):
        raise typer.Exit(CONFLICT)
    action = "retry-compensation" if retry else "resolve"
    with asked(stack.url(f"{participant}-worker")) as ops:
        told = ops.demand("POST", f"/ops/orders/{identity}/{action}", body).body
    say(f"{participant}: {told['outcome']}. {told['detail']} (audit row {told['audit_number']})")
    _end(stack, identity, participant, wait)


def say(text: str) -> None:
    """A line of progress, on stderr: stdout has how the order ended, and nothing else."""
    echo("\n".join(folded(text)), err=True)


def _ending(how: str, evidence: str) -> dict[str, str]:
    if how not in WAYS:
        bad("--how", " or ".join(WAYS))
    if not evidence.strip():
        bad("--evidence", "what proves it: nobody can look it up later")
    return {"how": how, "evidence": evidence}


def _end(stack: Stack, identity: str, participant: str, wait: float) -> None:
    """Wait until the order has ended or cannot end by this action, print where it stands, and exit accordingly."""
    deadline = time.monotonic() + wait
    with asked(stack.url("order-api")) as orders, asked(stack.url("payment")) as payments:
        while True:
            document = orders.demand("GET", f"/ops/orders/{identity}").body
            code = 0 if document["final"] else _stays(payments, document, participant)
            if code is not None or time.monotonic() >= deadline:
                break
            time.sleep(LOOK_SECONDS)
    echo("\n".join(folded(line(document))))
    if code is None:
        say(f"not ended after {wait:g} s; it may still: quadrille orders show {identity}")
    elif code:
        failed = ", ".join(f"{f['participant']} ({f['code']})" for f in document["detail"]["failed"])
        say(f"still owed: {failed}; resolve it there, or end it with --how and --evidence")
    if code != 0:
        raise typer.Exit(TIMEOUT if code is None else code)


def _stays(payments: Client, document: dict[str, Any], participant: str) -> int | None:
    """Return the exit code of an order that this action has not ended and will not end; None while it may."""
    owing = {failure["participant"] for failure in document["detail"].get("failed", ())}
    if owing and participant not in owing:
        return PARTLY
    if participant == "payment" and owing:
        found = payments.demand("GET", f"/v1/payments?order_id={document['order_id']}").body["payments"]
        busy = found and (found[0]["intents"] or found[0]["state"] != "REFUND_FAILED")
        return None if busy else REFUSED
    return None


def line(document: dict[str, Any]) -> str:
    """Return an order in one line: id, status, reason, where each participant stands, and the details."""
    parts = [document["order_id"], document["status"], document["reason"] or "", document["attention"] or ""]
    detail = document["detail"]
    parts += [f"inventory {document['inventory']}", f"payment {document['payment']}"]
    parts += ["resolved " + detail["resolved"]["how"]] if "resolved" in detail else []
    parts += [f"{f['participant']} owes: {f['error_class']} {f['code']}" for f in detail.get("failed", ())]
    return "  ".join(part for part in parts if part)
