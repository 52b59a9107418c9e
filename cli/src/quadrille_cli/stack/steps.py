"""The readiness checklist: steps that need one another, run as soon as they can, each timed and shown."""

from __future__ import annotations

import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the checklist; `run` returns a remark to show beside its seconds."""

    name: str
    run: Callable[[], str]
    needs: frozenset[str] = frozenset()


class Progress(Protocol):
    """Who is told what happens, from any thread."""

    def began(self, step: str) -> None:
        """A step is running now."""

    def ended(self, step: str, seconds: float, remark: str) -> None:
        """A step is done."""

    def failed(self, step: str, seconds: float) -> None:
        """A step raised; what, is raised to the caller."""

    def said(self, text: str) -> None:
        """Something worth a line."""


class Silent:
    """Shows nothing."""

    def began(self, step: str) -> None:
        """Say nothing."""

    def ended(self, step: str, seconds: float, remark: str) -> None:
        """Say nothing."""

    def failed(self, step: str, seconds: float) -> None:
        """Say nothing."""

    def said(self, text: str) -> None:
        """Say nothing."""


def run(steps: Sequence[Step], progress: Progress, abort: Callable[[], object] = lambda: None) -> dict[str, float]:
    """Run every step when those it needs are done; at the first failure `abort` ends what the others wait for."""
    names = {step.name for step in steps}
    waiting = list(steps)
    running: dict[Future[float], Step] = {}
    done: dict[str, float] = {}
    over = threading.Event()
    with ThreadPoolExecutor(max(1, len(steps))) as pool:
        try:
            while waiting or running:
                for step in [step for step in waiting if step.needs & names <= done.keys()]:
                    waiting.remove(step)
                    running[pool.submit(_timed, step, progress, over)] = step
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    done[running.pop(future).name] = future.result()
        except BaseException:
            over.set()
            abort()
            raise
    return done


def _timed(step: Step, progress: Progress, over: threading.Event) -> float:
    began = time.monotonic()
    progress.began(step.name)
    try:
        remark = step.run()
    except BaseException:
        if not over.is_set():  # else it is a consequence, not a reason
            progress.failed(step.name, time.monotonic() - began)
        raise
    seconds = time.monotonic() - began
    progress.ended(step.name, seconds, remark)
    return seconds
