"""Connection parameters: a database's address alone says how it is reached, whatever PG* variables a shell has set.

libpq fills from the environment, and from a service file named there, what an address leaves open. What we rely on is
therefore named for every connection; ``unhear`` takes the rest from a process of ours at its start.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Any, TypeVar

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

C = TypeVar("C", bound="psycopg.Connection[Any]")
HEARD = ("PGPASSWORD", "PGPASSFILE")
"""Secrets, which an address may leave out."""
BEYOND = ("PGSERVICE", "PGTZ", "PGDATESTYLE", "PGGEQO")
"""What no parameter overrules: it is gone before the first connection."""
FIRST = ("host", "port", "user", "dbname", "password", "passfile", "service", "connect_timeout", "application_name")
"""Parameters of an address itself, of the caller, or that an empty text does not pin."""
UNSAID = {
    "min_protocol_version": "3.0",
    "max_protocol_version": "3.0",
    "require_auth": "password,md5,gss,sspi,scram-sha-256,none",
    "sslcertmode": "allow",
}
"""What libpq does where nobody says anything, for parameters without a default text that take no empty one."""
SESSION = {"TimeZone": "UTC", "DateStyle": "ISO", "IntervalStyle": "postgres"}
"""What psycopg reads times by, and the server reports without being asked."""


def pinned(address: str, **parameters: str | int) -> str:
    """Return the connection string of an address with our own parameters, and nothing of the shell's.

    What the address itself says stands, but for the encoding: texts are Unicode everywhere.
    """
    for variable in BEYOND:
        os.environ.pop(variable, None)
    told = conninfo_to_dict(address)
    ours: dict[str, str | int] = {"client_encoding": "UTF8", **parameters}
    for known in pq.Conninfo.get_defaults():
        name, variable = known.keyword.decode(), (known.envvar or b"").decode()
        if variable in os.environ and name not in (*told, *ours, *FIRST):
            ours[name] = UNSAID.get(name, (known.compiled or b"").decode())
    return make_conninfo(address, **ours)


def spoken(address: str) -> str:
    """Return an address's ``options`` with what ``SESSION`` wants, for a session that cannot be told afterwards."""
    told = conninfo_to_dict(address).get("options")
    return " ".join([*([str(told)] if told else []), *(f"-c {name}={wanted}" for name, wanted in SESSION.items())])


def settled(tx: C) -> C:
    """Return the connection with its session speaking of times as we do; costs nothing where it does so already."""
    for name, wanted in SESSION.items():
        if not (tx.info.parameter_status(name) or "").startswith(wanted):
            tx.execute(sql.SQL("SET {} = {}").format(sql.Identifier(name.lower()), sql.Literal(wanted)))
    return tx


def unhear(environ: MutableMapping[str, str] = os.environ) -> list[str]:
    """Take from a process what libpq would hear beside an address; return the names, to be told."""
    unheard = sorted(name for name in environ if name.startswith("PG") and name not in HEARD)
    for name in unheard:
        del environ[name]
    return unheard
