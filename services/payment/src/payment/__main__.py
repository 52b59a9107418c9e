"""``python -m payment api | worker | relay | migrate``."""

from quadrille.app import main

main("payment")
