"""`quadrille parked`: inputs that failed and wait: list them in groups, look at one, redrive or discard."""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.parse import quote

import typer
from typer import echo

from quadrille_cli import complete, console
from quadrille_cli.client import Client, NoAnswerError, ProblemError
from quadrille_cli.commands import stack as supervisor
from quadrille_cli.commands.operations import PARTLY, Document, end, follow, lines, services
from quadrille_cli.commands.shared import (
    CONFLICT,
    NOT_FOUND,
    UNREACHABLE,
    asked,
    bad,
    form,
    reason,
    running,
    told,
)
from quadrille_cli.services import worker_ops, worker_process
from quadrille_cli.stack import Stack

SHORT = 8  # digits of an id that are shown; any unique end of four is taken
SHORTEST = 4
STATES = ("OPEN", "DEAD", "REDRIVEN", "DISCARDED")
HEX_SHOWN = 32
SAMPLE = "e40f9cb1"
Data = Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")]
Name = Annotated[str, typer.Argument(metavar="ID", help="Id of input or order, or the end of one: 4 digits or more.")]
Only = Annotated[str, typer.Option("--service", help="Only in this service.", autocompletion=complete.services)]
Output = Annotated[str, typer.Option("-o", "--output", help="table or json.")]
Group = Annotated[
    str, typer.Option("--group", help="All of a group, as `parked list` names it.", autocompletion=complete.groups)
]
Limit = Annotated[int, typer.Option("--limit", min=0, help="Of a group so many at most, the oldest; 0 is all.")]
Rate = Annotated[float, typer.Option("--rate", min=0.01, max=1000, help="Of a group so many a second.")]
StopAt = Annotated[int, typer.Option("--stop-at", min=1, max=100, help="Stop when so many per cent have failed.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without, a group is only looked at.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only look what would be done: what a group does anyway.")]
Seen = Annotated[str, typer.Option("--selection", help="The mark of a dry run: refused if it has changed since.")]
Old = Annotated[bool, typer.Option("--accept-old", help="Let in what is older than the inbox can tell.")]
Why = Annotated[str, typer.Option("--reason", help="Why; kept for ever with the action.")]


def _examples(*commands: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  quadrille parked {line}" for line in commands)


LIST = _examples("list", "list --service payment -o json")
SHOW = _examples(f"show {SAMPLE}", f"show {SAMPLE} -o json")
REDRIVE = _examples(f"redrive {SAMPLE}", "redrive --service payment --group 3f9c0a12bc4d --rate 5 --yes")
DISCARD = _examples(f"discard {SAMPLE} --reason 'a test record'", f"discard {SAMPLE} --service order --reason broken")
app = typer.Typer(
    help="Inputs that failed: list, show, redrive, discard.", no_args_is_help=True, rich_markup_mode=None, epilog=LIST
)


@app.command("list", epilog=LIST)
def list_command(  # noqa: PLR0913, PLR0917 - one parameter per option
    service: Only = "",
    kind: Annotated[str, typer.Option("--type", help="Only inputs of this type.")] = "",
    error: Annotated[str, typer.Option("--error", help="Only of this error class, such as HANDLER.")] = "",
    group: Group = "",
    state: Annotated[str, typer.Option("--state", help=f"Those {', '.join(STATES)} (default: OPEN and DEAD).")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many of each service at most.")] = 50,
    output: Output = "table",
    data: Data = None,
) -> None:
    """List what is parked: what fails alike is one group, with the place in the code, and its inputs below it."""
    names, wanted = services(service), state.upper()
    form(output)
    if wanted and wanted not in STATES:
        bad("--state", ", ".join(STATES))
    filters = {"type": kind, "error_class": error, "group": group, "state": wanted, "limit": str(limit)}
    query = "&".join(f"{name}={quote(value)}" for name, value in filters.items() if value)
    stack, found, silent = running(data), [], []
    for name in names:
        try:
            with Client(stack.url(worker_ops(name))) as ops:
                found.append(ops.demand("GET", f"/ops/parked?{query}").body)
        except NoAnswerError:
            silent.append(name)
        except ProblemError as refused:
            raise typer.Exit(told(refused)) from None
    echo(json.dumps(found, indent=2) if output == "json" else "\n".join(_listed(found)) or "nothing is parked")
    if silent:
        console.fail(f"not asked, for they do not answer: {', '.join(silent)}\n  fix: quadrille up --detach")
        raise typer.Exit(UNREACHABLE)


@app.command("show", epilog=SHOW)
def show(name: Name, service: Only = "", output: Output = "table", *, data: Data = None) -> None:
    """Show one with its error, frames, bytes and headers, its next try, and what waits behind it."""
    form(output)
    document = _find(running(data), name, service)
    echo(json.dumps(document, indent=2) if output == "json" else "\n".join(_shown(document)))


@app.command("redrive", epilog=REDRIVE)
def redrive(  # noqa: PLR0913, PLR0917 - one parameter per option
    name: Annotated[str, typer.Argument(metavar="[ID]", help="An input, an order, or the end of an id.")] = "",
    service: Only = "",
    group: Group = "",
    limit: Limit = 0,
    rate: Rate = 20.0,
    stop_at: StopAt = 20,
    selection: Seen = "",
    why: Why = "redriven by hand",
    data: Data = None,
    *,
    accept_old: Old = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Try it again now: one by its id, an order's first, or a group; a discarded one is put back.

    A record that several services hold is tried in each, unless --service names one. Exit codes: 0 went through, 1
    parked again, 2 wrong usage, 5 unknown, 6 against a rule, 7 nothing answers, 8 a part of it, 130 detached.
    """
    body: dict[str, object] = {"reason": reason(why)} | ({"accept_old": True} if accept_old else {})
    _asked_once(name, group)
    if group:
        many = {"group": group, "limit": limit} | body
        _many("redrive", many, (service, selection, yes and not dry_run), {"rate": rate, "stop_at": stop_at}, data)
    else:
        _one("redrive", name, service, body, data, dry_run=dry_run)


@app.command("discard", epilog=DISCARD)
def discard(  # noqa: PLR0913, PLR0917 - one parameter per option
    name: Annotated[str, typer.Argument(metavar="[ID]", help="An input, an order, or the end of an id.")] = "",
    service: Only = "",
    group: Group = "",
    limit: Limit = 0,
    rate: Rate = 20.0,
    stop_at: StopAt = 20,
    selection: Seen = "",
    why: Annotated[str, typer.Option("--reason", help="Why; kept for ever with the action. Needed.")] = "",
    data: Data = None,
    *,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Drop it: its id counts as handled from now on, and what waited behind it goes on. `redrive ID` puts it back.

    A record that several services hold is dropped in each, unless --service names one. Of an answer the copy alone is
    dropped: it is asked for again. A timer cannot be discarded. Exit codes as `redrive`.
    """
    body: dict[str, object] = {"reason": reason(why)}
    _asked_once(name, group)
    if group:
        many = {"group": group, "limit": limit} | body
        _many("discard", many, (service, selection, yes and not dry_run), {"rate": rate, "stop_at": stop_at}, data)
    else:
        _one("discard", name, service, body, data, dry_run=dry_run)


def _asked_once(name: str, group: str) -> None:
    if bool(name) == bool(group):
        bad("ID", "an id, or --group with --service")


def _one(  # noqa: PLR0913 - one parameter per option
    verb: str, name: str, service: str, body: Mapping[str, object], data: Path | None, *, dry_run: bool
) -> None:
    """End one parked input and say what became of it, and of those behind it, wherever the same record is held."""
    stack = running(data)
    codes: set[int] = set()
    for document in _found(stack, name, service):
        if dry_run:
            echo("\n".join(_shown(document)))
            continue
        with _noting(codes), asked(stack.url(worker_ops(document["service"]))) as ops:
            wanted = {**body, "id": document["record"]["parked_id"]}
            [result] = ops.demand("POST", f"/ops/parked/{verb}", wanted).body["results"]
            echo("\n".join(_became(document["service"], result)))
            codes.add(supervisor.FAILED if result["outcome"] == "PARKED" else 0)
    if codes - {0}:
        raise typer.Exit(max(codes) if len(codes) == 1 else PARTLY)


@contextmanager
def _noting(codes: set[int]) -> Iterator[None]:
    """Note the exit code of a refusal, so that the others are still asked."""
    try:
        yield
    except typer.Exit as refused:
        codes.add(refused.exit_code)


def _became(service: str, result: Mapping[str, Any]) -> Iterator[str]:
    short = _short(result["parked_id"])
    what = f"{service}: {short} {result['type']} of order {_short(result['order_id'])}"
    match result["outcome"]:
        case "DONE":
            yield f"{what} went through"
        case "SEEN":
            yield f"{what} had its effect already: nothing happened twice"
        case "DISCARDED":
            yield f"{what} is discarded"
            yield f"undo  quadrille parked redrive {short} --service {service}"
        case _:
            yield f"{what} failed again:"
            yield from _wrapped(f"{result['error_class']}: {result['error']}")
            yield from (f"  {frame}" for frame in result.get("frames", ())[-3:])
            yield f"now   quadrille parked show {short} --service {service}"
    if result["went_on"]:
        yield f"{result['went_on']} behind it went on"
    if result["stopped_at"]:
        yield f"then one failed: quadrille parked show {_short(result['stopped_at'])} --service {service}"


def _many(
    verb: str, many: Mapping[str, object], how: tuple[str, str, bool], pace: Mapping[str, object], data: Path | None
) -> None:
    """Tell what a group is; with --yes do exactly that, and watch."""
    service, selection, yes = how
    if not service:
        bad("--service", "whose group it is: " + ", ".join(services("")))
    stack, options = running(data, worker_process(services(service)[0])), ""
    with asked(stack.url(worker_ops(service))) as ops:
        looked = {**many, "dry_run": True}
        seen = ops.demand("POST", f"/ops/parked/{verb}", looked).body
        if not seen["records"]:
            console.fail(f"{service} has nothing parked in group {many['group']}\n  see  quadrille parked list")
            raise typer.Exit(NOT_FOUND)
        if yes:
            mark = selection or seen["selection"]
            begun = ops.demand("POST", f"/ops/parked/{verb}", {**many, **pace, "selection": mark}).body
    if not yes:
        options = f" --limit {many['limit']}" if many["limit"] else ""
        options += "".join(f" --{name.replace('_', '-')} {value:g}" for name, value in sorted(pace.items()))
        options += " --accept-old" if many.get("accept_old") else ""
        echo(f"would {verb} {seen['records']} inputs of {seen['keys']} orders; {seen['behind']} wait behind them")
        echo("nothing is done yet. To do exactly this:")
        echo(f"  quadrille parked {verb} --service {service} --group {many['group']} \\")
        echo(f"   {options} --selection {seen['selection']} \\")
        echo(f"    --reason {shlex.quote(str(many['reason']))} --yes")
        return
    echo(f"operation {begun['operation_id']}  {seen['records']} inputs of {seen['keys']} orders, frozen")
    document = follow(stack, begun)
    echo("\n".join(lines(document)))
    end(document)


def _find(stack: Stack, name: str, service: str) -> Document:
    """Return a parked input from the first service that has it."""
    first, *others = _found(stack, name, service)
    if others:
        held = ", ".join(str(one["service"]) for one in others)
        console.fail(f"{held} holds the same record: redrive and discard are for all,\n  unless --service names one")
    return first


def _found(stack: Stack, name: str, service: str) -> list[Document]:
    """Return a parked input from each service that has it; several of them, none and silence are said as they are.

    All who hear a topic hold the same record under the same id; an order's end may mean another in each.
    """
    if len(name) < SHORTEST:
        bad("ID", f"an id, or the end of one: {SHORTEST} digits or more")
    path, found, silent = f"/ops/parked/{quote(name, safe='')}", [], []
    for one in services(service):
        try:
            with Client(stack.url(worker_ops(one))) as ops:
                reply = ops.ask("GET", path)
        except NoAnswerError:
            silent.append(one)
            continue
        if reply.status == HTTPStatus.OK:
            found.append(reply.body)
        elif reply.status == HTTPStatus.SERVICE_UNAVAILABLE:
            silent.append(one)
        elif reply.status != HTTPStatus.NOT_FOUND:
            raise typer.Exit(told(ProblemError("GET", path, reply)))
    waiting = [one for one in found if one["record"]["state"] in STATES[:2]] or found
    if len({one["record"]["parked_id"] for one in waiting}) > 1:
        _several(name, waiting)
    unheard = f"not asked, for they do not answer: {', '.join(silent)}" if silent else ""
    if not waiting:
        where = f" in {service}" if service else ""
        told_ = f"nothing is parked{where} whose id, or whose order's, ends in {name}"
        console.fail(f"{told_}; {unheard}" if unheard else told_)
        raise typer.Exit(UNREACHABLE if silent else NOT_FOUND)
    if unheard:
        console.fail(unheard)
    return waiting


def _several(name: str, found: list[Document]) -> NoReturn:
    choices = "\n".join(f"  --service {one['service']}: {_summary(one['record'])}" for one in found)
    console.fail(f"{len(found)} services have something parked under {name}: say which\n{choices}")
    raise typer.Exit(CONFLICT)


def _short(identity: str) -> str:
    """Return the end of an id, which every command takes; a key that is no id stays whole."""
    return identity[-SHORT:] if len(identity) == 36 else identity  # noqa: PLR2004 - a UUID's letters


def _age(text: str) -> str:
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if abs(seconds) >= length:
            return f"{seconds // length}{unit}"
    return f"{max(0, seconds)}s"


def _next(record: Mapping[str, Any]) -> str:
    if record["retry_at"]:
        wait = (datetime.fromisoformat(record["retry_at"]) - datetime.now(UTC)).total_seconds()
        return f"next try in {max(0, round(wait))} s"
    states = {"DEAD": "dead: it waits for a person", "OPEN": "it waits behind another"}
    return states.get(record["state"]) or f"{record['state']} by {record['ended_by']}: {record['reason']}"


def _summary(record: Mapping[str, Any]) -> str:
    return f"{_short(record['parked_id'])} {record['type']} of order {_short(record['order_id'])}, {record['state']}"


def _listed(found: list[Document]) -> Iterator[str]:
    """Say each group in lines of 80 columns at most: what, where, how many, since when; then its inputs."""
    for document in found:
        for group in document["groups"]:
            yield f"{group['group']}  {document['service']}  {group['type']}"
            yield from _wrapped(f"{group['exception'] or group['error_class']}: {group['error']}")
            if group["at"]:
                yield from _wrapped(f"at {group['at']}")
            since = f"first {_age(group['first_at'])} ago, last {_age(group['last_at'])} ago"
            counts = f"{group['count']} parked, {group['dead']} dead, {group['behind']} behind them"
            yield f"  {counts}; {since}"
            mine = [one for one in document["records"] if one["group"] == group["group"]]
            shown = [one for one in mine if one["type"] == group["type"]][:5]
            yield from (f"    {_short(one['parked_id'])}  order {_short(one['order_id'])[:40]}" for one in shown)
            if group["count"] > len(shown):
                more = f"quadrille parked list --group {group['group']} --limit 200 -o json"
                yield f"    and {group['count'] - len(shown)} more: {more}"
            if shown:
                yield f"  now  quadrille parked show {_short(shown[0]['parked_id'])} --service {document['service']}"


def _wrapped(text: str) -> Iterator[str]:
    yield from textwrap.wrap(text, 80, initial_indent="  ", subsequent_indent="    ")


def _shown(document: Document) -> Iterator[str]:
    """Say what one is: as much as a person needs to decide, and the commands that work now."""
    record, short = document["record"], _short(document["record"]["parked_id"])
    yield f"{record['parked_id']}  {record['type']}"
    yield f"  in       {document['service']}, order {record['order_id']}"
    yield f"  from     {record['place'] or 'the outside or a timer'}, {record['bytes']} bytes"
    yield from _wrapped(f"error    {record['error_class']}: {record['error']}")
    yield f"  tried    {record['attempts']} times since {_age(record['parked_at'])} ago; {_next(record)}"
    yield from (f"  {'frames' if n == 0 else '':<9}{frame}" for n, frame in enumerate(record["frames"]))
    if record["body"] is not None:
        yield "  body     " + json.dumps(record["body"], ensure_ascii=True)
    raw = record["raw"]
    for at in range(0, min(len(raw), 4 * 2 * HEX_SHOWN), 2 * HEX_SHOWN):
        yield f"  {'raw' if at == 0 else '':<9}{raw[at : at + 2 * HEX_SHOWN]}"
    if len(raw) > 4 * 2 * HEX_SHOWN or record["raw_cut"]:
        yield f"           and more: quadrille parked show {short} --service {document['service']} -o json"
    for header in record["headers"]:
        yield f"  {header['name']:<20} {header['text'] if _printable(header['text']) else 'hex ' + header['hex']}"
    for one in record["waiting_behind"]:
        yield f"  behind   {_short(one['parked_id'])} {one['type']}"
    if record["state"] in STATES[:2]:
        old = " --accept-old" if record["error_class"] == "BELOW_FLOOR" else ""
        yield f"  now      quadrille parked redrive {short} --service {document['service']}{old}"
        yield f"  or       quadrille parked discard {short} --service {document['service']} --reason '...'"
    elif record["state"] == "DISCARDED":
        yield f"  undo     quadrille parked redrive {short} --service {document['service']}"


def _printable(text: str | None) -> bool:
    return text is not None and text.isprintable()
