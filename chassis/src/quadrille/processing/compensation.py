"""Compensation: every try to undo something is announced on ``saga.audit``; what counts as one is read off signatures.

An intent that some compensation may emit is a try whenever a lease of it ends; an event that some compensation may
emit ends a try inside the database, whoever emits it, a tombstone and an operator's retry too. A try that failed is
one whose event has a field ``error_class``; of an operator's retry that changes nothing, the reply alone says that it
failed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from quadrille.handlers import HandlerRegistry
from quadrille.messages import Emitted, Event, Intent, Result
from quadrille.processing.envelope import Envelope, LeasedIntent
from quadrille.system_messages import CompensationAnswered, CompensationAttempted

DONE, RETRY, FAILED = "DONE", "RETRY", "FAILED"


def step_of(on: HandlerRegistry[Any], intent: type[Intent], answer: type[Result]) -> str | None:
    """Return the step an answer tells the undoing of; None where nothing was tried or it was no undoing."""
    return None if answer.type == f"{intent.type}_dropped" else on.compensated_step(intent)


def ended(on: HandlerRegistry[Any], envelope: Envelope, emitted: Sequence[Emitted]) -> CompensationAttempted | None:
    """Return what a handled input tells of an undoing: the answer of one outside, or one inside the database."""
    facts = [one for one in emitted if isinstance(one, Event)]
    step = envelope.compensates or next((step for one in facts if (step := on.compensated_step(type(one)))), None)
    if step is None:
        return _in_vain(on, envelope, emitted)
    failure = next((one for one in facts if reports_failure(type(one))), None)
    attempt = envelope.attempts if envelope.compensates else getattr(failure, "attempts", 1)
    if failure is None and not (envelope.compensates and _means_failure(on, envelope)):
        return CompensationAttempted(envelope.key, on.service, step, attempt, DONE)
    error_class = getattr(failure, "error_class", envelope.type)
    error = getattr(failure, "error", None) or getattr(failure, "code", None)
    return CompensationAttempted(envelope.key, on.service, step, attempt, FAILED, error_class, error)


def again(
    on: HandlerRegistry[Any], entry: LeasedIntent, error: tuple[str, str], due: datetime
) -> CompensationAttempted:
    """Return what a try without an answer tells, ``error`` its class and phrase: it is tried again when it is due."""
    step = on.compensated_step(type(entry.intent)) or entry.intent.type
    return CompensationAttempted(entry.key, on.service, step, entry.attempts, RETRY, *error, due)


def reports_failure(fact: type[Event]) -> bool:
    """Tell whether an event says that something failed."""
    return dataclasses.is_dataclass(fact) and any(field.name == "error_class" for field in dataclasses.fields(fact))


def _in_vain(on: HandlerRegistry[Any], envelope: Envelope, emitted: Sequence[Emitted]) -> CompensationAttempted | None:
    """Return what an operator's retry tells that has changed nothing; None for everything else without a step."""
    reaction = on.specs.get(type(envelope.body))  # type: ignore[arg-type] # as below
    if reaction is None or not any(
        isinstance(one, CompensationAnswered) and one.outcome == "STILL_FAILED" for one in emitted
    ):
        return None
    step = next((step for cls in reaction.emits if (step := on.compensated_step(cls))), envelope.type)
    return CompensationAttempted(envelope.key, on.service, step, 1, FAILED, "BUSINESS", "still not possible")


def _means_failure(on: HandlerRegistry[Any], envelope: Envelope) -> bool:
    """Tell whether an answer is one of failure, also when its handler has nothing more to say: see what it may say."""
    reaction = on.specs.get(type(envelope.body))  # type: ignore[arg-type] # an Unreadable body has none
    return reaction is not None and any(issubclass(cls, Event) and reports_failure(cls) for cls in reaction.emits)
