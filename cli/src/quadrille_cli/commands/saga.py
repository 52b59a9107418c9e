"""`quadrille saga`: the saga drawn from the handlers, its proof from the tests, the reference pages; or all checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quadrille_cli.reference import asyncapi, invariants, metrics
from quadrille_cli.saga import checks, proofs, saga_map, sequences
from quadrille_cli.services import SERVICES


def command(
    root: Annotated[Path, typer.Option(help="the checkout")] = Path(),
    check: Annotated[bool, typer.Option("--check", help="write nothing; exit 1 if a file is stale")] = False,  # noqa: FBT002 - a flag
) -> None:
    """Draw the saga from the handlers and its proof from the tests, or check that both are whole and current."""
    saga = saga_map.whole_saga()
    wrong = [*checks.findings(saga), *sequences.findings(saga), *proofs.findings(root)]
    made = saga_map.files(root) | proofs.files(root) | metrics.files(root) | asyncapi.files(root)
    made |= invariants.files(root)
    stale = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    if not check:
        for path in stale:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(made[path])
    for path in stale:
        typer.echo(f"{'stale: run `make saga`:' if check else 'written:'} {path}", err=True)
    for finding in wrong:
        typer.echo(f"wrong: {finding}", err=True)
    if wrong or (check and stale):
        raise typer.Exit(1)
    typer.echo(f"{sum(len(s.specs) for s in saga_map.saga_of())} reactions of {len(SERVICES)} services, all drawn")
