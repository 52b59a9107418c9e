"""`quadrille version`: which release this is, on which Python and system it runs: what a report of a fault needs."""

from __future__ import annotations

import json
import platform
from typing import Annotated

import typer
from typer import echo

from quadrille_cli.commands.shared import form

EPILOG = "\b\nExamples:\n  quadrille version\n  quadrille version -o json"


def command(output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table") -> None:
    """Say which release this is, and on which Python and system it runs."""
    from quadrille.observability.logs import release  # noqa: PLC0415 - 0.1 s that a help page can spare

    form(output)
    found = {
        "quadrille": release(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    told = "\n".join(f"{name:<10} {value}" for name, value in found.items())
    echo(json.dumps(found, indent=2) if output == "json" else told)
