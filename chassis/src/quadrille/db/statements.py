"""The statement groups of a transaction, timed for whoever records them: what a batch waited for, and where.

A pipeline has no time of one statement: what is sent and answered together is one group, as OpenTelemetry's
conventions for databases have it for a batch. The thread that ran them keeps them until they are ``taken``.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from quadrille.db.connection import Tx
from quadrille.observability.trace_context import Context
from quadrille.observability.tracing import Value, recorder

KEPT = 64  # groups of transactions that nobody records are pushed out


@dataclass(slots=True)
class Group:
    """Statements that went to a database together: a summary of few kinds, its times, what it was told to."""

    summary: str
    began_ns: int
    ended_ns: int
    attributes: dict[str, Value]


class _Kept(threading.local):
    def __init__(self) -> None:
        self.groups: deque[Group] = deque(maxlen=KEPT)


_kept = _Kept()


class Statements:
    """The groups of one transaction, one after the other."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self._summary, self._began_ns = "", 0

    def begin(self, summary: str) -> None:
        """Begin a group; the one before it, if it has not ended, is none."""
        self._summary, self._began_ns = summary, time.time_ns()

    def end(self) -> None:
        """End the group: it has been answered."""
        if self._summary:
            told = _attributes(self._tx, self._summary)
            _kept.groups.append(Group(self._summary, self._began_ns, time.time_ns(), told))
        self._summary = ""


class _Untimed(Statements):
    def begin(self, summary: str) -> None:
        pass

    def end(self) -> None:
        pass


@contextmanager
def timed(tx: Tx, places: Iterable[Context]) -> Iterator[Statements]:
    """Time the groups of the transaction that the block is, its COMMIT in the last of them; of what failed, none.

    ``places`` are those of whom it is done for: if none of them is sampled, nothing is timed.
    """
    if not recorder().on or not any(place.sampled for place in places):
        yield _Untimed(tx)
        return
    statements = Statements(tx)
    yield statements
    statements.end()


def taken(since_ns: int) -> list[Group]:
    """Return the groups this thread has run since a time, and forget them and those before."""
    found = [group for group in _kept.groups if group.began_ns >= since_ns]
    _kept.groups.clear()
    return found


def _attributes(tx: Tx, summary: str) -> dict[str, Value]:
    info = tx.info
    return {
        "db.system.name": "postgresql", "db.namespace": info.dbname, "db.operation.name": "BATCH",
        "db.query.summary": summary, "server.address": info.host, "server.port": info.port,
    }  # fmt: skip
