"""What each event leads to outside, read off the saga's map: the services' fences against replayed effects use it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quadrille.handlers import HandlerRegistry
from quadrille.messages import Event, Intent
from quadrille.replay.fence import FILE
from quadrille.system_messages import SystemEvent


def effects(service: HandlerRegistry[Any], saga: Sequence[HandlerRegistry[Any]]) -> dict[str, list[str]]:
    """Return, for every event a service says, the effects of the intents that some service may answer it with."""
    said = sorted(kind for kind, cls in service.emits(Event).items() if not issubclass(cls, SystemEvent))
    return {kind: sorted(_answered(service.service, kind, saga)) for kind in said}


def files(root: Path, saga: Sequence[HandlerRegistry[Any]]) -> dict[Path, str]:
    """Return every service's effects by the file they belong in, which its wheel carries."""
    return {root / "schemas" / one.service / FILE: json.dumps(effects(one, saga), indent=2) + "\n" for one in saga}


def _answered(source: str, kind: str, saga: Sequence[HandlerRegistry[Any]]) -> set[str]:
    heard = [r for s in saga for r in s.specs.values() if (r.consumes.type, _source(r.consumes)) == (kind, source)]
    return {cls.effect for reaction in heard for cls in reaction.emits if issubclass(cls, Intent)}


def _source(cls: type) -> str:
    return str(getattr(cls, "source", ""))
