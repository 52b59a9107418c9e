"""`quadrille audit-log`: whether what was done by hand is still written down as it was, by chains and their seals."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import echo

from quadrille_cli import console
from quadrille_cli.commands.audit import name_silent, told_by
from quadrille_cli.commands.operations import services
from quadrille_cli.commands.shared import form, running
from quadrille_cli.commands.stack import FAILED
from quadrille_cli.stack import Stack
from quadrille_cli.terminal import folded

VERIFY = "\b\nExamples:\n  quadrille audit-log verify\n  quadrille audit-log verify --service payment -o json"
HELP = "Whether what was done by hand is still written down as it was."
SEALED, TOPIC = "audit.sealed", "ops.events"
PARTLY, AT_ONCE = 8, 100
Row = Mapping[str, Any]
app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode=None, epilog=VERIFY)


@app.callback()
def _audit_log() -> None:
    """Whether what was done by hand is still written down as it was: chains of hashes, held against their seals."""


@app.command("verify", epilog=VERIFY)
def verify(
    service: Annotated[str, typer.Option("--service", help="Only at this service.")] = "",
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
    data: Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")] = None,
) -> None:
    """Verify each service's chain, and that every head it once had, as sealed on `ops.events`, is still a row of it.

    A row that was changed or is missing breaks the chain; a chain that was written anew, or whose end was cut off, has
    lost a head. Exit codes: 0 whole, 1 a chain is not, 7 a service does not answer, 8 the seals could not be read.
    """
    form(output)
    names, stack = services(service), running(data)
    heads = _heads(stack)
    told, silent = [], []
    for name in names:
        found, away = _verified(stack, name, heads.get(name, ()) if heads is not None else ())
        told += found
        silent += away
    if output == "json":
        echo(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        echo("\n".join(line for one in told for line in _lines(one)))
    if any(one["flaw"] or one["strange"] for one in told):
        raise typer.Exit(FAILED)
    name_silent(silent)
    if heads is None:
        console.fail(f"the seals on {TOPIC} could not be read: an end that was cut off would not show")
        raise typer.Exit(PARTLY)


def _verified(stack: Stack, name: str, heads: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return what a service tells of its chain and of its heads, or that it is silent."""
    chunks = [heads[n : n + AT_ONCE] for n in range(0, len(heads), AT_ONCE)] or [()]
    made: dict[str, Any] = {}
    for chunk in chunks:
        found, silent = told_by(stack, [name], "/ops/audit/verify" + (f"?heads={','.join(chunk)}" if chunk else ""))
        if silent:
            return [], silent
        told = dict(found[0])
        made = {**told, "strange": [*made.get("strange", ()), *told.get("strange", ())]}
    return [made | {"seals": len(heads)}], []


def _heads(stack: Stack) -> dict[str, list[str]] | None:
    """Return the heads that each service has said, oldest first; None where they cannot be read."""
    from confluent_kafka import KafkaException  # noqa: PLC0415 - Kafka's client, which a help page can spare

    from quadrille_cli.event_log import EventLog, NoTopicError, Reading, Selection, moment  # noqa: PLC0415 - as above

    log = EventLog(stack)
    try:
        reading = Reading(log.ranges([TOPIC], None))
        records = sorted(log.read(reading, Selection([TOPIC], kind=SEALED)), key=moment)
        found = [log.document(record)["body"] for record in records]
    except (KafkaException, TimeoutError, NoTopicError):
        return None
    if not reading.whole or None in found:
        return None
    heads: defaultdict[str, list[str]] = defaultdict(list)
    for body in found:
        if body["head"] not in heads[body["service"]]:
            heads[body["service"]].append(body["head"])
    return heads


def _lines(one: Row) -> Iterator[str]:
    lost = f"{len(one['strange'])} of its {one['seals']} seals are no row's any more, the first {one['strange'][:1]}"
    state = one["flaw"] or (lost if one["strange"] else "whole")
    yield from folded(f"{one['service']:<14}{state}, {one['actions']} rows, {one['seals']} seals", " " * 14)
