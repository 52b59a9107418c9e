"""Brake: a broken handler is no reason to park everybody: five sagas in a row by one exception pause the consumer.

The pause is a row in the service's database, so that every worker heeds it and it outlives them; it is told as an
alarm. It ends when a person says so, or by itself when a worker of another release starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import structlog

from quadrille.ids import uuid7
from quadrille.observability.logs import release
from quadrille.processing.envelope import Envelope, Handled, Outcome, Parked
from quadrille.processing.outbox import announce
from quadrille.service import Service, Tx
from quadrille.system_messages import ProgressResumed, ProgressStalled

LIMIT = 5
ROLE, WORKER = "consumer", "worker"
PAUSE = """
INSERT INTO consumer_pause (cause, release, actor) VALUES (%b, %b, %b) ON CONFLICT DO NOTHING RETURNING since"""
RESUME = """
DELETE FROM consumer_pause WHERE %b::text IS NULL OR (actor = %b AND release <> %b)
RETURNING cause, since, (extract(epoch FROM now() - since) * 1000)::bigint"""
PAUSED = "SELECT cause, since, actor FROM consumer_pause"
log = structlog.get_logger()


class Pause(NamedTuple):
    """Why a consumer rests, since when, and who has said so."""

    cause: str
    since: datetime
    actor: str


class Brake:
    """Counts, for one consumer loop, the sagas in a row that one exception has parked, by the type of their input."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[str, tuple[str, ...]]] = {}

    def judge(self, inputs: Sequence[Envelope], outcomes: Sequence[Outcome]) -> int | None:
        """Return how many inputs of a batch may be committed when the row gets full before its end; None is all."""
        if not any(isinstance(outcome, Parked) for outcome in outcomes):
            return None
        rows = dict(self._rows)
        for number, (envelope, outcome) in enumerate(zip(inputs, outcomes, strict=True), 1):
            if len(_counted(rows, envelope, outcome)) >= LIMIT:
                return number if number < len(inputs) else None
        return None

    def note(self, inputs: Sequence[Envelope], outcomes: Sequence[Outcome]) -> str:
        """Take a committed batch into account; return why the consumer is to pause, or nothing."""
        for envelope, outcome in zip(inputs, outcomes, strict=True):
            if len(keys := _counted(self._rows, envelope, outcome)) >= LIMIT:
                exception = self._rows.pop(envelope.type)[0]
                return f"{len(keys)} sagas in a row were parked by {exception} while handling {envelope.type}"
        return ""


def _counted(rows: dict[str, tuple[str, tuple[str, ...]]], envelope: Envelope, outcome: Outcome) -> tuple[str, ...]:
    """Count an input in its type's row, and return the row: handled ends it, another exception begins it anew."""
    if isinstance(outcome, Handled):
        rows.pop(envelope.type, None)
        return ()
    cause = outcome.cause if isinstance(outcome, Parked) and outcome.error_class == "HANDLER" else None
    if cause is None or cause.exception is None:
        return ()
    exception, keys = rows.get(envelope.type, ("", ()))
    keys = keys if exception == cause.exception else ()
    if envelope.key not in keys:
        keys = (*keys, envelope.key)
    rows[envelope.type] = cause.exception, keys
    return keys


def paused(tx: Tx) -> Pause | None:
    """Return why the service's consumers rest, None when they do not."""
    row = tx.execute(PAUSED).fetchone()
    return Pause(*row) if row else None


def pause(tx: Tx, service: Service[Any], cause: str, actor: str = WORKER) -> bool:
    """Let the service's consumers rest, and tell of it; False when they rest already."""
    with tx.transaction():
        row = tx.execute(PAUSE, [cause, release(), actor]).fetchone()
        if row is None:
            return False
        announce(tx, service, uuid7(), ProgressStalled(service.name, ROLE, cause, row[0]))
    log.error("consumer paused", reason=cause)
    return True


def resume(tx: Tx, service: Service[Any]) -> Pause | None:
    """Let the consumers go on, and tell of it; None when they did not rest."""
    return _ended(tx, service, None)


def resume_of_old(tx: Tx, service: Service[Any]) -> Pause | None:
    """Let the consumers go on if what paused them by itself was another release: this one may have it mended."""
    return _ended(tx, service, WORKER)


def _ended(tx: Tx, service: Service[Any], actor: str | None) -> Pause | None:
    with tx.transaction():
        row = tx.execute(RESUME, [actor, actor, release()]).fetchone()
        if row is None:
            return None
        cause, since, took_ms = row
        announce(tx, service, uuid7(), ProgressResumed(service.name, ROLE, since, took_ms))
    log.error("consumer resumed", reason=cause, seconds=round(took_ms / 1000))
    return Pause(cause, since, actor or "")
