"""Operators' routes to a relay: a refused row is buried, events are sent once more, a restored database goes on.

Each is kept in the audit in the transaction of what it changes; the relay that holds the lock does it, soon after.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal, NoReturn
from uuid import UUID

import psycopg
from pydantic import AwareDatetime

from quadrille.db import sqlstate
from quadrille.db.audit import Action, record
from quadrille.db.connection import Tx
from quadrille.ids import uuid7
from quadrille.ops.routes import OpsRequest, OpsResponse, OpsRoutes
from quadrille.relay.relay import Relay
from quadrille.relay.replication import conninfo
from quadrille.values import Text, rfc3339
from quadrille.web.documents import Document
from quadrille.web.problems import refuse

BURY = """
UPDATE relay_held SET state = 'TO_BURY', ended_by = %s, ended_why = %s, ended_at = clock_timestamp()
 WHERE id = %s AND state = 'HELD' RETURNING topic, key, type, size, sequence, reason"""
STATE = "SELECT state FROM relay_held WHERE id = %s"
ASK = "INSERT INTO relay_republish (id, since_at, key, actor, reason) VALUES (%s, %s, %s, %s, %s)"
ASKED = "SELECT rows, ended_at FROM relay_republish WHERE id = %s"
COUNT_SINCE = "SELECT count(*) FROM outbox WHERE occurred_at >= %s"
COUNT_KEY = "SELECT count(*) FROM outbox WHERE aggregateid = %s"
RESTORES = """
SELECT id, found_at, detail, facts, of_commands, sample, how, actor, reason, ended_at FROM relay_restore
 ORDER BY ended_at IS NOT NULL, found_at DESC LIMIT 10"""
SAY = """
UPDATE relay_restore SET how = %s, actor = %s, reason = %s
 WHERE ended_at IS NULL AND how IS NULL RETURNING id, facts, detail"""


class BuryBody(Document):
    """Which row is to be buried."""

    id: UUID


class RepublishBody(Document):
    """What is to be sent once more: all since a time, or all of one key."""

    since: AwareDatetime | None = None
    order_id: Text | None = None


class RestoreBody(Document):
    """What is to become of a database that is older than its topics."""

    how: Literal["declare-loss", "read-back"]


class RelayActions:
    """The routes of one relay; ``relay`` is told at once where it is this one that works."""

    def __init__(self, service: str, dsn: str, relay: Relay) -> None:
        self._service, self._dsn, self._relay = service, dsn, relay

    def routes(self) -> OpsRoutes:
        """Return POST /ops/relay/bury and …/republish, GET …/republish/{id}, GET and POST /ops/relay/restore."""
        return {
            ("POST", "/ops/relay/bury"): self._bury,
            ("POST", "/ops/relay/republish"): self._republish,
            ("GET", "/ops/relay/republish/{id}"): self._republished,
            ("GET", "/ops/relay/restore"): self._restores,
            ("POST", "/ops/relay/restore"): self._restore,
        }

    def _bury(self, asked: OpsRequest) -> OpsResponse:
        row = asked.read(BuryBody).id
        with self._database() as tx, tx.transaction():
            held = tx.execute(BURY, [asked.actor, asked.reason, row]).fetchone()
            if held is None:
                self._not_held(tx, row)
            names = ("topic", "key", "type", "size", "sequence", "refused")
            before: dict[str, object] = {name: _short(value) for name, value in zip(names, held, strict=True)}
            after = {"state": "TO_BURY"}
            number = record(tx, Action(asked.actor, "relay.bury", str(row), asked.reason, before, after))
        self._relay.held.asked = True
        return OpsResponse(202, {"service": self._service, "id": str(row), **before, "audit_number": number})

    @staticmethod
    def _not_held(tx: Tx, row: UUID) -> NoReturn:
        """Refuse what is not held, telling what is the case."""
        found = tx.execute(STATE, [row]).fetchone()
        if found is None:
            refuse("not-found", "No row of this id is held here: GET /ops/relay tells which are.")
        said = "is buried already" if found[0] == "BURIED" else "is to be buried already"
        refuse("operation-refused", f"This row {said}: there is nothing to do.", rule="NOT_HELD")

    def _republish(self, asked: OpsRequest) -> OpsResponse:
        wanted = asked.read(RepublishBody)
        if (wanted.since is None) == (wanted.order_id is None):
            refuse("operation-refused", "Say since when, or of which order_id: one of the two.", rule="ONE_OF_TWO")
        identity = uuid7()
        since, key = wanted.since and wanted.since.astimezone(UTC), wanted.order_id
        with self._database() as tx, tx.transaction():
            counting = (COUNT_SINCE, [since]) if key is None else (COUNT_KEY, [key])
            [(rows,)] = tx.execute(*counting).fetchall()
            if rows:
                tx.execute(ASK, [identity, since, key, asked.actor, asked.reason])
                after: dict[str, object] = {"since": since and rfc3339(since), "key": key, "rows": rows}
                record(tx, Action(asked.actor, "relay.republish", str(identity), asked.reason, None, after))
        self._relay.held.asked = True
        told = {"service": self._service, "id": str(identity) if rows else None, "rows": rows}
        return OpsResponse(202 if rows else 200, told)

    def _republished(self, asked: OpsRequest) -> OpsResponse:
        with self._database() as tx:
            found = tx.execute(ASKED, [asked.identity("id")]).fetchone()
        if found is None:
            refuse("not-found", "Nothing of this id was asked for.")
        rows, ended = found
        return OpsResponse(200, {"done": ended is not None, "rows": rows, "ended_at": ended and rfc3339(ended)})

    def _restores(self, _: OpsRequest) -> OpsResponse:
        with self._database() as tx:
            found = tx.execute(RESTORES).fetchall()
        return OpsResponse(200, {"service": self._service, "restores": [_restore(row) for row in found]})

    def _restore(self, asked: OpsRequest) -> OpsResponse:
        how = asked.read(RestoreBody).how
        with self._database() as tx, tx.transaction():
            found = tx.execute(SAY, [how, asked.actor, asked.reason]).fetchone()
            if found is None:
                refuse("operation-refused", "No restored database waits for a word here.", rule="NOT_RESTORED")
            identity, facts, detail = found
            before = {"detail": detail}
            after = {"facts_declared_lost" if how == "declare-loss" else "facts_read_back": facts}
            action = Action(asked.actor, f"relay.{how.replace('-', '_')}", str(identity), asked.reason, before, after)
            number = record(tx, action)
        return OpsResponse(202, {"service": self._service, "id": str(identity), "facts": facts, "audit_number": number})

    @contextmanager
    def _database(self) -> Iterator[Tx]:
        """Open a connection for one request; refuses when the database refuses."""
        tx = None
        try:
            with psycopg.connect(conninfo(self._dsn), autocommit=True) as tx:
                yield tx
        except psycopg.Error as trouble:
            if sqlstate.blames_input(trouble):
                raise
            slug = "outcome-unknown" if tx and tx.broken else "dependency-unavailable"
            refuse(slug, dependency="database", retry_after=1)


def held_rows(tx: Tx) -> list[dict[str, object]]:
    """Return what is held, and what was buried, as operators are told."""
    rows = tx.execute(
        "SELECT id::text, topic, left(key, 64), sequence, left(type, 64), size, reason, state, held_at, ended_by,"
        " ended_why FROM relay_held ORDER BY state = 'BURIED', held_at DESC LIMIT 50"
    ).fetchall()
    names = ("id", "topic", "key", "sequence", "type", "size", "reason", "state", "held_at", "by", "why")
    return [dict(zip(names, (_plain(value) for value in row), strict=True)) for row in rows]


def _restore(row: tuple[object, ...]) -> dict[str, object]:
    names = ("id", "found_at", "detail", "facts", "of_commands", "sample", "how", "actor", "reason", "ended_at")
    return dict(zip(names, (_plain(value) for value in row), strict=True))


def _plain(value: object) -> object:
    if isinstance(value, UUID):
        return str(value)
    return rfc3339(value) if isinstance(value, datetime) else value


def _short(value: object) -> object:
    return value[:200] if isinstance(value, str) else value
