"""`quadrille operations`: the services' long actions, which outlive the terminal: look, pause, resume, cancel."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from typer import echo

from quadrille_cli import complete
from quadrille_cli import console as screen
from quadrille_cli.client import Client, NoAnswerError, ProblemError
from quadrille_cli.commands import stack as supervisor
from quadrille_cli.commands.shared import NOT_FOUND, UNREACHABLE, an_id, asked, bad, form, named, reason, running, told
from quadrille_cli.services import PROGRAMS, worker_ops, worker_process
from quadrille_cli.stack import Stack
from quadrille_cli.terminal import folded, short, table

VERDICTS = ("SEEN", "NEW", "FENCED", "PARKED", "OLD", "UNHEARD", "UNDECODABLE")
GOOD = ("DONE", "SEEN", "DISCARDED", "GONE")
OUTCOMES = {
    "DONE": "done", "SEEN": "done before", "DISCARDED": "discarded", "GONE": "gone meanwhile", "PARKED": "parked again",
}  # fmt: skip
ALWAYS = ("SEEN", "NEW")
"""Verdicts that have a column whatever was found."""
WITHHELD = ("FENCED", "PARKED", "OLD")
PARTLY, MOST, ID_LENGTH = 8, 200, 36
PARKED = "parked"  # the kind that redrives or discards what is parked
LOOK_SECONDS, AWAY_SECONDS = 0.2, 20.0
STATES = ("PLANNED", "RUNNING", "PAUSED", "DONE", "FAILED", "CANCELLED")
SAMPLE = "01a1fd6b-57f0-7eeb-be96-e59ce40f9cb1"
Document = Mapping[str, Any]
Data = Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")]
Identity = Annotated[str, typer.Argument(metavar="ID", help="The operation.", autocompletion=complete.operations)]
Why = Annotated[str, typer.Option("--reason", help="Why; kept for ever with the action.")]
Output = Annotated[str, typer.Option("-o", "--output", help="table, json; of a list wide and jsonl too.")]


def _examples(*lines: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  quadrille operations {line}" for line in lines)


LIST = _examples("list", "list --state RUNNING -o json")
SHOW = _examples(f"show {SAMPLE}", f"show {SAMPLE} -o json")
PAUSE = _examples(f"pause {SAMPLE}", f"pause {SAMPLE} --reason 'the shop is busy'")
RESUME = _examples(f"resume {SAMPLE}", f"resume {SAMPLE} --reason 'the night has come'")
CANCEL = _examples(f"cancel {SAMPLE}", f"cancel {SAMPLE} --reason 'the wrong topic'")
app = typer.Typer(
    help="Long actions: list, show, pause, resume, cancel.", no_args_is_help=True, rich_markup_mode=None, epilog=LIST
)


@app.command("ls", hidden=True, epilog=LIST)
@app.command("list", epilog=LIST)
def list_(
    service: Annotated[str, typer.Option("--service", help="Only this service's.")] = "",
    state: Annotated[str, typer.Option("--state", help=f"Only those {', '.join(STATES)}.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many of each service at most.")] = 20,
    output: Output = "table",
    *,
    data: Data = None,
) -> None:
    """List long actions, newest first."""
    names, wanted = services(service), state.upper()
    form(output, ("table", "wide", "json", "jsonl"))
    if wanted and wanted not in STATES:
        bad("--state", ", ".join(STATES))
    stack, query = running(data, *map(worker_process, names)), f"&state={wanted}" if wanted else ""
    found: list[Document] = []
    for name in names:
        with asked(stack.url(worker_ops(name))) as ops:
            found += ops.demand("GET", f"/ops/operations?limit={limit}{query}").body["operations"]
    found.sort(key=lambda one: str(one["operation_id"]), reverse=True)
    if output in ("json", "jsonl"):
        for text in [json.dumps(found, indent=2)] if output == "json" else map(json.dumps, found):
            echo(text)
        return
    wide = output == "wide"
    rows = [
        (
            one["operation_id"] if wide else short(one["operation_id"]), one["service"],
            f"{one['kind']} {one['plan']['mode']}", one["state"], f"{one['progress'].get('records', 0):,}",
            one["actor"], one["reason"] or "",
        )
        for one in found
    ]  # fmt: skip
    head = ("operation", "service", "kind", "state", "records", "by", "why")
    for text in table(head, rows, right=("records",), wide=wide):
        echo(text)
    echo(f"{len(found)} operations, newest first, of {', '.join(names)}; at most {limit} of each")


@app.command("show", epilog=SHOW)
def show(identity: Identity, output: Output = "table", *, data: Data = None) -> None:
    """Show one, with its plan, how far it is, and what became of its records."""
    form(output)
    _, document = find(running(data), identity)
    echo(json.dumps(document, indent=2) if output == "json" else "\n".join(lines(document)))


@app.command("pause", epilog=PAUSE)
def pause(identity: Identity, why: Why = "paused by hand", *, data: Data = None) -> None:
    """Let it rest between two transactions; resume goes on exactly there."""
    _turn(identity, "pause", why, data)


@app.command("resume", epilog=RESUME)
def resume(identity: Identity, why: Why = "resumed by hand", *, data: Data = None) -> None:
    """Go on exactly where it stands, and watch; one that is running is only watched."""
    stack, document = find(running(data), identity)
    if document["state"] != "RUNNING":
        document = _turn(identity, "resume", why, data)
    document = follow(stack, document)
    echo("\n".join(lines(document)))
    end(document)


@app.command("cancel", epilog=CANCEL)
def cancel(identity: Identity, why: Why = "cancelled by hand", *, data: Data = None) -> None:
    """End it for good; what it has done stays done."""
    _turn(identity, "cancel", why, data)


def _turn(identity: str, verb: str, why: str, data: Path | None) -> Document:
    stack, document = find(running(data), identity)
    with asked(stack.url(worker_ops(document["service"]))) as ops:
        body = {"reason": reason(why)}
        turned: Document = ops.demand("POST", f"/ops/operations/{document['operation_id']}/{verb}", body).body
    echo(f"{turned['operation_id']} {turned['state']}")
    return turned


def services(named: str) -> tuple[str, ...]:
    """Return the services meant: the one named, or all."""
    if named and named not in PROGRAMS:
        bad("--service", ", ".join(PROGRAMS))
    return (named,) if named else PROGRAMS


def find(stack: Stack, identity: str) -> tuple[Stack, Document]:
    """Return an operation from the service that has it; says so and exits 5 when none has, 7 when one is silent."""
    identity = _whole(stack, an_id("ID", identity, "an operation"))
    method, path, silent = "GET", f"/ops/operations/{identity}", []
    for name in PROGRAMS:
        try:
            with Client(stack.url(worker_ops(name))) as ops:
                found = ops.ask(method, path)
        except NoAnswerError:
            silent.append(name)
            continue
        if found.status == HTTPStatus.OK:
            return stack, found.body
        if found.status == HTTPStatus.SERVICE_UNAVAILABLE:
            silent.append(name)
        elif found.status != HTTPStatus.NOT_FOUND:
            raise typer.Exit(told(ProblemError(method, path, found)))
    screen.fail(f"no service knows operation {identity}" + (f"; silent: {', '.join(silent)}" if silent else ""))
    raise typer.Exit(UNREACHABLE if silent else NOT_FOUND)


def _whole(stack: Stack, wanted: str) -> str:
    """Return the id of the operation that is meant by its id or the end of it: the last 200 of each service count."""
    known: list[str] = []
    for name in PROGRAMS if len(wanted) < ID_LENGTH else ():
        with suppress(NoAnswerError, ProblemError), Client(stack.url(worker_ops(name))) as ops:
            page = ops.demand("GET", f"/ops/operations?limit={MOST}").body["operations"]
            known += [one["operation_id"] for one in page]
    return named("ID", wanted, known, "an operation")


def follow(stack: Stack, document: Document) -> Document:
    """Show how far an operation is until it goes no further, and return it; Ctrl-C lets go of it and exits 130."""
    identity, columns = document["operation_id"], (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True, highlight=False)
    with Progress(*columns, TextColumn("{task.fields[verdicts]}"), console=console) as progress:
        task = progress.add_task(f"{document['kind']} {document['plan']['mode']}", total=None, verdicts="")
        try:
            for now in watched(stack.url(worker_ops(document["service"])), document):
                document = now
                done, whole = reached(document)
                progress.update(task, completed=done, total=whole, verdicts=_verdicts(document))
        except KeyboardInterrupt:
            progress.stop()
            screen.fail(
                f"detached: it goes on\n  watch  quadrille operations resume {identity}\n"
                f"  stop   quadrille operations pause {identity}"
            )
            raise typer.Exit(supervisor.INTERRUPTED) from None
    return document


def watched(url: str, document: Document) -> Iterator[Document]:
    """Yield an operation as it is, five times a second; a worker that is away for long ends the watching, exit 7.

    One whose database or registry is away is as good as away itself.
    """
    path, heard = f"/ops/operations/{document['operation_id']}", time.monotonic()
    while True:
        try:
            with Client(url) as ops:
                while document["state"] == "RUNNING":
                    document, heard = ops.demand("GET", path).body, time.monotonic()
                    yield document
                    time.sleep(LOOK_SECONDS)
                return
        except (NoAnswerError, ProblemError) as trouble:
            if isinstance(trouble, ProblemError) and trouble.reply.status != HTTPStatus.SERVICE_UNAVAILABLE:
                raise typer.Exit(told(trouble)) from None
            if time.monotonic() - heard > AWAY_SECONDS:
                fix = f"quadrille up --detach; then it goes on: quadrille operations resume {document['operation_id']}"
                screen.fail(f"{document['service']}-worker does not answer\n  fix: {fix}")
                raise typer.Exit(UNREACHABLE) from None
            time.sleep(LOOK_SECONDS)


def reached(document: Document) -> tuple[int, int]:
    """Return how far an operation is, and how far it goes: records of a plan, offsets while there is none."""
    plan, progress = document["plan"], document["progress"]
    if plan["mode"] == "shadow":
        return int(progress.get("passed", 0)), int(progress.get("offsets", 0))
    if plan["mode"] == "live" or document["kind"] == PARKED:
        return int(progress.get("records", 0)), int(plan["records"])
    at = progress.get("next", {})
    passed = sum(at.get(number, since) - since for number, (since, _) in plan["ranges"].items())
    return passed, sum(upto - since for since, upto in plan["ranges"].values())


def total(document: Document, verdict: str) -> int:
    """Return how many records had a verdict."""
    return sum(counts.get(verdict, 0) for counts in document["progress"].get("verdicts", {}).values())


def end(document: Document) -> None:
    """Exit as the operation has ended: 0 done, 8 with something kept back or not finished, 1 failed or cancelled."""
    if document["state"] in ("FAILED", "CANCELLED"):
        raise typer.Exit(supervisor.FAILED)
    if document["progress"].get("unequal") and not document["progress"]["swapped"]:
        raise typer.Exit(supervisor.FAILED)
    if document["kind"] == PARKED and document["state"] == "DONE":
        if set(document["progress"].get("outcomes", {})) - set(GOOD):
            raise typer.Exit(PARTLY)
        return
    kept_back = any(total(document, verdict) for verdict in WITHHELD) and document["plan"]["mode"] == "live"
    if document["state"] == "PAUSED" or kept_back:
        raise typer.Exit(PARTLY)


def lines(document: Document) -> Iterator[str]:
    """Say what an operation is, and what became of its records: a head, a row a type, and what it comes to."""
    if document["kind"] == PARKED:
        yield from _parked_lines(document)
        return
    plan, progress = document["plan"], document["progress"]
    if plan["mode"] == "shadow":
        yield from _shadow(document)
        return
    partitions = sum(since < upto for since, upto in plan["ranges"].values())
    what = "plan" if document["state"] == "PLANNED" else f"{plan['mode']} replay"
    yield from folded(
        f"{what} {document['operation_id']}  {plan['topic']}, {partitions} of {len(plan['ranges'])} partitions, "
        f"{plan['since']} to {plan['until']}, for {document['service']}: {progress.get('records', 0):,} records"
        + ("" if document["state"] == "PLANNED" else f", {document['state']}")
    )
    if plan["left"]:
        yield f"{plan['left']:,} more are not read by {document['service']}'s worker yet: they are left to it"
    yield from _rows(progress.get("verdicts", {}))
    if 0 < progress.get("records", 0) == total(document, "UNHEARD"):
        yield f"{document['service']} hears none of these"
    yield _outcome(document)
    for one in progress.get("unreadable", ()):
        place = f"{plan['topic']}[{one['partition']}]@{one['offset']}"
        yield from folded(f"undecodable {place}: {one['reason']}; begins {one['bytes'] or 'with nothing'}")
    if kept := progress.get("kept_back"):
        effects = ", ".join(f"{count} {effect}" for effect, count in sorted(kept.items()))
        yield f"fenced: {effects}; opened by --allow-effects {','.join(sorted(kept))} --reason TEXT"
    if failed := progress.get("parked"):
        yield "parked by their handlers: " + ", ".join(f"{n} {kind}" for kind, n in sorted(failed.items()))
    if progress.get("failure"):
        yield f"why: {progress['failure']}"


SIDES = ("equal", "different", "only_live", "only_shadow", "partial")


def _shadow(document: Document) -> Iterator[str]:
    """Say how far a shadow is, and what its comparison found: a row a table, then the rows that differ."""
    plan, progress, service = document["plan"], document["progress"], document["service"]
    head = f"shadow {document['operation_id']}  {plan['model']} of {service}: {progress.get('records', 0):,} records"
    yield f"{head}, {document['state']}"
    if tables := progress.get("tables"):
        first = max(len("table"), *map(len, tables))
        yield f"{'table':<{first}}  " + "  ".join(f"{side.replace('_', ' '):>11}" for side in SIDES)
        for name, counts in tables.items():
            yield f"{name:<{first}}  " + "  ".join(f"{counts.get(side, 0):>11,}" for side in SIDES)
    for one in progress.get("differences", ()):
        row = ", ".join(f"{name} {value}" for name, value in one["row"].items())
        columns = f": {', '.join(one['columns'])}" if one["columns"] else ""
        yield f"{one['verdict'].replace('_', ' ')}  {one['table']} {row}{columns}"
    if progress.get("parked"):
        yield f"{progress['parked']:,} records were parked by the shadow's handlers"
    if progress.get("swapped"):
        yield "exchanged: the rebuilt rows are live; those before are kept until the next shadow"
    elif progress.get("unequal"):
        yield (
            f"{progress['unequal']:,} rows differ; nothing was changed. To take the rebuilt ones: quadrille replay "
            f"--into shadow --model {plan['model']} --service {service} --swap --confirm {service}"
        )
    elif tables:
        yield "no row differs"
    if progress.get("failure"):
        yield f"why: {progress['failure']}"


def _parked_lines(document: Document) -> Iterator[str]:
    """Say how far a redrive or discard of many is, what became of each, and the command to go on with."""
    plan, progress, identity = document["plan"], document["progress"], document["operation_id"]
    yield (
        f"{plan['mode']} {identity}  {document['service']}: "
        f"{progress.get('records', 0)} of {plan['records']}, {document['state']}"
    )
    outcomes = progress.get("outcomes", {})
    if outcomes:
        yield "  " + ", ".join(f"{count} {OUTCOMES.get(name, name)}" for name, count in sorted(outcomes.items()))
    if document["state"] in ("PAUSED", "FAILED"):
        yield f"  why  {progress.get('failure') or 'paused by hand'}"
        yield f"  now  quadrille operations resume {identity}"


def _rows(verdicts: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    heard = {kind: counts for kind, counts in sorted(verdicts.items()) if set(counts) - {"UNHEARD"}}
    others = [counts["UNHEARD"] for counts in verdicts.values() if set(counts) == {"UNHEARD"}]
    shown = [(kind, dict(counts)) for kind, counts in heard.items()]
    if others:
        plural = "s" if len(others) > 1 else ""
        shown.append((f"others ({len(others)} type{plural})", {"UNHEARD": sum(others)}))
    first = max([len(kind) for kind, _ in shown] + [16])
    told = [one for one in VERDICTS if one in ALWAYS or any(counts.get(one) for _, counts in shown)]
    yield f"{'type':<{first}}  records  " + "  ".join(f"{verdict:>6}" for verdict in told)
    for kind, counts in shown:
        columns = (f"{counts.get(verdict, 0):>{max(6, len(verdict))},}" for verdict in told)
        yield f"{kind:<{first}}  {sum(counts.values()):>7,}  " + "  ".join(columns)
    if none := [one for one in VERDICTS if one not in told]:
        yield f"none is {', '.join(none)}"


def _outcome(document: Document) -> str:
    dry, progress = document["plan"]["mode"] == "dry", document["progress"]
    said = ", ".join(f"{count} {kind}" for kind, count in sorted(progress.get("facts", {}).items())) or "none"
    new = f"{total(document, 'NEW'):,} records"
    if dry:
        upto = "" if said == "none" else "up to "
        return f"would handle {new} of {progress.get('orders', 0):,} orders; facts: {upto}{said}; effects: none"
    allowed = ", ".join(document["plan"]["allow_effects"]) or "none"
    return f"handled {new}; facts: {said}; effects allowed: {allowed}"


def _verdicts(document: Document) -> str:
    return "  ".join(f"{count:,} {verdict}" for verdict in VERDICTS if (count := total(document, verdict)))
