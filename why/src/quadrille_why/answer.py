"""Answer: the sentence, its evidence line by line, what to do now: as text for a terminal, as a document for JSON."""

from __future__ import annotations

import shlex
import textwrap
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

    def shown(self, columns: int = 0) -> str:
        """Return it as it is printed below the sentence; with so many columns, what is longer goes on below itself.

        A command that goes on does so with a backslash, so that it can be copied as it stands.
        """
        head = f"  {self.label:<{LABEL}}"
        whole = f"{head}{self.text}{BETWEEN}{self.more}".rstrip() if self.more else f"{head}{self.text}"
        if not columns or len(whole) <= columns:
            return whole
        fold = _command if self.text.startswith("quadrille ") else _plain
        lines = [*fold(self.text, columns - len(head)), *(_plain(self.more, columns - len(head)) if self.more else ())]
        return "\n".join([head + lines[0], *(" " * len(head) + line for line in lines[1:])])


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

    def shown(self, columns: int = 0) -> Iterator[str]:
        """Yield the lines as a person reads them, folded to so many columns if there are any."""
        yield from _plain(self.sentence, columns) if columns else [self.sentence]
        yield from (line.shown(columns) for line in self.lines)

    def document(self) -> dict[str, Any]:
        """Return it for a program."""
        return {
            "order_id": self.order_id, "code": self.code, "sentence": self.sentence, "waits_for": self.waits_for,
            "since_at": self.since_at,
            "evidence": [{"label": one.label, "text": one.text, "more": one.more or None} for one in self.lines],
            "now": {"command": self.command or None, "then": self.then or None}, "trace_id": self.trace_id,
            "missing": self.missing, "took_ms": self.took_ms,
        }  # fmt: skip


def _plain(text: str, columns: int) -> list[str]:
    return textwrap.wrap(text, columns, break_on_hyphens=False) or [""]


def _command(text: str, columns: int) -> list[str]:
    """Return a command on several lines, none of its words broken, each but the last ended by a backslash."""
    lines = [""]
    for word in _words(text):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and len(longer) > columns - 2:
            lines.append(f"  {word}")
        else:
            lines[-1] = longer
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def _words(text: str) -> list[str]:
    """Return the words of a command as they are written, quotes kept."""
    lexer = shlex.shlex(text, posix=False, punctuation_chars="")
    lexer.whitespace_split, lexer.commenters = True, ""
    return list(lexer)
