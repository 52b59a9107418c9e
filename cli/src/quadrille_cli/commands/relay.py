"""`quadrille relay`: how each service's relay stands; a refused row is buried, a restored database goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import echo

from quadrille_cli import complete, console
from quadrille_cli.client import Client, NoAnswerError, ProblemError
from quadrille_cli.commands.shared import NOT_FOUND, TIMEOUT, UNREACHABLE, asked, bad, form, reason, running, whole_id
from quadrille_cli.services import SERVICES
from quadrille_cli.stack import Stack
from quadrille_cli.terminal import age, table

STATUS = "\b\nExamples:\n  quadrille relay status\n  quadrille relay status --service payment -o json"
FAILED = 1
LOOK_SECONDS = 0.2
WELL = ("streaming", "standby")
UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))
Document = Mapping[str, Any]
Data = Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")]
Why = Annotated[str, typer.Option("--reason", help="Why; kept for ever with the action.")]
SAMPLE = "01a1fd6b-57f0-7eeb-be96-e59ce40f9cb1"
BURY = (
    "\b\nExamples:\n"
    f"  quadrille relay bury {SAMPLE} --reason 'the order was cancelled by phone'\n"
    f"  quadrille relay bury {SAMPLE} --service payment --reason 'written by a script'"
)
RESTORE = (
    "\b\nExamples:\n  quadrille relay restore\n"
    "  quadrille relay restore --service payment --read-back --reason 'backup of 3 o clock'\n"
    "  quadrille relay restore --service payment --declare-loss --reason 'a test system'"
)
app = typer.Typer(
    help="Relays of the services: status, bury, restore.", no_args_is_help=True, rich_markup_mode=None, epilog=STATUS
)


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


@app.command("bury", epilog=BURY)
def bury(
    identity: Annotated[str, typer.Argument(metavar="ID", help="The row's id, as `quadrille relay status` names it.")],
    why: Why,
    *,
    service: Annotated[str, typer.Option("--service", help="Whose; asked of all without it.")] = "",
    data: Data = None,
) -> None:
    """Let a row go that Kafka refuses: it is never published, and those behind it of its key go on.

    It stays in the outbox until its day goes. That it is buried, by whom and why, is told on ops.events and kept in the
    audit. A row that could be mended should be: see docs/troubleshooting.md.
    """
    row, stack = whole_id("ID", identity, "a row"), running(data)
    name = _which(service) or _holder(stack, row)
    with asked(stack.url(f"{name}-relay")) as ops:
        done = ops.demand("POST", "/ops/relay/bury", {"id": row, "reason": reason(why)}).body
    echo(f"buried: {done['type']} of {done['topic']}, key {done['key']}, sequence {done['sequence']}")
    echo(f"what is behind it goes on  quadrille relay status --service {name}")


@app.command("restore", epilog=RESTORE)
def restore(  # noqa: PLR0913 - one parameter per option
    *,
    read_back: Annotated[
        bool, typer.Option("--read-back", help="Take the facts that are named back into the outbox, from the topics.")
    ] = False,
    declare_loss: Annotated[
        bool, typer.Option("--declare-loss", help="The facts that are named are lost: go on without them.")
    ] = False,
    why: Annotated[str, typer.Option("--reason", help="Why; kept for ever. Wanted with both.")] = "",
    service: Annotated[str, typer.Option("--service", help="Whose; wanted with both.")] = "",
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait for it to be done.")] = 600.0,
    data: Data = None,
) -> None:
    """Tell which databases are older than what they published, and what they lack; go on when a person has said how.

    Such a relay sends nothing and its worker carries out no intent until then. Read back, what it published is in its
    outbox again, and an input that would now be decided otherwise is parked; rows of its own that no input brings about
    again (orders placed by HTTP since the backup) stay lost. Either way no number of a stream is given twice. Exit
    codes: 0 none waits, 1 one does, 4 it goes on by itself and was not done in time, 7 a relay does not answer.
    """
    name, stack = _which(service), running(data)
    if read_back and declare_loss:
        bad("--read-back, --declare-loss", "one of the two")
    if read_back or declare_loss:
        if not name:
            bad("--service", f"one of {', '.join(SERVICES)}: it is said for one")
        how = "read-back" if read_back else "declare-loss"
        with asked(stack.url(f"{name}-relay")) as ops:
            done = ops.demand("POST", "/ops/relay/restore", {"how": how, "reason": reason(why)}).body
            facts = _ended(ops, done["id"], timeout)
        what = "with, read back," if read_back else "without"
        echo(f"{name} goes on {what} {facts} facts that it published before it was restored")
        return
    waits = False
    for one in (name,) if name else SERVICES:
        with asked(stack.url(f"{one}-relay")) as ops:
            found = ops.demand("GET", "/ops/relay/restore").body["restores"]
        for loss in found:
            waits = waits or loss["ended_at"] is None
            what = "read back" if loss["how"] == "read-back" else "declared lost"
            how = f"{what} by {loss['actor']}: {loss['reason']}" if loss["how"] else loss["detail"]
            of = f" ({loss['of_commands']} of commands)" if loss["of_commands"] else ""
            echo(f"{one}: found {loss['found_at']}, {loss['facts']} facts{of}: {how}")
            for line in table(("id", "type", "key", "place"), [tuple(map(str, _fact(f))) for f in loss["sample"]]):
                echo(f"  {line}")
    if waits:
        raise typer.Exit(FAILED)


def _ended(ops: Client, identity: str, timeout: float) -> int:
    """Wait until a restore is ended, and return how many facts it was about; exits 4 when it was not in time."""
    deadline = time.monotonic() + timeout
    while True:
        found = ops.demand("GET", "/ops/relay/restore").body["restores"]
        for one in found:
            if one["id"] == identity and one["ended_at"]:
                return int(one["facts"])
        if time.monotonic() > deadline:
            console.fail("not done yet, and going on\n  fix: quadrille relay restore")
            raise typer.Exit(TIMEOUT)
        time.sleep(LOOK_SECONDS)


def _fact(fact: Document) -> tuple[str, ...]:
    return fact["id"], fact["type"], fact["key"], fact["place"]


def _which(service: str) -> str:
    """Return a service's name as it was given; refuses one that has no relay."""
    if service and service not in SERVICES:
        bad("--service", ", ".join(SERVICES))
    return service


def _holder(stack: Stack, row: str) -> str:
    """Return whose relay holds a row; exits 5 when none does."""
    for name in SERVICES:
        with suppress(NoAnswerError), Client(stack.url(f"{name}-relay")) as ops:
            if any(one["id"] == row for one in ops.demand("GET", "/ops/relay").body["held"]):
                return name
    console.fail(f"no relay holds row {row}\n  fix: quadrille relay status")
    raise typer.Exit(NOT_FOUND)


def _table(found: list[Document]) -> Iterator[str]:
    rows = [
        (
            one["service"], one["state"], one["slot"]["wal_status"] if one["slot"] else "no slot",
            _size(one["slot"]["wal_kept_bytes"]) if one["slot"] else "–", _size(one["behind_bytes"]),
            "–" if one["canary_age_seconds"] is None else age(max(0.0, one["canary_age_seconds"])),
            str(one["recoveries"]), _note(one),
        )
        for one in found
    ]  # fmt: skip
    head = ("service", "state", "slot", "WAL kept", "behind", "canary", "recoveries", "note")
    return table(head, rows, right=head[3:7])


def _note(one: Document) -> str:
    held = [row for row in one["held"] if row["state"] != "BURIED"]
    told = "; ".join(
        f"held: row {row['id']} of {row['topic']}, key {row['key']}, {row['size']} bytes: {row['reason']}"
        for row in held
    )
    return str(told or one["trouble"] or one["rescan"] or "")


def _size(count: int | None) -> str:
    """Return bytes as people read them; nothing where nobody knows."""
    if count is None:
        return "–"
    return next((f"{count / size:.1f} {unit}" for unit, size in UNITS if count >= size), f"{count} B")
