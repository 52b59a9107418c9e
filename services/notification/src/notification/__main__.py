"""``python -m notification api | worker | relay | migrate``."""

from quadrille.app import main

main("notification")
