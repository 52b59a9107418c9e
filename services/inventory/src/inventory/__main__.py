"""``python -m inventory api | worker | relay | migrate``."""

from quadrille.app import main

main("inventory")
