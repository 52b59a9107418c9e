"""How sagas end, counted where it is decided and written down each second, for whoever judges by it.

A count may be lost with the process that held it; nothing but the breaker of the intake rests on it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeAlias

import psycopg
import structlog

from chassis.listener import close_quietly
from chassis.service import Tx
from chassis.words import Said

SECONDS = 1.0
KEPT = "1 day"
WRITE = "INSERT INTO tally (ended, failed) VALUES (%b, %b)"
FORGET = f"DELETE FROM tally WHERE at < now() - interval '{KEPT}'"  # noqa: S608 - a constant of this file
FORGET_EVERY = 1000
Outcome: TypeAlias = Callable[[Said], tuple[int, int]]
"""How many sagas are ended by what was said, and how many of all that ended are known as failed now."""
log = structlog.get_logger()


class Tally:
    """A process's own count; ``add`` may be called by any thread."""

    def __init__(self, connect: Callable[[], Tx], outcome: Outcome) -> None:
        self._connect, self._outcome = connect, outcome
        self._lock = threading.Lock()
        self._ended = self._failed = self._written = 0
        self._tx: Tx | None = None

    def add(self, said: Iterable[Said]) -> None:
        """Count what one input made a handler say."""
        for one in said:
            ended, failed = self._outcome(one)
            if ended or failed:
                with self._lock:
                    self._ended += ended
                    self._failed += failed

    def run(self, stop: threading.Event) -> None:
        """Write the count down each second until told to stop, and once more then."""
        stopped = False
        while not stopped:
            stopped = stop.wait(SECONDS)
            try:
                self.write()
            except psycopg.OperationalError as trouble:
                log.warning("tally waits", error_class=type(trouble).__name__)
                self._close()
        self._close()

    def write(self) -> None:
        """Write down what was counted since; a count that is refused is kept for the next time."""
        with self._lock:
            ended, failed = self._ended, self._failed
        if not ended and not failed:
            return
        if self._tx is None:
            self._tx = self._connect()
        self._tx.execute(WRITE, [ended, failed])
        with self._lock:
            self._ended -= ended
            self._failed -= failed
        if self._written % FORGET_EVERY == 0:
            self._tx.execute(FORGET)
        self._written += 1

    def _close(self) -> None:
        tx, self._tx = self._tx, None
        if tx is not None:
            close_quietly(tx)
