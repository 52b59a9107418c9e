"""`quadrille replay`: a part of a topic read again by one service: first a plan, then, asked twice, for real."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import echo

from quadrille.replay.archive import ArchiveError, verify
from quadrille_cli import complete, console
from quadrille_cli.commands.operations import Document, end, find, follow, lines, services, total
from quadrille_cli.commands.shared import REFUSED, an_id, asked, bad, form, reason, running, the_order, whole_id
from quadrille_cli.services import worker_ops, worker_process
from quadrille_cli.stack import Stack

EPILOG = """\b
Examples:
  quadrille replay --topic payment.events --from 10m --service inventory
  quadrille replay --plan 01a1fd6b-57f0-7eeb-be96-e59ce40f9cb1 --into live --confirm inventory
  quadrille replay --into shadow --model timeline --service console"""
EFFECTS = ("charge", "refund", "mail")
LOOKING, DOING = "a dry run: nothing is handled", "a live replay of its plan"
BESIDE = "a shadow beside the live one"


def command(  # noqa: PLR0913, PLR0917 - one parameter per option
    topic: Annotated[
        str, typer.Option("--topic", help="What to read again: payment.events.", autocompletion=complete.topics)
    ] = "",
    since: Annotated[str, typer.Option("--from", help="10m ago, a time, offset:N, beginning.")] = "10m",
    until: Annotated[str, typer.Option("--to", help="10m ago, a time, offset:N, end.")] = "end",
    partition: Annotated[int, typer.Option("--partition", help="Only this one; an offset needs it.")] = -1,
    order: Annotated[str, typer.Option("--order", help="Only this order's records.")] = "",
    kind: Annotated[str, typer.Option("--type", help="Only records of this type.")] = "",
    event: Annotated[list[str] | None, typer.Option("--event", help="Only this event, discarded or not.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most so many records; 0 is all.")] = 0,
    service: Annotated[str, typer.Option("--service", help="Who is to read them: inventory.")] = "",
    into: Annotated[str, typer.Option("--into", help="dry judges, live does, shadow rebuilds beside.")] = "dry",
    model: Annotated[str, typer.Option("--model", help="The read model a shadow rebuilds.")] = "",
    plan: Annotated[str, typer.Option("--plan", help="The plan a dry run has made; kept for an hour.")] = "",
    confirm: Annotated[str, typer.Option("--confirm", help="The service's name once more, for live.")] = "",
    allow: Annotated[str, typer.Option("--allow-effects", help="charge,refund,mail: what the fence lets out.")] = "",
    why: Annotated[str, typer.Option("--reason", help="Why; kept for ever. Effects need one.")] = "",
    rate: Annotated[int, typer.Option("--rate", min=1, max=100_000, help="Records handled a second.")] = 200,
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
    *,
    archive: Annotated[
        Path | None, typer.Option("--archive", help="Read this export's DIR, not the topic; a shadow reads both.")
    ] = None,
    swap: Annotated[bool, typer.Option("--swap", help="Let the rebuilt rows be the live ones.")] = False,
    data: Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")] = None,
) -> None:
    """Read a part of a topic again: dry judges every record and keeps a plan; live does what was planned.

    The service's own positions never move, its inbox decides what is new, and no charge, refund or mail leaves unless
    it is allowed by name. An archive is read as its topic is, by the same rules; the worker reads it, so it lies where
    that runs. A shadow rebuilds a read model beside the live one from all its topics and compares both.
    Ctrl-C detaches: the replay goes on. Exit codes: 0 done, 1 failed or different, 2 wrong usage, 5 unknown,
    6 against a rule, 7 nothing answers, 8 something was kept back, 130 detached.
    """
    form(output)
    if into not in ("dry", "live", "shadow"):
        bad("--into", "dry, live or shadow")
    selected = topic or order or kind or event or limit or partition >= 0 or until != "end"
    if into == "shadow":
        if selected or plan:
            bad("--into", "a shadow reads all its topics from their beginnings: it takes --model and --service")
        options = {"model": model, "swap": swap, "confirm": confirm, "archive": _archive(archive)}
        stack, document = _shadow(data, service, options, why)
    elif into == "live":
        if selected or archive:
            bad("--plan", "a plan is frozen: what is read again was chosen in its dry run")
        stack, document = _live(data, plan, {"confirm": confirm, "allow_effects": _effects(allow), "rate": rate}, why)
    else:
        if not topic or not service or plan:
            bad("--topic", "a dry run needs --topic and --service; a plan is for --into live")
        events = [whole_id("--event", one, "an event") for one in event or ()]
        chosen = {"order": order, "type": kind, "events": events, "limit": limit, "archive": _archive(archive)}
        chosen |= {"topic": topic, "from": since, "to": until, "partition": partition if partition >= 0 else None}
        stack, document = _dry(data, service, chosen, why)
    document = follow(stack, document)
    echo(json.dumps(document, indent=2) if output == "json" else "\n".join(lines(document)))
    if document["state"] == "PLANNED":
        console.fail("\n".join(_next(document, service)))
    end(document)


def _archive(directory: Path | None) -> str:
    """Return where an archive lies, read whole first; exit 3 names what of it is not what was written."""
    if directory is None:
        return ""
    try:
        verify(directory)
    except ArchiveError as broken:
        console.fail(str(broken))
        raise typer.Exit(REFUSED) from None
    return str(directory.resolve())


def _next(document: Document, service: str) -> Iterator[str]:
    """Yield what can be done with a plan: a live run only where it would handle something, redrive where that helps."""
    live = f"quadrille replay --plan {document['operation_id']} --into live --confirm {service}"
    fenced = sorted(document["progress"].get("kept_back", {}))
    if total(document, "NEW"):
        yield f"next  {live}"
    if fenced:
        yield f"next  {live} --allow-effects {','.join(fenced)} --reason '…'   # what is fenced goes out too"
    failing = sum(document["progress"].get("parked", {}).values())  # their handlers failed now: no lane holds them
    if (parked := total(document, "PARKED") - failing) > 0:
        yield f"PARKED_HERE: {parked} wait in {service}'s parked lanes, and no replay takes them out"
        yield f"  fix: quadrille parked list --service {service}; then redrive or discard the head"
    if not total(document, "NEW") and not fenced and parked <= 0:
        yield f"nothing to do: a live run would handle none of these at {service}"


def _effects(named: str) -> list[str]:
    """Return the effects to be let out; one that nothing leads to would be kept back without a word."""
    effects = [one.strip() for one in named.split(",") if one.strip()]
    if unknown := [one for one in effects if one not in EFFECTS]:
        bad("--allow-effects", f"{', '.join(unknown)}: {', '.join(EFFECTS)}")
    return effects


def _dry(data: Path | None, service: str, chosen: dict[str, Any], why: str) -> tuple[Stack, Document]:
    """Ask for a dry run of what is chosen; what is empty is not said, and a partition 0 is none of that."""
    if chosen["order"]:
        chosen["order"] = an_id("--order", chosen["order"])
    stack = running(data, worker_process(services(service)[0]))
    body = {name: value for name, value in chosen.items() if value or (name == "partition" and value is not None)}
    body |= {"order": the_order(stack, body["order"], "--order")} if "order" in body else {}
    return stack, _ask(stack, service, {"into": "dry", "reason": why or LOOKING, **body})


def _live(data: Path | None, plan: str, options: dict[str, Any], why: str) -> tuple[Stack, Document]:
    if not plan or not options["confirm"]:
        bad("--plan", "live is asked twice: --plan with a dry run's plan, and --confirm with the service's name")
    if options["allow_effects"]:
        reason(why)
    stack, planned = find(running(data), an_id("--plan", plan, "a plan"))
    body = {"into": "live", "plan": planned["operation_id"], "reason": why or DOING, **options}
    return stack, _ask(stack, planned["service"], body)


def _shadow(data: Path | None, service: str, options: dict[str, Any], why: str) -> tuple[Stack, Document]:
    if not options["model"] or not service or (options["swap"] and not options["confirm"]):
        bad("--model", "a shadow needs --model and --service; --swap also --confirm with the service's name")
    stack = running(data, worker_process(services(service)[0]))
    said = {name: value for name, value in options.items() if value}
    return stack, _ask(stack, service, {"into": "shadow", "reason": why or BESIDE, **said})


def _ask(stack: Stack, service: str, body: dict[str, Any]) -> Document:
    with asked(stack.url(worker_ops(service))) as ops:
        asked_for: Document = ops.demand("POST", "/ops/replays", body).body
    return asked_for
