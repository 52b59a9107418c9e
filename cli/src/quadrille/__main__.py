"""`python -m quadrille` is `quadrille`."""

from quadrille.main import run

run()
