"""The W3C trace context as it travels through rows and headers: a traceparent says whose child comes next."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from quadrille.ids import random_bits

# Of a version to come it is known only that it begins as version 00 does, and that ff will be none.
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class Context:
    """A place in a trace: 32 hex digits of trace id, 16 of the span a next one hangs below, and whether it is kept."""

    trace_id: str
    span_id: str
    sampled: bool = True

    @property
    def traceparent(self) -> str:
        """Return the W3C header value (Trace Context, level 1)."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def child(self) -> Context:
        """Return a new span's place in the same trace."""
        return replace(self, span_id=new_span_id())


def new_span_id() -> str:
    """Return a fresh random span id, 16 hex digits, never all zero."""
    return f"{random_bits(64) or 1:016x}"


def new_trace(*, sampled: bool = True) -> Context:
    """Return the root place of a new trace."""
    return Context(f"{random_bits(128) or 1:032x}", new_span_id(), sampled)


def parse(traceparent: str | None) -> Context | None:
    """Return the context of a traceparent header, or None if it is absent or not valid."""
    found = _TRACEPARENT.fullmatch((traceparent or "").strip(" \t"))
    if not found or (found[1] == "00" and found[5]):
        return None
    return Context(found[2], found[3], bool(int(found[4], 16) & 1))
