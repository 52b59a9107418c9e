"""`python -m quadrille_cli` is `quadrille`."""

from __future__ import annotations

from quadrille_cli.command import run

run()
