"""The waterfall of a trace: spans as bars, each below what it came of, and what lay between them named as a wait."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from console.pages import span as in_words

LEFT, WIDTH = 330, 700
TICKS = 5
CONSUMER, PRODUCER, CLIENT = 5, 4, 3
NS_PER_MS = 1_000_000
LABEL_MAX = 46
WORTH_NAMING_MS = 5
BELOW = ("database", "connection")
Span = Mapping[str, Any]


class Wait(NamedTuple):
    """What nothing happened for: outbox, relay, queue, retry or parked; from when to when, in Unix nanoseconds."""

    name: str
    began_ns: int
    ended_ns: int

    @property
    def took_ns(self) -> int:
        """How long it was."""
        return self.ended_ns - self.began_ns


def waterfall(spans: Sequence[Span], *, every: bool = True) -> dict[str, Any]:
    """Return the spans in the order they are drawn, ticks of the axis, how long all took, and how many are left out.

    Without ``every`` statements of databases and the connections of calls are left out.
    """
    if not spans:
        return {"spans": [], "ticks": [], "took": 0, "left_out": 0}
    began, ended = min(s["began_ns"] for s in spans), max(s["ended_ns"] for s in spans)
    whole = max(1, ended - began)
    scale, waited = WIDTH / whole, waits(spans)
    shown = [(s, depth) for s, depth in nested(spans) if every or part_of(s) not in BELOW] or nested(spans)
    drawn = [_bar(s, depth, waited[s["span_id"]], began, scale) for s, depth in shown]
    ticks = [
        {"x": round(LEFT + WIDTH * n / TICKS, 1), "words": in_words(whole * n // TICKS // NS_PER_MS)}
        for n in range(TICKS + 1)
    ]
    left_out = len(spans) - len(drawn)
    return {"spans": drawn, "ticks": ticks, "took": whole // NS_PER_MS, "left_out": left_out}


def part_of(span: Span) -> str:
    """Return what a span is a part of: the broker takes it, a handler works, a database, a call outside, a request."""
    name = str(span["name"])
    if span["kind"] == PRODUCER:
        return "broker"
    if span["kind"] == CONSUMER or name.startswith(("process ", "replay ")):
        return "handler"
    if "db.system.name" in (span["attributes"] or {}):
        return "database"
    if span["kind"] == CLIENT:  # below a call is the connection it was made by
        return "call" if "quadrille.attempt" in (span["attributes"] or {}) else "connection"
    return "request"


def waits(spans: Sequence[Span]) -> dict[str, tuple[Wait, ...]]:
    """Return what each span has waited for since what it came of, by its id, the earliest first."""
    by_id, again, calls = {s["span_id"]: s for s in spans}, _tried_before(spans), _calls(spans)
    found = {}
    for one in spans:
        parent = by_id.get(one["parent_id"])
        if part_of(one) == "handler" and one["kind"] != CONSUMER:  # an answer: it came of the last call before it
            came = [call for call in calls.get(one["parent_id"], ()) if call["ended_ns"] <= one["began_ns"]]
            parent = max(came, key=lambda call: int(call["ended_ns"]), default=parent)
        found[one["span_id"]] = tuple(_waits_of(one, parent, again.get(one["span_id"])))
    return found


def _calls(spans: Sequence[Span]) -> dict[str, list[Span]]:
    """Return the calls outside, by what they came of."""
    found: dict[str, list[Span]] = {}
    for one in spans:
        if part_of(one) == "call":
            found.setdefault(one["parent_id"], []).append(one)
    return found


def _waits_of(span: Span, parent: Span | None, before: Span | None) -> Iterator[Wait]:
    if before is not None and before["ended_ns"] <= span["began_ns"]:
        name = "parked" if (before["attributes"] or {}).get("quadrille.outcome") == "parked" else "retry"
        yield Wait(name, before["ended_ns"], span["began_ns"])
    elif parent is not None and span["kind"] == PRODUCER:
        said = span["began_ns"] - int(_number(span, "quadrille.outbox_wait_ms") * NS_PER_MS)
        published = max(said, min(parent["ended_ns"], span["began_ns"]))
        yield from _some(Wait("outbox", said, published), Wait("relay", published, span["began_ns"]))
    elif parent is not None:
        yield from _some(Wait("queue", parent["ended_ns"], span["began_ns"]))


def _some(*found: Wait) -> Iterator[Wait]:
    yield from (one for one in found if one.took_ns > 0)


def _number(span: Span, name: str) -> float:
    try:
        return float((span["attributes"] or {}).get(name) or 0)
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _tried_before(spans: Sequence[Span]) -> dict[str, Span]:
    """Return the try before each span that is a later try of one thing: a call's attempt, an input that was parked."""
    tries: dict[tuple[Any, ...], list[Span]] = {}
    for one in sorted(spans, key=lambda one: int(one["began_ns"])):
        told = one["attributes"] or {}
        what = next((name for name in ("quadrille.attempt", "quadrille.outcome") if name in told), None)
        if what:  # below what said it there is one record, and one intent, for a service
            tries.setdefault((one["service"], what, one["parent_id"]), []).append(one)
    return {
        later["span_id"]: earlier
        for found in tries.values()
        for earlier, later in pairwise(found)
        if earlier["error"] or (earlier["attributes"] or {}).get("quadrille.outcome") == "parked"
    }


def nested(spans: Sequence[Span]) -> list[tuple[Span, int]]:
    """Return spans each after what it came of, with its depth; one whose parent is not kept is a root."""
    by_id = {s["span_id"]: s for s in spans}
    below: dict[str, list[Span]] = {}
    for one in spans:
        parent = one["parent_id"] if one["parent_id"] in by_id and one["parent_id"] != one["span_id"] else ""
        below.setdefault(parent, []).append(one)
    found: list[tuple[Span, int]] = []
    seen: set[str] = set()
    waiting = [(one, 0) for one in reversed(below.get("", []))]
    while waiting:
        one, depth = waiting.pop()
        if one["span_id"] in seen:
            continue
        seen.add(one["span_id"])
        found.append((one, depth))
        waiting += [(child, depth + 1) for child in reversed(below.get(one["span_id"], []))]
    return found + [(one, 0) for one in spans if one["span_id"] not in seen]


def _bar(span: Span, depth: int, waited: Sequence[Wait], began: int, scale: float) -> dict[str, Any]:
    x = LEFT + (span["began_ns"] - began) * scale
    named = [wait for wait in waited if wait.took_ns >= WORTH_NAMING_MS * NS_PER_MS]
    took = (span["ended_ns"] - span["began_ns"]) / NS_PER_MS
    label = f"{span['service']} {span['name']}"
    return dict(span) | {
        "depth": min(depth, 12), "x": round(x, 1),
        "w": round(max(1.5, (span["ended_ns"] - span["began_ns"]) * scale), 1),
        "label": label if len(label) <= LABEL_MAX - depth else label[: LABEL_MAX - 1 - min(depth, 30)] + "…",
        "took": f"{took:.1f} ms" if took < 10 else in_words(int(took)),  # noqa: PLR2004 - below ten, tenths tell
        "after": in_words((span["began_ns"] - began) // NS_PER_MS),
        "wait": ", ".join(f"{wait.name} {in_words(wait.took_ns // NS_PER_MS)}" for wait in named),
        "waits": [
            {"name": wait.name, "x": round(LEFT + (wait.began_ns - began) * scale, 1),
             "w": round(wait.took_ns * scale, 1)}
            for wait in named
        ],
    }  # fmt: skip
