"""What long runs by hand (``python -m tests.faults`` and its kind) share: a home, a line at once, an end by SIGTERM."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


def home(name: str) -> Path:
    """Make a directory of a stack's own, which whoever Postgres runs as may enter."""
    made = Path(tempfile.mkdtemp(prefix=f"quadrille-{name}-"))
    made.chmod(0o711)
    return made


def say(line: str) -> None:
    """Print a line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def run(main: Callable[[list[str]], int]) -> NoReturn:
    """Run a program; SIGTERM ends it as Ctrl-C does, with every process of its stack."""
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main(sys.argv[1:]))


def _end(*_: object) -> None:
    raise KeyboardInterrupt
