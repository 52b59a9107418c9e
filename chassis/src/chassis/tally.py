"""How sagas end, counted where it is decided and written down each second, for whoever judges by it.

A saga that fails twice, by its deadline and then in its undo, is one that failed: its key is written down with it.
A count may be lost with the process that held it; nothing but the breaker of the intake rests on it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self, TypeAlias

import psycopg

from chassis.logs import Seldom
from chassis.service import Tx
from chassis.session import Session
from chassis.words import Said, key_of

SECONDS = 1.0
KEPT = "2 days"  # longer than an undo is tried: who failed by a deadline is still known when it fails for good
WRITE = """
INSERT INTO tally (ended, failed, key) SELECT * FROM unnest(%b::int[], %b::int[], %b::text[]) ON CONFLICT DO NOTHING"""
FORGET = f"DELETE FROM tally WHERE at < now() - interval '{KEPT}'"  # noqa: S608 - a constant of this file
FORGET_EVERY = 1000
Outcome: TypeAlias = Callable[[Said], tuple[int, int]]
"""How many sagas are ended by what was said, and whether the one it is about is known as failed now: 0 or 1 each."""


class Tally:
    """A process's own count, written down while it is open as a context; ``add`` may be called by any thread."""

    def __init__(self, connect: Callable[[], Tx], outcome: Outcome) -> None:
        self._connection, self._outcome = Session(connect), outcome
        self._lock = threading.Lock()
        self._ended = self._written = 0
        self._failed: set[str] = set()
        self._troubles, self._end = Seldom(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="tally", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def add(self, said: Iterable[Said]) -> None:
        """Count what one input made a handler say."""
        for one in said:
            ended, failed = self._outcome(one)
            if ended or failed:
                with self._lock:
                    self._ended += ended
                    self._failed |= {key_of(one)} if failed else set()

    def _run(self) -> None:
        """Write the count down each second to the end, and once more then."""
        ended = False
        while not ended:
            ended = self._end.wait(SECONDS)
            try:
                self.write()
            except psycopg.Error as trouble:
                self._troubles.warn("tally waits", type(trouble).__name__)
                self._connection.close()
        self._connection.close()

    def write(self) -> None:
        """Write down what was counted since; a count that is refused is kept for the next time."""
        with self._lock:
            ended, failed = self._ended, sorted(self._failed)
        if not ended and not failed:
            return
        none, ones = [0] * len(failed), [1] * len(failed)
        self._connection().execute(WRITE, [[ended, *none], [0, *ones], [None, *failed]])
        with self._lock:
            self._ended -= ended
            self._failed -= set(failed)
        if self._written % FORGET_EVERY == 0:
            self._connection().execute(FORGET)
        self._written += 1
