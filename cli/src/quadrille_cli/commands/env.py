"""`quadrille env`: the running stack's addresses as exports for a shell; what is secret only where it is asked for."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from typer import echo

from quadrille_cli.commands.shared import form, running
from quadrille_cli.credentials import shown_to
from quadrille_cli.services import SERVICES
from quadrille_cli.stack import Stack
from quadrille_cli.stack.ports import ROLES

EPILOG = """\b
Examples:
  eval "$(quadrille env)"; curl "$ORDER_URL/v1/orders"
  quadrille env --secrets -o json"""


def command(
    secrets: Annotated[bool, typer.Option("--secrets", help="Passwords of databases and the API key too.")] = False,  # noqa: FBT002 - a flag
    output: Annotated[str, typer.Option("-o", "--output", help="shell or json.")] = "shell",
    data: Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")] = None,
) -> None:
    """Print the stack's addresses as exports, for eval; no secret is among them unless asked for."""
    form(output, ("shell", "json"))
    found = dict(addresses(running(data), secrets=secrets))
    if output == "json":
        echo(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        echo(f"export {name}={shlex.quote(value)}")


def addresses(stack: Stack, *, secrets: bool) -> Iterator[tuple[str, str]]:
    """Yield names and values: where every API, ops port and server of the stack is."""
    yield "QUADRILLE_DATA", str(stack.data)
    for service in (name for name in SERVICES if name in stack.parts):
        yield f"{service.upper()}_URL", stack.url(service)
        for role in ROLES:
            yield f"{service.upper()}_{role.upper()}_OPS_URL", stack.url(f"{service}-{role}")
    for name in ("console", "sandbox", "jaeger"):
        if name in stack.ports:
            yield f"{name.upper()}_URL", stack.url(name)
    if "kafka" in stack.ports:
        yield "KAFKA_BOOTSTRAP", stack.kafka_bootstrap
    if "registry" in stack.ports:
        yield "REGISTRY_URL", stack.registry_url
    if secrets and (key := shown_to(stack.url("order"))):
        yield "QUADRILLE_KEY", key
    for service in stack.clusters if secrets else ():
        yield f"{service.upper()}_DATABASE_URL", stack.database_url(service)
