"""Files of keys as the command writes them, and a clock that goes when it is told to."""

from __future__ import annotations

from pathlib import Path

from quadrille import keys
from quadrille.keys import ApiKey


class Watch:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        """Return the time, in nanoseconds."""
        return self.now

    def pass_by(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self.now += int(seconds * keys.SECOND)


def write(file: Path, *kept: ApiKey) -> None:
    """Put the file there as the command does: whole, by a rename."""
    scratch = file.with_suffix(".new")
    scratch.write_text(keys.document_of(kept), encoding="utf-8")
    scratch.replace(file)
