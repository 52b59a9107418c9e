"""Every try to undo something, told on ``saga.audit``; the guarantee: what counts as one is read off the signatures.

An intent that some compensation may say is a try whenever a lease of it ends; a fact that some compensation may say
ends a try inside the database, whoever says it, a tombstone and an operator's retry too. A try that failed is one whose
fact has a field ``error_class``; of an operator's retry that changes nothing the reply alone says that it failed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from chassis.facts import CompensationAttempted
from chassis.inputs import Entry, Input
from chassis.registry import Reactions
from chassis.undo import UndoAnswered
from chassis.words import Answer, Fact, Intent, Said

DONE, RETRY, FAILED = "DONE", "RETRY", "FAILED"


def step_of(on: Reactions[Any], intent: type[Intent], answer: type[Answer]) -> str | None:
    """Return the step an answer tells the undoing of; None where nothing was tried or it was no undoing."""
    return None if answer.type == f"{intent.type}_dropped" else on.undoing(intent)


def ended(on: Reactions[Any], heard: Input, said: Sequence[Said]) -> CompensationAttempted | None:
    """Return what a handled input tells of an undoing: the answer of one outside, or one inside the database."""
    facts = [one for one in said if isinstance(one, Fact)]
    step = heard.undoes or next((step for one in facts if (step := on.undoing(type(one)))), None)
    if step is None:
        return _in_vain(on, heard, said)
    failure = next((one for one in facts if reports_failure(type(one))), None)
    attempt = heard.attempts if heard.undoes else getattr(failure, "attempts", 1)
    if failure is None and not (heard.undoes and _means_failure(on, heard)):
        return CompensationAttempted(heard.key, on.service, step, attempt, DONE)
    error_class = getattr(failure, "error_class", heard.type)
    error = getattr(failure, "error", None) or getattr(failure, "code", None)
    return CompensationAttempted(heard.key, on.service, step, attempt, FAILED, error_class, error)


def again(on: Reactions[Any], entry: Entry, error: tuple[str, str], due: datetime) -> CompensationAttempted:
    """Return what a try without an answer tells, ``error`` its class and phrase: it is tried again when it is due."""
    step = on.undoing(type(entry.intent)) or entry.intent.type
    return CompensationAttempted(entry.key, on.service, step, entry.attempts, RETRY, *error, due)


def reports_failure(fact: type[Fact]) -> bool:
    """Tell whether a fact says that something failed."""
    return dataclasses.is_dataclass(fact) and any(field.name == "error_class" for field in dataclasses.fields(fact))


def _in_vain(on: Reactions[Any], heard: Input, said: Sequence[Said]) -> CompensationAttempted | None:
    """Return what an operator's retry tells that has changed nothing; None for everything else without a step."""
    reaction = on.reactions.get(type(heard.body))  # type: ignore[arg-type] # as below
    if reaction is None or not any(isinstance(one, UndoAnswered) and one.outcome == "STILL_FAILED" for one in said):
        return None
    step = next((step for cls in reaction.says if (step := on.undoing(cls))), heard.type)
    return CompensationAttempted(heard.key, on.service, step, 1, FAILED, "BUSINESS", "still not possible")


def _means_failure(on: Reactions[Any], heard: Input) -> bool:
    """Tell whether an answer is one of failure, also when its handler has nothing more to say: see what it may say."""
    reaction = on.reactions.get(type(heard.body))  # type: ignore[arg-type] # an Unreadable body has none
    return reaction is not None and any(issubclass(cls, Fact) and reports_failure(cls) for cls in reaction.says)
