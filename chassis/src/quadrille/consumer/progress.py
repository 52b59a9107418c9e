"""Progress of a service's consumers: is what lies on its topics handled, whoever holds the partitions.

Guarantee: a partition that stands still with records ahead is told of: a metric, a log line, not ready, an event on
``ops.events`` when the stall begins and one when it ends, however many workers see it; then a new client joins the
group. What is looked at is what all can see: the broker's ends and the database's positions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from quadrille.consumer.loop import ConsumerLoop
from quadrille.ids import uuid7
from quadrille.kafka.topics import Place, Topics
from quadrille.observability import metrics
from quadrille.observability.logs import ThrottledLog
from quadrille.observability.progress import Change, Patience, ProgressWatchdog
from quadrille.observability.readiness import NotReadyError
from quadrille.processing.outbox import announce
from quadrille.service import Service, Tx
from quadrille.system_messages import ProgressResumed, ProgressStalled

ROLE = "worker"
BACKLOG = 1_000  # while others move through more than that, a partition may have to wait for its turn
WAITING_PACE = 0.1
TOLD_EVERY = 60.0
NAMED = 3
READ = """
SELECT t.name, p, o.next_offset
  FROM topic t CROSS JOIN generate_series(0, t.partitions - 1) p
  LEFT JOIN position o ON (o.topic, o.partition) = (t.name, p) WHERE t.name = ANY(%b)"""
KNOWN = "SELECT positions FROM stall WHERE role = %b"
BEGIN = """
INSERT INTO stall (role, since_at, detail, positions)
VALUES (%b, now() - make_interval(secs => %b), %b, %b::text::jsonb)
ON CONFLICT DO NOTHING RETURNING since_at"""
ADD = "UPDATE stall SET positions = positions || %b::text::jsonb WHERE role = %b"
END = """
DELETE FROM stall WHERE role = %b
RETURNING since_at, (extract(epoch FROM now() - since_at) * 1000)::bigint"""
BEHIND = 200
"""Records that may be on their way without anybody calling it behind."""
log = structlog.get_logger()


class ConsumerProgress:
    """Watches every partition that a service consumes; ``look`` is called by one thread, ``ready`` by any."""

    def __init__(
        self, service: Service[Any], topics: Topics, consumer_loop: ConsumerLoop, patience: Patience,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.patience = patience
        self.reason = ""
        self._service, self._topics, self._consumer_loop, self._clock = service, topics, consumer_loop, clock
        self._dogs: dict[Place, ProgressWatchdog] = {}
        self._at: dict[Place, int] = {}
        self._ends: dict[Place, int] = {}
        self._renewed_at = float("-inf")
        self._longest = 0.0
        self._log = ThrottledLog(TOLD_EVERY, clock)

    def ready(self) -> None:
        """Raise NotReadyError while something stands still."""
        if self.reason:
            raise NotReadyError(self.reason)

    def at_the_end(self) -> None:
        """Raise NotReadyError while what is read lies well before what is there, as of the last look."""
        behind = sum(max(0, self._ends[place] - at) for place, at in self._at.items() if place in self._ends)
        if behind > BEHIND:
            message = f"it has {behind:,} records still to read"
            raise NotReadyError(message)
        if not self._consumer_loop.caught_up():
            message = "it has not read yet what came before it began"
            raise NotReadyError(message)

    def look(self, tx: Tx) -> None:
        """Look at every partition once; raises what an outage of database or Kafka raises."""
        before, found = self._at, {(topic, part): at for topic, part, at in tx.execute(READ, [self._topics_heard()])}
        bounds = self._topics.watermarks(found)
        self._at = {place: bounds[place][0] if at is None else at for place, at in found.items()}
        self._ends = {place: high for place, (_, high) in bounds.items()}
        self._watch(before)
        self._tell_here()
        self._tell_all(tx)
        self._renew()

    def suspend(self) -> None:
        """Note that nobody can look: the database or Kafka is away, which is no stall."""
        for dog in self._dogs.values():
            dog.suspend()

    def _topics_heard(self) -> list[str]:
        return [*self._service.on.subscribed()]

    def _watch(self, before: Mapping[Place, int]) -> None:
        lags = {place: max(0, self._ends[place] - at) for place, at in self._at.items()}
        moving = sum(lag for place, lag in lags.items() if before.get(place, self._at[place]) != self._at[place])
        for place, lag in lags.items():
            metrics.LAG.labels(place[0], str(place[1])).set(lag)
            dog = self._dogs.setdefault(place, ProgressWatchdog(self.patience, self._clock))
            pace = WAITING_PACE if moving > BACKLOG else 1.0
            if dog.look(ahead=lag > 0, handled=self._at[place], pace=pace) is Change.STALLED:
                metrics.STALLS.labels(ROLE).inc()

    def _stalled(self) -> list[Place]:
        """Return what stands still, the longest first."""
        stalled = [place for place, dog in self._dogs.items() if dog.stalled]
        return sorted(stalled, key=lambda place: (-self._dogs[place].seconds, place))

    def _tell_here(self) -> None:
        stalled = self._stalled()
        longest = self._dogs[stalled[0]].seconds if stalled else 0.0
        metrics.STALLED.labels(ROLE).set(longest)
        was, self.reason = self.reason, self._detail(stalled, longest)
        if stalled and (self._log.met("stalled") or not was):
            log.error("progress stalled", count=len(stalled), seconds=round(longest), reason=self.reason)
        elif was and not stalled:
            log.error("progress resumed", reason=was, seconds=round(self._longest))
        self._longest = max(longest, self._longest) if stalled else 0.0

    def _detail(self, stalled: list[Place], longest: float) -> str:
        if not stalled:
            return ""
        named = [f"{t}[{p}] at {self._at[t, p]} of {self._ends[t, p]}" for t, p in stalled[:NAMED]]
        more = f" and {len(stalled) - NAMED} more partitions" if len(stalled) > NAMED else ""
        waits = (
            f"; what was read waits to be committed: {self._consumer_loop.waits}" if self._consumer_loop.waits else ""
        )
        return f"nothing handled for {longest:.0f} s: {', '.join(named)}{more}{waits}"

    def _tell_all(self, tx: Tx) -> None:
        """Announce the stall, or its end, unless another worker has."""
        stalled = {_name(place): self._at[place] for place in self._stalled()}
        row = tx.execute(KNOWN, [ROLE]).fetchone()
        known: Mapping[str, int] = row[0] if row else {}
        if stalled.keys() - known.keys():
            self._begin(tx, stalled)
        elif row and not stalled and not any(self._stands(place, known) for place in self._at):
            self._end(tx)

    def _begin(self, tx: Tx, stalled: Mapping[str, int]) -> None:
        seconds, positions = max(dog.seconds for dog in self._dogs.values()), json.dumps(stalled)
        with tx.transaction():
            if row := tx.execute(BEGIN, [ROLE, seconds, self.reason, positions]).fetchone():
                announce(tx, self._service, uuid7(), ProgressStalled(self._service.name, ROLE, self.reason, row[0]))
            else:
                tx.execute(ADD, [positions, ROLE])

    def _end(self, tx: Tx) -> None:
        with tx.transaction():
            if row := tx.execute(END, [ROLE]).fetchone():
                announce(tx, self._service, uuid7(), ProgressResumed(self._service.name, ROLE, *row))

    def _stands(self, place: Place, known: Mapping[str, int]) -> bool:
        """Tell whether a partition stands where it stood when it was announced, with something ahead."""
        return known.get(_name(place)) == self._at[place] < self._ends[place]

    def _renew(self) -> None:
        """Ask for a new client where ours may be to blame: it holds what stands still, or it holds nothing at all.

        For a partition in other hands its holder has twice the time to do so itself. A batch that waits to be committed
        waits for a reason, and would with every client.
        """
        mine, now = set(self._consumer_loop.assignment.next), self._clock()
        stalled = [self._dogs[place] for place in self._stalled()]
        blamed = [
            dog
            for place, dog in self._dogs.items()
            if not mine or place in mine or dog.seconds >= 2 * self.patience.renew_after
        ]
        due = [dog.renewal_due() for dog in blamed] if stalled and not self._consumer_loop.waits else []
        if any(due) and now - self._renewed_at >= self.patience.renew_after:
            self._renewed_at = now
            metrics.RENEWALS.labels(ROLE).inc()
            log.error("client made anew", reason=self.reason)
            self._consumer_loop.renew()


def _name(place: Place) -> str:
    return f"{place[0]}/{place[1]}"
