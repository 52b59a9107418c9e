"""Migrations: a service's tables, brought up to date by its own Alembic history; two at once wait for each other.

A database that a newer program has migrated is refused by name, and nothing in it changes.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import psycopg
import sqlalchemy
from alembic import command, context
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from quadrille.db.conninfo import pinned, settled

LOCK = "SELECT pg_advisory_xact_lock(hashtext('migrations'))"
LIMITS = "SET LOCAL lock_timeout = '2s'"


class UnknownVersionError(Exception):
    """A database is of a version that this program does not know: a newer one has migrated it."""

    def __init__(self, package: str, version: str, newest: str) -> None:
        super().__init__(f"{package}'s database is of version {version}; the newest this program knows is {newest}")


def upgrade(package: str, url: str, revision: str = "head") -> None:
    """Run every migration of a package, up to a revision, that its database has not seen, in one transaction.

    ``url`` names the owner's login. Raises UnknownVersionError, or sqlalchemy's errors; then nothing has changed.
    """
    config = Config()
    config.set_main_option("script_location", str(scripts(package)).replace("%", "%%"))
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: login(url))
    try:
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(LOCK))
            connection.execute(sqlalchemy.text(LIMITS))
            if unknown := unknown_version(config, connection):
                raise UnknownVersionError(package, *unknown)
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    finally:
        engine.dispose()


def unknown_version(config: Config, connection: sqlalchemy.Connection) -> tuple[str, str] | None:
    """Return a database's version if the history has none of that name, and the newest that it has."""
    history = ScriptDirectory.from_config(config)
    known = {script.revision for script in history.walk_revisions()}
    there = MigrationContext.configure(connection).get_current_heads()
    return next(((version, str(history.get_current_head())) for version in there if version not in known), None)


def login(url: str) -> psycopg.Connection:
    """Open the session of a migration."""
    return settled(psycopg.connect(pinned(url, connect_timeout=5)))


def run_migrations() -> None:
    """Run the history over the connection it was given: the whole of every service's ``env.py``."""
    context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


def scripts(package: str) -> Path:
    """Return the folder of a package's migrations: in its wheel, or beside ``src`` in a checkout.

    Raises FileNotFoundError if there is neither.
    """
    found = importlib.util.find_spec(package)
    homes = [Path(home) for home in (found and found.submodule_search_locations) or ()]
    for folder in (folder for home in homes for folder in (home / "migrations", home.parent.parent / "migrations")):
        if (folder / "env.py").is_file():
            return folder
    message = f"{package} has no migrations: neither in its wheel nor beside its sources"
    raise FileNotFoundError(message)
