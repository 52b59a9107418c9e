"""An append-only file of JSON lines: what was appended is there again after the process was killed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

Record: TypeAlias = dict[str, object]


class JournalLockedError(Exception):
    """Another process has this file open."""


class Journal:
    """One writer's append-only file.

    A line is handed to the operating system before ``append`` returns, so a kill loses nothing that was answered.
    It is not forced to the disk: the loss of power is no scene of this sandbox.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file; raises JournalLockedError if another process holds it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as held:
            os.close(self._fd)
            raise JournalLockedError(path) from held
        self._end = os.fstat(self._fd).st_size

    def replay(self) -> Iterator[tuple[int, Record]]:
        """Yield every line with its offset, oldest first, and cut off a line whose writer was killed midway."""
        offset = 0
        with os.fdopen(os.dup(self._fd), "rb") as lines:
            lines.seek(0)
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                yield offset, json.loads(line)
                offset += len(line)
        self._cut(offset)

    def append(self, record: Mapping[str, object]) -> int:
        """Write one line and return its offset; raises OSError and leaves no half line when the disk is full."""
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        offset = self._end
        try:
            written = os.write(self._fd, line)
        except OSError:
            self._cut(offset)
            raise
        if written != len(line):
            self._cut(offset)
            raise OSError(errno.ENOSPC, "no space left for a whole line")
        self._end += len(line)
        return offset

    def read(self, offset: int) -> Record:
        """Return the line that ``append`` or ``replay`` placed at an offset."""
        line = b""
        while not line.endswith(b"\n"):
            line += os.pread(self._fd, 65536, offset + len(line))
            head, newline, _ = line.partition(b"\n")
            line = head + newline
        found: Record = json.loads(line)
        return found

    def close(self) -> None:
        """Release the file; the next start replays it."""
        os.close(self._fd)

    def _cut(self, length: int) -> None:
        os.ftruncate(self._fd, length)
        self._end = length
