"""`quadrille doctor`: everything the stack stands on, held against named checks; what is wrong, and how to mend it."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import psutil
import typer
from typer import echo

from quadrille.db.requirements import Database
from quadrille_cli.commands.shared import bad, form, running
from quadrille_cli.commands.stack import FAILED
from quadrille_cli.doctor import CHECKS, Broker, Machine, SchemaRegistry, Told, examine
from quadrille_cli.services import SERVICES
from quadrille_cli.stack import Stack
from quadrille_cli.terminal import folded, painted

EPILOG = "\b\nExamples:\n  quadrille doctor\n  quadrille doctor --only postgres --all\n  quadrille doctor -o json"
UNSEEN = 8
"""The exit code where something could not be looked at, as where something is done in part."""
MARKS = {True: ("ok", "green"), False: ("wrong", "red"), None: ("unseen", "yellow")}


def command(
    only: Annotated[list[str] | None, typer.Option("--only", help="Only these: postgres, or postgres.fsync.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Tell what is well too.")] = False,  # noqa: FBT002 - an option
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
    data: Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")] = None,
) -> None:
    """Examine Postgres, Kafka, registry, schemas, settings, disk, clock and permissions of the running stack.

    Each check tells what it read, what it wants and how to mend it. Exit codes: 0 all is well, 1 something is wrong, 8
    something could not be looked at.
    """
    form(output)
    kinds = {name.partition(".")[0] for name in CHECKS} | CHECKS.keys()
    if strange := [name for name in only or () if name not in kinds]:
        bad("--only", f"{strange[0]} is no check; there are {', '.join(sorted(kinds - CHECKS.keys()))}, or one of them")
    stack = running(data)
    found = [one for one in examined(stack) if not only or one.check.name in only or _kind(one) in only]
    if output == "json":
        echo(json.dumps([_document(one) for one in found], indent=2, ensure_ascii=False))
    else:
        echo("\n".join(_lines(found, everything=everything)))
    if any(one.good is False for one in found):
        raise typer.Exit(FAILED)
    if any(one.good is None for one in found):
        raise typer.Exit(UNSEEN)


def examined(stack: Stack) -> Iterator[Told]:
    """Yield what came of every check of everything a stack stands on."""
    yield from examine("this machine", machine(stack))
    for service in SERVICES:
        database = Database(service, partial(stack.database_url, service))
        try:
            yield from examine(f"database {service}", database)
        finally:
            database.close()
    yield from examine("kafka", Broker(stack.kafka_bootstrap))
    yield from examine("registry", SchemaRegistry(stack.registry_url))


def machine(stack: Stack) -> Machine:
    """Return this machine as it is: its disk, clock, limits, and the command lines of what runs."""
    from quadrille.settings import ELSEWHERE  # noqa: PLC0415 - what other commands can spare
    from quadrille_cli.services import all_settings  # noqa: PLC0415 - as above
    from quadrille_cli.stack.shell import OWN  # noqa: PLC0415 - as above

    ops = {
        name: bind
        for name, process in stack.processes.items()
        if (bind := process.spec.env.get("QUADRILLE_OPS_BIND")) is not None
        and process.spec.env.get("QUADRILLE_AUTH") != "keys"
    }
    return Machine(
        data=stack.data, free=lambda path: shutil.disk_usage(path).free, now=lambda: datetime.now(UTC),
        files=resource.getrlimit(resource.RLIMIT_NOFILE)[1], ops=ops, commands=tuple(_commands(stack)),
        secrets=(stack.password,), versions=_version, environment=dict(os.environ),
        known=frozenset(name.upper() for name in all_settings().model_fields) | ELSEWHERE | OWN,
    )  # fmt: skip


def _commands(stack: Stack) -> Iterator[str]:
    for process in stack.processes.values():
        if process.running:
            try:
                yield " ".join(psutil.Process(process.pid).cmdline())
            except psutil.Error:  # it has ended meanwhile, or belongs to another user
                continue


def _version(package: str) -> str:
    return platform.python_version() if package == "python" else version(package)


def _kind(one: Told) -> str:
    return one.check.name.partition(".")[0]


def _document(one: Told) -> dict[str, object]:
    return {
        "check": one.check.name, "part": one.part, "read": one.read, "wants": one.check.wants, "good": one.good,
        "fatal": one.check.fatal, "fix": None if one.good else one.check.fix,
    }  # fmt: skip


def _lines(found: Sequence[Told], *, everything: bool) -> Iterator[str]:
    for one in found:
        if one.good and not everything:
            continue
        mark, colour = MARKS[one.good]
        yield f"{painted(f'{mark:<7}', colour)}{one.check.name:<32}{one.part}"
        yield from folded(f"       read: {one.read}", "         ")
        if not one.good:
            fatal = " (fatal)" if one.check.fatal else ""
            yield from folded(f"       wants: {one.check.wants}{fatal}", "         ")
            yield from folded(f"       fix: {one.check.fix}", "         ")
    names = {one.check.name for one in found}
    wrong, unseen = (sum(one.good is state for one in found) for state in (False, None))
    told = f"{len(names)} checks of {len({one.part for one in found})} parts: "
    told += ", ".join(filter(None, (f"{wrong} wrong" * bool(wrong), f"{unseen} not seen" * bool(unseen)))) or "all well"
    yield from folded(told)
