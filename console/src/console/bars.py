"""Bars of the flow: how many orders ended in each minute, as geometry for the picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

WIDTH, HEIGHT, FOOT = 540, 58, 14
KINDS = {"CONFIRMED": "good"}


def bars(per_minute: Iterable[Mapping[str, Any]], minutes: int) -> dict[str, Any]:
    """Return the bars, the newest minute at the right; confirmed below, cancelled above."""
    counts: dict[int, dict[str, int]] = {}
    for row in per_minute:
        ago = min(minutes - 1, max(0, int(row["ago"])))
        kind = KINDS.get(str(row["status"]), "soft")
        at = counts.setdefault(ago, {})
        at[kind] = at.get(kind, 0) + int(row["count"])
    most = max((sum(at.values()) for at in counts.values()), default=0)
    step, room = WIDTH / minutes, HEIGHT - FOOT - 4
    drawn: list[dict[str, Any]] = []
    for ago, at in sorted(counts.items()):
        foot: float = HEIGHT - FOOT
        words = f"{ago} min ago: {at.get('good', 0)} confirmed, {at.get('soft', 0)} cancelled"
        for kind in ("good", "soft"):
            if count := at.get(kind):
                high = max(2.0, room * count / most)
                foot -= high
                x = WIDTH - (ago + 1) * step + 2
                drawn.append({"x": round(x, 1), "y": round(foot, 1), "w": round(step - 4, 1), "h": round(high, 1),
                              "kind": kind, "words": words})  # fmt: skip
    total = sum(sum(at.values()) for at in counts.values())
    return {"width": WIDTH, "height": HEIGHT, "all": drawn, "words": f"{total} in all, {most} in the busiest"}
