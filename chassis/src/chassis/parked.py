"""Inputs set aside: read back with their bytes, to go through their own handler again, in sequence (redrive)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from chassis.commit import commit, from_json
from chassis.ids import id_time
from chassis.inputs import Done, Input, Outcome, Record, Seen
from chassis.reading import Reader
from chassis.service import Service, Tx
from chassis.words import Answer, Timer, key_of

OPEN_ROWS = """
SELECT id, line, type, topic, headers, raw, parked_at FROM parked WHERE state = 'OPEN' ORDER BY line, place"""


def redrive_open(tx: Tx, service: Service[Any], reader: Reader) -> Iterator[Outcome]:
    """Feed every open line from its head until one fails again; what waits behind a failed head stays in place."""
    rows = tx.execute(OPEN_ROWS).fetchall()
    for _, line in itertools.groupby(rows, key=lambda row: row[1]):
        for row in line:
            heard = _input(service, reader, row)
            outcome = commit(tx, service, [heard])[0]
            yield outcome
            if not isinstance(outcome, Done | Seen):
                break


def _input(service: Service[Any], reader: Reader, row: tuple[Any, ...]) -> Input:
    identity, line, kind, topic, headers, raw, parked_at = row
    if topic is not None:
        record = Record(bytes(raw), tuple((k, bytes.fromhex(v)) for k, v in json.loads(bytes(headers))))
        heard = reader.read(record, line.encode(), None, int(parked_at.timestamp() * 1000))
        return Input(identity, line, heard.body, heard.at, kind, record, redriven=True, trace=heard.trace)
    answers = service.on.hears(Answer)
    cls = answers[kind] if kind in answers else service.on.hears(Timer)[kind]
    body = from_json(cls, bytes(raw))
    at = id_time(identity) if isinstance(body, Timer) else datetime.now(UTC)
    return Input(identity, key_of(body), body, at, kind, Record(bytes(raw)), agenda=UUID(line), redriven=True)
