"""Runs this history over the connection it is given."""

from quadrille.db.migrations import run

run()
