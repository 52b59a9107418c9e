"""`quadrille orders`: place, list, show and cancel, as the order API has them; an operator's cancel by its ops port."""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import IO, Annotated, Any
from urllib.parse import urlencode

import typer
from typer import echo

from quadrille_cli import complete, console
from quadrille_cli.client import Client
from quadrille_cli.commands.resolve import PARTLY
from quadrille_cli.commands.shared import (
    NOT_FOUND,
    REFUSED,
    TIMEOUT,
    UNREACHABLE,
    Key,
    Url,
    asked,
    bad,
    form,
    moment,
    order_api,
    order_id,
    reason,
)
from quadrille_cli.commands.stack import INTERRUPTED
from quadrille_cli.commands.why import parked_here
from quadrille_cli.demo_data import PRICES
from quadrille_cli.order_file import PLACED, UNASKED, OrderPlacer, Pace, read
from quadrille_cli.order_file import REFUSED as REFUSED_THERE
from quadrille_cli.terminal import ago, harmless, money, short, table

PAGE = 200
LOOK_SECONDS, PATIENCE_SECONDS = 0.1, 60.0
FORMS = ("table", "wide", "json", "jsonl")
HEAD = ("order", "status", "reason", "amount", "placed")
WIDE = (
    "order",
    "status",
    "reason",
    "attention",
    "amount",
    "inventory",
    "payment",
    "customer",
    "reference",
    "placed_at",
)
Data = Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")]
Output = Annotated[str, typer.Option("-o", "--output", help="table, wide, json or jsonl.")]
Which = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="The order, or the last 4 characters or more of its id.", autocompletion=complete.orders
    ),
]
Document = dict[str, Any]
SAMPLE = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"
PLACE = "\b\nExamples:\n  quadrille orders place --wait\n  quadrille orders place --sku SKU-TEA --qty 3 -o json"
SHOWN_REFUSALS, PROGRESS_SECONDS = 20, 1.0
LIST = "\b\nExamples:\n  quadrille orders list --status COMPENSATION_FAILED\n  quadrille orders list --limit 5 -o jsonl"
SHOW = f"""\b
Examples:
  quadrille orders show {SAMPLE}
  quadrille orders show {SAMPLE} --as-of 0s"""
CANCEL = f"""\b
Examples:
  quadrille orders cancel {SAMPLE}
  quadrille orders cancel {SAMPLE} --operator --reason fraud"""

app = typer.Typer(help="Orders: place, list, show, cancel.", no_args_is_help=True, rich_markup_mode=None, epilog=LIST)


@app.command("place", epilog=PLACE)
def place(  # noqa: PLR0913, PLR0917 - one parameter per option
    sku: Annotated[list[str] | None, typer.Option("--sku", help="What is ordered; again for another line.")] = None,
    qty: Annotated[list[int] | None, typer.Option("--qty", help="How many, of each line in turn.")] = None,
    price: Annotated[list[int] | None, typer.Option("--price", help="Minor units for one, of each in turn.")] = None,
    token: Annotated[str, typer.Option("--token", help="What it is paid with.")] = "tok_ok",  # noqa: S107 - a test token
    customer: Annotated[str, typer.Option("--customer", help="Who orders.")] = "cust_demo",
    reference: Annotated[str, typer.Option("--reference", help="The customer's own name for it.")] = "",
    once: Annotated[str, typer.Option("--idempotency-key", help="Asked again with it, it is placed once.")] = "",
    file: Annotated[Path | None, typer.Option("--file", help="Orders: JSON lines, or an array; - is stdin.")] = None,
    output: Output = "table",
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is final.")] = False,
    url: Url = "",
    key: Key = "",
    data: Data = None,
) -> None:
    """Place an order; what a line is and what it costs is that of the demo's shop, unless it is said.

    Of a file (--file orders.jsonl) each order is a document as the API takes it; customer, token and currency may be
    left out. Exit codes: 0 placed, with --wait CONFIRMED; 3 it ended otherwise, or was refused; 4 not final within
    60 s; 7 no order is taken now; 8 some of a file's are placed, others not.
    """
    form(output, FORMS)
    body: Document = {"customer_id": customer, "payment_token": token, "currency": "EUR"}
    if file is not None:
        if wait or sku or qty or price or reference:
            bad("--file", "the file alone says what is ordered; how they go: quadrille watch, quadrille orders list")
        _place_file(order_api(data, url, key).url, file, body, once or f"file-{uuid.uuid4()}", output)
        return
    body |= {"reference": reference} if reference else {}
    body["lines"] = list(_lines(sku or ["SKU-TEA"], qty or [], price or []))
    with asked(order_api(data, url, key).url) as api:
        headers = {"Idempotency-Key": once or f"quadrille-{uuid.uuid4()}"}
        document = api.demand("POST", "/v1/orders", body, headers).body
        if wait:
            document = _final(api, document["order_id"])
    _show(document, output)
    if wait and not document["final"]:
        console.fail(
            f"not final after {PATIENCE_SECONDS:g} s; it may still: quadrille why {short(document['order_id'])}"
        )
        raise typer.Exit(TIMEOUT)
    if wait and document["status"] != "CONFIRMED":
        raise typer.Exit(REFUSED)


@app.command("list", epilog=LIST)
def list_(  # noqa: PLR0913 - one parameter per option
    status: Annotated[str, typer.Option("--status", help="Only orders of this status.")] = "",
    why: Annotated[str, typer.Option("--reason", help="Only orders cancelled for this reason.")] = "",
    since: Annotated[str, typer.Option("--since", help="Only orders placed after: 10m ago, or a time.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many at most.")] = 50,
    output: Output = "table",
    *,
    url: Url = "",
    key: Key = "",
    data: Data = None,
) -> None:
    """List orders, newest first."""
    form(output, FORMS)
    filters = {"status": status, "reason": why, "placed_after": moment("--since", since) if since else ""}
    with asked(order_api(data, url, key).url) as api:
        found = list(_pages(api, {name: value for name, value in filters.items() if value}, limit + 1))
    shown = found[:limit]
    if output == "json":
        echo(json.dumps(shown, indent=2, ensure_ascii=False))
    elif output == "jsonl":
        for one in shown:
            echo(json.dumps(one, ensure_ascii=False))
    else:
        _print(shown, wide=output == "wide", more=len(found) > limit)


@app.command("get", hidden=True, epilog=SHOW)
@app.command("show", epilog=SHOW)
def show(  # noqa: PLR0913 - one parameter per option
    order: Which,
    at: Annotated[str, typer.Option("--as-of", help="As it stood then, by the events: 10m (ago), or a time.")] = "",
    archive: Annotated[Path | None, typer.Option("--archive", help="With --as-of: of an export in DIR.")] = None,
    output: Output = "table",
    *,
    url: Url = "",
    key: Key = "",
    data: Data = None,
) -> None:
    """Show an order as it stands, with every status it passed through; or as it stood.

    With --as-of the events of all services up to that moment are folded, and those that were not known yet are named.
    Exit codes then: 5 nothing had been said of it; 7 a topic was not read to its end.
    """
    form(output, FORMS)
    wanted = order_id(order)
    if archive is not None and not at:
        bad("--archive", "with --as-of TIME: an archive says how an order stood, not how it stands")
    if at:
        _as_of(wanted, datetime.fromisoformat(moment("--as-of", at)), archive, data, output)
        return
    there = order_api(data, url, key)
    with asked(there.url) as api:
        document = api.demand("GET", f"/v1/orders/{there.named(wanted)}").body
    _show(document, output)


def _as_of(wanted: str, at: datetime, archive: Path | None, data: Path | None, output: str) -> None:
    """Print an order as it stood, by topics or by an archive."""
    from quadrille.replay.archive import ArchiveError  # noqa: PLC0415 - with Kafka's client, 0.1 s others can spare
    from quadrille_cli.as_of import as_of, told  # noqa: PLC0415 - as above
    from quadrille_cli.commands import facts  # noqa: PLC0415 - as above

    try:
        log = facts.of_archive(archive, wanted) if archive is not None else facts.of_topics(data, wanted)
    except ArchiveError as broken:
        console.fail(str(broken))
        raise typer.Exit(REFUSED) from None
    document = as_of(log.found, log.order_id, at)
    if document["known"]:
        if output in ("json", "jsonl"):
            echo(json.dumps(document, indent=2 if output == "json" else None, ensure_ascii=False))
        for name, value in told(document) if output in ("table", "wide") else ():
            echo(f"{name:<12} {value}")
    console.fail("\n".join(log.notes))
    if not log.whole:
        raise typer.Exit(UNREACHABLE)
    if not document["known"]:
        later = document["not_yet_known"]
        first = f"; the first, {later[0]['type']}, was said at {later[0]['time']}" if later else ""
        console.fail(f"nothing had been said of order {log.order_id} at {document['as_of']}{first}")
        raise typer.Exit(NOT_FOUND)


@app.command("cancel", epilog=CANCEL)
def cancel(  # noqa: PLR0913 - one parameter per option
    order: Which,
    operator: Annotated[bool, typer.Option("--operator", help="As an operator, not as its customer.")] = False,  # noqa: FBT002 - a flag
    why: Annotated[str, typer.Option("--reason", help="Why an operator does it; kept for ever.")] = "",
    output: Output = "table",
    *,
    url: Url = "",
    key: Key = "",
    data: Data = None,
) -> None:
    """Cancel an order that is not decided yet, or confirmed and before its cut-off.

    Exit code 8: it is cancelled, and what was taken goes back, but order itself holds something parked (PARKED_HERE),
    and cannot end it before that is gone.
    """
    form(output, FORMS)
    wanted = order_id(order)
    if bool(why) != operator:
        bad("--reason", "an operator says why, a customer need not: --operator --reason TEXT")
    there = order_api(data, url, key)
    if operator and there.stack is None:
        bad("--operator", "the stack's own machine: operators ask its ops port, not an order API elsewhere")
    identity = there.named(wanted)
    if operator and there.stack is not None:
        with asked(there.stack.url("order-api")) as ops:
            ops.demand("POST", f"/ops/orders/{identity}/cancel", {"reason": reason(why)})
            document = ops.demand("GET", f"/ops/orders/{identity}").body
    else:
        with asked(there.url) as api:
            document = api.demand("POST", f"/v1/orders/{identity}/cancel").body
    _show({name: value for name, value in document.items() if name not in ("etag", "caller")}, output)
    if not document["final"] and there.stack is not None and parked_here(there.stack, identity):
        raise typer.Exit(PARTLY)


def _place_file(url: str, file: Path, usual: Document, key: str, output: str) -> None:
    """Place the orders of a file; each refusal is told by its line, the end by its exit code."""
    placer, pace, shown = OrderPlacer(url, key), Pace(), 0
    try:
        with _opened(file) as source:
            told = time.monotonic()
            for one in placer.place(read(source, usual)):
                pace.count(one)
                if output in ("json", "jsonl"):
                    echo(json.dumps(one.document(), ensure_ascii=False))
                if one.state == REFUSED_THERE and (shown := shown + 1) <= SHOWN_REFUSALS:
                    console.fail(f"line {one.line}: {harmless(one.why)}")
                if time.monotonic() - told > PROGRESS_SECONDS:
                    told = time.monotonic()
                    console.fail(f"... {pace.words()}")
    except KeyboardInterrupt:
        console.fail(f"interrupted: {pace.words()}\n  go on: the same with --idempotency-key {key}")
        raise typer.Exit(INTERRUPTED) from None
    if shown > SHOWN_REFUSALS:
        console.fail(f"and {shown - SHOWN_REFUSALS:,} more; all of them: -o jsonl")
    _end_file(placer, pace, key, file, quiet=output in ("json", "jsonl"))


def _end_file(placer: OrderPlacer, pace: Pace, key: str, file: Path, *, quiet: bool) -> None:
    """Say how it went, and exit by it."""
    placed, refused, unasked = (pace.counts[name] for name in (PLACED, REFUSED_THERE, UNASKED))
    if not placed + refused + unasked:
        bad("--file", f"a file with orders in it, a JSON document a line or an array of them; {file} has none")
    (console.fail if quiet else echo)(pace.words())
    if unasked:
        text = f"the rest was not asked for: {harmless(placer.stopped)}"
        console.fail(f"{text}\n  go on: the same with --idempotency-key {key}")
    if refused or unasked:
        raise typer.Exit(PARTLY if placed else UNREACHABLE if unasked else REFUSED)


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """A file of orders, or stdin, which is read into one."""
    if str(file) == "-":
        yield BytesIO(sys.stdin.buffer.read())
        return
    try:
        source = file.open("rb")
    except OSError as refused:
        bad("--file", f"a file that can be read: {file}: {refused.strerror}")
    with source:
        yield source


def _lines(skus: Sequence[str], quantities: Sequence[int], prices: Sequence[int]) -> Iterator[Document]:
    """Yield the lines of an order; refuses options that do not go together, and a price nobody has said."""
    for option, said in (("--qty", quantities), ("--price", prices)):
        if said and len(said) != len(skus):
            bad(option, f"one for each --sku: {len(skus)}, not {len(said)}")
    for n, sku in enumerate(skus):
        if not prices and sku not in PRICES:
            bad("--price", f"{sku} is not of the demo's shop ({', '.join(PRICES)}): say what one costs, --price 1250")
        cost = prices[n] if prices else PRICES[sku]
        yield {"sku": sku, "quantity": quantities[n] if quantities else 1, "unit_price_minor": cost}


def _final(api: Client, identity: str) -> Document:
    """Return an order when it is final, or as it is when patience is at its end."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        document: Document = api.demand("GET", f"/v1/orders/{identity}").body
        if document["final"] or document["status"] == "COMPENSATION_FAILED" or time.monotonic() > deadline:
            return document
        time.sleep(LOOK_SECONDS)


def _pages(api: Client, filters: dict[str, str], limit: int) -> Iterator[dict[str, Any]]:
    """Yield so many orders at most, a page at a time, following each page's link to the next."""
    path, left = f"/v1/orders?{urlencode({**filters, 'limit': min(limit, PAGE)})}", limit
    while path and left:
        reply = api.demand("GET", path)
        page = reply.body["orders"][:left]
        yield from page
        left -= len(page)
        url = reply.headers.get("link", "").partition("<")[2].partition(">")[0]
        path = url[url.index("/v1/") :] if url else ""


def _print(found: Sequence[Document], *, wide: bool, more: bool) -> None:
    """Print orders as a table, and below it what is not in it."""
    now = datetime.now(UTC)
    rows = [list(_row(one, now, wide=wide)) for one in found]
    head = [name.partition("_")[0] for name in WIDE] if wide else HEAD
    for text in table(head, rows, right=("amount",) if wide else ("amount", "placed"), wide=wide):
        echo(text)
    there = f"the newest {len(found)}; there are more: --limit" if more else f"{len(found)} orders, all that match"
    echo(f"{there}" + ("" if wide else "; customer, payment, inventory: -o wide"))


def _row(one: Document, now: datetime, *, wide: bool) -> Iterator[str]:
    shown = {
        **one,
        "order": one["order_id"] if wide else short(one["order_id"]),
        "status": one["status"] if wide or not one["attention"] else f"{one['status']} {one['attention']}",
        "amount": money(one["amount_minor"], one["currency"]),
        "customer": one["customer_id"],
        "placed": ago(one["placed_at"], now),
    }
    for name in WIDE if wide else HEAD:
        yield shown[name] or ""


def _show(document: Document, output: str) -> None:
    if output in ("json", "jsonl"):
        echo(json.dumps(document, indent=2 if output == "json" else None, ensure_ascii=False))
        return
    for name, value in _told(document):
        echo(f"{name:<10} {value}")


def _told(document: Document) -> Iterator[tuple[str, str]]:
    """Yield what there is to say of an order: a word, and what it is."""
    currency, began = document["currency"], datetime.fromisoformat(document["placed_at"])
    ended = "final" if document["final"] else "not final"
    status = " ".join(part for part in (document["status"], document["reason"], document["attention"]) if part)
    yield "order", document["order_id"]
    yield "status", f"{status}, {ended}"
    yield "placed", f"{ago(document['placed_at'])} ago, {document['placed_at']}, by {document['customer_id']}"
    if document["reference"]:
        yield "reference", document["reference"]
    for n, line in enumerate(document["lines"]):
        cost = f"{line['quantity']} × {line['sku']} at {money(line['unit_price_minor'], currency)}"
        yield "goods" if n == 0 else "", cost
    yield "amount", money(document["amount_minor"], currency)
    yield "inventory", document["inventory"]
    yield "payment", document["payment"]
    for name, value in document["detail"].items():
        yield name, json.dumps(value, ensure_ascii=False)
    if document["cancellable_until"]:
        yield "cancel", f"until {document['cancellable_until']}"
    for n, entry in enumerate(document["history"]):
        after = (datetime.fromisoformat(entry["at"]) - began).total_seconds()
        yield "history" if n == 0 else "", f"{after:8.3f} s  {entry['status']:<20} {entry['because']}"
    yield "trace", document["links"].get("trace") or document["trace_id"]
