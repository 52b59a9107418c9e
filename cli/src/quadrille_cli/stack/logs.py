"""The logs of all processes as one stream, in the order of their time stamps."""

from __future__ import annotations

import heapq
import json
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import TextIO

STAMP = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d+))?(?:([+-])(\d\d):?(\d\d)\b)?")
LEVELS = ("debug", "info", "warning", "error", "critical")
WORDS = {"WARN": "warning", "WARNING": "warning", "ERROR": "error", "FATAL": "critical", "PANIC": "critical"}
PAUSE = 0.2
ORDER = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SAID = frozenset({
    "ts", "level", "event", "service", "role", "release", "order_id", "event_id", "event_type", "topic", "partition",
    "offset", "trace_id", "sequence", "outcome", "ms",
})  # fmt: skip
"""What a line for people says in its own way, or leaves to the line as it is written."""


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which lines are asked for."""

    order: str = ""
    level: str = "debug"

    def wants(self, text: str) -> bool:
        """Whether a line is of that order and at least of that level."""
        return (not self.order or self.order in text) and LEVELS.index(level(text)) >= LEVELS.index(self.level)


def level(text: str) -> str:
    """The level a line states: the member of a JSON line, a word of a server's, else info."""
    if text.startswith("{"):
        try:
            stated = str(json.loads(text).get("level", "info")).lower()
        except ValueError:
            return "info"
        return stated if stated in LEVELS else "info"
    return next((mapped for word, mapped in WORDS.items() if word in text), "info")


def orders(files: Mapping[str, Path], ending: str) -> set[str]:
    """The ids of the orders that the logs tell of and that end so."""
    found: set[str] = set()
    for path in files.values():
        with path.open(encoding="utf-8", errors="replace") as lines:
            found |= {one for line in lines if ending in line for one in ORDER.findall(line) if one.endswith(ending)}
    return found


def pretty(name: str, text: str) -> str:
    """A line for people: the time of day, the process, what happened, and what it was about; a server's as it is."""
    try:
        told = json.loads(text) if text.startswith("{") else None
    except ValueError:
        told = None
    if not isinstance(told, dict) or "event" not in told:
        return f"{'':12}  {name:<19}  {text}"
    place = f"{told['topic']}[{told['partition']}]@{told['offset']}" if "offset" in told else told.get("topic", "")
    number = f"#{told['sequence']}" if "sequence" in told else ""
    took = f"{told['ms']:g} ms" if "ms" in told else ""
    outcome = told.get("outcome", "")
    known = [told.get("event_type", ""), number, "" if outcome == "handled" else outcome, place, took]
    more = [f"{key}={value}" for key, value in told.items() if key not in SAID]
    loud = f"{str(told['level']).upper()} " if told.get("level") in ("warning", "error", "critical") else ""
    what = {"event published": "published", "input handled": "handled"}.get(told["event"], told["event"])
    said = "  ".join(str(part) for part in (f"{loud}{what}", *known, *more) if part)
    return f"{str(told.get('ts', ''))[11:23]:12}  {name:<19}  {said}"


def merged(files: Mapping[str, Path], only: LogFilter) -> Iterator[tuple[str, str]]:
    """Every wanted line so far, as (process, text), by time; a line without a stamp stays behind its forerunner."""
    for _, name, text in heapq.merge(*(_stamped(name, path) for name, path in files.items()), key=lambda e: e[0]):
        if only.wants(text):
            yield name, text


def follow(files: Mapping[str, Path], only: LogFilter) -> Iterator[tuple[str, str]]:
    """Lines written from now on, for ever."""
    readers: dict[str, TextIO] = {}
    for name, path in files.items():
        readers[name] = path.open(encoding="utf-8", errors="replace")
        readers[name].seek(0, 2)
    while True:
        news = [(name, text.rstrip("\n")) for name, reader in readers.items() for text in reader]
        yield from ((name, text) for name, text in news if only.wants(text))
        if not news:
            time.sleep(PAUSE)


def _stamped(name: str, path: Path) -> Iterator[tuple[str, str, str]]:
    last = ""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            found = STAMP.search(line[:200])
            if found:
                last = _moment(found)
            yield last, name, line.rstrip("\n")


def _moment(stamp: re.Match[str]) -> str:
    """A stamp in UTC, to be compared as text; one that names no offset is in UTC already, as all our processes are."""
    day, clock, fraction, sign, hours, minutes = stamp.groups()
    if sign:
        ahead = timedelta(hours=int(hours), minutes=int(minutes)) * (1 if sign == "+" else -1)
        with suppress(ValueError, OverflowError):  # it only looks like one
            day, clock = (datetime.fromisoformat(f"{day}T{clock}") - ahead).isoformat().split("T")
    return f"{day}T{clock}.{fraction or ''}"
