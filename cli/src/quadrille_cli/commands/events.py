"""`quadrille events`: any topic, decoded: list what lies there, show one, follow what comes; never `none` unread."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from confluent_kafka import KafkaException, Message
from typer import echo

from quadrille.replay.archive import Archive, ArchiveError, verify
from quadrille_cli import complete, console
from quadrille_cli.archive import export_to, summary
from quadrille_cli.commands import stack as supervisor
from quadrille_cli.commands.shared import (
    NOT_FOUND,
    REFUSED,
    UNREACHABLE,
    an_id,
    bad,
    form,
    moment,
    named,
    running,
    the_order,
)
from quadrille_cli.event_log import EventLog, NoTopicError, Ranges, Reading, Selection, headers_of, printable
from quadrille_cli.services import SERVICES
from quadrille_cli.stack import Stack
from quadrille_cli.terminal import SHORT, painted, short, table

FORMS = ("table", "wide", "json", "jsonl")
HEAD = ("time", "type", "order", "#", "where")
FACTS = tuple(f"{name}.events" for name in SERVICES)
EVERY = (*FACTS, "ops.events", "saga.audit", *(f"{name}.dead-letters" for name in SERVICES))
PLACE = re.compile(r"([a-z.-]+)\[(\d+)\]@(\d+)")
BYTES, WHOLE, TYPE = 32, 36, 28
SAMPLE = "order.events[0]@0"
Data = Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")]
Topic = Annotated[
    list[str] | None,
    typer.Option("--topic", help="payment.events; again for more; or all.", autocompletion=complete.topics),
]
Since = Annotated[str, typer.Option("--from", help="10m (ago), a time, beginning, offset:N of a --partition.")]
Partition = Annotated[int, typer.Option("--partition", help="Only this one.")]
Kind = Annotated[str, typer.Option("--type", help="payment.charged; payment. for all that begin so.")]
Order = Annotated[str, typer.Option("--order", help="Only this order's: its id, or the end of it.")]
Beats = Annotated[bool, typer.Option("--beats", help="Heartbeats too.")]
Document = dict[str, Any]
LIST = """\b
Examples:
  quadrille events list --from 1h
  quadrille events list --topic payment.events --type payment.charged -o jsonl"""
SHOW = f"\b\nExamples:\n  quadrille events show '{SAMPLE}'\n  quadrille events show '{SAMPLE}' -o json"
TAIL = "\b\nExamples:\n  quadrille events tail\n  quadrille events tail --topic order.events -o jsonl"
EXPORT = """\b
Examples:
  quadrille events export --topic order.events --until 2026-11-21T00:00:00Z orders
  quadrille events export --topic all archive"""
IMPORT = "\b\nExamples:\n  quadrille events import archive\n  quadrille events import archive --renumber"
VERIFY = "\b\nExamples:\n  quadrille events verify archive\n  quadrille events verify archive -o json"
app = typer.Typer(
    help="Topics, decoded: list, show, tail; exported and imported.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog=LIST,
)


@app.command("list", epilog=LIST)
def list_(  # noqa: PLR0913, PLR0917 - one parameter per option
    topic: Topic = None,
    since: Since = "",
    kind: Kind = "",
    order: Order = "",
    partition: Partition = -1,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="The newest, how many at most.")] = 50,
    output: Annotated[str, typer.Option("-o", "--output", help="table, wide, json or jsonl.")] = "table",
    *,
    beats: Beats = False,
    data: Data = None,
) -> None:
    """List what lies on the topics, oldest first: of the last hour, or of an order from the beginning.

    Exit code 7: a broker that is away, or went away before the end was read.
    """
    form(output, FORMS)
    wanted = an_id("--order", order) if order else ""
    since = since or ("beginning" if order else "1h")
    with opened(data) as (stack, log):
        selection = _selection(stack, topic, kind, wanted, beats=beats)
        reading = Reading(_ranges(log, selection, since, partition))
        found = [log.document(message) for message in log.newest(reading, selection, limit)]
    _print(found, output)
    more = reading.matching > len(found)
    note = f"the newest {len(found)} of {reading.matching:,}: --limit" if more else f"{len(found)} records"
    stepped = f"; {reading.beats:,} heartbeats are not shown: --beats" if reading.beats else ""
    console.fail("\n".join([f"{note}, from {since} on{stepped}", *reading.lines()]))
    if not reading.whole:
        console.fail("the broker went away before the end was read: there may be more\n  fix: quadrille status")
        raise typer.Exit(UNREACHABLE)


@app.command("show", epilog=SHOW)
def show(
    which: Annotated[
        str, typer.Argument(metavar="WHICH", help="TOPIC[PARTITION]@OFFSET, or the end of an event's id.")
    ],
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
    *,
    data: Data = None,
) -> None:
    """Show one record whole: its body, its headers, and its bytes where they cannot be read."""
    form(output)
    place = PLACE.fullmatch(which)
    wanted = "" if place else an_id("WHICH", which, "an event")
    with opened(data) as (_, log):
        if place:
            document, headers = _at(log, place[1], int(place[2]), int(place[3]))
        else:
            document, headers = _by_id(log, wanted)
    if output == "json":
        echo(json.dumps(document | {"headers": headers}, indent=2, ensure_ascii=False))
        return
    for line in _whole(document, headers):
        echo(line)


@app.command("tail", epilog=TAIL)
def tail(  # noqa: PLR0913, PLR0917 - one parameter per option
    topic: Topic = None,
    since: Since = "end",
    kind: Kind = "",
    order: Order = "",
    partition: Partition = -1,
    limit: Annotated[int, typer.Option("--limit", min=0, help="End after so many; 0 is never.")] = 0,
    output: Annotated[str, typer.Option("-o", "--output", help="table or jsonl.")] = "table",
    *,
    beats: Beats = False,
    data: Data = None,
) -> None:
    """Follow what comes, until Ctrl-C."""
    form(output, ("table", "jsonl"))
    wanted = an_id("--order", order) if order else ""
    try:
        with opened(data) as (stack, log):
            selection = _selection(stack, topic, kind, wanted, beats=beats)
            follow(log, selection, _ranges(log, selection, since, partition), output, limit)
    except KeyboardInterrupt:
        raise typer.Exit(supervisor.INTERRUPTED) from None


@app.command("export", epilog=EXPORT)
def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; made, and not there yet.")],
    topic: Annotated[
        list[str], typer.Option("--topic", help="order.events; again for more; or all.", autocompletion=complete.topics)
    ],
    since: Annotated[str, typer.Option("--since", help="10m (ago), a time, or beginning.")] = "beginning",
    until: Annotated[str, typer.Option("--until", help="A time before which; the end of the topic without.")] = "",
    *,
    data: Data = None,
) -> None:
    """Write records as they lie there to Avro container files by topic and day, with a manifest of their hashes.

    DIR is there when all of it is written; else nothing is. Exit code 7: the broker is away, or went away meanwhile.
    """
    first = None if since == "beginning" else datetime.fromisoformat(moment("--since", since))
    last = datetime.fromisoformat(moment("--until", until)) if until else None
    with opened(data) as (stack, log):
        selection = _selection(stack, topic, "", "", beats=True)
        reading = Reading(log.ranges(selection.topics, first))
        try:
            made = export_to(directory, log, reading, selection, (first, last))
        except ArchiveError as refused:
            console.fail(str(refused))
            raise typer.Exit(REFUSED) from None
    if made is None:
        console.fail("\n".join(["the broker went away before the end was read: nothing is kept", *reading.lines()]))
        raise typer.Exit(UNREACHABLE)
    echo(f"{directory}: {summary(made)}")
    if missing := made["schemas_missing"]:
        console.fail(f"schemas that the registry does not have or give: {', '.join(map(str, missing))}")


@app.command("verify", epilog=VERIFY)
def verify_archive(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="What `export` has made.")],
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
) -> None:
    """Read an archive whole and say whether it is what was written; exit code 3 names what is not."""
    form(output)
    try:
        manifest = verify(directory)
    except ArchiveError as broken:
        console.fail(str(broken))
        raise typer.Exit(REFUSED) from None
    echo(json.dumps(manifest, indent=2) if output == "json" else f"{directory}: whole, {summary(manifest)}")


@app.command("import", epilog=IMPORT)
def import_archive(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="What `export` has made.")],
    *,
    renumber: Annotated[
        bool, typer.Option("--renumber", help="Write the ids that this registry has for the values' schemas.")
    ] = False,
    data: Data = None,
) -> None:
    """Write an archive's records back to the topics they are of, on this cluster: keys, values, headers, order, times.

    Each topic is empty but for heartbeats, or holds the archive's beginning, as a run that was cut short leaves it:
    then the rest is written, and asked again nothing. Heartbeats are left out. Exit code 3: the archive is not what was
    written, or does not fit; nothing is changed. 7: the broker or the registry is away; the same command goes on.
    """
    from quadrille.avro.registry import Registry, RegistryUnavailableError  # noqa: PLC0415 - 0.1 s others can spare
    from quadrille_cli.archive_import import BrokerGoneError, import_from  # noqa: PLC0415 - as above
    from quadrille_cli.schema.lifecycle import SchemaRefusedError  # noqa: PLC0415 - as above

    with opened(data) as (stack, log):
        try:
            done = import_from(Archive(directory), log, Registry(stack.registry_url), renumber=renumber)
        except (ArchiveError, SchemaRefusedError) as refused:
            console.fail(str(refused))
            raise typer.Exit(REFUSED) from None
        except (BrokerGoneError, RegistryUnavailableError) as away:
            console.fail(f"{away}\n  fix: quadrille status; then the same again")
            raise typer.Exit(UNREACHABLE) from None
    for line in done.lines():
        echo(line)


def follow(log: EventLog, selection: Selection, ranges: Ranges, output: str, limit: int) -> None:
    """Print records as they come; ends after so many, if a number is given."""
    console.fail(f"waiting for what comes on {', '.join(selection.topics)}; Ctrl-C ends it")
    told(log, log.follow(selection, ranges), output, limit)


def told(log: EventLog, messages: Iterable[Message], output: str, limit: int) -> int:
    """Print records, a line each, so many at most if a number is given; return how many there were."""
    number = 0
    for number, message in enumerate(messages, start=1):
        document = log.document(message)
        if output == "jsonl":
            echo(json.dumps(document, ensure_ascii=False))
        else:
            at, kind, order, sequence, where = row(document)
            echo(f"{at}  {kind:<{TYPE}}  {order:<{SHORT}}  {sequence:>2}  {where}")
        if number == limit:
            break
    return number


@contextmanager
def opened(data: Path | None) -> Iterator[tuple[Stack, EventLog]]:
    """The running stack and its topics; a broker that is away is exit 7, a topic that is not there is wrong usage."""
    stack = running(data, "kafka")
    try:
        yield stack, EventLog(stack)
    except NoTopicError as unknown:
        bad("--topic", f"{unknown}: {', '.join(EVERY)}, or all")
    except (KafkaException, TimeoutError) as away:
        told = away.args[0].str() if isinstance(away, KafkaException) else "no answer in time"
        console.fail(f"the broker at {stack.kafka_bootstrap} does not answer: {told}\n  fix: quadrille status")
        raise typer.Exit(UNREACHABLE) from None


def _selection(stack: Stack, topics: list[str] | None, kind: str, order: str, *, beats: bool) -> Selection:
    chosen = tuple(EVERY if topics and "all" in topics else topics or FACTS)
    return Selection(chosen, the_order(stack, order, "--order") if order else "", kind, beats)


def _ranges(log: EventLog, selection: Selection, since: str, partition: int) -> Ranges:
    """Return what is to be read, from where it was asked on; refuses what is no beginning."""
    if since.startswith("offset:"):
        number = since.removeprefix("offset:")
        if partition < 0 or not (number.isascii() and number.isdigit()):
            bad("--from", "offset:N, with the --partition it is of")
        return log.ranges(selection.topics, None, partition, int(number))
    if since == "end":
        return {place: (high, high) for place, (_, high) in log.ranges(selection.topics, None, partition).items()}
    at = None if since == "beginning" else datetime.fromisoformat(moment("--from", since))
    return log.ranges(selection.topics, at, partition)


def _print(found: list[Document], output: str) -> None:
    if output == "json":
        echo(json.dumps(found, indent=2, ensure_ascii=False))
    elif output == "jsonl":
        for one in found:
            echo(json.dumps(one, ensure_ascii=False))
    else:
        wide = output == "wide"
        for line in table(HEAD, [row(one, wide=wide) for one in found], right=("#",), wide=wide):
            echo(line)


def row(one: Document, *, wide: bool = False) -> list[str]:
    """Return a record's row: when, what, of which order, the how manyth of its stream, and where it lies."""
    at = one["time"] if wide else one["time"][11:23]
    where = f"{one['topic']}[{one['partition']}]@{one['offset']}"
    if broken := one.get("undecodable"):
        where += f" UNDECODABLE {broken['reason']}: {broken['size']} bytes {broken['bytes'][: 2 * BYTES]}"
    order = one["order_id"] if wide or len(one["order_id"]) < WHOLE else short(one["order_id"])
    return [at, one["type"] or "?", order, str(one["sequence"] or "?"), where]


def _at(log: EventLog, topic: str, partition: int, offset: int) -> tuple[Document, Document]:
    """Return the record at a place; exit 5 where there is none."""
    ranges = log.ranges([topic], None, partition, offset)
    [(place, (low, high))] = ranges.items()
    if low != offset or offset >= high:
        there = log.ranges([topic], None, partition)[place]
        console.fail(
            f"{topic}[{partition}] holds the offsets {there[0]} up to, not including, {there[1]}: not {offset}"
        )
        raise typer.Exit(NOT_FOUND)
    reading = Reading({place: (offset, offset + 1)})
    for message in log.read(reading, Selection([topic], beats=True)):
        return log.document(message), _headers(message)
    console.fail(f"{topic}[{partition}]@{offset} is no record, or the broker went away")
    raise typer.Exit(UNREACHABLE if not reading.whole else NOT_FOUND)


def _by_id(log: EventLog, wanted: str) -> tuple[Document, Document]:
    """Return the record of an event's id, or the end of it, wherever it lies."""
    topics = [topic for topic in EVERY if log.topics.places(topic)]
    reading = Reading(log.ranges(topics, None))
    found: dict[str, tuple[Document, Document]] = {}
    for message in log.read(reading, Selection(topics, beats=True)):
        identity = dict(headers_of(message)).get("ce_id") or b""
        if identity.endswith(wanted.encode()):
            found.setdefault(printable(identity), (log.document(message), _headers(message)))
    if not found:
        console.fail("\n".join([f"no event's id ends in {wanted}", *reading.lines()]))
        raise typer.Exit(NOT_FOUND if reading.whole else UNREACHABLE)
    return found[named("WHICH", wanted, list(found), "an event")]


def _headers(message: Message) -> Document:
    return {printable(name.encode()): printable(value or b"") for name, value in headers_of(message)}


def _whole(document: Document, headers: Document) -> Iterator[str]:
    """Yield a record in lines: what it is, what it says, and the headers it came with."""
    for name, value in document.items():
        if name not in ("body", "undecodable", "topic", "partition", "offset") and value is not None:
            yield f"{name:<15} {value}"
    yield f"{'where':<15} {document['topic']}[{document['partition']}]@{document['offset']}"
    if broken := document.get("undecodable"):
        yield painted(f"{'undecodable':<15} {broken['reason']}", "red")
        yield f"{'bytes':<15} {broken['size']}"
        yield from (f"  {at // 2:>8x}  {broken['bytes'][at : at + 64]}" for at in range(0, len(broken["bytes"]), 64))
    if document["body"] is not None:
        yield "body"
        yield from (f"  {line}" for line in json.dumps(document["body"], indent=2, ensure_ascii=False).splitlines())
    yield "headers"
    yield from (f"  {name:<20} {value}" for name, value in headers.items())
