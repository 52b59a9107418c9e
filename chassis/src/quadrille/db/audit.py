"""Audit log: who did what, on what and why; rows that only grow, each holding the hash of the one before it.

A row is written in the transaction of its action: neither exists without the other (law.md, invariant 20). The hash is
SHA-256 over the previous hash and the row as jsonb, made by the database that keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg.types.json import Jsonb

from quadrille.db.connection import Tx
from quadrille.ids import lock_key

# Whoever has read the last row must be the next to write one.
LOCK = "SELECT pg_advisory_xact_lock(%b)"
_TEXT = """jsonb_build_array(number, (extract(epoch FROM at) * 1000000)::bigint, actor, action, subject, reason, before,
                         after)::text"""
HASH = f"sha256(previous || convert_to({_TEXT}, 'UTF8'))"
ADD = f"""
INSERT INTO audit (number, at, actor, action, subject, reason, before, after, previous, hash)
SELECT *, {HASH} FROM (
  SELECT coalesce(max(number), 0) + 1 AS number, clock_timestamp() AS at, %b::text AS actor, %b::text AS action,
         %b::text AS subject, %b::text AS reason, %b::jsonb AS before, %b::jsonb AS after,
         coalesce((SELECT hash FROM audit ORDER BY number DESC LIMIT 1), decode(repeat('00', 32), 'hex')) AS previous
    FROM audit) n
RETURNING number"""  # noqa: S608 - a constant of this file
VERIFY = f"""
SELECT number, place, hash = {HASH} AS whole FROM (
  SELECT *, row_number() OVER (ORDER BY number) AS place,
         coalesce(lag(hash) OVER (ORDER BY number), decode(repeat('00', 32), 'hex')) AS before_it FROM audit) a
 WHERE number <> place OR previous <> before_it OR hash <> {HASH}
 ORDER BY place LIMIT 1"""  # noqa: S608 - as above


HEAD = "SELECT hash FROM audit ORDER BY number DESC LIMIT 1"
STRANGE = """
SELECT head FROM unnest(%b::text[]) WITH ORDINALITY told(head, place)
 WHERE NOT EXISTS (SELECT FROM audit WHERE hash = decode(head, 'hex')) ORDER BY place"""


@dataclass(frozen=True, slots=True)
class Action:
    """One privileged action: who, what, on what, why, and what it was before and after."""

    actor: str
    action: str
    subject: str
    reason: str
    before: Mapping[str, object] | None = None
    after: Mapping[str, object] | None = None


def record(tx: Tx, action: Action) -> int:
    """Add the action's row inside the caller's transaction, and return its number.

    The chain is locked until that transaction ends: let it be the last thing it does.
    """
    tx.execute(LOCK, [lock_key("audit")])
    states = [None if state is None else Jsonb(state) for state in (action.before, action.after)]
    row = tx.execute(ADD, [action.actor, action.action, action.subject, action.reason, *states]).fetchone()
    assert row is not None  # noqa: S101 - INSERT … RETURNING of one row
    return int(row[0])


def head(tx: Tx) -> str | None:
    """Return the newest row's hash in hexadecimal, None while nothing was done."""
    row = tx.execute(HEAD).fetchone()
    return bytes(row[0]).hex() if row else None


def strange(tx: Tx, heads: Sequence[str]) -> list[str]:
    """Return those of the heads, told once, that are no row's hash any more: the chain was rewritten, or cut."""
    return [row[0] for row in tx.execute(STRANGE, [list(heads)])] if heads else []


def flaw(tx: Tx) -> str | None:
    """Return what is wrong with the first bad row of the chain, or None; a tail cut off shows in a head kept elsewhere.

    Whoever edits a row breaks its own hash; whoever writes that anew breaks the next row's.
    """
    row = tx.execute(VERIFY).fetchone()
    if row is None:
        return None
    number, place, whole = row
    if number != place:
        return f"audit row {place} is missing: row {number} stands in its place"
    return f"audit row {number} does not follow the one before it" if whole else f"audit row {number} was changed"
