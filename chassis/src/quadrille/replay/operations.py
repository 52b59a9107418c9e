"""Operations: long actions as rows; how far one is moves in the transaction of what was done, or not at all.

An operation survives whoever asked for it and whoever carried it out: its row says what was asked, frozen, and how far
it is. Whoever pauses or cancels it changes the row; what was being done at that instant is rolled back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from quadrille.service import Tx
from quadrille.values import rfc3339

STATES = "PLANNED", "RUNNING", "PAUSED", "DONE", "FAILED", "CANCELLED"
COLUMNS = "id, kind, state, plan, progress, actor, reason, created_at, changed_at, expires_at"
READ = f"SELECT {COLUMNS} FROM operation WHERE id = %b"  # noqa: S608 - a constant of this file
LIST = f"""
SELECT {COLUMNS} FROM operation WHERE (%(before)b::uuid IS NULL OR id < %(before)b)
   AND (%(state)b::text IS NULL OR state = %(state)b) ORDER BY id DESC LIMIT %(limit)b"""  # noqa: S608 - as above
UNDER_WAY = "SELECT id FROM operation WHERE kind = %b AND state = 'RUNNING' ORDER BY id"
ADD = (
    "INSERT INTO operation (id, kind, state, plan, progress, actor, reason) VALUES (%b, %b, 'RUNNING', %b, %b, %b, %b)"
)
TURN = f"""
UPDATE operation SET state = %b, changed_at = now() WHERE id = %b AND state = ANY(%b) RETURNING {COLUMNS}"""  # noqa: S608 - as above
ADVANCE = """
UPDATE operation SET state = %b, plan = coalesce(%b, plan), progress = %b, changed_at = now(),
                     expires_at = now() + %b::interval
 WHERE id = %b AND state = 'RUNNING' AND (progress->>'step')::bigint = %b RETURNING 1"""
FORGET = "DELETE FROM operation WHERE kind = %b AND state = 'PLANNED' AND expires_at < now() - interval '1 day'"


class Interrupted(Exception):  # noqa: N818 - the name says what is the case
    """The operation is no longer ours: paused, cancelled, or carried on by somebody else; nothing of it happened."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One long action, as its row has it; ``progress`` has a ``step`` that grows with every change."""

    id: UUID
    kind: str
    state: str
    plan: dict[str, Any]
    progress: dict[str, Any]
    actor: str
    reason: str | None
    created_at: datetime
    changed_at: datetime
    expires_at: datetime | None

    @property
    def expired(self) -> bool:
        """Whether it was kept for a time that is over."""
        return self.expires_at is not None and self.expires_at < datetime.now(UTC)

    def document(self, service: str) -> dict[str, object]:
        """Return it as the API shows it."""
        times = {n: (at := getattr(self, n)) and rfc3339(at) for n in ("created_at", "changed_at", "expires_at")}
        told = {"operation_id": str(self.id), "kind": self.kind, "state": self.state, "service": service}
        return {
            **told,
            "actor": self.actor,
            "reason": self.reason,
            **times,
            "plan": self.plan,
            "progress": self.progress,
        }


def add(tx: Tx, asked: Operation) -> None:
    """Store a new operation, under way from its first step on."""
    tx.execute(FORGET, [asked.kind])
    row = [asked.id, asked.kind, Jsonb(asked.plan), Jsonb(asked.progress), asked.actor, asked.reason]
    tx.execute(ADD, row)


def new(identity: UUID, kind: str, plan: Mapping[str, Any], actor: str, reason: str) -> Operation:
    """Return an operation about to begin."""
    now = datetime.now(UTC)
    return Operation(identity, kind, "RUNNING", dict(plan), {"step": 0}, actor, reason, now, now, None)


def read(tx: Tx, identity: UUID) -> Operation | None:
    """Return an operation, None if there is none of this id."""
    row = tx.execute(READ, [identity]).fetchone()
    return Operation(*row) if row else None


def hold(tx: Tx, identity: UUID) -> Operation | None:
    """Return an operation as it stays until the caller's transaction ends; None if there is none of this id."""
    row = tx.execute(READ + " FOR UPDATE", [identity]).fetchone()
    return Operation(*row) if row else None


def listing(tx: Tx, limit: int, before: UUID | None, state: str | None) -> list[Operation]:
    """Return operations, newest first, those older than ``before``."""
    return [Operation(*row) for row in tx.execute(LIST, {"before": before, "state": state, "limit": limit})]


def under_way(tx: Tx, kind: str) -> list[UUID]:
    """Return the operations of a kind that are running, oldest first."""
    return [row[0] for row in tx.execute(UNDER_WAY, [kind])]


def turn(tx: Tx, identity: UUID, states: Collection[str], state: str) -> Operation | None:
    """Put an operation that is in one of these states into another, and return it; None if it is in none of them."""
    row = tx.execute(TURN, [state, identity, list(states)]).fetchone()
    return Operation(*row) if row else None


@dataclass(frozen=True, slots=True)
class Advance:
    """A step of an operation under way: the state and progress it has after it, a plan if that changes too."""

    progress: Mapping[str, Any]
    state: str = "RUNNING"
    plan: Mapping[str, Any] | None = None
    kept: timedelta | None = None


def advance(tx: Tx, identity: UUID, step: int, made: Advance) -> None:
    """Note what the caller's transaction has done since ``step``; raises Interrupted if the operation is not ours."""
    plan = None if made.plan is None else Jsonb(made.plan)
    if not tx.execute(ADVANCE, [made.state, plan, Jsonb(made.progress), made.kept, identity, step]).fetchone():
        raise Interrupted
