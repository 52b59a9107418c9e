"""`quadrille asyncapi`: the AsyncAPI document of what lies on Kafka, made now from schemas, topics and handlers."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from typer import echo

from quadrille_cli.commands.shared import form

EPILOG = "\b\nExamples:\n  quadrille asyncapi\n  quadrille asyncapi -o json"


def command(output: Annotated[str, typer.Option("-o", "--output", help="yaml or json.")] = "yaml") -> None:
    """Print the AsyncAPI 3 document: a channel a topic, a message a type, who says and who hears each.

    It is made from this checkout; no stack need run. The same is in docs/asyncapi.yaml.
    """
    form(output, ("yaml", "json"))
    from quadrille_cli.reference import asyncapi  # noqa: PLC0415 - the services' handlers are loaded for it
    from quadrille_cli.schema import lifecycle  # noqa: PLC0415 - as above

    document = asyncapi.document(lifecycle.root().parent)
    echo(json.dumps(document, indent=2, ensure_ascii=False) if output == "json" else asyncapi.yaml(document).rstrip())
