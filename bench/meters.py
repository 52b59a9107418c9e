"""Meters: the CPU and memory of groups of processes, sampled from outside, so that every contestant is read alike."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from quadrille_cli.stack.usage import cpu_seconds

EVERY_SECONDS = 0.02
MEGABYTE = 2**20


class Meter:
    """Samples the CPU seconds of groups of processes; ``between`` says what a group spent between two moments."""

    def __init__(self, groups: Mapping[str, Sequence[int]], *, families: bool = False) -> None:
        self._groups = {name: list(pids) for name, pids in groups.items()}
        self._read, self._every = own_cpu, EVERY_SECONDS
        if families:  # Postgres is its children; they are looked for less often, for that takes a look at every process
            self._read, self._every = cpu_seconds, 5 * EVERY_SECONDS
        self._samples: list[tuple[float, dict[str, float]]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meter")

    def __enter__(self) -> Self:
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def between(self, group: str, since: float, until: float) -> float:
        """Return the CPU seconds of a group between two moments of ``time.time()``, sampled moments interpolated."""
        return self._at(group, until) - self._at(group, since)

    def _at(self, group: str, moment: float) -> float:
        times = [at for at, _ in self._samples]
        later = min(max(bisect_left(times, moment), 1), len(times) - 1)
        (before, first), (after, second) = self._samples[later - 1], self._samples[later]
        part = (moment - before) / (after - before) if after > before else 0.0
        return first[group] + (second[group] - first[group]) * min(max(part, 0.0), 1.0)

    def _sample(self) -> None:
        last = self._samples[-1][1] if self._samples else {}
        spent = {name: sum(map(self._read, pids)) for name, pids in self._groups.items()}
        # one that has ended keeps what it had
        self._samples.append((time.time(), {name: max(value, last.get(name, 0.0)) for name, value in spent.items()}))

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self._sample()


def own_cpu(pid: int) -> float:
    """Return the CPU seconds of one process alone, 0 when it has ended."""
    with suppress(psutil.NoSuchProcess):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0


def family_cpu(pids: Sequence[int]) -> float:
    """Return the CPU seconds of processes with everything they started."""
    return sum(map(cpu_seconds, pids))


def peak_rss(pid: int) -> float:
    """Return the most memory a process has held so far, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def own_state(pid: int) -> str:
    """Return what the kernel calls a process's state, `gone` when it is no more."""
    try:
        return str(psutil.Process(pid).status())
    except psutil.NoSuchProcess:
        return "gone"
