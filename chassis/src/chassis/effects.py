"""What a fact said leads to outside; the guarantee: what is not known to be harmless counts as an effect.

A service cannot know who answers its facts: the map of the saga does, and ``quadrille saga`` writes it down for each
service as ``schemas/<service>/effects.json``, which travels in its wheel beside the schemas of what it says.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from chassis import schemas
from chassis.facts import Announced
from chassis.words import Fact, Intent, Said

FILE = "effects.json"
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Effects:
    """The effects of what one service says: by wire type, what the intents some service answers with lead to."""

    answered: Mapping[str, frozenset[str]]

    def of(self, said: Iterable[Said]) -> frozenset[str]:
        """Return what these sayings lead to outside, at once or by the answer of whoever hears them.

        A fact the map does not have leads to ``unknown``; a fact of the chassis itself is heard by no service.
        """
        found: set[str] = set()
        for one in said:
            if isinstance(one, Intent):
                found.add(one.effect)
            elif isinstance(one, Fact) and not isinstance(one, Announced):
                found |= self.answered.get(one.type, {UNKNOWN})
        return frozenset(found)


def effects_of(service: str) -> Effects:
    """Return the effects of what a service says; of one that carries no map every fact's effect is unknown."""
    try:
        text = (schemas.folder(service) / FILE).read_text("utf-8")
    except (FileNotFoundError, ModuleNotFoundError):
        return Effects({})
    return Effects({kind: frozenset(effects) for kind, effects in json.loads(text).items()})
