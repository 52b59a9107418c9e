"""`quadrille chaos`: faults of many kinds on a stack under load, by a seeded schedule; then the auditor judges."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import echo

from quadrille_cli.commands.shared import bad, form, running

if TYPE_CHECKING:
    from quadrille_cli.chaos.faults import Arena
    from quadrille_cli.chaos.nemesis import Result

EPILOG = """\b
Examples:
  quadrille chaos --for 10m --seed 7
  quadrille chaos --for 10m --seed 7 --plan
  quadrille chaos --for 2m --data .quadrille --yes"""
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for."""

    seconds: float
    seed: int
    rate: float
    output: str


def command(  # noqa: PLR0913, PLR0917 - one parameter per option
    lasting: Annotated[str, typer.Option("--for", help="How long faults go on: 90s, 10m.")] = "2m",
    seed: Annotated[int, typer.Option("--seed", help="Repeats a run: its faults, targets, times and orders.")] = 1,
    rate: Annotated[float, typer.Option("--rate", min=0.1, help="Orders per second meanwhile.")] = 5,
    plan: Annotated[bool, typer.Option("--plan", help="Print the schedule, break nothing.")] = False,  # noqa: FBT002 - an option
    yes: Annotated[bool, typer.Option("--yes", help="Break the stack of --data, which others may use.")] = False,  # noqa: FBT002 - an option
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
    data: Annotated[Path | None, typer.Option("--data", help="A running stack to break instead.")] = None,
) -> None:
    """Break a stack under load, two faults at a time, heal it, wait until every order has ended, and audit it.

    Without --data it starts a stack for itself, in a new directory and on free ports, every server behind a proxy that
    can partition, delay and cut; a clean run removes it. A running stack is named by --data and broken only with --yes;
    it has no proxies, so the faults of links are left out. Ctrl-C heals everything before it returns.

    Exit codes: 0 clean; 1 an order was lost, doubled, or ended as it must not, a /readyz lied, or the auditor found
    something; 8 the auditor could not judge; 130 interrupted.
    """
    form(output)
    asked = Asked(_seconds(lasting), seed, rate, output)
    if data is not None and not (yes or plan):
        bad("--yes", f"say so, for orders are placed in {data} and its processes killed and frozen")
    if plan:
        _print_plan(asked, proxied=data is None)
        return
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell has it ignore Ctrl-C, in the background
        signal.signal(number, _end)
    result = _run(asked, data)
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)
    if result.code:
        raise typer.Exit(result.code)


def _seconds(text: str) -> float:
    from quadrille.settings import parse_duration  # noqa: PLC0415 - only here

    try:
        return float(parse_duration(text).total_seconds())
    except ValueError:
        bad("--for", "a duration such as 90s or 10m")


def _print_plan(asked: Asked, *, proxied: bool) -> None:
    from quadrille_cli.chaos.faults import kinds  # noqa: PLC0415 - database clients
    from quadrille_cli.chaos.schedule import schedule  # noqa: PLC0415 - as above

    strikes = schedule(asked.seed, kinds(proxied=proxied), asked.seconds)
    if asked.output == "json":
        echo(json.dumps([one.document() for one in strikes], indent=2))
        return
    for strike in strikes:
        echo(str(strike))
    echo(f"{len(strikes)} faults of {len({one.fault.kind for one in strikes})} kinds")


def _run(asked: Asked, data: Path | None) -> Result:
    from quadrille_cli.chaos import own, report  # noqa: PLC0415 - Kafka's and databases' clients
    from quadrille_cli.chaos.faults import Arena  # noqa: PLC0415 - as above

    def say(line: str) -> None:
        sys.stderr.write(line + "\n")

    place: AbstractContextManager[Arena]
    if data is None:
        home = own.directory()
        say(f"starting a stack in {home}")
        place = own.arena(home, asked.seed)
    else:
        place = nullcontext(Arena(running(data, "order-api")))
    with place as arena:
        result = _strike(asked, arena, say)
    document = json.dumps(result.document(), indent=2, ensure_ascii=False)
    (arena.stack.data / f"chaos-{asked.seed}.json").write_text(document + os.linesep, "utf-8")
    echo(document if asked.output == "json" else "\n".join(report.lines(result)))
    if data is None and not result.code and not result.interrupted:
        own.removed(arena)
    else:
        say(f"all of it: {arena.stack.data}/chaos-{asked.seed}.json")
    return result


def _strike(asked: Asked, arena: Arena, say: Callable[[str], object]) -> Result:
    from quadrille_cli.chaos.customers import Customers  # noqa: PLC0415 - as above
    from quadrille_cli.chaos.faults import kinds  # noqa: PLC0415 - as above
    from quadrille_cli.chaos.nemesis import Nemesis  # noqa: PLC0415 - as above
    from quadrille_cli.chaos.schedule import schedule  # noqa: PLC0415 - as above

    log = arena.stack.data / f"chaos-{asked.seed}-clients.jsonl"
    customers = Customers(arena.stack, asked.seed, asked.rate, log)
    strikes = schedule(asked.seed, kinds(proxied=bool(arena.proxies)), asked.seconds)
    return Nemesis(arena, strikes, customers, say).run()


def _end(*_: object) -> None:
    """End as after Ctrl-C: all is healed first."""
    raise KeyboardInterrupt
