"""Leases: tasks, leased and rescheduled; who lost a task's lease changes nothing about it any more.

``attempts`` grows with every lease, so it tells this lease from a later one: a fence, as the position is for events.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from psycopg.types.json import Jsonb

from quadrille.observability.trace_context import Context, new_trace, parse
from quadrille.processing.envelope import LeasedIntent
from quadrille.service import Tx

LEASE_DUE = """
UPDATE task a SET leased_until = now() + %b::interval, attempts = attempts + 1
  FROM (SELECT id, leased_until FROM task WHERE due <= now() AND (leased_until IS NULL OR leased_until < now())
           AND type = ANY(%b) ORDER BY due LIMIT %b FOR UPDATE SKIP LOCKED) d
 WHERE a.id = d.id RETURNING a.id, a.key, a.type, a.body::text, a.attempts, a.traceparent, now(),
       d.leased_until IS NOT NULL"""
RESCHEDULE = """
UPDATE task a SET due = CASE WHEN n.wait > interval '0' THEN now() + n.wait ELSE a.due END, leased_until = NULL,
                    attempts = a.attempts - n.untried, error_class = n.error_class, error = n.error,
                    failure = coalesce(n.failure, a.failure)
  FROM unnest(%b::uuid[], %b::int[], %b::interval[], %b::int[], %b::text[], %b::text[], %b::jsonb[])
       n(id, attempts, wait, untried, error_class, error, failure)
 WHERE a.id = n.id AND a.attempts = n.attempts AND a.leased_until < 'infinity' RETURNING a.id, a.due"""
# Waiting rows of these types fall due within a spread from now, so that they do not come all at once.
HASTEN = """
UPDATE task a SET due = now() + random() * %b::interval
  FROM (SELECT id FROM task WHERE due > now() + %b::interval AND leased_until IS NULL AND type = ANY(%b)
         ORDER BY due LIMIT %b FOR UPDATE SKIP LOCKED) d
 WHERE a.id = d.id"""


# A database that was set back knows nothing of what was done since: until its relay has looked for that, and while it
# waits for a person's word, nothing is done outside. A relay that is away is waited for only so long.
WITHHELD = """
SELECT EXISTS (SELECT FROM relay_restore WHERE ended_at IS NULL)
    OR EXISTS (SELECT FROM relay_progress WHERE looked_for < pg_postmaster_start_time()
                  AND clock_timestamp() < pg_postmaster_start_time() + %b::interval)"""
LOOK_FOR = timedelta(seconds=15)


class Leased(NamedTuple):
    """A due row, ours for the length of a lease from ``at`` on, by the database's clock.

    ``lapsed`` says that a lease before this one ran out: nobody has told what became of that try.
    """

    id: UUID
    key: str
    type: str
    body: str
    attempts: int
    traceparent: str
    at: datetime
    lapsed: bool

    @property
    def trace(self) -> Context:
        """The place in a trace of what emitted it."""
        return parse(self.traceparent) or new_trace()


@dataclass(frozen=True, slots=True)
class Rescheduled:
    """A row to look at again later; ``untried`` says that this lease is not to count as an attempt.

    ``began`` is when the call began, on our monotonic clock; ``tells`` is the intent whose try is to be told of,
    ``failure`` what the outside failed with, kept with the row until it fails otherwise.
    """

    id: UUID
    attempts: int
    wait: timedelta = timedelta(0)
    untried: bool = True
    error_class: str | None = None
    error: str | None = None
    began: float = math.inf
    tells: LeasedIntent | None = None
    failure: Mapping[str, str] | None = None


def withheld(tx: Tx) -> bool:
    """Tell whether no intent is to be leased: the database is restored from a backup, or nobody has looked yet."""
    row = tx.execute(WITHHELD, [LOOK_FOR]).fetchone()
    return bool(row and row[0])


def lease(tx: Tx, length: timedelta, types: Collection[str], limit: int) -> list[Leased]:
    """Lease up to ``limit`` due rows of these types; other workers pass over them, or take what is left."""
    return [Leased(*row) for row in tx.execute(LEASE_DUE, [length, list(types), limit])]


def reschedule(tx: Tx, rows: Sequence[Rescheduled]) -> dict[UUID, datetime]:
    """Give rows back and return when they are due; one leased anew or held by a parked answer is left alone."""
    columns = ([r.id for r in rows], [r.attempts for r in rows], [r.wait for r in rows], [int(r.untried) for r in rows])
    failures = [r.failure and Jsonb(dict(r.failure)) for r in rows]
    why = [r.error_class for r in rows], [r.error for r in rows], failures
    return dict(tx.execute(RESCHEDULE, [*columns, *why]).fetchall())


def hasten(tx: Tx, types: Collection[str], spread: timedelta, limit: int | None = None) -> None:
    """Let waiting rows of these types, those due first and ``limit`` of them at most, fall due within a spread."""
    tx.execute(HASTEN, [spread, spread, list(types), limit])
