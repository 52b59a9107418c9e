"""Connection limits of one port: how many may be open at once, and which is closed to make room for one more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, ClassVar, Generic, TypeVar
from weakref import WeakSet

import structlog

from quadrille.observability import metrics
from quadrille.observability.logs import ThrottledLog

C = TypeVar("C", bound=Hashable)
log = structlog.get_logger()


class Crowd(Generic[C]):
    """Knows who is connected and who of them has been silent longest; safe to use from any thread.

    Silent is who owes us a whole request. ``close`` ends a connection, from any thread; it may be called for one that
    has ended.
    """

    all: ClassVar[WeakSet[Crowd[Any]]] = WeakSet()  # of this process: they share its files

    def __init__(self, port: str, most: int, close: Callable[[C], None]) -> None:
        self.port, self.most = port, most
        self._close = close
        self._open: set[C] = set()
        self._silent: dict[C, None] = {}  # in the order in which they fell silent
        self._leaving: set[C] = set()  # told to close, and not gone yet: their files are not free
        self._lock, self._seldom = threading.Lock(), ThrottledLog()
        Crowd.all.add(self)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def leaving(self) -> int:
        """How many were told to close and are not gone yet."""
        return len(self._leaving)

    def enter(self, newcomer: C) -> bool:
        """Take a connection in, silent as yet; False if nobody can go for it: then it is to be refused."""
        with self._lock:
            full = len(self._open) >= self.most
            oldest = self._oldest() if full else None
            taken = oldest is not None or not full
            if taken:
                self._open.add(newcomer)
                self._silent[newcomer] = None
            self._show()
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
            self._leaving.discard(one)
            self._open.discard(one)
            self._silent.pop(one, None)
            self._show()

    def thin(self) -> None:
        """Close a connection, of this port or else another, for the process can open no more files."""
        self.tell("no file left")
        any(crowd.part() for crowd in (self, *Crowd.all))

    def part(self) -> bool:
        """Close the connection that has been silent longest; tell whether there was one."""
        with self._lock:
            oldest = self._oldest()
            self._show()
        if oldest is not None:
            self._close(oldest)
        return oldest is not None

    def count(self, cause: str) -> None:
        """Count a connection that was closed on our part."""
        metrics.CLOSED.labels(self.port, cause).inc()

    def tell(self, cause: str) -> None:
        """Count a connection that was closed on our part, and say so once in a while: somebody is in trouble, or us."""
        self.count(cause)
        with self._lock:
            count = self._seldom.met(cause)
        if count:
            log.warning("connections closed", cause=cause, port=self.port, count=count)

    def _oldest(self) -> C | None:
        """Take out the connection that has been silent longest, None if nobody is silent."""
        oldest = next(iter(self._silent), None)
        if oldest is not None:
            del self._silent[oldest]
            self._open.discard(oldest)
            self._leaving.add(oldest)
        return oldest

    def _show(self) -> None:
        metrics.CONNECTIONS.labels(self.port).set(len(self._open))
