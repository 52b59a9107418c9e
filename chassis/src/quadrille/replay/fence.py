"""Fence of a replay: nothing leaves for the outside that nobody has allowed, and no half saga.

What follows a blocked record in its order is blocked too. The fence is asked inside the transaction, by what the
handler emitted there and then, not by what a plan foresaw.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from quadrille.avro import schemas
from quadrille.messages import Emitted, Event, Intent
from quadrille.processing.envelope import EffectBlocked, Envelope
from quadrille.processing.unit_of_work import BatchState
from quadrille.system_messages import SystemEvent

FILE = "effects.json"
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Effects:
    """The effects of what one service says: by wire type, what the intents some service answers with lead to."""

    answered: Mapping[str, frozenset[str]]

    def of(self, emitted: Iterable[Emitted]) -> frozenset[str]:
        """Return what these sayings lead to outside, at once or by the answer of whoever hears them.

        An event the map does not have leads to ``unknown``; an event of the chassis itself is heard by no service.
        """
        found: set[str] = set()
        for one in emitted:
            if isinstance(one, Intent):
                found.add(one.effect)
            elif isinstance(one, Event) and not isinstance(one, SystemEvent):
                found |= self.answered.get(one.type, {UNKNOWN})
        return frozenset(found)


def effects_of(service: str) -> Effects:
    """Return the effects of what a service says; of one that carries no map every event's effect is unknown."""
    try:
        text = (schemas.folder(service) / FILE).read_text("utf-8")
    except (FileNotFoundError, ModuleNotFoundError):
        return Effects({})
    return Effects({kind: frozenset(effects) for kind, effects in json.loads(text).items()})


FENCED, PARKED = "FENCED", "PARKED"
EARLIER = UUID(int=0)


class Fence:
    """Judges what a replay feeds to ``process_batch``; lets out the effects that are ``allowed``, by name."""

    def __init__(self, effects: Effects, allowed: Iterable[str] = ()) -> None:
        self.effects, self.allowed = effects, frozenset(allowed)
        self._first: dict[str, tuple[UUID, str]] = {}

    def recall(self, keys: Iterable[str]) -> None:
        """Remember the keys of which something was kept back before this process took over."""
        self._first |= dict.fromkeys(keys, (EARLIER, FENCED))

    def hold(self, envelope: Envelope, verdict: str, effects: frozenset[str] = frozenset()) -> EffectBlocked:
        """Keep a record back, and with it all that follows under its key."""
        self._first.setdefault(envelope.key, (envelope.id, verdict))
        return EffectBlocked(verdict, effects)

    def refuses(self, envelope: Envelope, history: BatchState) -> EffectBlocked | None:
        """Keep back what follows a record kept back, and what would overtake its key's parked line."""
        if envelope.id in history.seen:
            return None
        first, verdict = self._first.get(envelope.key, (envelope.id, ""))
        if first != envelope.id:
            return EffectBlocked(verdict)
        return self.hold(envelope, PARKED) if history.lanes.get(envelope.lane) else None

    def judges(self, envelope: Envelope, emitted: tuple[Emitted, ...]) -> EffectBlocked | None:
        """Keep back what leads to an effect that is not allowed."""
        if effects := self.effects.of(emitted) - self.allowed:
            return self.hold(envelope, FENCED, effects)
        self._first.pop(envelope.key, None)  # judged once more, in a half of its batch: now it may
        return None
