"""How long after one process was killed the next order ends: measured and printed, never judged by a clock."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from statistics import median

from quadrille_cli.chaos.ends import unended
from quadrille_cli.chaos.faults import ROLES, SERVERS, WORLD, Arena
from quadrille_cli.client import Client, NoAnswerError, ProblemError
from quadrille_cli.demo_data import order_of, stock_up, write_addresses
from quadrille_cli.stack.processes import Process

LOOK_SECONDS = 0.02
LOOKS = 6000
STRUCK = (*ROLES, *(name for name in SERVERS if name not in WORLD), "sandbox")


def measured(arena: Arena, times: int, say: Callable[[str], object]) -> list[str]:
    """Kill each process so often, started again at once as a supervisor does; tell the seconds to the next end.

    The order is placed right after the kill, and asked for until it is taken. Returns what did not end.
    """
    stock_up(arena.stack, {"SKU-TEA": 1_000_000})
    write_addresses(arena.stack)
    wrong, all_of_them = list[str](), list[float]()
    for name in STRUCK:
        found = [seconds for _ in range(times) if (seconds := _once(arena, arena.stack.process(name))) is not None]
        wrong += [f"{name} killed: an order did not end"] * (times - len(found))
        all_of_them += found
        if found:
            say(_line(name, found))
    if all_of_them:
        say(_line("any one process", all_of_them))
    return wrong


def _once(arena: Arena, process: Process) -> float | None:
    pause, key = threading.Event(), f"recovery-{uuid.uuid4()}"
    process.kill()
    began = time.monotonic()
    process.launch()
    order = ""
    for _ in range(LOOKS):
        order = order or _placed(arena, key)
        if order and not unended(arena, {order: "plain"}):
            seconds = time.monotonic() - began
            process.await_ready()
            return seconds
        pause.wait(LOOK_SECONDS)
    return None


def _placed(arena: Arena, key: str) -> str:
    try:
        with Client(arena.stack.url("order"), 5.0) as api:
            headers = {"Idempotency-Key": key}
            return str(api.demand("POST", "/v1/orders", order_of([("SKU-TEA", 1)]), headers).body["order_id"])
    except (NoAnswerError, ProblemError):
        return ""


def _line(name: str, seconds: list[float]) -> str:
    return f"{name:<24} p50 {median(seconds):5.1f} s   max {max(seconds):5.1f} s   n {len(seconds)}"
