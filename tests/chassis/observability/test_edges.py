"""Both edges at one level: of whatever the chassis logs as lasting, the end is as loud, and says how long it took."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from quadrille.observability.degraded import Degraded
from quadrille.observability.logs import ThrottledLog

CHASSIS = Path(__file__).parents[3] / "chassis" / "src" / "quadrille"
LOUD = ("warning", "error", "critical")
PAIRS = {
    "service silent": "service heard again",
    "degraded": "degraded no longer",
    "progress stalled": "progress resumed",
    "relay.stalled": "relay.resumed",
    "worker stopped": "worker goes on",
    "consumer paused": "consumer resumed",
    "breaker changed": "breaker changed",
    "intake turns": "intake turns",
    "relay.held": "relay.goes_on",
    "relay.{}": "relay.{}",
    "start checks wait": "start checks made",
}
"""What lasts, and how its end is told: by another phrase, or by the same one with another reason."""
MOMENTS = {
    "input parked": "it goes on as an event of its own",
    "record quarantined": "one record; it goes on as an event of its own",
    "parked input quarantined": "one input; it stays parked, for a person",
    "sagas given up": "so many at once; the end of each is an event of its own",
    "task quarantined": "one answer or timer; it goes on as an event of its own",
    "a worker died here": "once, at the start after it",
    "no beat": "one beat; silence is what others tell",
    "beat not read": "one beat",
    "client made anew": "an act",
    "setting is not heard": "once, at the start",
    "connections closed": "an act, counted",
    "connection failed": "one connection",
    "refused to run": "the process ends",
    "start refused": "the process ends",
    "stopped": "the process ends",
    "settings of topics are not seen": "one look",
    "no answer says that this intent was dropped": "one intent",
    "answers left to their leases": "once, at the end",
    "log lines were lost": "the second edge itself: lines can be written again",
    "relay.left_out": "one recovery's finding",
    "relay.refused_again": "one try of a row that is held",
    "relay.older_than_its_topics": "a finding, kept until a person ends it; relay.restored lasts as long",
    "relay.restore_ended": "an act",
}
"""What is told at one point in time and has no end, each with the reason."""


@dataclass(frozen=True, slots=True)
class Said:
    """One call of a log in the sources: where, at which level, which phrase and keys; ``~`` is a throttled one."""

    file: str
    level: str
    phrase: str
    keys: frozenset[str]


def calls(text: str, file: str = "") -> Iterator[Said]:
    """Yield every call of ``log.<level>``, of ``<throttled>.warn`` and of ``.over`` in a source."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            keys = frozenset(keyword.arg or "" for keyword in node.keywords)
            for level in _levels(node.func):
                for phrase in _phrases(node) or ("",):
                    yield Said(file, level, phrase, keys)


def _levels(function: ast.expr) -> list[str]:
    """Return the levels a call may log at; one of two, where an expression chooses."""
    if isinstance(function, ast.IfExp):
        return [*_levels(function.body), *_levels(function.orelse)]
    if not isinstance(function, ast.Attribute):
        return []
    if isinstance(function.value, ast.Name) and function.value.id == "log":
        return [function.attr]
    return [f"~{function.attr}"] if function.attr in ("warn", "over") else []


def _phrases(node: ast.Call) -> list[str]:
    """Return the phrases of a call: the first argument, of ``over`` each one; the variable part of one is ``{}``."""
    found = []
    for argument in node.args:
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            found.append(argument.value)
        elif isinstance(argument, ast.JoinedStr):
            parts = [str(v.value) if isinstance(v, ast.Constant) else "{}" for v in argument.values]
            found.append("".join(parts))
    return found if isinstance(node.func, ast.Attribute) and node.func.attr == "over" else found[:1]


def lonely(said: list[Said]) -> list[str]:
    """Return what is wrong: a loud phrase nobody has sorted, an end at another level or without its seconds."""
    wrong = []
    for one in (one for one in said if one.level in LOUD):
        if one.phrase in PAIRS:
            ends = [end for end in said if end.phrase == PAIRS[one.phrase] and end.level in (*LOUD, "info")]
            if not any(end.level == one.level and "seconds" in end.keys for end in ends):
                wrong.append(f"{one.phrase}: its end is not told at {one.level}, with seconds")
        elif one.phrase not in {*PAIRS.values(), *MOMENTS, ""} and one.file != "observability/logs.py":
            wrong.append(f"{one.phrase} ({one.file}): it lasts, or is it a moment?")
    for one in (one for one in said if one.level == "~warn"):
        ends = [end for end in said if end.level == "~over" and end.file == one.file and end.phrase in ("", one.phrase)]
        if not ends and one.phrase:
            wrong.append(f"{one.phrase} ({one.file}): nothing says that it is over")
    return sorted(set(wrong))


def sources() -> list[Said]:
    """Every call there is in the chassis."""
    files = [path for path in sorted(CHASSIS.rglob("*.py")) if "testing" not in path.parts]
    return [
        said for path in files for said in calls(path.read_text(encoding="utf-8"), path.relative_to(CHASSIS).as_posix())
    ]


def test_whatever_lasts_has_an_end_that_is_as_loud() -> None:
    """Every loud line of the chassis is a moment, or one of a pair whose second says how long it took."""
    found = sources()

    assert len([one for one in found if one.level in LOUD]) > 15
    assert len([one for one in found if one.level == "~warn"]) > 8
    assert lonely(found) == []


@pytest.mark.parametrize(
    ("planted", "told"),
    [
        ('log.error("service silent")\nlog.info("service heard again", seconds=3)', "service silent: its end"),
        ('log.error("service silent")\nlog.error("service heard again")', "service silent: its end"),
        ('log.warning("the cat is away")', "the cat is away"),
        ('self._troubles.warn("cats wait", "E")', "cats wait"),
        ('self._troubles.warn("cats wait", "E")\nself._troubles.over("dogs wait")', "cats wait"),
    ],
)
def test_a_lonely_edge_is_found(planted: str, told: str) -> None:
    """A quiet end, one without seconds, and a new phrase that nobody has sorted are told."""
    assert told in "".join(lonely(list(calls(planted))))


def test_a_trouble_that_was_told_ends_with_its_seconds() -> None:
    """Told once, then over after 42 s; what comes back at once is told neither way; what never was says nothing."""
    now = [1000.0]
    throttled = ThrottledLog(10.0, lambda: now[0])
    with capture_logs() as told:
        throttled.over()
        throttled.warn("tasks wait", "OperationalError")
        now[0] += 5
        throttled.warn("tasks wait", "OperationalError")
        now[0] += 37
        throttled.over("retention waits")
        throttled.over()
        throttled.over()
        now[0] -= 36
        throttled.warn("tasks wait", "OperationalError")
        throttled.over()

    assert [(line["event"], line["log_level"], line.get("seconds")) for line in told] == [
        ("tasks wait", "warning", None),
        ("tasks wait: over", "warning", 42.0),
    ]


def test_what_is_degraded_is_back_as_loudly() -> None:
    """The second line has the level of the first, and how long it lasted."""
    with capture_logs() as told:
        part = Degraded("a part of the test of edges")
        part.lost("away")
        part.back()

    assert [(line["event"], line["log_level"]) for line in told] == [
        ("degraded", "warning"), ("degraded no longer", "warning"),
    ]  # fmt: skip
    assert told[1]["seconds"] >= 0
