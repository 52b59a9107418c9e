"""Heartbeat monitor: announces a service as silent after three missed heartbeats, once, never for an outage of our own.

A source is silent when none of its beats was read for more than three of them, although all that lies on its topic was
read. What keeps us from reading (a start, a rebalance, a broker or database that is away) starts the clock anew.
Workers share what they read by the table ``canary``: each of them has only some of the partitions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import structlog

from quadrille.avro.decoder import DecodeError
from quadrille.consumer.assignment import READ_POSITIONS, Assignment
from quadrille.ids import uuid7
from quadrille.kafka.topics import Place, Topics
from quadrille.messages import Infrastructure
from quadrille.observability.readiness import reason
from quadrille.observability.trace_context import Context, new_trace
from quadrille.processing.outbox import announce, saying, write
from quadrille.service import Decoder, Service, Tx
from quadrille.system_messages import CanaryBeat, ServiceHeard, ServiceSilent

BEAT_SECONDS = 2.0
JUST_NOW = timedelta(seconds=1.5)  # a beat of another worker of this service that is no older stands for ours
# The key whose murmur2 falls into partition 0, 1, 2 … of 12; over another number of partitions they are only spread.
KEYS = tuple(f"canary-{n}" for n in (10, 4, 13, 9, 2, 0, 11, 21, 3, 6, 7, 44))
NEXT = """
UPDATE canary SET number = number + 1, said_at = now(), heard_at = now()
 WHERE source = %b AND said_at <= now() - %b::interval RETURNING number, said_at"""


def beat(tx: Tx, service: Service[Any]) -> bool:
    """Emit a heartbeat, unless a worker of this service has just emitted one; its row is there already."""
    with tx.transaction():
        if not (row := tx.execute(NEXT, [service.name, JUST_NOW]).fetchone()):
            return False
        number, said_at = row
        fact, trace = CanaryBeat(service.name, number, said_at), new_trace()
        unseen = Context(trace.trace_id, trace.span_id, sampled=False)
        said = saying(service, uuid7(), fact, trace=unseen)
        write(tx, [replace(said, key=KEYS[number % len(KEYS)])])
    return True


SILENT_SECONDS = 3 * BEAT_SECONDS + 0.5
NEVER_SECONDS = 60.0  # for one not read since we began: it may start later than we do
LOOK_SECONDS = 0.4
STALL_SECONDS = 3.0
BEGIN = """
INSERT INTO canary (source, number, said_at, heard_at) SELECT source, 0, now(), now() FROM unnest(%b::text[]) source
ON CONFLICT DO NOTHING"""
HEARD = """
WITH was AS (SELECT source, silent_since FROM canary WHERE source = ANY(%(sources)b) ORDER BY source FOR UPDATE)
UPDATE canary c SET number = greatest(c.number, n.number), said_at = greatest(c.said_at, n.said_at), heard_at = now(),
                    silent_since = NULL
  FROM unnest(%(sources)b::text[], %(numbers)b::bigint[], %(times)b::timestamptz[]) n(source, number, said_at)
  JOIN was USING (source)
 WHERE c.source = n.source
RETURNING c.source, was.silent_since, round(greatest(0, extract(epoch FROM now() - was.silent_since)))::float"""
AGES = """
SELECT source, extract(epoch FROM clock_timestamp() - heard_at)::float
  FROM canary WHERE source = ANY(%b) AND silent_since IS NULL"""
FALL_SILENT = """
UPDATE canary SET silent_since = said_at
 WHERE source = %b AND silent_since IS NULL AND heard_at <= clock_timestamp() - %b::interval RETURNING said_at"""
SILENT = "SELECT source FROM canary WHERE source = ANY(%b) AND silent_since IS NOT NULL ORDER BY source"
Clock = Callable[[], float]
log = structlog.get_logger()


class HeartbeatMonitor:
    """A worker's own beat and its watch over others; used by the consumer loop's thread alone."""

    def __init__(self, service: Service[Any], topics: Topics, decoder: Decoder, clock: Clock = time.monotonic) -> None:
        self.service = service
        self._topics, self._decoder, self._clock = topics, decoder, clock
        self._sources = {topic.removesuffix(".events"): topic for topic in service.on.subscribed()}
        self._beats: dict[str, CanaryBeat] = {}
        self._known: dict[str, float] = {}
        self._beat_at = self._look_at = 0.0
        self._began: float | None = None
        self._rounded = self._doubted = clock()

    @property
    def news(self) -> bool:
        """Whether beats were read that are not yet recorded."""
        return bool(self._beats)

    def rest(self, seconds: float) -> float:
        """Return how long the loop may wait for records, at most ``seconds``, without missing the next beat."""
        return min(seconds, max(0.0, self._beat_at - self._clock()))

    def suspend(self) -> None:
        """Note that we may not have read what was published: whoever is not read from now on is silent."""
        self._doubted = self._clock()

    def hear(self, topic: str, value: bytes) -> None:
        """Take in a beat that was read at the end of its partition; older ones are no sign of life."""
        source = topic.removesuffix(".events")
        try:
            self._beats[source] = self._decoder.decode(value, CanaryBeat)
        except (DecodeError, Infrastructure) as trouble:
            log.warning("beat not read", topic=topic, error_class=type(trouble).__name__)
            return
        self._known[source] = self._clock()

    def record(self, tx: Tx) -> None:
        """Record whose beats were read, inside the caller's transaction; who had been silent is announced."""
        sources = sorted(self._beats)
        beats = [self._beats[source] for source in sources]
        wanted = {"sources": sources, "numbers": [b.number for b in beats], "times": [b.said_at for b in beats]}
        rows = tx.execute(HEARD, wanted).fetchall()
        for ordinal, (source, since, seconds) in enumerate(sorted(row for row in rows if row[1])):
            log.error("service heard again", topic=f"{source}.events", seconds=seconds)
            announce(tx, self.service, uuid7(), ServiceHeard(self.service.name, source, since), ordinal=ordinal)

    def flush(self) -> None:
        """Forget the beats that are written down and committed."""
        self._beats.clear()

    def poll(self, tx: Tx, assignment: Assignment) -> None:
        """Say our own beat and announce who has fallen silent, each when it is time."""
        now = self._clock()
        if now - self._rounded > STALL_SECONDS:
            self.suspend()
        self._rounded = now
        if now >= self._beat_at:
            self._beat(tx)
        if assignment.caught_up and now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            self._judge(tx, assignment)

    def silent(self, tx: Tx, assignment: Assignment, among: Collection[str]) -> list[str]:
        """Return who of these was called silent and has not been heard since; nobody while we may not have listened."""
        if not assignment.caught_up or self._clock() - self._doubted <= SILENT_SECONDS:
            return []
        return [source for (source,) in tx.execute(SILENT, [sorted(among)]).fetchall()]

    def still_silent(self, tx: Tx, assignment: Assignment, source: str) -> bool:
        """Tell whether one that was called silent is so now: no beat of it lies on its topic unread."""
        return self._all_read(tx, assignment, self._sources[source])

    def _beat(self, tx: Tx) -> None:
        if self._began is None:
            tx.execute(BEGIN, [[self.service.name, *self._sources]])
            self._began = self._clock()
        self._beat_at = self._clock() + BEAT_SECONDS
        try:
            beat(tx, self.service)
        except Infrastructure as trouble:  # an id that is not known yet is no reason to stop listening
            log.warning("no beat", error_class=type(trouble).__name__, reason=reason(trouble))

    def _judge(self, tx: Tx, assignment: Assignment) -> None:
        now = self._clock()
        missed = [s for s in self._sources if now - max(self._known.get(s, 0.0), self._doubted) > SILENT_SECONDS]
        ages: Mapping[str, float] = dict(tx.execute(AGES, [missed]).fetchall()) if missed else {}
        for source in missed:
            age = ages.get(source, 0.0)  # not there: it is silent already
            if age <= SILENT_SECONDS:
                self._known[source] = now - age  # another worker of ours has read it
                continue
            limit = SILENT_SECONDS if age < now - (self._began or now) else NEVER_SECONDS
            if min(age, now - self._doubted) > limit and self._all_read(tx, assignment, self._sources[source]):
                self._fall_silent(tx, source, limit)
                self._known[source] = now

    def _all_read(self, tx: Tx, assignment: Assignment, topic: str) -> bool:
        """Tell whether the group has handled all that lies on a topic: then a missing beat was not emitted."""
        found = tx.execute(READ_POSITIONS, [[topic]]).fetchall()
        positions: dict[Place, int] = {(name, partition): at for name, partition, at in found}
        positions |= {place: assignment.read[place] for place in positions if place in assignment.read}
        ends = self._topics.watermarks(positions)
        return bool(ends) and all(positions[place] >= high for place, (_, high) in ends.items())

    def _fall_silent(self, tx: Tx, source: str, seconds: float) -> None:
        with tx.transaction():
            if row := tx.execute(FALL_SILENT, [source, timedelta(seconds=seconds)]).fetchone():
                announce(tx, self.service, uuid7(), ServiceSilent(self.service.name, source, row[0]))
                log.error("service silent", topic=self._sources[source])
