"""Service on Postgres for tests: its handlers and store over its real database, every batch through ``process_batch``.

Nothing is imitated but the registry, which has gone after giving the schemas' ids.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar
from uuid import UUID

import psycopg
import sqlalchemy as sa

from quadrille.avro.codec import Codec
from quadrille.avro.registry import SchemaIds, numbered
from quadrille.avro.schemas import emitted_by
from quadrille.db.migrations import upgrade
from quadrille.handlers import HandlerRegistry
from quadrille.ids import uuid7
from quadrille.intents import Gateway
from quadrille.messages import Emitted, Event, Intent, Message, Result, from_json, key_of
from quadrille.processing.batch import process_batch
from quadrille.processing.envelope import Envelope, Handled, Outcome
from quadrille.service import Service, Store, Tx

W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class Logins:
    """How a service's database is reached: the owner's url for migrations, the app's for all else."""

    owner: str
    app: str


class OnPostgres(Generic[W]):
    """One service with its database, migrated; every batch received is one ``process_batch`` of fresh ids.

    ``schemas`` is a folder for the schemas' ids; ``rules`` are the settings its working set carries.
    """

    def __init__(
        self, on: HandlerRegistry[W], store: Store[W], logins: Logins, schemas: Path, rules: object = None
    ) -> None:
        upgrade(on.service, logins.owner)
        emitted = *(emitted_by(on.service) if on.emits(Event) else ()), *emitted_by("chassis")
        self._codec = Codec(emitted, numbered(schemas, emitted))
        self.service = Service(on, store, self._codec, Gateway(on.service), rules)
        self.logins = logins
        self.tx = self.connect()
        self._emitted: list[Emitted] = []

    def connect(self) -> Tx:
        """Open one more connection of the app."""
        return psycopg.connect(self.logins.app, autocommit=True, prepare_threshold=0)

    def close(self) -> None:
        """Close the connection ``receives`` uses."""
        self.tx.close()

    def given(self, *messages: Message) -> None:
        """Let a batch of messages arrive whose sayings nobody asks about; raises AssertionError unless all are done."""
        outcomes = process_batch(self.tx, self.service, self.inputs(messages))
        if refused := [outcome for outcome in outcomes if not isinstance(outcome, Handled)]:
            raise AssertionError(refused)

    def receives(self, *messages: Message, tx: Tx | None = None) -> list[Outcome]:
        """Let messages arrive as one batch, each with an id of its own."""
        return self.takes(self.inputs(messages), tx=tx)

    def takes(self, inputs: Sequence[Envelope], tx: Tx | None = None) -> list[Outcome]:
        """Commit a batch, in the words of the chassis."""
        outcomes = process_batch(tx or self.tx, self.service, inputs)
        self._emitted += [
            emitted for outcome in outcomes if isinstance(outcome, Handled) for emitted in outcome.emitted
        ]
        return outcomes

    def emitted(self) -> list[Emitted]:
        """Return what was emitted to the messages received since this was last asked."""
        emitted, self._emitted = self._emitted, []
        return emitted

    def inputs(self, messages: Sequence[Message]) -> list[Envelope]:
        """Make an input of each message; a result ends the oldest intent still open for its key."""
        now = datetime.now(UTC)
        return [
            Envelope(
                uuid7(), key_of(m), m, now, m.type, from_task=self._open(key_of(m)) if isinstance(m, Result) else None
            )
            for m in messages
        ]

    def intents(self, key: str) -> list[Intent]:
        """Return the intents still open for a key, oldest first."""
        rows = self.tx.execute("SELECT type, body::text FROM task WHERE key = %s ORDER BY due, id", [key])
        classes = self.service.on.emits(Intent)
        return [i for kind, body in rows if isinstance(i := from_json(classes[kind], body), Intent)]

    def published(self, key: str) -> list[tuple[str, dict[str, object]]]:
        """Return what was emitted of a key, in sequence: type and whole body as any consumer would read it.

        What the chassis announces of compensations is left out: it is not the service's.
        """
        told = "aggregateid = %s AND aggregatetype <> 'saga.audit' ORDER BY sequence"
        rows = self.tx.execute(f"SELECT type, payload FROM outbox WHERE {told}".encode(), [key])  # noqa: S608 - ours
        return [(kind, json.loads(json.dumps(self._codec.look(payload)[1]))) for kind, payload in rows]

    def _open(self, key: str) -> UUID:
        row = self.tx.execute("SELECT id FROM task WHERE key = %s ORDER BY due, id LIMIT 1", [key]).fetchone()
        return row[0] if row else uuid7()


def schema_ids(folder: Path, *services: str) -> SchemaIds:
    """Number the schemas of what services and the chassis say, in a cache in a folder: no registry needs to be asked.

    A process whose ``schema_cache`` is this folder knows them by these numbers.
    """
    return numbered(folder, [schema for owner in (*services, "chassis") for schema in emitted_by(owner)])


def drift(db: sa.Connection, described: sa.MetaData) -> list[str]:
    """Return where migrated tables differ from a store's description: a line a table, columns, types and keys."""
    found, wrong = sa.inspect(db), []
    for table in described.sorted_tables:
        wanted = [(c.name, c.type.compile(db.dialect), bool(c.nullable)) for c in table.columns]
        there = [(c["name"], c["type"].compile(db.dialect), bool(c["nullable"])) for c in found.get_columns(table.name)]
        keys = [c.name for c in table.primary_key], found.get_pk_constraint(table.name)["constrained_columns"]
        if wanted != there or keys[0] != keys[1]:
            wrong.append(f"{table.name}: described {wanted} {keys[0]}, migrated {there} {keys[1]}")
    return wrong
