"""Runs this history over the connection it is given."""

from quadrille.service import run_migrations

run_migrations()
