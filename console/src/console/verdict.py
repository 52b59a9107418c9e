"""The verdict: in a sentence, whether all flows, and if not, what stands in the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from console.neighbours import DEGRADED, GONE, NOT_READY, Health

NAMED = 2
BEHIND = "behind: "


@dataclass(frozen=True, slots=True)
class Verdict:
    """How all is: ``level`` is good, warn or bad; ``parts`` are its findings, the worst first."""

    level: str
    parts: tuple[str, ...]
    stale: str | None

    @property
    def sentence(self) -> str:
        """Return it as one line."""
        return (" " if self.level == "good" else " · ").join(self.parts)


def judge(
    counts: Mapping[str, int], health: Sequence[Health], intake: Mapping[str, Any] | None,
    last: Mapping[str, Any] | None, now: datetime,
) -> Verdict:  # fmt: skip
    """Return the verdict; ``counts`` has ``person``, ``parked``, ``findings``; ``last`` is the order that ended last.

    Among the counts ``resting`` is of how many services the consumers are paused, ``chaos`` how many seconds trouble in
    the sandbox has left.
    """
    bad: list[str] = []
    warn: list[str] = []
    if person := counts["person"]:
        bad.append(f"{person} {'order needs' if person == 1 else 'orders need'} a person")
    if parked := counts["parked"]:
        bad.append(f"{parked} {'input' if parked == 1 else 'inputs'} parked")
    if findings := counts.get("findings"):
        bad.append(f"{findings} {'finding' if findings == 1 else 'findings'}: services do not agree")
    bad += _told([one for one in health if one.state == GONE], "gone", now)
    bad += _told([one for one in health if one.state == NOT_READY], "not ready", now)
    if resting := counts.get("resting"):
        bad.append(f"consumers of {resting} {'service' if resting == 1 else 'services'} paused")
    if intake and intake["type"] == "intake.paused":
        bad.append(f"no new orders since {_clock(intake['at'])} UTC: {(intake['body'] or {}).get('cause', '')}")
    # what is parked was said already
    warn += _told([one for one in health if one.state == DEGRADED and set(one.why) != {"parked"}], "degraded", now)
    if chaos := counts.get("chaos"):
        warn.append(f"chaos in the sandbox, {ago(chaos)} left")
    stale = _stale(next((one for one in health if one.service == "console"), None))
    if bad or warn:
        return Verdict("bad" if bad else "warn", tuple(bad + warn), stale)
    return Verdict("good", ("All flows.", *_last(last, now)), stale)


def ago(span: float) -> str:
    """Return a time span in words: ``4 s``, ``3 min``, ``2 h``, ``5 d``."""
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if span >= seconds:
            return f"{span / seconds:.0f} {unit}"
    return f"{span:.1f} s" if span < 10 and span % 1 else f"{span:.0f} s"  # noqa: PLR2004 - below ten, tenths tell


def lasted(ms: int) -> str:
    """Return in words how long something took: below a second in milliseconds."""
    return f"{ms} ms" if ms < 1000 else ago(round(ms / 1000, 1))  # noqa: PLR2004 - a second


def _stale(console: Health | None) -> str | None:
    """Return why what is shown may be old; None if it was read to the end."""
    if console is None:
        return None
    behind = [why for why in console.why if why.startswith(BEHIND)]
    if console.state not in (GONE, NOT_READY) and not behind:
        return None
    return f"what is shown may be old: {'; '.join(behind or console.why)}"


def _told(found: Sequence[Health], word: str, now: datetime) -> list[str]:
    if not found:
        return []
    if len(found) > NAMED:
        return [f"{len(found)} processes {word}"]
    return [f"{one.shown} {word} for {ago(max(0.0, (now - one.since).total_seconds() // 1))}" for one in found]


def _last(last: Mapping[str, Any] | None, now: datetime) -> list[str]:
    if last is None:
        return ["No order has ended yet."]
    since = ago(max(0.0, (now - last["ended_at"]).total_seconds() // 1))
    took = "" if last["took_ms"] is None else f" in {lasted(last['took_ms'])}"
    return [f"Last order {last['status'].lower()} {since} ago{took}."]


def _clock(at: datetime) -> str:
    return f"{at:%H:%M:%S}"
