"""Streaming: one stretch from the WAL to the producer, and the delivered position back to the database and the slot.

What is stored is contiguous, delivered, and proven to lie in our log; what the slot is answered with was stored first.
No more than ``UNSTORED_ROWS`` of ended transactions are ever on their way: so many a crash can double.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from prometheus_client import Counter, Gauge

from quadrille.kafka.headers import OutboxRow
from quadrille.observability.linger import Linger
from quadrille.observability.readiness import NotReadyError
from quadrille.relay.held import HeldRows
from quadrille.relay.publisher import DeliveryFailedError, InFlight, Publisher, Transaction
from quadrille.relay.replication import HEADER, Begin, Commit, Described, PgOutputDecoder, Position, Read, Stream
from quadrille.relay.restore import beat_number
from quadrille.relay.session import LEASE_SECONDS, Progress, RelaySession
from quadrille.relay.target import LOOK_SECONDS, Claim
from quadrille.system_messages import CanaryBeat

ROWS = Counter("quadrille_relay_rows_total", "Outbox rows delivered to Kafka")
RESENT = Counter("quadrille_relay_resent_rows_total", "Rows this process had handed on before")
FAILURES = Counter("quadrille_relay_delivery_failures_total", "Deliveries Kafka refused: the stream started again")
RECOVERIES = Counter(
    "quadrille_relay_recoveries_total", "Scans of the outbox for a lost slot or publication", ["cause"]
)
LAG = Gauge("quadrille_relay_lag_bytes", "WAL flushed by the server and not yet acknowledged")
IN_FLIGHT = Gauge("quadrille_relay_in_flight_rows", "Rows handed on and not yet reported delivered")
AGE = Gauge(
    "quadrille_relay_acknowledged_age_seconds", "How long ago the acknowledged position was known to be current"
)
STREAMING = Gauge("quadrille_relay_streaming_ratio", "1 while this relay streams, 0 while it stands by or waits")
STALLED = Gauge("quadrille_relay_stalled_seconds", "For how long rows have waited with none delivered; 0 in order")
REFUSED = Gauge("quadrille_relay_refused_ratio", "1 while a row is refused and holds up all behind it of its key")
LEFT_OUT = Counter("quadrille_relay_left_out_rows_total", "Rows too old to be sent again to a new log")

DRAIN_SECONDS = 5.0
_BEAT_SECONDS = 1.0
_STALE_SECONDS = LEASE_SECONDS - 1.5
_STORE_ROWS, _STORE_SECONDS = 500, 0.02
"""Prove and store sooner than at the next beat when so many rows wait for it: they are what a crash doubles."""
UNSTORED_ROWS = 5_000
_BUSY_ROWS, _RATE_SECONDS, _NAP_SECONDS = 300, 0.1, 0.0015
_BEAT = CanaryBeat.type.encode()
_BEHIND_US = 1_000_000
"""Rows that were committed so long ago are a backlog; a tenth of it is none any more."""
_IDLE_BYTES, _IDLE_BYTES_SOON, _IDLE_SECONDS = 1 << 16, 1 << 22, 10.0
"""WAL of other tables worth a store of its own after ten seconds, and at the next beat: storing writes WAL too."""


class Halted(Exception):  # noqa: N818 - the name says what is the case
    """The relay was told to stop while it waited."""


class HeldDueError(NotReadyError):
    """What is held is to be tried again, or goes on without a row that was buried."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What a watchdog is to know: whether anything lies ahead, how far deliveries and WAL came, and words."""

    ahead: bool
    delivered: tuple[int, int, int]
    end: int
    words: str


class Streamer:
    """Streams from a stored position until told to stop, or until something raises."""

    def __init__(  # noqa: PLR0913 - what streams, from where, to where, and who watches
        self,
        keeper: RelaySession,
        stream: Stream,
        outlet: Publisher,
        start: Progress,
        stop: threading.Event,
        *,
        watch: Callable[[Sight], None],
        linger: Linger,
        held: HeldRows,
    ) -> None:
        self._keeper, self._stream, self._outlet, self._start, self._stop = keeper, stream, outlet, start, stop
        self._watch, self._linger, self._held = watch, linger, held
        self._window = InFlight(start.position, outlet.offsets)
        self._decoder = PgOutputDecoder()
        self._open: Transaction | None = None
        self._stored = start.position
        self._received = start.position.lsn
        self._ended = self._settled = 0
        """Rows of transactions that were read to their end, and of those that the contiguous position covers."""
        self._proven, self._claim = Claim(start.position, 0), Claim(start.position, 0)
        self._proven.proven = self._claim.proven = True
        self._kept = self._measured = 0
        """Rows that the stored position covers."""
        self._halt_at = 0.0
        self._beat: int | None = None
        self._proven_xid = self._proven_at_beat = start.proven_xid
        self._rows, self._rate, self._rate_from = 0, 0.0, time.monotonic()
        self._committed_at, self._behind = 0, False
        """When the transaction that was read last was committed, and whether what is read now is a backlog."""
        self._beat_at = self._claim_at = self._look_at = self._idle_at = 0.0
        self._server = self._mark = keeper.beat()
        """How things are at the server, and how they were when what is to be called published was committed."""

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
                self._choose_producer()
                self._rest(len(taken))
        except Halted:
            pass
        self.drain(self._keeper.beat_seldom)
        self._report(time.monotonic())

    def drain(self, meanwhile: Callable[[], object] = lambda: None) -> tuple[Progress, bool]:
        """Wait a little for what is on its way; return the proven position, and whether nothing is past it."""
        deadline = time.monotonic() + DRAIN_SECONDS
        with suppress(DeliveryFailedError, NotReadyError):
            while self._window.in_flight and time.monotonic() < deadline:
                self._window.check()
                self._outlet.check()
                meanwhile()
                time.sleep(_NAP_SECONDS)
        if self._window.astray is None:  # a record that was refused takes nothing from those before it
            with suppress(DeliveryFailedError, NotReadyError):
                self._settle()
                if self._settled > self._proven.records:
                    self._prove()
                while not self._claim.proven and time.monotonic() < deadline:
                    self._outlet.check_log()
                    meanwhile()
                    time.sleep(_NAP_SECONDS)
                self._take_proof()
        clean = self._window.in_flight == 0 and self._settled == self._proven.records and self._window.sound
        if not clean:
            RESENT.inc(self.unsettled)
        return replace(self._start, position=max(self._proven.position, self._stored)), clean

    @property
    def unsettled(self) -> int:
        """Rows that were handed on and are not delivered or not proven, with those that stand behind them."""
        return self._window.unsettled + self._settled - self._proven.records

    def _handle(self, read: Read) -> None:
        if isinstance(read, OutboxRow):
            if read.type == _BEAT:
                self._beat_read(read)
            if self._open is not None and not (self._held and self._held.holds(read)):
                self._rows += 1
                while self._ended - self._kept >= UNSTORED_ROWS:
                    time.sleep(_NAP_SECONDS)
                    self._wait()
                self._outlet.push(read, self._open, self._wait, self._wait_for_delivery)
        elif isinstance(read, Begin):
            # the server skips what the position covers; a row of it is not sent again if it should not
            if read.commit_lsn >= self._start.position.lsn:
                self._open = self._window.begin()
        elif isinstance(read, Commit):
            self._received, self._committed_at = read.end_lsn, read.committed_at
            if self._open is not None:
                self._open.end = Position(read.end_lsn, read.committed_at)
                self._ended += self._open.handed
                self._open = None
        elif isinstance(read, Described):
            # told again after every change of the publication: what follows a hole must not overtake what fell into it
            self._look(time.monotonic())

    def _beat_read(self, row: OutboxRow) -> None:
        """Count the beats: where one is missing, what was committed beside it has not passed us either.

        All that was proven published when the last beat before the hole was read lies before that.
        """
        with suppress(IndexError):  # one that cannot be read counts for nothing
            number, last = beat_number(row.payload), self._beat
            if last is not None and number > last + 1:
                reason = f"canary hole: beats {last + 1} to {number - 1} did not pass"
                self._keeper.ask_rescan(reason, self._proven_at_beat)
                raise NotReadyError(reason)
            self._beat, self._proven_at_beat = number, self._proven_xid

    def _wait(self) -> None:
        """What is done while the producer's queue is full: WAL is not read, nothing is dropped."""
        if self._stop.is_set():
            raise Halted
        self._duties()

    def _wait_for_delivery(self) -> None:
        """What is done while a row is on its way that nothing may follow; told to stop, we wait for it as ``drain``."""
        if self._stop.is_set():
            self._halt_at = self._halt_at or time.monotonic() + DRAIN_SECONDS
            if time.monotonic() >= self._halt_at:
                raise Halted
        self._duties()

    def _choose_producer(self) -> None:
        """Gather for larger requests while behind; what was handed on is delivered before another producer begins."""
        if self._behind == self._outlet.gathering or not self._outlet.can_gather:
            return
        while self._window.in_flight:
            time.sleep(_NAP_SECONDS)
            self._wait()
        self._outlet.gather(on=self._behind)

    def _duties(self) -> None:
        """Whatever is due now; cheap when nothing is."""
        self._window.check()
        self._outlet.check()
        self._settle()
        now = time.monotonic()
        if self._claim.proven and self._claim is not self._proven:
            self._take_proof()
            self._report(now)
        elif now >= self._beat_at:
            self._report(now)
        elif self._stream.reply_wanted:
            self._answer()
        if self._settled - self._proven.records >= _STORE_ROWS and now >= self._claim_at and self._claim.proven:
            self._prove()
        if now >= self._look_at:
            self._look(now)

    def _settle(self) -> Position:
        """Return the contiguous position, its rows counted."""
        position, records = self._window.settle()
        self._settled += records
        ROWS.inc(records)
        return position

    def _prove(self) -> None:
        """Have it proven that what is delivered lies in our log; until then it is not stored."""
        self._claim = Claim(self._settle(), self._settled)
        self._claim_at = time.monotonic() + _STORE_SECONDS
        self._outlet.prove(self._claim)

    def _take_proof(self) -> None:
        if self._claim.proven:
            self._proven = self._claim

    def _report(self, now: float) -> None:
        """Store what is proven if it moved, else show that we live; then answer the slot."""
        position = self._reached(now)
        if self._settled > self._proven.records:
            position = self._proven.position
            if self._claim.proven and now >= self._claim_at:
                self._prove()
        if position.lsn > self._stored.lsn:
            proven = self._mark.xmin if position.lsn >= self._mark.inserted else None
            self._server = self._keeper.store(position, proven)
            self._mark = self._mark if proven is None else self._server
            self._proven_xid = self._proven_xid if proven is None else proven
            self._stored, self._kept = position, self._proven.records
            self._held.came_to(position.lsn)
        else:
            self._server = self._keeper.beat()
        self._answer()
        self._beat_at = now + _BEAT_SECONDS
        self._measure()
        if (reason := self._held.wanted()) is not None and not self._stop.is_set():
            raise HeldDueError(reason)

    def _answer(self) -> None:
        self._stream.answer(max(self._received, self._stream.end, self._stored.lsn), self._stored.lsn)

    def _reached(self, now: float) -> Position:
        """The contiguous position, moved over WAL without rows for us when nothing is in flight and it is worth it."""
        position = self._settle()
        end, flushed, clock = self._stream.end, self._server.flushed, self._server.now
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
        """Raise NotReadyError if publication or topics are not what they were, or a person wants a rescan."""
        if self._keeper.publication() != self._start.publication:
            message = "publication outbox is another one than before"
            raise NotReadyError(message)
        self._outlet.check_topics()
        if (reason := self._keeper.rescan()) is not None:
            message = f"the outbox is to be read again: {reason}"
            raise NotReadyError(message)
        self._held.look(self._keeper)
        self._look_at = now + LOOK_SECONDS

    def _rest(self, taken: int) -> None:
        """Sleep until there is something to do; under load, let it gather for a moment (wake-ups set the cost)."""
        now = time.monotonic()
        if now - self._rate_from >= _RATE_SECONDS:
            self._rate, self._rows, self._rate_from = self._rows / (now - self._rate_from), 0, now
        busy = _NAP_SECONDS if self._rate > _BUSY_ROWS else 0.0
        if not taken:
            if self._keeper.connection.fileno() in self._stream.wait(max(0.0, self._beat_at - now)):
                self._beat_at = 0.0  # the server has something to say on a session that asked nothing: it is ending
        elif (nap := max(self._linger.seconds(), busy)) and not self._stream.wait(0):
            time.sleep(nap)

    def _measure(self) -> None:
        flushed, clock, end = self._server.flushed, self._server.now, self._stream.end
        late = end < flushed and self._rate > _BUSY_ROWS
        self._behind = late and clock - self._committed_at > (_BEHIND_US // 10 if self._behind else _BEHIND_US)
        LAG.set(max(0, flushed - self._stored.lsn))
        IN_FLIGHT.set(self._window.in_flight)
        current = self._window.idle and end >= flushed
        AGE.set(0 if current else max(0, clock - self._stored.committed_at) / 1_000_000)
        waiting = self.unsettled
        words = f"the server keeps {flushed - end} bytes of WAL back"
        if waiting:
            words = f"{waiting} rows wait: {self._outlet.away or 'Kafka acknowledges nothing'}"
        elif end >= flushed:
            self._outlet.caught_up()
        delivered, moved = (self._stored.lsn, self._settled - self._kept, self._window.front), self._settled
        if (held := self._held.reason) is not None and moved == self._measured:
            delivered, end, words = (0, 0, 0), 0, held  # nothing flows past what is held
        self._measured = moved
        waits = waiting > 0 or end < flushed or held is not None
        self._watch(Sight(waits, delivered, 0 if waiting or held else end, words))
