"""``python -m console all | api | worker | migrate``."""

from quadrille.app import main

main("console")
