"""Idempotency keys: a command that comes again under its key is not done again, it gets the answer of the first.

The answer is a row of the transaction that did the command, so both are stored or neither. It is read in the batch's
first round trip and written in its last: a command without a key costs nothing, one with a key no trip of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import psycopg

from quadrille.messages import Reply
from quadrille.service import Tx

Name: TypeAlias = tuple[str, str, str]  # caller, route, key
READ = """
SELECT k.caller, k.route, k.key, k.fingerprint, k.subject, k.answer, k.at
  FROM idempotency_key k JOIN unnest(%b::text[], %b::text[], %b::text[]) n(caller, route, key)
 USING (caller, route, key)
 ORDER BY k.caller, k.route, k.key FOR UPDATE OF k"""
ADD = """
INSERT INTO idempotency_key (caller, route, key, fingerprint, subject, answer, at)
SELECT * FROM unnest(%b::text[], %b::text[], %b::text[], %b::text[], %b::text[], %b::text[], %b::timestamptz[])"""
SET = """
UPDATE idempotency_key k SET fingerprint = n.fingerprint, subject = n.subject, answer = n.answer, at = n.at
  FROM unnest(%b::text[], %b::text[], %b::text[], %b::text[], %b::text[], %b::text[], %b::timestamptz[])
       n(caller, route, key, fingerprint, subject, answer, at)
 WHERE (k.caller, k.route, k.key) = (n.caller, n.route, n.key)"""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What the first command under a key was answered; ``subject`` is the key of what was done."""

    caller: str
    route: str
    key: str
    fingerprint: str
    subject: str
    answer: str
    at: datetime

    @property
    def name(self) -> Name:
        """The key within its scope: a caller's own, on one route."""
        return self.caller, self.route, self.key


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """The key a command comes under; ``fingerprint`` tells its request from another one that bears the same key.

    ``render`` makes the answer to keep from the handler's reply, None for a refusal, which burns no key. For as long as
    ``lives`` a repeat gets the answer; then the key is new again.
    """

    caller: str
    route: str
    key: str
    fingerprint: str
    render: Callable[[Any], str | None]
    lives: timedelta = timedelta(hours=48)

    @property
    def name(self) -> Name:
        """The key within its scope: a caller's own, on one route."""
        return self.caller, self.route, self.key

    @property
    def lock(self) -> str:
        """What is locked while a command of this key is under way."""
        return f"request:{' '.join(self.name)}"

    def counts(self, kept: KeptAnswer | None, at: datetime) -> bool:
        """Tell whether what is kept answers a command of this moment."""
        return kept is not None and at - kept.at <= self.lives

    def kept(self, reply: Reply, subject: str, at: datetime) -> KeptAnswer | None:
        """Return the answer to keep of a command that was replied to, None if it was refused."""
        answer = self.render(reply)
        return None if answer is None else KeptAnswer(*self.name, self.fingerprint, subject, answer, at)


def read(tx: Tx, keys: Collection[IdempotencyKey]) -> psycopg.Cursor[tuple[Any, ...]] | None:
    """Queue the question what is kept under the keys; None where there are none."""
    names = sorted({key.name for key in keys})
    return tx.execute(READ, _columns(names)) if names else None


def found(cursor: Iterable[tuple[Any, ...]] | None) -> dict[Name, KeptAnswer]:
    """Return the answers that are kept, by name."""
    return {answer.name: answer for answer in (KeptAnswer(*row) for row in cursor or ())}


def write(tx: Tx, answers: Sequence[KeptAnswer], known: Collection[Name]) -> None:
    """Queue the answers; those whose names are known replace what had its time."""
    newest = {answer.name: answer for answer in answers}.values()
    for sql, some in (
        (ADD, [answer for answer in newest if answer.name not in known]),
        (SET, [answer for answer in newest if answer.name in known]),
    ):
        if some:
            tx.execute(sql, _columns([(*a.name, a.fingerprint, a.subject, a.answer, a.at) for a in some]))


def _columns(rows: Sequence[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]
