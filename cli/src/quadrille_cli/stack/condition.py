"""How a running stack stands: each process's state, since when and why; and what flows, waits or is refused.

A process is asked by its ops port, all at once and each for a few seconds at most: one that hangs is `silent`, and the
others are told all the same.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil

from quadrille_cli.client import Client, NoAnswerError, ProblemError
from quadrille_cli.services import SERVICES
from quadrille_cli.stack.last_words import ending
from quadrille_cli.stack.servers import aot

if TYPE_CHECKING:
    from quadrille_cli.stack import Stack
    from quadrille_cli.stack.processes import Process

OURS = ("-api", "-worker", "-relay")
SECONDS = 5.0
PAUSED = "the consumer is paused"
SAMPLE = re.compile(r"^(quadrille_consumer_lag_records|quadrille_breaker_state)\{([^}]*)\} (\S+)$", re.MULTILINE)
BREAKER = {0.0: "closed", 1.0: "half-open", 2.0: "open"}
Document = Mapping[str, Any]


@dataclass(slots=True)
class Condition:
    """One process: its state, since how many seconds, where it listens, and what is to be said of it.

    ``not_ready`` and ``degraded`` are what it lacks, each as `check: reason`.
    """

    name: str
    pid: int
    state: str
    since: float | None
    ports: Mapping[str, int]
    notes: list[str] = field(default_factory=list)
    not_ready: list[str] = field(default_factory=list)
    degraded: list[str] = field(default_factory=list)

    @property
    def running(self) -> bool:
        """Whether the process lives, well or not."""
        return self.state not in ("gone", "stopped")

    @property
    def well(self) -> bool:
        """Whether it does what it is for; what is degraded does."""
        return self.state in ("up", "ready", "degraded")


@dataclass(slots=True)
class Flow:
    """What lies between the processes of ``services``; ``unknown`` says of what could not be asked, why."""

    intake: Document | None = None
    stuck: Document | None = None
    parked: dict[str, str] = field(default_factory=dict)
    lag: dict[str, int] = field(default_factory=dict)
    breakers: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    services: tuple[str, ...] = SERVICES


def look(stack: Stack) -> tuple[list[Condition], Flow]:
    """Return how every process stands, in the order they are started, and what flows."""
    asked = [process for name, process in stack.processes.items() if name != aot.NAME or process.running]
    flow = Flow(services=tuple(name for name in SERVICES if f"{name}-worker" in stack.processes))
    with ThreadPoolExecutor(len(asked) + 2) as pool:
        found = [pool.submit(_condition, stack, process, flow) for process in asked]
        for task in [pool.submit(_intake, stack, flow), pool.submit(_stuck, stack, flow)]:
            task.result()
        return [one.result() for one in found], flow


def _condition(stack: Stack, process: Process, flow: Flow) -> Condition:
    if not process.running:
        state, since, note = ending(process)
        return Condition(process.name, process.pid, state, since, process.spec.ports, [note])
    with suppress(psutil.NoSuchProcess):
        since = time.time() - psutil.Process(process.pid).create_time()
        found = Condition(process.name, process.pid, "up", since, process.spec.ports)
        if process.name.endswith(OURS):
            _ask(stack, found, flow)
        return found
    return Condition(process.name, process.pid, "gone", 0.0, process.spec.ports, ["it ended just now"])


def _ask(stack: Stack, found: Condition, flow: Flow) -> None:
    """Ask a process of ours by its ops port: is it ready, and if so, what is degraded."""
    try:
        with Client(stack.url(found.name), timeout=SECONDS) as ops:
            ready = ops.ask("GET", "/readyz").body
            found.not_ready = _failed(ready)
            health = ops.ask("GET", "/healthz").body if ready["ready"] else {"checks": {}}
            lost = ops.ask("GET", "/info").body["degraded"]
            if found.name.endswith("-worker"):
                _measure(ops, found.name.removesuffix("-worker"), flow)
    except (NoAnswerError, ValueError, KeyError, TypeError):
        found.state, found.not_ready = "silent", ["its ops port does not answer"]
        return
    if parked := health["checks"].get("parked", {}).get("reason"):
        flow.parked[found.name.rpartition("-")[0]] = str(parked)
    found.degraded = [*_failed(health), *(f"{what}: {one['reason']}, {one['lost']} lost" for what, one in lost.items())]
    draining, waiting = bool(ready.get("draining")), bool(found.not_ready)
    found.state = _state(draining=draining, waiting=waiting, degraded=bool(found.degraded))


def _state(*, draining: bool, waiting: bool, degraded: bool) -> str:
    if draining:
        return "draining"
    if waiting:
        return "not ready"
    return "degraded" if degraded else "ready"


def _failed(document: Document) -> list[str]:
    return [f"{name}: {one.get('reason')}" for name, one in document["checks"].items() if not one["ok"]]


def _measure(ops: Client, service: str, flow: Flow) -> None:
    """Take a worker's lag and the state of its breaker from its metrics."""
    lag = 0.0
    for name, _, value in SAMPLE.findall(ops.ask("GET", "/metrics").raw.decode()):
        if name.endswith("lag_records"):
            lag += float(value)
        else:
            flow.breakers[service] = BREAKER.get(float(value), value)
    flow.lag[service] = int(lag)


def _intake(stack: Stack, flow: Flow) -> None:
    flow.intake = _of_order(stack, flow, "intake", "/ops/intake")


def _stuck(stack: Stack, flow: Flow) -> None:
    flow.stuck = _of_order(stack, flow, "stuck", "/ops/stuck")


def _of_order(stack: Stack, flow: Flow, what: str, path: str) -> Document | None:
    if "order-api" not in stack.processes:
        flow.unknown[what] = "order is no part of this stack"
        return None
    try:
        with Client(stack.url("order-api"), timeout=SECONDS) as ops:
            document: Document = ops.demand("GET", path).body
            return document
    except (NoAnswerError, ValueError):
        flow.unknown[what] = "order-api does not answer"
    except ProblemError as refused:
        flow.unknown[what] = f"order-api: {refused.problem.get('detail', refused)}"
    return None


def advice(found: list[Condition], flow: Flow) -> str:
    """Return what to do now: the most urgent thing first, and one only."""
    rules: tuple[Callable[[], str], ...] = (
        lambda: _bring_back(found), lambda: _mend(found), lambda: _frozen(flow), lambda: _held(flow),
        lambda: _shut(flow), lambda: _refused(flow), lambda: _behind(flow),
    )  # fmt: skip
    return next((said for rule in rules if (said := rule())), "nothing to do: all flows")


def _bring_back(found: list[Condition]) -> str:
    gone = [one.name for one in found if not one.running]
    if not gone:
        return ""
    if len(gone) == 1:
        return f"quadrille start {gone[0]}   (why it ended: quadrille logs {gone[0]})"
    return f"quadrille up --detach   starts the {len(gone)} that are gone"


def _mend(found: list[Condition]) -> str:
    waiting = [one for one in found if not one.well]
    first = next((one for one in waiting if one.state == "silent"), waiting[0] if waiting else None)
    if first is None:
        return ""
    if first.state == "silent":
        return f"quadrille restart {first.name}   (it lives and does not answer)"
    if rests := next((one for one in waiting if any(PAUSED in why for why in one.not_ready)), None):
        return f"quadrille consumers resume {rests.name.rpartition('-')[0]} --reason TEXT   it rests"
    return f"mend what {first.name} waits for, see its note: it goes on by itself"


def _frozen(flow: Flow) -> str:
    orders = (flow.stuck or {}).get("stuck", ())
    if not orders:
        return ""
    worst = orders[0]
    if worst["status"] == "COMPENSATION_FAILED":
        return f"quadrille why {worst['order_id'][-8:]}   its undo failed: it says what is owed, and how to end it"
    return f"quadrille why {worst['order_id'][-8:]}   the first of {len(orders)} stuck"


def _held(flow: Flow) -> str:
    return f"quadrille parked list   what {', '.join(sorted(flow.parked))} could not handle" if flow.parked else ""


def _shut(flow: Flow) -> str:
    if not flow.intake or flow.intake["intake"] == "OPEN":
        return ""
    if flow.intake["intake"] == "PAUSED":
        return "quadrille intake resume --reason TEXT   when orders are to be taken again"
    if flow.intake["intake"] == "GUARDED":
        return f"{flow.intake['detail']}: free space, or mend the relay; the intake opens by itself"
    return "too many sagas fail: mend why; the intake opens by itself, step by step"


def _refused(flow: Flow) -> str:
    open_ = sorted(service for service, state in flow.breakers.items() if state != "closed")
    return f"wait for what {', '.join(open_)} calls: it is probed, and calls go on by themselves" if open_ else ""


def _behind(flow: Flow) -> str:
    behind = {service: lag for service, lag in flow.lag.items() if lag}
    if not behind:
        return ""
    worst = max(behind, key=lambda service: behind[service])
    return f"wait: {worst} has {behind[worst]:,} records ahead; look again, it must shrink"


def shown(found: list[Condition], flow: Flow) -> dict[str, object]:
    """Return the same as a document."""
    return {
        "intake": flow.intake and dict(flow.intake), "stuck": flow.stuck and flow.stuck["count"],
        "parked": flow.parked, "lag": flow.lag, "breakers": flow.breakers, "unknown": flow.unknown,
        "services": list(flow.services), "now": advice(found, flow),
    }  # fmt: skip
