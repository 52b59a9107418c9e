"""What each fact leads to outside, read off the saga's map: the services' fences against replayed effects use it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chassis.effects import FILE
from chassis.facts import Announced
from chassis.registry import Reactions
from chassis.words import Fact, Intent


def effects(service: Reactions[Any], saga: Sequence[Reactions[Any]]) -> dict[str, list[str]]:
    """Return, for every fact a service says, the effects of the intents that some service may answer it with."""
    said = sorted(kind for kind, cls in service.says(Fact).items() if not issubclass(cls, Announced))
    return {kind: sorted(_answered(service.service, kind, saga)) for kind in said}


def files(root: Path, saga: Sequence[Reactions[Any]]) -> dict[Path, str]:
    """Return every service's effects by the file they belong in, which its wheel carries."""
    return {root / "schemas" / one.service / FILE: json.dumps(effects(one, saga), indent=2) + "\n" for one in saga}


def _answered(source: str, kind: str, saga: Sequence[Reactions[Any]]) -> set[str]:
    heard = [r for s in saga for r in s.reactions.values() if (r.hears.type, _source(r.hears)) == (kind, source)]
    return {cls.effect for reaction in heard for cls in reaction.says if issubclass(cls, Intent)}


def _source(cls: type) -> str:
    return str(getattr(cls, "source", ""))
