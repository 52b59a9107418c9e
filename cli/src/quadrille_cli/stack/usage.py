"""What a running stack costs: per process its pid, memory and CPU, and the sum."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

from quadrille_cli.client import Client, NoAnswerError
from quadrille_cli.services import CONSOLE
from quadrille_cli.stack import Stack
from quadrille_cli.stack.servers import aot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quadrille_cli.stack import Stack

MEGABYTE = 2**20
OURS = ("-api", "-worker", "-relay")


@dataclass(slots=True)
class Cost:
    """One process of the stack with everything it started."""

    name: str
    pid: int
    running: bool
    ports: dict[str, int] = field(default_factory=dict)
    processes: int = 0
    rss_mb: float = 0.0
    pss_mb: float = 0.0
    cpu_percent: float = 0.0
    """Of one core, over the sample."""


def costs(stack: Stack, sample: float = 2.0) -> list[Cost]:
    """Each process's memory now and CPU over a sample of some seconds."""
    families = {name: family(process.pid) if process.running else [] for name, process in stack.processes.items()}
    before = {name: _cpu(kin) for name, kin in families.items()}
    began = time.monotonic()
    time.sleep(sample)
    passed = time.monotonic() - began
    found = []
    for name, kin in families.items():
        process = stack.process(name)
        cost = Cost(name, process.pid, bool(kin), dict(process.spec.ports), len(kin))
        cost.cpu_percent = round(100 * max(0.0, _cpu(kin) - before[name]) / passed, 1)
        cost.rss_mb, cost.pss_mb = _memory(kin)
        found.append(cost)
    return found


def not_ready(stack: Stack) -> dict[str, list[str]]:
    """Why each process of ours that runs is not ready, by name; a process that is ready is left out."""
    ops = {name: f"{CONSOLE}-ops" if name == CONSOLE else name for name in stack.processes}
    asked = [name for name in ops if name.endswith(OURS) or name == CONSOLE]
    running = [name for name in asked if stack.process(name).running]
    return {name: why for name in running if (why := _reasons(stack.ports[ops[name]]))}


def _reasons(port: int) -> list[str]:
    try:
        with Client(f"http://127.0.0.1:{port}", timeout=3) as ops:
            checks = ops.ask("GET", "/readyz").body["checks"]
    except (NoAnswerError, ValueError, KeyError):
        return ["its ops port does not answer"]
    return [f"{name}: {found.get('reason')}" for name, found in checks.items() if not found["ok"]]


def total(found: Iterable[Cost]) -> Cost:
    """The sum of all that stays: the AOT training of the first minutes is shown beside it."""
    whole = Cost("total", 0, running=True)
    for cost in (cost for cost in found if cost.name != aot.NAME):
        whole.processes += cost.processes
        whole.rss_mb = round(whole.rss_mb + cost.rss_mb, 1)
        whole.pss_mb = round(whole.pss_mb + cost.pss_mb, 1)
        whole.cpu_percent = round(whole.cpu_percent + cost.cpu_percent, 1)
    return whole


def family(pid: int) -> list[psutil.Process]:
    """A process and everything it started that still lives; nothing when it has ended."""
    with suppress(psutil.NoSuchProcess):
        head = psutil.Process(pid)
        return [head, *head.children(recursive=True)]
    return []


def _cpu(family: list[psutil.Process]) -> float:
    seconds = 0.0
    for process in family:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds += times.user + times.system
    return seconds


def _memory(family: list[psutil.Process]) -> tuple[float, float]:
    rss = pss = 0
    for process in family:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            memory = process.memory_full_info()
            rss += memory.rss
            pss += getattr(memory, "pss", memory.rss)
    return round(rss / MEGABYTE, 1), round(pss / MEGABYTE, 1)


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
