"""How a process ended: its exit code where somebody waited for it, else what its log says last; and when.

A process that outlives the command that started it is nobody's child: nobody learns its exit code. Ours say that they
end, and how; one that did not was killed.
"""

from __future__ import annotations

import json
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from quadrille_cli.stack.processes import tail

if TYPE_CHECKING:
    from quadrille_cli.stack.processes import Process

LINES = 40
LONGEST = 160
BY_HAND = "stopped"
OURS = ("-api", "-worker", "-relay")


def in_words(code: int) -> str:
    """Return an exit code, or the signal that ended a process, in words."""
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


def ending(process: Process) -> tuple[str, float | None, str]:
    """Return whether it is `gone` or was `stopped` by hand, since how many seconds, and how it ended."""
    log = process.spec.log
    at = process.ended_at or (log.stat().st_mtime if log.exists() else 0.0)
    since = max(0.0, time.time() - at) if at else None
    if process.ended == BY_HAND:
        return "stopped", since, "by quadrille stop"
    if not process.pid:
        return "gone", None, "it was never started"
    return "gone", since, process.ended or _said(process)


def _said(process: Process) -> str:
    lines = [line for line in tail(process.spec.log, LINES) if line.strip()]
    last = lines[-1] if lines else ""
    if not process.name.endswith(OURS):
        return f"its last line: {last[:LONGEST]}" if last else "it has written nothing"
    with suppress(ValueError):
        return _of(json.loads(last))
    return f"its last line: {last[:LONGEST]}" if last else "it has written nothing"


def _of(found: dict[str, object]) -> str:
    """Return what the last line of a program of ours says about its end; one that says nothing was killed."""
    if found.get("event") == "stopped":
        return f"exit code {found.get('status')}"
    if found.get("level") == "critical":
        return f"{found.get('event')}: {found.get('reason')}"
    return "killed: it said nothing at its end"
