"""`quadrille webhooks`: endpoints that are told of the ends of orders, as the order API has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import echo

from quadrille_cli import console
from quadrille_cli.client import Client
from quadrille_cli.commands.shared import REFUSED, Key, Url, an_id, asked, form, named, order_api
from quadrille_cli.terminal import ago, short, table

HEAD = ("webhook", "state", "told", "tries", "next", "url and last failure")
Data = Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")]
Output = Annotated[str, typer.Option("-o", "--output", help="table or json.")]
Which = Annotated[str, typer.Argument(metavar="ID", help="The endpoint, or the last 4 characters or more of its id.")]
Document = dict[str, Any]
SAMPLE = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"
HERE = "http://127.0.0.1:9000/hook"
ADD = f"""\b
Examples:
  quadrille webhooks add {HERE}
  quadrille webhooks add {HERE} --type order.cancelled -o json"""
LIST = "\b\nExamples:\n  quadrille webhooks list\n  quadrille webhooks list -o json"
SHOW = f"\b\nExamples:\n  quadrille webhooks show {SAMPLE}\n  quadrille webhooks show {SAMPLE} -o json"
TEST = f"\b\nExamples:\n  quadrille webhooks test {SAMPLE}\n  quadrille webhooks test {SAMPLE} -o json"
ROTATE = f"\b\nExamples:\n  quadrille webhooks rotate {SAMPLE}\n  quadrille webhooks rotate {SAMPLE} -o json"
REMOVE = f"\b\nExamples:\n  quadrille webhooks remove {SAMPLE}\n  quadrille webhooks remove {SAMPLE[-8:]}"

app = typer.Typer(
    help="Endpoints that are told of the ends of orders: add, list, show, test, rotate, remove.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog=LIST,
)


@app.command("add", epilog=ADD)
def add(  # noqa: PLR0913 - one parameter per option
    endpoint: Annotated[str, typer.Argument(metavar="URL", help="Where it is told: https, or http on this machine.")],
    kind: Annotated[list[str] | None, typer.Option("--type", help="Only these ends; again for another.")] = None,
    output: Output = "table",
    *,
    url: Url = "",
    key: Key = "",
    data: Data = None,
) -> None:
    """Have an endpoint told of the ends of orders from now on; the secret that verifies is shown this once."""
    form(output)
    with asked(order_api(data, url, key).url) as api:
        made = api.demand("POST", "/v1/webhooks", {"url": endpoint, **({"types": kind} if kind else {})}).body
    if output == "json":
        echo(json.dumps(made, indent=2))
        return
    _print(made)
    _show_secret(made)


@app.command("list", epilog=LIST)
def list_(output: Output = "table", *, url: Url = "", key: Key = "", data: Data = None) -> None:
    """List the endpoints, each with its last failure and its next try."""
    form(output)
    with asked(order_api(data, url, key).url) as api:
        found = _all(api)
    if output == "json":
        echo(json.dumps(found, indent=2))
        return
    now = datetime.now(UTC)
    for text in table(HEAD, [_row(one, now) for one in found], right=("told", "tries", "next")):
        echo(text)
    echo(f"{len(found)} endpoints" if found else "no endpoint is told anything: quadrille webhooks add URL")


@app.command("show", epilog=SHOW)
def show(webhook: Which, output: Output = "table", *, url: Url = "", key: Key = "", data: Data = None) -> None:
    """Show an endpoint: its state, its last failure, its next try."""
    form(output)
    with _api(data, url, key) as api:
        document = api.demand("GET", f"/v1/webhooks/{_the_one(api, webhook)}").body
    if output == "json":
        echo(json.dumps(document, indent=2))
        return
    _print(document)


@app.command("test", epilog=TEST)
def ping(webhook: Which, output: Output = "table", *, url: Url = "", key: Key = "", data: Data = None) -> None:
    """Send an endpoint a signed ping now; one that was given up and takes it goes on where it stopped.

    Exit codes: 0 it took it; 3 it did not.
    """
    form(output)
    with _api(data, url, key) as api:
        told = api.demand("POST", f"/v1/webhooks/{_the_one(api, webhook)}/test").body
    if output == "json":
        echo(json.dumps(told, indent=2))
    elif told["delivered"]:
        more = "; it was disabled, and goes on where it stopped" if told["enabled"] else ""
        echo(f"taken with {told['status']} in {told['took_ms']} ms{more}")
    if not told["delivered"]:
        console.fail(f"not taken after {told['took_ms']} ms: {told['failure']}")
        raise typer.Exit(REFUSED)


@app.command("rotate", epilog=ROTATE)
def rotate(webhook: Which, output: Output = "table", *, url: Url = "", key: Key = "", data: Data = None) -> None:
    """Sign with a new secret, which is shown this once; for a day the one before signs too."""
    form(output)
    with _api(data, url, key) as api:
        made = api.demand("POST", f"/v1/webhooks/{_the_one(api, webhook)}/rotate").body
    if output == "json":
        echo(json.dumps(made, indent=2))
        return
    _show_secret(made)


@app.command("remove", epilog=REMOVE)
def remove(webhook: Which, *, url: Url = "", key: Key = "", data: Data = None) -> None:
    """Have an endpoint told nothing any more."""
    with _api(data, url, key) as api:
        identity = _the_one(api, webhook)
        api.demand("DELETE", f"/v1/webhooks/{identity}")
    echo(f"removed {identity}: it is told nothing any more")


def _api(data: Path | None, url: str, key: str) -> Any:  # noqa: ANN401 - what asked gives
    return asked(order_api(data, url, key).url)


def _all(api: Client) -> list[Document]:
    found: list[Document] = api.demand("GET", "/v1/webhooks").body["webhooks"]
    return found


def _the_one(api: Client, text: str) -> str:
    """Return the id of the endpoint that is meant; several are listed and exit 2, none exits 5."""
    wanted = an_id("ID", text, "an endpoint")
    return named("ID", wanted, [str(one["webhook_id"]) for one in _all(api)], "an endpoint")


def _row(one: Document, now: datetime) -> list[str]:
    failure = one["last_failure"]
    told = f": {failure['phrase']}" if failure else ""
    due = one["next_try_at"]
    seconds = (datetime.fromisoformat(due) - now).total_seconds() if due else 0
    return [
        short(one["webhook_id"]), one["state"], ago(one["delivered_at"], now) if one["delivered_at"] else "never",
        str(one["attempts"]) if failure else "", f"{max(0, round(seconds))}s" if due else "", f"{one['url']}{told}",
    ]  # fmt: skip


def _print(document: Document) -> None:
    for name, value in _told(document):
        echo(f"{name:<10} {value}")


def _told(one: Document) -> Iterator[tuple[str, str]]:
    """Yield what there is to say of an endpoint: a word, and what it is."""
    yield "webhook", one["webhook_id"]
    yield "url", one["url"]
    yield "types", ", ".join(one["types"])
    yield (
        "state",
        one["state"] + (f" since {one['disabled_at']}: {one['disabled_because']}" if one["disabled_at"] else ""),
    )
    yield "told", f"{ago(one['delivered_at'])} ago, {one['delivered_at']}" if one["delivered_at"] else "nothing yet"
    if failure := one["last_failure"]:
        yield "failed", f"{failure['phrase']}, {failure['address']}, {failure['at']}"
    if one["next_try_at"]:
        yield "next try", f"{one['next_try_at']}, after {one['attempts']} in vain"
    if one["disabled_at"]:
        yield "now", f"quadrille webhooks test {short(one['webhook_id'])}"


def _show_secret(made: Document) -> None:
    echo(f"{'secret':<10} {made['secret']}")
    echo("it is not shown again; it verifies webhook-signature as Standard Webhooks says")
