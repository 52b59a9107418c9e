"""Gauges that are kept in the database: read every few seconds in a thread of its own, never on a batch's way.

Every worker of a service tells the same; whoever adds them up takes the greatest. While the database is away the last
values stay, and ``quadrille_gauges_read_timestamp_seconds`` tells how old they are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias

import psycopg
import structlog

from quadrille.db.connection import Session
from quadrille.observability import metrics
from quadrille.observability.logs import ThrottledLog
from quadrille.service import Tx

GaugeReader: TypeAlias = Callable[[Tx, Any], None]
"""Reads some of a service's tables and sets its gauges; it is given the service's own settings."""
EVERY_SECONDS = 5.0
ROWS_MOST = 100_000
# What the relay has stored as published is told by a commit's time; of rows of that moment one may be told too much.
UNPUBLISHED = f"""
SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(occurred_at)), 0)::float
  FROM (SELECT occurred_at FROM outbox
         WHERE occurred_at > coalesce((SELECT committed_at FROM relay_progress), '-infinity')
         LIMIT {ROWS_MOST}) waits"""  # noqa: S608 - a constant of this file
HEARD = """
SELECT source, extract(epoch FROM clock_timestamp() - heard_at)::float, silent_since IS NOT NULL
  FROM canary WHERE source <> %b"""
# A record's type is whoever's word; what is no name of a type is told as one kind.
PARKED = """
SELECT CASE WHEN type ~ '^[a-z_]{1,40}([.][a-z_]{1,40}){0,3}$' THEN type ELSE 'unknown' END, error_class, state,
       count(*), extract(epoch FROM clock_timestamp() - min(parked_at))::float
  FROM parked WHERE state IN ('OPEN', 'DEAD') GROUP BY 1, 2, 3"""
PAUSED = "SELECT count(*) FROM consumer_pause"
log = structlog.get_logger()


def parked(tx: Tx, _: object) -> None:
    """Tell what is set aside, by type, error and state, and since when."""
    found = tx.execute(PARKED).fetchall()
    metrics.set_all(metrics.PARKED, {tuple(labels): count for *labels, count, _ in found})
    ages = {state: max(age for *_, one, _count, age in found if one == state) for state in {row[2] for row in found}}
    metrics.set_all(metrics.PARKED_AGE, {(state,): age for state, age in ages.items()})


def paused(tx: Tx, _: object) -> None:
    """Tell whether the service's consumers are paused."""
    [(there,)] = tx.execute(PAUSED).fetchall()
    metrics.CONSUMER_PAUSED.set(there)


def outbox(tx: Tx, _: object) -> None:
    """Tell how much has been said and is not published yet, and since when."""
    [(rows, age)] = tx.execute(UNPUBLISHED).fetchall()
    metrics.OUTBOX_ROWS.set(rows)
    metrics.OUTBOX_AGE.set(age)


def heartbeats(service: str) -> GaugeReader:
    """Return the look at whose heartbeat was heard when."""

    def look(tx: Tx, _: object) -> None:
        found = tx.execute(HEARD, [service]).fetchall()
        metrics.set_all(metrics.HEARD_AGE, {(source,): age for source, age, _ in found})
        metrics.set_all(metrics.SILENT, {(source,): float(silent) for source, _, silent in found})

    return look


class Gauges:
    """Reads them while it is open as a context: at once, then every few seconds."""

    def __init__(self, connect: Callable[[], Tx], looks: Sequence[GaugeReader], settings: object = None) -> None:
        self._connection, self._looks, self._settings = Session(connect), looks, settings
        self._troubles, self._end = ThrottledLog(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="gauges", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def read(self) -> None:
        """Read all of them once; raises what the database raises."""
        for look in self._looks:
            look(self._connection(), self._settings)
        metrics.GAUGES_READ.set(time.time())

    def _run(self) -> None:
        while True:
            try:
                self.read()
                self._troubles.over()
            except psycopg.Error as trouble:
                self._troubles.warn("gauges wait", type(trouble).__name__)
                self._connection.close()
            if self._end.wait(EVERY_SECONDS):
                break
        self._connection.close()
