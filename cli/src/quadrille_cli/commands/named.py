"""Which order is meant: its id, a suffix of at least four characters that no other order has, a reference, a trace."""

from __future__ import annotations

import re
from urllib.parse import quote

import typer

from quadrille_cli import console
from quadrille_cli.commands.shared import NOT_FOUND, USAGE, asked, bad
from quadrille_cli.stack import Stack

LEAST = 4
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def order_named(stack: Stack, text: str) -> str:
    """Return the id of the order meant; says what else it may mean, and exits 5 when none is, 2 when several are.

    A whole id needs nobody to be asked: it is taken as it is, known or not.
    """
    text = text.strip().removeprefix("…")
    if _ID.fullmatch(text.lower()):
        return text.lower()
    if len(text) < LEAST:
        bad("ID", f"an order's id, its last {LEAST} characters or more, or its reference")
    with asked(stack.url("order-api")) as ops:
        found = ops.demand("GET", f"/ops/names?name={quote(text)}").body["orders"]
    if not found:
        console.fail(f"no order's id ends in {text}, and none has it as its reference or trace")
        raise typer.Exit(NOT_FOUND)
    if len(found) > 1:
        listed = "\n".join(f"  {one['order_id']}  {one['status']}  {one['reference'] or ''}".rstrip() for one in found)
        console.fail(f"{text} may be any of these: say more of the id\n{listed}")
        raise typer.Exit(USAGE)
    return str(found[0]["order_id"])
