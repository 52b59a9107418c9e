"""What stops a stack: always what happened, its last log lines, and the fix."""

from __future__ import annotations


class CannotRun(Exception):  # noqa: N818 - reads as the sentence it prints
    """This machine or stack cannot run it; the command exits 9 and prints the fix."""

    def __init__(self, what: str, *, fix: str, tail: tuple[str, ...] = ()) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix
        self.tail = tail

    def __str__(self) -> str:
        """What, then the log, then the fix, each on lines of its own."""
        log = [f"  | {line}" for line in self.tail]
        return "\n".join([self.what, *log, f"  fix: {self.fix}"])


class PartFailed(CannotRun):
    """One part did not start: its name, its last log lines, the cause and the fix."""

    def __init__(self, part: str, cause: str, *, fix: str, tail: tuple[str, ...] = ()) -> None:
        super().__init__(f"{part} did not start: {cause}", fix=fix, tail=tail)
        self.part = part
        self.cause = cause
