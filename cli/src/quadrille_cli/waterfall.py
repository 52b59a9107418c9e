"""A trace as a waterfall for a terminal: a line a span, a line a wait, each with its bar on one axis of time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from quadrille_cli.terminal import painted, short

NS_PER_MS = 1_000_000
TOOK, SERVICE = 7, 13
LEAST_SHARE = 200
"""A wait is told that takes the two-hundredth part of the whole, or a millisecond, whichever is longer."""
INDENT_MOST = 8
NAMES = ("outbox", "relay", "broker", "queue", "handler", "retry", "parked")
COLOURS = {
    "outbox": "blue", "relay": "cyan", "broker": "magenta", "queue": "yellow", "handler": "green", "retry": "red",
    "parked": "red", "call": "green", "request": "white", "database": "white", "connection": "white",
}  # fmt: skip
BELOW = ("database", "connection")
"""Parts that are shown only if asked for: the statements and connections of what stands above them."""
WORKED, WAITED, FAILED = "█", "░", "▓"
Document = Mapping[str, Any]


class Row(NamedTuple):
    """A line: whose it is, what it is called, which kind of time, from when to when, how deep, and what failed."""

    service: str
    name: str
    kind: str
    began: int
    ended: int
    depth: int
    error: str = ""
    waited: bool = False


def waterfall(trace: Document, columns: int, *, every: bool = False) -> Iterator[str]:
    """Yield the lines of a trace, no longer than so many columns; statements of databases only if asked for."""
    spans = [span for span in trace["spans"] if every or span["part"] not in BELOW] or trace["spans"]
    began = min(int(span["began_unix_nano"]) for span in trace["spans"])
    ended = max(int(span["ended_unix_nano"]) for span in trace["spans"])
    rows = list(_rows(spans, max(NS_PER_MS, (ended - began) // LEAST_SHARE)))
    yield from _head(trace, ended - began)
    left = min(SERVICE + 2 + max(len(_label(row)) for row in rows), columns * 11 // 20)
    room = columns - left - TOOK - 4
    scale = f"0{words(ended - began):>{room - 1}}"
    yield f"{'':<{left}} {'took':>{TOOK}}  {scale}"
    for row in rows:
        bar = painted(_bar(row, began, max(1, ended - began), room), COLOURS[row.kind])
        label = f"{row.service:<{SERVICE}}{_label(row)}"
        label = label if len(label) <= left else f"{label[: left - 1]}…"
        yield f"{label:<{left}} {words(row.ended - row.began):>{TOOK}}  {bar}".rstrip()
        if row.error:
            yield painted(f"{'':<{SERVICE}}{_shift(row.depth)}  failed: {row.error}"[:columns], "red")
    yield ""
    yield from _sums(trace["spans"], columns)
    if left_out := len(trace["spans"]) - len(spans):
        yield f"{left_out} statements and connections are not shown: --all"


def words(nanoseconds: int) -> str:
    """Return a length of time in few characters: 0.4ms, 12ms, 1.25s, 3m20s."""
    ms = nanoseconds / NS_PER_MS
    if ms < 10:  # noqa: PLR2004 - tenths tell
        return f"{ms:.1f}ms"
    if ms < 1000:  # noqa: PLR2004 - a second
        return f"{ms:.0f}ms"
    seconds = ms / 1000
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.2f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02}s" if minutes < 100 else f"{minutes // 60}h{minutes % 60:02}m"  # noqa: PLR2004 - three digits


def _rows(spans: Sequence[Document], least: int) -> Iterator[Row]:
    """Yield the spans as they are nested, before each what it waited for."""
    for span in spans:
        for wait in span["waits"]:
            began, ended = int(wait["began_unix_nano"]), int(wait["ended_unix_nano"])
            if ended - began >= least:
                yield Row("", wait["name"], wait["name"], began, ended, span["depth"], waited=True)
        yield Row(
            span["service"], span["name"], span["part"], int(span["began_unix_nano"]), int(span["ended_unix_nano"]),
            span["depth"], span["error"] or "",
        )  # fmt: skip


def _head(trace: Document, took: int) -> Iterator[str]:
    order = trace["order"]
    of = f"order …{short(order['order_id'])} {order['status']}" if order else "of no order that was heard of"
    yield f"trace {trace['trace_id']}"
    yield f"{of}   {len(trace['spans'])} spans, {words(took)}"
    yield ""


def _label(row: Row) -> str:
    return f"{_shift(row.depth)}{row.name}"


def _shift(depth: int) -> str:
    return " " * min(depth, INDENT_MOST)


def _bar(row: Row, began: int, whole: int, room: int) -> str:
    """Return where on the axis a row lies: a column at least, however short it was."""
    start = min(room - 1, (row.began - began) * room // whole)
    end = min(room, max(start + 1, -(-(row.ended - began) * room // whole)))
    mark = WAITED if row.waited else FAILED if row.error else WORKED
    return " " * max(0, start) + mark * (end - max(0, start))


def _sums(spans: Sequence[Document], columns: int) -> Iterator[str]:
    """Yield how long each kind of time was in all; branches go side by side, so it may be more than the whole."""
    spent: Counter[str] = Counter()
    for span in spans:
        spent[span["part"]] += int(span["ended_unix_nano"]) - int(span["began_unix_nano"])
        for wait in span["waits"]:
            spent[wait["name"]] += int(wait["ended_unix_nano"]) - int(wait["began_unix_nano"])
    line = "in all "
    plain = len(line)
    for name in (name for name in NAMES if spent[name]):
        told = f"  {name} {words(spent[name])}"
        if plain + len(told) > columns:
            yield line
            line, plain = " " * 7, 7
        line, plain = line + painted(told, COLOURS[name]), plain + len(told)
    yield line
