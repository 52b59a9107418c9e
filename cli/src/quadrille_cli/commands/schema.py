"""`quadrille schema`: check, publish, apply and compare the schemas of the events."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from quadrille.avro.registry import RegistryUnavailableError
from quadrille_cli.schema import lifecycle

FAILED, UNREACHABLE = 1, 7
app = typer.Typer(no_args_is_help=True, help="Check, publish and apply the schemas of the events.")
Url = Annotated[str, typer.Option("--registry", envvar="QUADRILLE_REGISTRY_URL", help="Base of the registry's API.")]
Folder = Annotated[Path | None, typer.Option("--schemas", help="Directory with published.json; found if left out.")]
LOCAL = "http://127.0.0.1:8081/apis/ccompat/v7"


def _end(findings: Iterable[str], good: str) -> None:
    found = list(findings)
    for finding in found:
        typer.echo(finding)
    if found:
        raise typer.Exit(FAILED)
    typer.echo(good)


@app.command("check", epilog="Examples: quadrille schema check · quadrille schema check --schemas schemas")
def check_command(schemas: Folder = None) -> None:
    """Check the schemas offline: language, and every version against every other."""
    _end(lifecycle.check(schemas or lifecycle.root()), "every schema is in order, and every version reads every other")


@app.command("publish", epilog="Examples: quadrille schema publish · quadrille schema publish --schemas schemas")
def publish_command(schemas: Folder = None) -> None:
    """Add new and changed schemas to published.json, for ever."""
    try:
        names = lifecycle.publish(schemas or lifecycle.root())
    except lifecycle.SchemaRefusedError as refused:
        _end(refused.findings, "")
    else:
        typer.echo("\n".join(names) or "nothing new")


@app.command("apply", epilog="Examples: quadrille schema apply · quadrille schema apply --registry URL")
def apply_command(registry: Url = LOCAL, schemas: Folder = None) -> None:
    """Put every published version into the registry; asked again, nothing changes."""
    try:
        applied = lifecycle.apply(registry, schemas or lifecycle.root())
    except RegistryUnavailableError as away:
        typer.echo(f"{away}: is the stack up?", err=True)
        raise typer.Exit(UNREACHABLE) from away
    except lifecycle.SchemaRefusedError as refused:
        _end(refused.findings, "")
    else:
        typer.echo(f"{sum(map(len, applied.ids.values()))} versions of {len(applied.ids)} records are in the registry")


@app.command("diff", epilog="Examples: quadrille schema diff · quadrille schema diff --registry URL")
def diff_command(registry: Url = LOCAL, schemas: Folder = None) -> None:
    """Compare what was published with what the registry holds."""
    try:
        _end(
            lifecycle.diff(registry, schemas or lifecycle.root()),
            "the registry holds what was published, and nothing else",
        )
    except RegistryUnavailableError as away:
        typer.echo(f"{away}: is the stack up?", err=True)
        raise typer.Exit(UNREACHABLE) from away
