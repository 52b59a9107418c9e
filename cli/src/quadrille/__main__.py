"""`python -m quadrille` is `quadrille`."""

from quadrille.command import run

run()
