"""Runs this history over the connection it is given."""

from chassis.migrate import run

run()
