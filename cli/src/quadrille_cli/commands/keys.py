"""`quadrille keys`: API keys made, listed and revoked in the key file that the services read (docs/keys.md)."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from typer import echo

from quadrille_cli import console
from quadrille_cli.commands.shared import NOT_FOUND, UNREACHABLE, bad, form
from quadrille_cli.services import SCOPES
from quadrille_cli.stack import Stack, dev_keys, paths
from quadrille_cli.terminal import ago, table

if TYPE_CHECKING:
    from quadrille.keys import ApiKey

HEAD = ("key", "owner", "state", "made", "expires", "scopes")
NEVER = "never"
SAMPLE = "5f0c1a9be2d4"
NEW = """\b
Examples:
  quadrille keys new --owner acme --scope orders:read --scope orders:write
  quadrille keys new --owner desk --scope 'ops:*' --expires never -o json"""
LIST = "\b\nExamples:\n  quadrille keys list\n  quadrille keys list --owner acme -o json"
REVOKE = f"\b\nExamples:\n  quadrille keys revoke {SAMPLE}\n  quadrille keys revoke {SAMPLE} --file keys.json"
File = Annotated[
    Path | None,
    typer.Option("--file", help="The key file (default: $QUADRILLE_KEYS_FILE, or the local stack's with AUTH=keys)."),
]
Data = Annotated[Path | None, typer.Option("--data", help="Data directory of the stack whose key file it is.")]
Output = Annotated[str, typer.Option("-o", "--output", help="table or json.")]

app = typer.Typer(help="API keys: new, list, revoke.", no_args_is_help=True, rich_markup_mode=None, epilog=LIST)


@app.command("new", epilog=NEW)
def new(  # noqa: PLR0913 - one parameter per option
    owner: Annotated[str, typer.Option("--owner", help="Whose it is: what he orders is his, with any of his keys.")],
    scope: Annotated[list[str], typer.Option("--scope", help="What it may; again for another; ops:* is all of ops.")],
    expires: Annotated[str, typer.Option("--expires", help="When it ends: 90d, 12h, or never.")] = "90d",
    environment: Annotated[str, typer.Option("--env", help="A word in the key that says where it is for.")] = "live",
    output: Output = "table",
    *,
    file: File = None,
    data: Data = None,
) -> None:
    """Make a key: its text is printed on stdout, this once; the file keeps its SHA-256."""
    from quadrille import keys  # noqa: PLC0415 - 0.3 s that a help page can spare

    form(output)
    try:
        token, made = keys.mint(owner, _scopes(scope), _life(expires), environment)
    except ValueError as wrong:
        if str(wrong).startswith("owner"):
            bad("--owner", "at most 64 letters, digits and . _ @ -, the first a letter or a digit")
        bad("--env", str(wrong))
    with _opened(where := _file(file, data)) as kept:
        kept.append(made)
    if output == "json":
        shown = made.model_dump(mode="json", exclude_none=True, exclude={"sha256"})
        echo(json.dumps({"key": str(token), **shown, "scopes": sorted(made.scopes), "file": str(where)}, indent=2))
        return
    echo(str(token))
    until = f"until {made.expires:%Y-%m-%d %H:%M} UTC" if made.expires else "until it is revoked"
    console.fail(
        f"key {made.id} of {made.owner}, {until}, is in {where}; its text is shown this once\n"
        f"  scopes: {', '.join(sorted(made.scopes))}"
    )


@app.command("list", epilog=LIST)
def list_(
    owner: Annotated[str, typer.Option("--owner", help="Only the keys of this owner.")] = "",
    output: Output = "table",
    *,
    file: File = None,
    data: Data = None,
) -> None:
    """List the keys of the file, the newest first; no secret is among them."""
    from quadrille import keys  # noqa: PLC0415 - as above

    form(output)
    where = _file(file, data)
    try:
        kept = keys.read_keys(where)
    except keys.KeyFileError as broken:
        _cannot(where, broken)
    found = sorted((key for key in kept if owner in ("", key.owner)), key=lambda key: key.created, reverse=True)
    now = datetime.now(UTC)
    if output == "json":
        shown = [
            key.model_dump(mode="json", exclude={"sha256"}) | {"scopes": sorted(key.scopes), "state": _state(key, now)}
            for key in found
        ]
        echo(json.dumps(shown, indent=2))
        return
    rows = [
        (key.id, key.owner, _state(key, now), ago(key.created.isoformat(), now),
         f"{key.expires:%Y-%m-%d}" if key.expires else NEVER, " ".join(sorted(key.scopes)))
        for key in found
    ]  # fmt: skip
    for text in table(HEAD, rows, right=("made",)):
        echo(text)
    echo(f"{len(found)} keys in {where}" if found else f"no key in {where}: quadrille keys new")


@app.command("revoke", epilog=REVOKE)
def revoke(
    identity: Annotated[str, typer.Argument(metavar="ID", help="The key's id, the third part of its text.")],
    *,
    file: File = None,
    data: Data = None,
) -> None:
    """Revoke a key: within a second it lets nobody in any more, and it never does again."""
    if len(parts := identity.split("_")) > 1:  # somebody gave the whole key
        identity = parts[2] if len(parts) > 2 else identity  # noqa: PLR2004 - as its form is
    now = datetime.now(UTC).replace(microsecond=0)
    with _opened(where := _file(file, data)) as kept:
        place = next((n for n, key in enumerate(kept) if key.id == identity), None)
        if place is None:
            console.fail(f"no key in {where} has the id {identity[:16]}\n  fix: quadrille keys list --file {where}")
            raise typer.Exit(NOT_FOUND)
        before = kept[place]
        if before.revoked is None:
            kept[place] = before.model_copy(update={"revoked": now})
    if before.revoked is not None:
        echo(f"key {before.id} of {before.owner} was revoked already, {ago(before.revoked.isoformat(), now)} ago")
        return
    others = sum(key.owner == before.owner and key.id != before.id and key.live(now) for key in kept)
    left = {0: "no other key", 1: "1 other key"}.get(others, f"{others} other keys")
    echo(f"key {before.id} is revoked; {before.owner} has {left}")


@contextmanager
def _opened(where: Path) -> Iterator[list[ApiKey]]:
    """The file's keys, to be changed; one that cannot be read or written is told, exit code 7."""
    from quadrille.keys import KeyFileError  # noqa: PLC0415 - as above
    from quadrille_cli.key_store import changing  # noqa: PLC0415 - as above

    try:
        with changing(where) as kept:
            yield kept
    except (KeyFileError, OSError) as refused:
        _cannot(where, refused)


def _cannot(where: Path, why: Exception) -> NoReturn:
    text = why.strerror if isinstance(why, OSError) else str(why)
    console.fail(f"{where} cannot be used: {text}\n  fix: correct it, or name another: --file FILE")
    raise typer.Exit(UNREACHABLE)


def _file(named: Path | None, data: Path | None) -> Path:
    """Return the key file that is meant."""
    if named is not None:
        return named
    if data is None and (told := os.environ.get("QUADRILLE_KEYS_FILE")):
        return Path(told)
    stack = Stack.found(paths.data_dir(data))
    if stack is not None and dev_keys.wanted(stack):
        return Path(stack.settings.get("KEYS_FILE", stack.data / dev_keys.FILE))
    console.fail(
        "no key file is named, and no stack here runs with keys\n"
        "  fix: --file FILE, or quadrille up --detach --set AUTH=keys"
    )
    raise typer.Exit(UNREACHABLE)


def _scopes(asked: list[str]) -> list[str]:
    """Return the scopes that are meant, a pattern with all it means but admin; refuses what is none."""
    found: list[str] = []
    for one in asked:
        means = [one] if one in SCOPES else fnmatch.filter(SCOPES[:-1], one)
        if not means:
            bad("--scope", f"{one} is none of: {', '.join(SCOPES)}")
        found += means
    return found


def _life(text: str) -> timedelta | None:
    from quadrille.settings import parse_duration  # noqa: PLC0415 - as above

    if text == NEVER:
        return None
    try:
        life = parse_duration(text)
    except ValueError as wrong:
        bad("--expires", f"{wrong}, or {NEVER}")
    return life or bad("--expires", f"more than nothing, or {NEVER}")


def _state(key: ApiKey, now: datetime) -> str:
    if key.revoked is not None:
        return "revoked"
    return "live" if key.live(now) else "expired"
