"""`quadrille consumers`: whether each service takes what comes on its topics; a person pauses one, and resumes it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import echo

from quadrille_cli import complete, console
from quadrille_cli.client import Client, NoAnswerError, ProblemError
from quadrille_cli.commands.operations import services
from quadrille_cli.commands.shared import TIMEOUT, UNREACHABLE, asked, bad, form, reason, running, told
from quadrille_cli.services import PROGRAMS, worker_ops, worker_process
from quadrille_cli.stack import Stack
from quadrille_cli.terminal import ago, table

Data = Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")]
Why = Annotated[str, typer.Option("--reason", help="Why; kept for ever with the action.")]
Which = Annotated[str, typer.Argument(metavar="SERVICE", help=", ".join(PROGRAMS), autocompletion=complete.services)]
Document = Mapping[str, Any]
LOOK_SECONDS, PATIENCE_SECONDS = 0.1, 20.0


def _examples(*lines: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  quadrille consumers {line}" for line in lines)


LIST = _examples("list", "list --service payment -o json")
PAUSE = _examples("pause payment --reason 'its database moves'", "pause notification --reason 'no mails today'")
RESUME = _examples("resume payment --reason 'it has moved'", "resume notification --reason 'mails again'")
ACCEPT = _examples(
    "accept payment --reason 'Kafka was wiped'",
    "accept inventory --topic payment.events --reason 'away for 8 days; republished'",
)
app = typer.Typer(
    help="Consumers of the services: list, pause, resume, accept.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog=LIST,
)


@app.command("list", epilog=LIST)
def list_(
    service: Annotated[str, typer.Option("--service", help="Only this service's.")] = "",
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
    data: Data = None,
) -> None:
    """List which services' consumers run and which rest, since when, why; exits 7 when a worker is silent."""
    form(output)
    found, silent = _asked(running(data), services(service))
    echo(json.dumps(found, indent=2, ensure_ascii=False) if output == "json" else "\n".join(_table(found)))
    if silent:
        console.fail(f"not asked, for their workers do not answer: {', '.join(silent)}\n  fix: quadrille up --detach")
        raise typer.Exit(UNREACHABLE)


@app.command("pause", epilog=PAUSE)
def pause(service: Which, why: Why, *, data: Data = None) -> None:
    """Let a service's consumers rest, all of its workers' and after a restart too; what comes for it waits in Kafka.

    What it has under way goes on, and its API answers. Orders that need it wait, and are called stuck in time. Exit
    code 4: it is noted, and the worker has not said within 20 s that it rests.
    """
    body, stack = {"reason": reason(why)}, _with_worker(service, data)
    with asked(stack.url(worker_ops(service))) as ops:
        changed = ops.demand("POST", "/ops/consumers/pause", body).body["changed"]
        now = ops.demand("GET", "/ops/consumers").body
        rests = _heeded(ops, rest=True)
    if not rests:
        console.fail(f"noted, but {worker_process(service)} has not said that it rests\n  fix: quadrille status")
        raise typer.Exit(TIMEOUT)
    if changed:
        echo(f"{service}'s consumers rest: {now['cause']}")
        echo(f"undo  quadrille consumers resume {service} --reason '…'")
    else:
        echo(f"nothing to do: they have rested for {ago(now['since_at'])}: {now['cause']}")


@app.command("resume", epilog=RESUME)
def resume(service: Which, why: Why, *, data: Data = None) -> None:
    """Let a service's consumers go on where they stopped, whatever had paused them.

    Exit code 4: it is noted, and the worker has not said within 20 s that it goes on.
    """
    body, stack = {"reason": reason(why)}, _with_worker(service, data)
    with asked(stack.url(worker_ops(service))) as ops:
        before = ops.demand("GET", "/ops/consumers").body
        changed = ops.demand("POST", "/ops/consumers/resume", body).body["changed"]
        goes_on = _heeded(ops, rest=False)
    if not goes_on:
        console.fail(f"noted, but {worker_process(service)} has not said that it goes on\n  fix: quadrille status")
        raise typer.Exit(TIMEOUT)
    if not changed:
        echo(f"nothing to do: {service}'s consumers run")
    elif before["paused"]:
        echo(f"{service}'s consumers go on after {ago(before['since_at'])}; what had paused them:")
        echo(f"  {before['cause']}")
    else:
        echo(f"{service}'s consumers go on")


@app.command("accept", epilog=ACCEPT)
def accept(
    service: Which,
    why: Why,
    *,
    topic: Annotated[str, typer.Option("--topic", help="One topic, such as order.events; all without it.")] = "",
    data: Data = None,
) -> None:
    """Let a service's consumers go on with topics as they are now, when they are not what was known.

    A topic that was made anew (Kafka was wiped) is read from its beginning. Where retention has deleted what was not
    read yet, they go on with the first record that is left. What is missing comes by `quadrille republish`; what was
    handled already takes no effect a second time. Nothing to do exits 6.
    """
    body, stack = {"reason": reason(why), "topic": topic or None}, _with_worker(service, data)
    with asked(stack.url(worker_ops(service))) as ops:
        done = ops.demand("POST", "/ops/consumers/accept", body).body
    for name, change in done["topics"].items():
        if "partitions" in change:
            places = ", ".join(change["partitions"])
            echo(f"{service} goes on with the first record that is left of {name}, partitions {places}")
        else:
            echo(f"{service} reads {name} from its beginning")
    echo("what it never read  quadrille republish --since TIME --reason '…'")


def _with_worker(service: str, data: Path | None) -> Stack:
    if service not in PROGRAMS:
        bad("SERVICE", ", ".join(PROGRAMS))
    return running(data, worker_process(service))


def _heeded(ops: Client, *, rest: bool) -> bool:
    """Wait until the worker acts by what its service is told: it looks once in a while."""
    deadline, wanted = time.monotonic() + PATIENCE_SECONDS, "PAUSED" if rest else "RUNNING"
    while (told := ops.demand("GET", "/ops/consumers").body)["here"] != wanted and told["paused"] is rest:
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_SECONDS)
    return True


def _asked(stack: Stack, names: tuple[str, ...]) -> tuple[list[Document], list[str]]:
    """Return what each service's worker tells, and the names of those that do not answer."""
    found: list[Document] = []
    silent = []
    for name in names:
        try:
            with Client(stack.url(worker_ops(name))) as ops:
                found.append(ops.demand("GET", "/ops/consumers").body)
        except NoAnswerError:
            silent.append(name)
        except ProblemError as refused:
            raise typer.Exit(told(refused)) from None
    return found, silent


def _table(found: list[Document]) -> Iterator[str]:
    rows = [
        (one["service"], *(("paused", ago(one["since_at"]), one["cause"]) if one["paused"] else ("running", "", "")))
        for one in found
    ]
    return table(("service", "state", "since", "why"), rows, right=("since",))
