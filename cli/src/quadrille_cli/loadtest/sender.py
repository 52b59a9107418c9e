"""Sender of a load run: a process that posts orders when they are due, whatever became of those before.

It is an open loop: any number of orders may be in flight, each on a connection of its own, and none waits for another's
answer. It speaks the least HTTP there is, for it shares its cores with what it measures: about 0.1 ms of CPU an order.

Its input is one JSON document (``Task``), its output lines of JSON: ``[number, order id or "", what was answered, due,
answered]`` in monotonic seconds, in lists, and at the end ``{"cpu": seconds, "in_flight": most at once}``.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import uvloop

TIMEOUT_SECONDS = 15.0
REPORT_SECONDS = 0.1
CONNECTIONS = 1000
"""So many connections at most; who is due beyond that waits for one, and its latency counts."""
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
ORDER_ID = re.compile(rb'"order_id": ?"([0-9a-f-]{36})"')
CREATED, BAD_REQUEST = 200, 400


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be sent: ``due`` seconds after the start of each order, ``bodies`` by kind, ``kinds`` an index each.

    ``cancels`` are the kinds whose orders are cancelled as soon as they are accepted; ``key`` begins every
    Idempotency-Key, ``api_key`` is shown with each, if it is one.
    """

    url: str
    key: str
    due: Sequence[float]
    kinds: Sequence[int]
    bodies: Sequence[str]
    cancels: Sequence[int]
    api_key: str = field(default="", repr=False)


class Posted(NamedTuple):
    """What became of an order: its id if it was accepted, else why not; when it was due and answered, monotonic."""

    number: int
    order_id: str
    refusal: str
    due: float
    answered: float


@dataclass(frozen=True, slots=True)
class Spent:
    """What sending cost, in CPU seconds, and how many orders were in flight at once at most."""

    cpu: float
    in_flight: int


def send(task: Task, take: Callable[[Posted], None]) -> Spent:
    """Send in a process of its own, give back what became of each order as it is known; raises RuntimeError."""
    command = [sys.executable, "-I", "-X", "utf8", "-m", __name__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - ourselves
        assert process.stdin is not None  # noqa: S101 - as asked for
        assert process.stdout is not None  # noqa: S101 - as asked for
        with process.stdin as pipe:
            json.dump(asdict(task), pipe)
        for line in process.stdout:
            told = json.loads(line)
            if isinstance(told, dict):
                return Spent(**told)
            for one in told:
                take(Posted(*one))
    message = f"the sender ended early, with exit code {process.returncode}"
    raise RuntimeError(message)


class _Connection(asyncio.Protocol):
    """One connection, with at most one request on its way."""

    def __init__(self, sender: _Sender) -> None:
        self._sender = sender
        self._transport: asyncio.Transport
        self._answer = b""
        self.request: _Request | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's

    def ask(self, request: _Request) -> None:
        self.request, self._answer = request, b""
        self._transport.write(request.content)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if self.request is None or (end := self._answer.find(b"\r\n\r\n")) < 0:
            return
        status, length = STATUS.match(self._answer), LENGTH.search(self._answer, 0, end + 2)
        if length and len(self._answer) < end + 4 + int(length[1]):
            return
        request, self.request = self.request, None
        closes = status is None or length is None or b"\r\nconnection: close" in self._answer[:end].lower()
        self._sender.answered(request, int(status[1]) if status else 0, self._answer)
        if closes:
            self._transport.close()
        else:
            self._sender.idle(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._sender.lost(self, type(exc).__name__ if exc else "closed")

    def close(self) -> None:
        self._transport.abort()


class _Request:
    """A request on its way; it is sent again once, under its key, where a connection ended without an answer."""

    __slots__ = ("accepted", "again", "cancels", "content", "due", "gives_up", "number", "order")

    def __init__(self, number: int, due: float, content: bytes, *, cancels: bool = False) -> None:
        self.number, self.due, self.content, self.cancels = number, due, content, cancels
        self.order, self.accepted, self.again = "", 0.0, True
        self.gives_up = time.monotonic() + TIMEOUT_SECONDS

    def cancel(self, order: str, content: bytes) -> _Request:
        """Return the request that cancels an order that was accepted now."""
        other = _Request(self.number, self.due, content)
        other.order, other.accepted = order, time.monotonic()
        return other


class _Sender:
    """Sends a task's orders when they are due."""

    def __init__(self, task: Task, report: Callable[[Any], None]) -> None:
        host = urlsplit(task.url)
        self._report, self._host, self._place = report, host.netloc, (host.hostname or "", host.port or 80)
        self._key, self._due, self._kinds, self._cancels = task.key, task.due, task.kinds, frozenset(task.cancels)
        self._shown = f"Authorization: Bearer {task.api_key}\r\n" if task.api_key else ""
        head = "POST /v1/orders HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{}"
        bodies = [body.encode() for body in task.bodies]
        self._orders = [
            (head.format(self._host, len(body), self._shown).encode() + b"Idempotency-Key: ", b"\r\n\r\n" + body)
            for body in bodies
        ]
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._waiting: deque[_Request] = deque()
        self._connecting = self._left = self._most = 0
        self._news: list[Posted] = []
        self._done = asyncio.Event()

    async def run(self) -> None:
        """Send all, and wait until each is answered or given up."""
        began, start = time.process_time(), time.monotonic() + 0.05
        reporting = asyncio.create_task(self._tell())
        for number, (due, kind) in enumerate(zip(self._due, self._kinds, strict=True)):
            at = start + due
            if (wait := at - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            before, after = self._orders[kind]
            key = f"{self._key}-{number}".encode()
            self._left += 1
            self._most = max(self._most, self._left)
            self._post(_Request(number, at, before + key + after, cancels=kind in self._cancels))
        while self._left:
            self._done.clear()
            await self._done.wait()
        reporting.cancel()
        self._flush()
        self._report({"cpu": time.process_time() - began, "in_flight": self._most})
        for connection in self._all:
            connection.close()

    def answered(self, request: _Request, status: int, answer: bytes) -> None:
        """Take an answer in; one that is to be cancelled is, on the next connection that is free."""
        if request.order:
            self._end(request, request.order, f"cancel: {status}" if status >= BAD_REQUEST else "")
            return
        found = ORDER_ID.search(answer) if CREATED <= status < BAD_REQUEST else None
        if found is None:
            self._end(request, "", str(status) if status else "not HTTP")
        elif request.cancels:
            order = found[1].decode()
            head = f"POST /v1/orders/{order}/cancel HTTP/1.1\r\nHost: {self._host}\r\n"
            line = f"{head}{self._shown}Content-Length: 0\r\n\r\n"
            self._post(request.cancel(order, line.encode()))
        else:
            self._end(request, found[1].decode(), "")

    def idle(self, connection: _Connection) -> None:
        """Give a free connection the next request, or keep it."""
        if self._waiting:
            connection.ask(self._waiting.popleft())
        else:
            self._idle.append(connection)

    def lost(self, connection: _Connection, why: str) -> None:
        """Forget a connection; what was on it goes on another, once."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if request := connection.request:
            connection.request = None
            self._failed(request, why)

    def _post(self, request: _Request) -> None:
        if self._idle:
            self._idle.pop().ask(request)
            return
        self._waiting.append(request)
        if len(self._all) + self._connecting < CONNECTIONS and self._connecting < len(self._waiting):
            self._connecting += 1
            asyncio.ensure_future(self._connect())  # noqa: RUF006 - counted by _connecting

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: _Connection(self), *self._place)
        except OSError as refused:
            self._connecting -= 1
            if self._waiting:
                self._failed(self._waiting.popleft(), type(refused).__name__)
            return
        self._connecting -= 1
        self._all.add(connection)
        self.idle(connection)

    def _failed(self, request: _Request, why: str) -> None:
        if request.again:
            request.again = False
            self._post(request)
        else:
            self._end(request, request.order, f"cancel: {why}" if request.order else why)

    def _end(self, request: _Request, order: str, refusal: str) -> None:
        answered = request.accepted or time.monotonic()
        self._news.append(Posted(request.number, order, refusal, request.due, answered))
        self._left -= 1
        if not self._left:
            self._done.set()

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            self._flush()
            now = time.monotonic()
            for connection in [one for one in self._all if one.request and one.request.gives_up < now]:
                request, connection.request = connection.request, None
                connection.close()
                if request:
                    self._end(request, request.order, "cancel: timed out" if request.order else "timed out")

    def _flush(self) -> None:
        if self._news:
            self._report(self._news)
            self._news = []


def main() -> None:
    """Read a task from standard input, do it, tell of it on standard output."""
    task = Task(**json.load(sys.stdin))

    def report(news: object) -> None:
        sys.stdout.write(json.dumps(news) + "\n")
        sys.stdout.flush()

    async def run() -> None:
        await _Sender(task, report).run()

    uvloop.run(run())


if __name__ == "__main__":
    main()
