"""``python -m order api | worker | relay | migrate``."""

from quadrille.app import main

main("order")
