"""What a person sees while a stack starts: one line per step with its seconds, and what is being waited for."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Self

from rich.console import Console

if TYPE_CHECKING:
    from types import TracebackType

    from rich.status import Status

NAMED = 3
HEARTBEAT = 5.0
"""Seconds after which a screen that is no terminal is told that something is still going on."""


class Checklist:
    """Progress on stderr; a spinner names what runs on a terminal, a line every five seconds elsewhere."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._running: dict[str, float] = {}
        self._lock = threading.Lock()
        self._spinner: Status | None = None
        self._over = threading.Event()

    def __enter__(self) -> Self:
        """Begin to show."""
        if self.console.is_terminal:
            self._spinner = self.console.status("looking around")
            self._spinner.start()
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Leave the lines, take the spinner away."""
        self._over.set()
        if self._spinner is not None:
            self._spinner.stop()

    def began(self, step: str) -> None:
        """A step is running now."""
        with self._lock:
            self._running[step] = time.monotonic()
        self._show()

    def ended(self, step: str, seconds: float, remark: str) -> None:
        """A step is done: its line."""
        self._line("[green]ok[/]", step, seconds, remark)

    def failed(self, step: str, seconds: float) -> None:
        """A step failed: its line; the reason follows when all is stopped."""
        self._line("[red]!![/]", step, seconds, "failed")

    def said(self, text: str) -> None:
        """A line of its own."""
        self.console.print(f"   {text}", markup=False, soft_wrap=True)

    def _line(self, mark: str, step: str, seconds: float, remark: str) -> None:
        with self._lock:
            self._running.pop(step, None)
        self.console.print(f"{mark} {step:<22} {seconds:5.1f} s  [dim]{remark}[/]", soft_wrap=True)
        self._show()

    def _waits(self) -> str:
        with self._lock:
            now = time.monotonic()
            running = [f"{step} {now - began:.0f} s" for step, began in sorted(self._running.items())]
        more = f" and {len(running) - NAMED} more" if len(running) > NAMED else ""
        return ", ".join(running[:NAMED]) + more

    def _show(self) -> None:
        if self._spinner is not None:
            self._spinner.update(self._waits())

    def _beat(self) -> None:
        period = 0.5 if self._spinner is not None else HEARTBEAT
        while not self._over.wait(period):
            self._show()
            if self._spinner is None and self._waits():
                self.said(f"... {self._waits()}")


def fail(text: str) -> None:
    """The reason of a refusal, on stderr, as it is."""
    sys.stderr.write(f"{text}\n")
