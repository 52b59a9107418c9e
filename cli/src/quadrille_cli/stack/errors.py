"""What stops a stack: always what happened, its last log lines, and the fix."""

from __future__ import annotations

import errno

WRITABLE = "use a directory that you can write: --data DIR, QUADRILLE_CACHE=DIR; or make this one yours: chown, chmod"
FIXES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), WRITABLE),
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT), "free some space, or use another disk: --data DIR, QUADRILLE_CACHE=DIR"
    ),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.ELOOP), "name a directory: --data DIR, QUADRILLE_CACHE=DIR"),
    errno.ENAMETOOLONG: "use a directory with a shorter path: --data DIR, QUADRILLE_CACHE=DIR",
}
"""What helps where the file system refuses."""


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


def foreseen(error: BaseException) -> CannotRun | None:
    """What a user may do about an error that is the machine's, not ours; None when it is ours."""
    if isinstance(error, CannotRun):
        return error
    if not isinstance(error, OSError) or error.errno not in FIXES:
        return None
    where = error.filename2 or error.filename
    return CannotRun(what=f"{where}: {error.strerror}" if where else str(error.strerror), fix=FIXES[error.errno])


class PortTaken(PartFailed):
    """One part did not start because somebody listens where it was to: ``name`` is the port's, as --port has it."""

    def __init__(self, part: str, name: str, port: int, owner: str, *, tail: tuple[str, ...] = ()) -> None:
        fix = f"end that process, or run it again: unless --port {name}=... names it, another port is taken"
        super().__init__(part, f"its port {port} is held by {owner}", fix=fix, tail=tail)
        self.name = name
        self.port = port
        self.owner = owner
