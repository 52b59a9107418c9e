"""Processes of the local stack: the end of a log, as text, and a process started again by the command that does it.

The console manages no process itself: it runs `quadrille restart`, which knows the stack. Elsewhere, in containers or
on other machines, it has neither logs nor processes, and says which command does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TAIL_BYTES, TAIL_LINES = 65_536, 200
SAID_LINES = 5
WAIT_SECONDS = 8.0  # whoever asks waits ten


@dataclass(frozen=True, slots=True)
class LogTail:
    """The last lines of a log, and how many bytes it has in all."""

    name: str
    lines: tuple[str, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Restarted:
    """How a restart ended, and in which words; ``status`` is None while it goes on."""

    status: int | None
    said: str


def logs_of(stack: Path | None) -> dict[str, Path]:
    """Return the logs of a local stack by the names of their processes; none without a stack."""
    found = sorted((stack / "logs").glob("*.log")) if stack else []
    return {path.stem: path for path in found if path.is_file()}


def tail(name: str, path: Path) -> LogTail:
    """Return the end of a log; what is no text is shown as such, and nothing in it has a meaning."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        raw = file.read(TAIL_BYTES)
    lines = raw.decode("utf-8", "replace").split("\n")
    if size > TAIL_BYTES:
        lines = lines[1:] or lines  # the first is the end of one
    shown = tuple(_plain(line.rstrip("\r")) for line in lines if line.strip())
    return LogTail(name, shown[-TAIL_LINES:], size)


def restart(stack: Path, name: str, wait: float = WAIT_SECONDS) -> Restarted:
    """Start a process again by the command line, and wait a while for its end; it goes on whoever waits."""
    line = [sys.executable, "-m", "quadrille_cli", "restart", name, "--data", str(stack)]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as told:
        child = subprocess.Popen(  # noqa: S603 - a name that is known
            line, env=_environment(), stdin=subprocess.DEVNULL, stdout=told, stderr=told, start_new_session=True
        )
        try:
            status = child.wait(wait)
        except subprocess.TimeoutExpired:
            threading.Thread(target=child.wait, name="restart", daemon=True).start()
            return Restarted(None, "")
        told.seek(0)
        said = [_plain(text.strip()) for text in told.read(TAIL_BYTES).splitlines() if text.strip()]
    return Restarted(status, "; ".join(said[-SAID_LINES:]))


def elsewhere(name: str) -> Mapping[str, str]:
    """Return the commands for a process that is none of a local stack, as compose has them."""
    return {"log": f"docker compose logs {name}", "restart": f"docker compose restart {name}"}


def _environment() -> dict[str, str]:
    """Return ours without what only this process is told."""
    return {name: value for name, value in os.environ.items() if not name.startswith("QUADRILLE_")}


def _plain(line: str) -> str:
    return "".join(one if one.isprintable() or one == "\t" else "\ufffd" for one in line)
