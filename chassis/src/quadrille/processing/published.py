"""Published facts win: what a restored service said of an input before it forgot is not said otherwise, nor twice.

An input that is handled once more says the same facts under the same ids. What the outbox has again is not written a
second time; what was declared lost is, under the number it was published with. A handler that would now decide
otherwise than all others have heard is held: its input is parked for a person, and nothing of it happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from quadrille.processing.unit_of_work import OutboxRecord, PendingWrites, SaidBefore
from quadrille.system_messages import SystemEvent

_OF_THE_CAUSE = (1 << 80) - 1
"""Bits of an id that its cause, type and ordinal make; the others are a time, the writer's own for the chassis' events.
"""


class ContradictionError(Exception):
    """An input's handler does not say what was published of the same input before the database was restored."""


def heed(writes: PendingWrites, mark: tuple[int, int, int, int], said: Sequence[SaidBefore]) -> None:
    """Hold what an input says since ``mark`` against what was said of it before; raises ContradictionError."""
    facts, ours = writes.facts[mark[0] :], writes.ours[mark[2] :]
    emitted = {_origin(fact.id) for fact in (*facts, *ours)}
    systems = {kind.type for kind in SystemEvent.__subclasses__()}
    if unsaid := sorted(
        {one.type for one in said if one.kept and one.type not in systems and _origin(one.id) not in emitted}
    ):
        message = f"published {', '.join(unsaid)} before the database was restored, and would not say so now"
        raise ContradictionError(message)
    known = {_origin(one.id): one for one in said}
    writes.facts[mark[0] :] = _still_to_say(facts, known)
    writes.ours[mark[2] :] = _still_to_say(ours, known)


def _still_to_say(facts: Sequence[OutboxRecord], known: dict[int, SaidBefore]) -> list[OutboxRecord]:
    """Return the facts that the outbox has not; one that is on its topic keeps the number it has there."""
    wanted = []
    for fact in facts:
        before = known.get(_origin(fact.id))
        if before is None:
            wanted.append(fact)
        elif not before.kept:
            wanted.append(replace(fact, sequence=before.sequence) if before.id == fact.id else fact)
    return wanted


def _origin(identity: UUID) -> int:
    return identity.int & _OF_THE_CAUSE
