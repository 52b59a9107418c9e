"""The connections of one port: how many may be open at once, and which is closed to make room for one more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import structlog

from chassis import metrics
from chassis.logs import Seldom

C = TypeVar("C", bound=Hashable)
log = structlog.get_logger()


class Crowd(Generic[C]):
    """Knows who is connected and who of them has been silent longest; safe to use from any thread.

    Silent is who owes us a whole request. ``close`` ends a connection; it may be called for one that has ended.
    """

    def __init__(self, port: str, most: int, close: Callable[[C], None]) -> None:
        self.port, self.most = port, most
        self._close = close
        self._open: set[C] = set()
        self._silent: dict[C, None] = {}  # in the order in which they fell silent
        self._lock, self._seldom = threading.Lock(), Seldom()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, newcomer: C) -> bool:
        """Take a connection in, silent as yet; False if nobody can go for it: then it is to be refused."""
        with self._lock:
            full = len(self._open) >= self.most
            oldest = next(iter(self._silent), None) if full else None
            if oldest is not None:
                self._forget(oldest)
            taken = oldest is not None or not full
            if taken:
                self._open.add(newcomer)
                self._silent[newcomer] = None
            self._count()
        if oldest is not None:
            self._close(oldest)
        if full:
            self.tell("crowded" if taken else "refused")
        return taken

    def speaks(self, one: C) -> None:
        """Note that a whole request has come and is being answered."""
        with self._lock:
            self._silent.pop(one, None)

    def rests(self, one: C) -> None:
        """Note that a connection has its answer and is silent from now on."""
        with self._lock:
            if one in self._open:
                self._silent.pop(one, None)
                self._silent[one] = None

    def leave(self, one: C) -> None:
        """Forget a connection that has ended."""
        with self._lock:
            self._forget(one)
            self._count()

    def thin(self) -> None:
        """Close the connection that has been silent longest, for the process can open no more files."""
        with self._lock:
            oldest = next(iter(self._silent), None)
            if oldest is not None:
                self._forget(oldest)
                self._count()
        if oldest is not None:
            self._close(oldest)
        self.tell("no file left")

    def tell(self, cause: str) -> None:
        """Count a connection that was closed on our part, and say so once in a while."""
        metrics.CLOSED.labels(self.port, cause).inc()
        with self._lock:
            count = self._seldom.met(cause)
        if count:
            log.warning("connections closed", cause=cause, port=self.port, count=count)

    def _forget(self, one: C) -> None:
        self._open.discard(one)
        self._silent.pop(one, None)

    def _count(self) -> None:
        metrics.CONNECTIONS.labels(self.port).set(len(self._open))
