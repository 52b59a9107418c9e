"""One stretch of streaming: from the WAL to the producer, and the delivered position back to the database and the slot.

Guarantee: what is stored is contiguous and delivered; what the slot is answered with was stored first.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from chassis.pgoutput import Begin, Commit, Decoder, Described, OutboxRow, Read
from chassis.relay_keeper import LEASE_SECONDS, Keeper, NotReady, Progress
from chassis.relay_metrics import AGE, IN_FLIGHT, LAG, RESENT, ROWS
from chassis.relay_outlet import LOOK_SECONDS, Outlet
from chassis.relay_window import Position, Transaction, Window
from chassis.replication import HEADER, Stream

DRAIN_SECONDS = 5.0
_BEAT_SECONDS = 1.0
_STALE_SECONDS = LEASE_SECONDS - 1.5
_STORE_ROWS, _STORE_SECONDS = 500, 0.02
"""Store sooner than at the next beat when so many rows wait for it: they are what a crash doubles."""
_BUSY_ROWS, _RATE_SECONDS, _NAP_SECONDS = 300, 0.1, 0.0015
_IDLE_BYTES, _IDLE_BYTES_SOON, _IDLE_SECONDS = 1 << 16, 1 << 22, 10.0
"""WAL of other tables worth a store of its own after ten seconds, and at the next beat: storing writes WAL too."""


class Halted(Exception):  # noqa: N818 - the name says what is the case
    """The relay was told to stop while it waited."""


class Pump:
    """Streams from a stored position until told to stop, or until something raises."""

    def __init__(self, keeper: Keeper, stream: Stream, outlet: Outlet, start: Progress, stop: threading.Event) -> None:
        self._keeper, self._stream, self._outlet, self._start, self._stop = keeper, stream, outlet, start, stop
        self._window = Window(start.position)
        self._decoder = Decoder()
        self._open: Transaction | None = None
        self._stored = start.position
        self._received = start.position.lsn
        self._unstored = 0
        self._rows, self._rate, self._rate_from = 0, 0.0, time.monotonic()
        self._beat_at = self._store_at = self._look_at = self._idle_at = 0.0
        self._server = (start.position.lsn, start.position.committed_at)

    def run(self) -> None:
        """Stream; returns when told to stop, with all that was delivered stored and acknowledged."""
        try:
            while not self._stop.is_set():
                taken = self._stream.take()
                if time.monotonic() - self._keeper.heard > _STALE_SECONDS:
                    self._keeper.beat()  # we may have been frozen, and another may have taken over: ask before we send
                for data in taken:
                    self._handle(self._decoder.read(data, HEADER))
                self._duties()
                self._rest(len(taken))
        except Halted:
            pass
        self.drain()
        self._report(time.monotonic())

    def drain(self) -> tuple[Progress, bool]:
        """Wait a little for what is on its way; return the contiguous position, and whether nothing is past it."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while self._window.in_flight and self._window.failure is None and time.monotonic() < deadline:
            time.sleep(_NAP_SECONDS)
        position, _ = self._window.settle()
        clean = self._window.in_flight == 0 and self._window.failure is None
        if not clean:
            RESENT.inc(self._window.unsettled)
        return replace(self._start, position=position), clean

    def _handle(self, read: Read) -> None:
        if isinstance(read, OutboxRow):
            if self._open is not None:
                self._rows += 1
                self._outlet.push(read, self._open, self._wait)
        elif isinstance(read, Begin):
            # the server skips what the position covers; a row of it is not sent again if it should not
            if read.commit_lsn >= self._start.position.lsn:
                self._open = self._window.begin()
        elif isinstance(read, Commit):
            self._received = read.end_lsn
            if self._open is not None:
                self._open.end = Position(read.end_lsn, read.committed_at)
                self._open = None
        elif isinstance(read, Described):
            # told again after every change of the publication: what follows a hole must not overtake what fell into it
            self._look(time.monotonic())

    def _wait(self) -> None:
        """What is done while the producer's queue is full: WAL is not read, nothing is dropped."""
        if self._stop.is_set():
            raise Halted
        self._duties()

    def _duties(self) -> None:
        """Whatever is due now; cheap when nothing is."""
        self._window.check()
        self._outlet.check()
        _, records = self._window.settle()
        self._unstored += records
        ROWS.inc(records)
        now = time.monotonic()
        if now >= self._beat_at or (self._unstored >= _STORE_ROWS and now >= self._store_at):
            self._report(now)
        elif self._stream.reply_wanted:
            self._answer()
        if now >= self._look_at:
            self._look(now)

    def _report(self, now: float) -> None:
        """Store what was reached if it moved, else show that we live; then answer the slot."""
        position = self._reached(now)
        if position.lsn > self._stored.lsn:
            self._server = self._keeper.store(position)
            self._stored, self._unstored = position, 0
        else:
            self._server = self._keeper.beat()
        self._answer()
        self._beat_at, self._store_at = now + _BEAT_SECONDS, now + _STORE_SECONDS
        self._measure()

    def _answer(self) -> None:
        self._stream.answer(max(self._received, self._stream.end, self._stored.lsn), self._stored.lsn)

    def _reached(self, now: float) -> Position:
        """The contiguous position, moved over WAL without rows for us when nothing is in flight and it is worth it."""
        position, _ = self._window.settle()
        end, (flushed, clock) = self._stream.end, self._server
        if not self._window.idle or self._decoder.inside or end <= position.lsn:
            return position
        skipped = end - self._stored.lsn
        soon = skipped >= _IDLE_BYTES_SOON or (skipped >= _IDLE_BYTES and now >= self._idle_at)
        if position.lsn > self._stored.lsn or soon:
            self._idle_at = now + _IDLE_SECONDS
            # all that the server had flushed at `clock` has passed us
            committed_at = max(clock, position.committed_at) if end >= flushed else position.committed_at
            self._window.idle_until(Position(end, committed_at))
        return self._window.settle()[0]

    def _look(self, now: float) -> None:
        """Raise NotReady if publication or topics are not what they were."""
        if self._keeper.publication() != self._start.publication:
            message = "publication outbox is another one than before"
            raise NotReady(message)
        if self._outlet.trouble is not None:
            raise NotReady(self._outlet.trouble)
        self._look_at = now + LOOK_SECONDS

    def _rest(self, taken: int) -> None:
        """Sleep until there is something to do; under load, let it gather for a moment (wake-ups set the cost)."""
        now = time.monotonic()
        if now - self._rate_from >= _RATE_SECONDS:
            self._rate, self._rows, self._rate_from = self._rows / (now - self._rate_from), 0, now
        if not taken:
            if self._keeper.connection.fileno() in self._stream.wait(max(0.0, self._beat_at - now)):
                self._beat_at = 0.0  # the server has something to say on a session that asked nothing: it is ending
        elif self._rate > _BUSY_ROWS and not self._stream.wait(0):
            time.sleep(_NAP_SECONDS)

    def _measure(self) -> None:
        flushed, clock = self._server
        LAG.set(max(0, flushed - self._stored.lsn))
        IN_FLIGHT.set(self._window.in_flight)
        current = self._window.idle and self._stream.end >= flushed
        AGE.set(0 if current else max(0, clock - self._stored.committed_at) / 1_000_000)
