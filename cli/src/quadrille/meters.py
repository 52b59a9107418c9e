"""What the processes of a stack cost: CPU seconds by group, and the percentile everyone means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

import psutil

from quadrille.inspection import family
from quadrille.stack import Stack

GROUPS = {"kafka": "Kafka", "postgres": "Postgres", "registry": "registry", "sandbox": "sandbox", "jaeger": "Jaeger"}


def cpu_by_group(stack: Stack) -> dict[str, float]:
    """Return CPU seconds used so far: services by role (api, worker, relay), Postgres, Kafka and the others."""
    spent: dict[str, float] = {}
    for name, process in stack.processes.items():
        if process.running and process.pid:
            group = GROUPS.get(name.partition(":")[0], name.rpartition("-")[2])
            spent[group] = spent.get(group, 0.0) + cpu_seconds(process.pid)
    return spent


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process, its living children and those it has reaped."""
    total = 0.0
    for member in family(pid):
        with suppress(psutil.NoSuchProcess):
            times = member.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile; not a number without values."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, math.ceil(share * len(ranked)) - 1)] if ranked else math.nan
