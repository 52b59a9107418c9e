"""The readiness checklist: steps that need one another, run as soon as they can, each timed and shown."""

from __future__ import annotations

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


def run(steps: Sequence[Step], progress: Progress) -> dict[str, float]:
    """Run every step when those it needs are done; the first failure is raised after what runs has ended."""
    names = {step.name for step in steps}
    waiting = list(steps)
    running: dict[Future[float], Step] = {}
    done: dict[str, float] = {}
    with ThreadPoolExecutor(max(1, len(steps))) as pool:
        while waiting or running:
            able = [s for s in waiting if s.needs & names <= done.keys()]
            if not able and not running:
                message = f"steps wait for each other: {', '.join(s.name for s in waiting)}"
                raise ValueError(message)
            for step in able:
                waiting.remove(step)
                running[pool.submit(_timed, step, progress)] = step
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                done[running.pop(future).name] = future.result()
    return done


def _timed(step: Step, progress: Progress) -> float:
    began = time.monotonic()
    progress.began(step.name)
    try:
        remark = step.run()
    except BaseException:
        progress.failed(step.name, time.monotonic() - began)
        raise
    seconds = time.monotonic() - began
    progress.ended(step.name, seconds, remark)
    return seconds
