"""Neighbours: the ops ports and APIs of the services, asked only while somebody looks, never waited for long."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urlencode

from urllib3 import PoolManager, Timeout
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from quadrille_why import Answer as WhyAnswer
from quadrille_why import explain, gather, in_the_way, over_http

READY, DEGRADED, NOT_READY, GONE = "ready", "degraded", "not ready", "gone"
FRESH_SECONDS = 3.0
PATIENCE_SECONDS = 1.0
ANSWER_MAX = 1_000_000
WRITE_SECONDS = 10.0  # an ops port waits five for a lock
AT_ONCE = 8
SAMPLE = re.compile(r"([a-z_]+)(?:\{.*\})? ([0-9][0-9.e+-]*)")
"""A line of /metrics with a value that is a number of something: its name, its value."""


@dataclass(frozen=True, slots=True)
class Health:
    """How a process is, since when as far as we have looked, and why."""

    name: str
    state: str
    why: tuple[str, ...]
    release: str
    started_at: str
    since: datetime
    service: str = field(init=False)
    role: str = field(init=False)
    shown: str = field(init=False)

    def __post_init__(self) -> None:
        service, _, role = self.name.rpartition("-")
        object.__setattr__(self, "service", service)
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "shown", service if role == "all" else self.name)


@dataclass(frozen=True, slots=True)
class Call:
    """A write that is asked of a neighbour: of which process's ops port, or of which service's API."""

    process: str
    path: str
    body: Mapping[str, object] = field(default_factory=dict)
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    api: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What a neighbour said to a write; status 0 if nothing, then ``lost`` tells whether it may have heard it."""

    status: int
    body: Mapping[str, Any]
    lost: bool = False


ACTING: ContextVar[str] = ContextVar("acting", default="")
"""The API key of the person whose request is answered: with it his writes are sent."""
KEYLESS = "sandbox"
"""Whom no key is shown: the outside."""


class Neighbours:
    """Asks others over HTTP from threads of its own; what was learnt of their health is kept for three seconds.

    ``key`` is the console's own, with which it reads.
    """

    def __init__(self, ops: Mapping[str, str], apis: Mapping[str, str], key: str = "") -> None:
        self.ops, self.apis = dict(ops), dict(apis)
        self._own = _shown(key)
        self._keyless = tuple(url for name, url in self.apis.items() if name == KEYLESS)
        timeout = Timeout(connect=PATIENCE_SECONDS / 2, read=PATIENCE_SECONDS)
        self._http = PoolManager(maxsize=2, num_pools=32, timeout=timeout, retries=False)
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="neighbours")
        self._known: dict[str, Health] = {}
        self._looked = 0.0
        self._looking = asyncio.Lock()

    def close(self) -> None:
        """End the threads; what is under way is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def health(self) -> list[Health]:
        """Return how every process is, as of three seconds ago at most."""
        async with self._looking:
            if time.monotonic() - self._looked > FRESH_SECONDS:
                loop = asyncio.get_running_loop()
                asked = [loop.run_in_executor(self._threads, partial(self._look, name)) for name in self.ops]
                self._known = {one.name: one for one in await asyncio.gather(*asked)}
                self._looked = time.monotonic()
        return list(self._known.values())

    async def ask(self, base: str | None, path: str, **query: str) -> Any:  # noqa: ANN401 - any JSON document
        """Return what an address answers, None if it does not answer with 200 in time."""
        if base is None:
            return None
        url = base + path + (f"?{urlencode(query)}" if query else "")
        loop = asyncio.get_running_loop()
        status, body = await loop.run_in_executor(self._threads, self._get, url)
        return body if status == 200 else None  # noqa: PLR2004 - HTTP

    async def measured(self, base: str | None) -> dict[str, float]:
        """Return an ops port's metrics by name, each the sum over its labels; nothing if it does not answer."""
        if base is None:
            return {}
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._metrics, f"{base}/metrics")

    async def send(self, call: Call) -> Reply:
        """Ask a neighbour to do something, once: nothing is sent twice."""
        base = (self.apis if call.api else self.ops).get(call.process)
        if base is None:
            return Reply(0, {"detail": f"QUADRILLE_{'APIS' if call.api else 'OPS'} names no address of it"})
        loop, key = asyncio.get_running_loop(), {} if call.process == KEYLESS else _shown(ACTING.get())
        return await loop.run_in_executor(self._threads, self._send, base + call.path, call, key)

    def say(self, call: Call) -> Reply:
        """Write to an ops port with the console's own key, from the caller's thread; once."""
        base = self.ops.get(call.process)
        if base is None:
            return Reply(0, {"detail": "QUADRILLE_OPS names no address of it"})
        return self._send(base + call.path, call, self._own)

    def fetch(self, process: str, path: str, seconds: float) -> tuple[int, Any]:
        """Return what an ops port answers, from the caller's thread; raises AwayError."""
        return over_http(self.ops.__getitem__, self._own)(process, path, seconds)

    async def version(self, order_id: str) -> int | None:
        """Return the version of an order's row as order has it now; None if it does not say."""
        told = await self.ask(self.ops.get("order-api"), f"/ops/orders/{order_id}")
        tag = str(told.get("etag", "")) if isinstance(told, dict) else ""
        digits = tag.strip('"').removeprefix("v")
        return int(digits) if digits.isdecimal() and len(digits) < 19 else None  # noqa: PLR2004 - a bigint's

    async def held(self, order_id: str) -> WhyAnswer | None:
        """Return what order itself holds parked of an order, so that nothing asked of others would end it."""
        loop = asyncio.get_running_loop()
        fetch = over_http(self.ops.__getitem__, self._own)
        return await loop.run_in_executor(self._threads, lambda: in_the_way(gather(fetch, order_id)))

    async def why(self, order_id: str) -> WhyAnswer:
        """Return why an order waits, by what all services know of it; whoever is away is named in it."""
        loop = asyncio.get_running_loop()
        fetch = over_http(self.ops.__getitem__, self._own)
        return await loop.run_in_executor(self._threads, lambda: explain(gather(fetch, order_id)))

    async def ask_each(self, role: str, path: str, **query: str) -> dict[str, Any]:
        """Return what the ops port of each service's role answers, by service; None where it does not."""
        named = {name.rpartition("-")[0]: url for name, url in self.ops.items() if name.endswith(f"-{role}")}
        answers = await asyncio.gather(*(self.ask(url, path, **query) for url in named.values()))
        return dict(zip(named, answers, strict=True))

    def _look(self, name: str) -> Health:
        status, told = self._get(f"{self.ops[name]}/healthz")
        _, info = self._get(f"{self.ops[name]}/info") if told else (0, None)
        info, before = info if isinstance(info, dict) else {}, self._known.get(name)
        state, why = _judged(status, told)
        since = before.since if before and before.state == state else datetime.now(UTC)
        return Health(name, state, why, str(info.get("release", "")), str(info.get("started_at", "")), since)

    def _send(self, url: str, call: Call, key: Mapping[str, str]) -> Reply:
        body = json.dumps(call.body) if call.method != "DELETE" else None
        headers = {"Content-Type": "application/json", **call.headers, **key}
        timeout = Timeout(connect=PATIENCE_SECONDS, read=WRITE_SECONDS)
        try:
            answer = self._http.request(
                call.method, url, body=body, headers=headers, preload_content=False, redirect=False, timeout=timeout
            )
            try:
                told = json.loads(answer.read(ANSWER_MAX) or b"{}")
            finally:
                answer.drain_conn()
                answer.release_conn()
        except (NewConnectionError, ConnectTimeoutError):
            return Reply(0, {})
        except (HTTPError, OSError, ValueError, RecursionError):
            return Reply(0, {}, lost=True)
        return Reply(answer.status, told if isinstance(told, dict) else {})

    def _metrics(self, url: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for line in self._read(url)[1].decode("utf-8", "replace").splitlines():
            if sample := SAMPLE.fullmatch(line):
                found[sample[1]] = found.get(sample[1], 0.0) + float(sample[2])
        return found

    def _get(self, url: str) -> tuple[int, Any]:
        try:
            status, raw = self._read(url)
            return status, json.loads(raw)
        except (ValueError, RecursionError):
            return 0, None

    def _read(self, url: str) -> tuple[int, bytes]:
        """Return status and body, 0 and nothing if it does not answer."""
        try:
            headers = {} if url.startswith(self._keyless) else self._own
            answer = self._http.request("GET", url, headers=headers, preload_content=False, redirect=False)
            try:
                return answer.status, answer.read(ANSWER_MAX)
            finally:
                answer.drain_conn()
                answer.release_conn()
        except (HTTPError, OSError):
            return 0, b""


def _shown(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _judged(status: int, told: object) -> tuple[str, tuple[str, ...]]:
    if not isinstance(told, dict):
        return GONE, ("its ops port does not answer",)
    checks = told.get("checks")
    failed = {
        name: str(one.get("reason") or "not ready")
        for name, one in (checks if isinstance(checks, dict) else {}).items()
        if isinstance(one, dict) and not one.get("ok")
    }
    why = tuple(f"{name}: {reason}" for name, reason in failed.items())
    lost = told.get("degraded")
    why += tuple(f"{name}" for name in (lost if isinstance(lost, dict | list) else ()))
    if status != 200:  # noqa: PLR2004 - HTTP
        return NOT_READY, why
    return (DEGRADED if why else READY), why
