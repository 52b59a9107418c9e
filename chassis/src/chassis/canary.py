"""Proof of life: every two seconds one record of a service goes the whole way, outbox, log, relay and topic.

Its key is chosen so that each partition is hit in turn; nobody's saga hears it, and no span tells of it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from chassis.announce import saying, write
from chassis.facts import CanaryBeat
from chassis.ids import uuid7
from chassis.service import Service, Tx
from chassis.trace import Context, new_trace

BEAT_SECONDS = 2.0
JUST_NOW = timedelta(seconds=1.5)  # a beat of another worker of this service that is no older stands for ours
# The key whose murmur2 falls into partition 0, 1, 2 … of 12; over another number of partitions they are only spread.
KEYS = tuple(f"canary-{n}" for n in (10, 4, 13, 9, 2, 0, 11, 21, 3, 6, 7, 44))
NEXT = """
UPDATE canary SET number = number + 1, said_at = now(), heard_at = now()
 WHERE source = %b AND said_at <= now() - %b::interval RETURNING number, said_at"""


def beat(tx: Tx, service: Service[Any]) -> bool:
    """Say a beat, unless a worker of this service has just said one; its row is there (``silence.begin``)."""
    with tx.transaction():
        if not (row := tx.execute(NEXT, [service.name, JUST_NOW]).fetchone()):
            return False
        number, said_at = row
        fact, trace = CanaryBeat(service.name, number, said_at), new_trace()
        unseen = Context(trace.trace_id, trace.span_id, sampled=False)
        said = saying(service, uuid7(), fact, trace=unseen)
        write(tx, [replace(said, key=KEYS[number % len(KEYS)])])
    return True
