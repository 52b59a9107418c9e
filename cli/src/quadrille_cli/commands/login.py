"""`quadrille login`: a link that logs in to the console, once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from typer import echo

from quadrille_cli.commands.shared import asked, form, reason, running
from quadrille_cli.login_link import offered
from quadrille_cli.services import CONSOLE

EPILOG = "\b\nExamples:\n  quadrille login\n  quadrille login -o json"


def command(
    why: Annotated[str, typer.Option("--reason", help="Why; kept for ever with the login.")] = "to use the console",
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
    data: Annotated[Path | None, typer.Option("--data", help="Data directory of the running stack.")] = None,
) -> None:
    """Print a link that logs in to the console: good for minutes, for one login, kept in the audit.

    Without a login the console only shows; whoever is logged in uses its buttons with your rights.
    """
    form(output)
    text = reason(why)
    with asked(running(data, CONSOLE).url(f"{CONSOLE}-ops")) as ops:
        told = offered(ops, text)
    echo(json.dumps(told, indent=2, ensure_ascii=False) if output == "json" else told["url"])
