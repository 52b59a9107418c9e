"""What commands print: tables that fit 80 columns, short ids, ages such as `10m`, amounts; nothing dropped in silence.

A table is made of plain text, so that it is the same in a pipe as on a terminal; only a terminal sees colours.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import typer

COLUMNS = 80
GAP = "  "
SHORT = 8
"""Characters of an id that a table shows: its end, which is taken wherever an id is."""
UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
COLOURS = {
    "CONFIRMED": "green", "CANCELLED": "yellow", "COMPENSATION_FAILED": "red",
    "ready": "green", "up": "green", "degraded": "yellow", "draining": "yellow", "starting": "yellow",
    "not ready": "red", "silent": "red", "gone": "red", "stopped": "yellow",
}  # fmt: skip


def short(identity: str) -> str:
    """Return the end of an id, by which every command knows it again."""
    return identity[-SHORT:]


def age(seconds: float) -> str:
    """Return a time that has passed as one number and unit, such as `10m`, rounded down."""
    for unit, size in UNITS:
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return "0s"


def ago(at: str, now: datetime | None = None) -> str:
    """Return how long ago an RFC 3339 time was, as `10m`."""
    return age(max(0.0, ((now or datetime.now(UTC)) - datetime.fromisoformat(at)).total_seconds()))


def money(minor: int, currency: str) -> str:
    """Return an amount as people write it: `25.00 EUR`; the yen and the won have no cents."""
    digits = {"JPY": 0, "KRW": 0}.get(currency, 2)
    return f"{minor / 10**digits:,.{digits}f} {currency}"


def harmless(text: str) -> str:
    """Return a text that no terminal acts on: what is no printable sign is escaped."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def width() -> int:
    """Return the columns there are: the terminal's, at least 80; in a pipe 80, or what COLUMNS says."""
    return max(COLUMNS, shutil.get_terminal_size((COLUMNS, 24)).columns)


def folded(text: str, indent: str = "  ") -> Iterator[str]:
    """Yield a text in lines that fit the screen, those below the first indented; no id is broken."""
    yield from textwrap.wrap(text, width(), subsequent_indent=indent, break_on_hyphens=False) or [""]


def painted(text: str, colour: str | None) -> str:
    """Return a text in a colour where a person looks at it; NO_COLOR turns that off."""
    if colour is None or os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        return text
    return typer.style(text, fg=colour)


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = (), wide: bool = False
) -> Iterator[str]:
    """Yield a head and a line a row; the last column goes on below itself where it does not fit.

    ``right`` are the columns that stand to the right; with ``wide`` nothing is folded. The first word of
    ``COLOURS`` in a cell gives it its colour.
    """
    widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]
    left = sum(widths[:-1]) + len(GAP) * (len(head) - 1)
    room = 10**6 if wide else max(20, width() - left)
    for number, row in enumerate((head, *rows)):
        folded = textwrap.wrap(row[-1], room, break_long_words=True) or [""]
        cells = [
            text.rjust(size) if head[n] in right else text.ljust(size)
            for n, (text, size) in enumerate(zip(row[:-1], widths, strict=False))
        ]
        last = folded[0].rjust(widths[-1]) if head[-1] in right else folded[0]
        shown = [*cells, last]
        yield GAP.join(shown if number == 0 else [painted(c, COLOURS.get(c.strip())) for c in shown]).rstrip()
        yield from (" " * left + more for more in folded[1:])
