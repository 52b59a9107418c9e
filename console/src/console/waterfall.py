"""The waterfall of a trace: spans as bars, each below what it came of, and what lay between them named as a wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from console.pages import span as in_words

LEFT, WIDTH = 330, 700
TICKS = 5
CONSUMER, PRODUCER = 5, 4
NS_PER_MS = 1_000_000
LABEL_MAX = 46
WORTH_NAMING_MS = 5


def waterfall(spans: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the spans in the order they are drawn, ticks of the axis, and how long all took."""
    if not spans:
        return {"spans": [], "ticks": [], "took": 0}
    began, ended = min(s["began_ns"] for s in spans), max(s["ended_ns"] for s in spans)
    whole = max(1, ended - began)
    scale = WIDTH / whole
    by_id = {s["span_id"]: s for s in spans}
    drawn = [_bar(s, depth, by_id, began, scale) for s, depth in _nested(spans, by_id)]
    ticks = [
        {"x": round(LEFT + WIDTH * n / TICKS, 1), "words": in_words(whole * n // TICKS // NS_PER_MS)}
        for n in range(TICKS + 1)
    ]
    return {"spans": drawn, "ticks": ticks, "took": whole // NS_PER_MS}


def wait_of(span: Mapping[str, Any], parent: Mapping[str, Any] | None) -> tuple[str, int] | None:
    """Return what lay between a span and what it came of, by its name, and how many nanoseconds."""
    if parent is None or span["began_ns"] - parent["ended_ns"] < WORTH_NAMING_MS * NS_PER_MS:
        return None
    waited = span["began_ns"] - parent["ended_ns"]
    if span["kind"] == PRODUCER:
        return "relay", waited
    if span["kind"] == CONSUMER:
        return ("broker and queue" if parent["kind"] == PRODUCER else "queue"), waited
    return ("retry" if int((span["attributes"] or {}).get("quadrille.attempt") or 1) > 1 else "queue"), waited


def _nested(spans: Sequence[Mapping[str, Any]], by_id: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], int]]:
    """Return spans each after what it came of, with its depth; one whose parent is not kept is a root."""
    below: dict[str, list[Mapping[str, Any]]] = {}
    for one in spans:
        parent = one["parent_id"] if one["parent_id"] in by_id and one["parent_id"] != one["span_id"] else ""
        below.setdefault(parent, []).append(one)
    found: list[tuple[Mapping[str, Any], int]] = []
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


def _bar(span: Mapping[str, Any], depth: int, by_id: Mapping[str, Any], began: int, scale: float) -> dict[str, Any]:
    x = LEFT + (span["began_ns"] - began) * scale
    wait = wait_of(span, by_id.get(span["parent_id"]))
    took = (span["ended_ns"] - span["began_ns"]) / NS_PER_MS
    label = f"{span['service']} {span['name']}"
    return dict(span) | {
        "depth": min(depth, 12), "x": round(x, 1),
        "w": round(max(1.5, (span["ended_ns"] - span["began_ns"]) * scale), 1),
        "label": label if len(label) <= LABEL_MAX - depth else label[: LABEL_MAX - 1 - min(depth, 30)] + "…",
        "took": f"{took:.1f} ms" if took < 10 else in_words(int(took)),  # noqa: PLR2004 - below ten, tenths tell
        "after": in_words((span["began_ns"] - began) // NS_PER_MS),
        "wait": f"{wait[0]} {in_words(wait[1] // NS_PER_MS)}" if wait else "",
        "wait_w": round(wait[1] * scale, 1) if wait else 0, "wait_x": round(x - wait[1] * scale, 1) if wait else 0,
    }  # fmt: skip
