"""Health checks run side by side, each in a thread of its own and within two seconds; one that hangs stops nobody."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TypeAlias, TypeVar

from quadrille.observability.readiness import reason

Check: TypeAlias = Callable[[], object]
CHECK_SECONDS = 2.0
T = TypeVar("T")


async def run_all(checks: Mapping[str, Check]) -> tuple[bool, dict[str, dict[str, object]]]:
    """Run checks all at once, within their bound; return whether all are well, and what each found."""
    running = {name: in_thread(partial(_result, check)) for name, check in checks.items()}
    if running:
        await asyncio.wait(running.values(), timeout=CHECK_SECONDS)
    late: dict[str, object] = {"ok": False, "error": "TimeoutError", "reason": f"no answer within {CHECK_SECONDS:g} s"}
    late["ms"] = CHECK_SECONDS * 1000
    found = {name: one.result() if one.done() else late for name, one in running.items()}
    return all(one["ok"] for one in found.values()), found


def in_thread(call: Callable[[], T]) -> asyncio.Future[T]:
    """Call in a thread of its own, which nobody waits for when the process ends."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        settle: partial[None]
        try:
            settle = partial(future.set_result, call())
        except Exception as raised:  # noqa: BLE001 - it is raised again where it is waited for
            settle = partial(future.set_exception, raised)
        with suppress(RuntimeError):  # the loop has ended, and whoever asked with it
            loop.call_soon_threadsafe(_unless_given_up, future, settle)

    threading.Thread(target=run, daemon=True).start()
    return future


def _unless_given_up(future: asyncio.Future[T], settle: Callable[[], None]) -> None:
    if not future.done():
        settle()


def _result(check: Check) -> dict[str, object]:
    began = time.monotonic()
    found: dict[str, object] = {"ok": True}
    try:
        if check() is False:
            found = {"ok": False, "error": None, "reason": "not ready"}
    except Exception as raised:  # noqa: BLE001 - whatever a check raises is its answer: not ready, and why
        found = {"ok": False, "error": type(raised).__name__, "reason": reason(raised)}
    return found | {"ms": round((time.monotonic() - began) * 1000, 1)}
