"""Answer: the sentence, its evidence line by line, what to do now: as text for a terminal, as a document for JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

LABEL = 10
BETWEEN = " " * 7


@dataclass(frozen=True, slots=True)
class Line:
    """One line of evidence; ``more`` stands beside it on the same line."""

    label: str
    text: str
    more: str = ""

    def shown(self) -> str:
        """Return it as it is printed below the sentence."""
        return f"  {self.label:<{LABEL}}{self.text}{BETWEEN}{self.more}".rstrip() if self.more else self._alone()

    def _alone(self) -> str:
        return f"  {self.label:<{LABEL}}{self.text}"


@dataclass(frozen=True, slots=True)
class Answer:
    """Why an order waits: ``code`` names the kind of cause, ``waits_for`` the service that holds it.

    ``command`` is what removes the cause, empty where nobody has to do anything; ``then`` is what follows from it.
    """

    order_id: str
    code: str
    sentence: str
    waits_for: str | None = None
    lines: tuple[Line, ...] = ()
    command: str = ""
    then: str = ""
    since_at: str | None = None
    trace_id: str | None = None
    missing: dict[str, str] = field(default_factory=dict)
    took_ms: int = 0

    def shown(self) -> Iterator[str]:
        """Yield the lines as a person reads them."""
        yield self.sentence
        yield from (line.shown() for line in self.lines)

    def document(self) -> dict[str, Any]:
        """Return it for a program."""
        return {
            "order_id": self.order_id, "code": self.code, "sentence": self.sentence, "waits_for": self.waits_for,
            "since_at": self.since_at,
            "evidence": [{"label": one.label, "text": one.text, "more": one.more or None} for one in self.lines],
            "now": {"command": self.command or None, "then": self.then or None}, "trace_id": self.trace_id,
            "missing": self.missing, "took_ms": self.took_ms,
        }  # fmt: skip
