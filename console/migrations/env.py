"""The console's migrations run as every service's."""

from quadrille.service import run_migrations

run_migrations()
