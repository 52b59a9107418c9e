"""The sandbox's connections: none is held for nothing, there are only so many, and every refusal arrives."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Event, Thread

import pytest
import uvloop

from quadrille_sandbox import http_server
from quadrille_sandbox.http_server import Answer, Later, Reply, Request, Streamed, reply

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"


@contextmanager
def listening(handle: Callable[[Request], Answer], most: int = 8) -> Iterator[int]:
    """Listen while the block runs, at the port yielded."""
    loop, there = uvloop.new_event_loop(), set[http_server.Connection]()

    async def close() -> None:
        server.close()
        for one in tuple(there):
            one.abort()
        await server.wait_closed()

    server = loop.run_until_complete(_listen(partial(http_server.Connection, handle, there, most)))
    thread = Thread(target=loop.run_forever)
    thread.start()
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        asyncio.run_coroutine_threadsafe(close(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _listen(connection: Callable[[], http_server.Connection]) -> asyncio.Server:
    return await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)


def connected(port: int, sent: bytes = b"") -> socket.socket:
    line = socket.create_connection(("127.0.0.1", port), timeout=120)
    line.sendall(sent)
    return line


def statuses(line: socket.socket) -> list[bytes]:
    """Return the status of each answer until the connection ends."""
    told = b"".join(iter(lambda: line.recv(65_536), b""))
    return [part[:3] for part in told.split(b"HTTP/1.1 ")[1:]]


def fine(_: Request) -> Reply:
    return reply(200, {})


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", []),
        (b"GET /", [b"408"]),
        (GET[:-2] + b"X-Slow", [b"408"]),
        (POST + b"Content-Length: 9\r\n\r\n{", [b"408"]),
        (GET, [b"200"]),
        (GET + b"GET", [b"200", b"408"]),
    ],
)
def test_who_says_nothing_more_is_closed(monkeypatch: pytest.MonkeyPatch, sent: bytes, expected: list[bytes]) -> None:
    """Nothing, half a request, nothing after an answer: each ends by its deadline, told where it can be."""
    monkeypatch.setattr(http_server, "REQUEST_SECONDS", 0.1)
    monkeypatch.setattr(http_server, "KEEP_ALIVE_SECONDS", 0.1)
    with listening(fine) as port, connected(port, sent) as line:
        assert statuses(line) == expected


def test_who_reads_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream whose client does not read ends."""
    monkeypatch.setattr(http_server, "READ_SECONDS", 0.1)
    ended = Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 65_536
        finally:
            ended.set()

    with listening(lambda _: Streamed("text/plain", endless())) as port, connected(port, GET):
        assert ended.wait(120)


def test_a_crowd_closes_who_was_silent_longest() -> None:
    """Beyond the bound the connection silent longest goes; who is being answered stays, who comes is answered."""

    def handle(request: Request) -> Answer:
        return Later(3600.0, lambda: reply(200, {})) if request.method == "POST" else reply(200, {})

    with listening(handle) as port, ExitStack() as held:
        busy = held.enter_context(connected(port, POST + b"Content-Length: 0\r\n\r\n"))
        oldest, *_ = [held.enter_context(connected(port)) for _ in range(30)]
        assert oldest.recv(1) == b""
        assert held.enter_context(connected(port, GET)).recv(12) == b"HTTP/1.1 200"
        busy.setblocking(False)  # noqa: FBT003 - socket's own
        with pytest.raises(BlockingIOError):
            busy.recv(1)


@pytest.mark.parametrize("size", [100_000, 10 << 20])
def test_a_large_refusal_arrives(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Who sends the whole body before reading gets the refusal, not a reset; however it comes, too much is too much."""
    monkeypatch.setattr(http_server, "KEEP_ALIVE_SECONDS", 0.1)
    with listening(fine) as port, connected(port, POST + b"Content-Length: %d\r\n\r\n" % size + b" " * size) as line:
        assert statuses(line) == [b"413"]
