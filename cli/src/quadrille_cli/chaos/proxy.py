"""TCP proxy that harms what passes: it holds bytes back, forgets connections, resets them or cuts them in mid-message.

It sees streams, not packets. A partition is bytes, and ends of connections, that do not pass and go on when it is over,
as TCP sends again what was lost; what a proxy cannot do is lose a byte and let the connection live on unharmed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

T = TypeVar("T")
PIECE = 65_536
HELD_PIECES = 64
"""So many pieces wait in one direction at most; then nobody reads on, and the sender's own window fills."""
LOOPBACK = "127.0.0.1"
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for no time at all: the kernel says RST instead of FIN."""


@dataclass(frozen=True, slots=True)
class Harm:
    """What is done to whatever passes; nothing, as it stands.

    Args:
        latency: seconds by which each piece is late, in both directions.
        jitter: seconds more, of which each piece gets a share by chance; order is kept.
        up: whether anything passes from client to server, new connections too.
        down: whether anything passes from server to client.
        reset: connections, there and new, are ended with RST.
        forgotten: connections that are there die without a word to either side; new ones pass.
        cut: bytes of the server's answers that still pass; then the connection is reset, within a message mostly.
        lose: bytes that are missing once in each connection's stream to the server: what comes then is out of step.
    """

    latency: float = 0.0
    jitter: float = 0.0
    up: bool = True
    down: bool = True
    reset: bool = False
    forgotten: bool = False
    cut: int | None = None
    lose: int = 0


NONE = Harm()
HARMS: dict[str, Harm] = {
    "slow": Harm(latency=0.05, jitter=0.1),
    "partitioned": Harm(up=False, down=False),
    "deaf": Harm(up=False),
    "dumb": Harm(down=False),
    "half-open": Harm(forgotten=True),
    "reset": Harm(reset=True),
    "cut": Harm(cut=1500),
    "lossy": Harm(lose=7),
}
"""By the word for a server behind it: a deaf one hears nothing, a dumb one is not heard."""


@dataclass(slots=True)
class Counts:
    """What has passed a proxy, and what it has done."""

    connections: int = 0
    refused: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    lost: int = 0
    reset: int = 0
    forgotten: int = 0


@dataclass(eq=False, slots=True)
class Link:
    """A connection through the proxy."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    task: asyncio.Task[None]
    dead: bool = False
    lost: bool = False
    cut: int | None = None


@dataclass(slots=True)
class Proxy:
    """One port in front of a server; made by a ``Network``."""

    network: Network
    upstream: Callable[[], int]
    rng: random.Random
    counts: Counts = field(default_factory=Counts)
    harm: Harm = NONE
    port: int = 0
    _links: set[Link] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None

    def inflict(self, harm: Harm) -> None:
        """Do this harm from now on instead of any before; returns when it is done to what is there."""
        self.network.run(self._inflict(harm))

    def heal(self) -> None:
        """Let everything pass again, what was held back first; who is forgotten stays so."""
        self.inflict(NONE)

    async def open(self) -> None:
        """Listen on a free port of the loopback."""
        self._server = await asyncio.start_server(self._accept, LOOPBACK, 0, limit=PIECE)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """End all connections and listen no more."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in list(self._links):
            self._drop(link)

    async def _inflict(self, harm: Harm) -> None:
        self.harm = harm
        for link in list(self._links):
            link.lost, link.cut = False, harm.cut
            if harm.reset and not link.dead:
                self._drop(link)
            if harm.forgotten and not link.dead:
                link.dead = True
                self.counts.forgotten += 1
        before, self._changed = self._changed, asyncio.Event()
        before.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs it as one
        self._tasks.add(task)
        self.counts.connections += 1
        try:
            await self._passable(lambda: self.harm.up)
            if self.harm.reset:
                self.counts.reset += 1
                return _abort(writer)
            await self._joined(reader, writer, task)
        except asyncio.CancelledError:  # dropped, or the proxy is closed
            _abort(writer)
        finally:
            self._tasks.discard(task)

    async def _joined(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, task: asyncio.Task[None]
    ) -> None:
        """Join a client with the server, until both sides have ended."""
        try:
            there, server = await asyncio.open_connection(LOOPBACK, self.upstream(), limit=PIECE)
        except OSError:  # nobody listens: the client is told as if it had asked there
            self.counts.refused += 1
            return _abort(writer)
        for one in (writer, server):
            one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(writer, server, task, cut=self.harm.cut)
        self._links.add(link)
        try:
            await asyncio.gather(self._pump(link, reader, server, up=True), self._pump(link, there, writer, up=False))
        except OSError:  # one side has reset: so is the other
            self._drop(link)
        finally:
            self._links.discard(link)
            for one in (writer, server):
                one.close()
        return None

    async def _pump(self, link: Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, up: bool) -> None:
        """Carry one direction: pieces are read as they come, and written when they are due."""
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(HELD_PIECES)
        writing = asyncio.create_task(self._deliver(link, held, sink, up=up))
        loop = asyncio.get_running_loop()
        try:
            piece = b"there is more"
            while piece:
                piece = await source.read(PIECE)
                late = self.harm.latency + self.harm.jitter * self.rng.random()
                await held.put((loop.time() + late, piece))
            await writing
        finally:
            writing.cancel()

    async def _deliver(
        self, link: Link, held: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter, *, up: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, piece = await held.get()
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            await self._passable(lambda: link.dead or (self.harm.up if up else self.harm.down))
            if link.dead:
                if not piece:
                    return
                continue
            if not piece:
                if sink.can_write_eof():
                    sink.write_eof()
                return
            try:
                await self._write(link, sink, piece, up=up)
            except OSError:  # this side has reset: so is the other, which may be waited for
                self._drop(link)

    async def _write(self, link: Link, sink: asyncio.StreamWriter, piece: bytes, *, up: bool) -> None:
        if up and self.harm.lose and not link.lost:
            link.lost = True
            at = self.rng.randrange(len(piece))
            kept = piece[:at] + piece[at + self.harm.lose :]
            self.counts.lost += len(piece) - len(kept)
            piece = kept
        if not up and link.cut is not None:
            cut, link.cut = link.cut, link.cut - len(piece)
            if link.cut <= 0:
                sink.write(piece[:cut])
                self.counts.lost += len(piece) - cut
                sink.transport.set_write_buffer_limits(0)
                await sink.drain()  # until the kernel has it
                return self._drop(link)
        sink.write(piece)
        if up:
            self.counts.bytes_up += len(piece)
        else:
            self.counts.bytes_down += len(piece)
        await sink.drain()
        return None

    async def _passable(self, passes: Callable[[], bool]) -> None:
        """Wait until this passes."""
        while not passes():
            await self._changed.wait()

    def _drop(self, link: Link) -> None:
        """Reset both sides of a connection."""
        if link not in self._links:
            return
        self._links.discard(link)
        self.counts.reset += 1
        for one in (link.client, link.server):
            _abort(one)
        if link.task is not asyncio.current_task():
            link.task.cancel()


class Network:
    """A thread in which any number of proxies run; as a context manager it ends with them."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()
        self._proxies: list[Proxy] = []

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End every proxy."""
        self.close()

    def proxy(self, upstream: Callable[[], int]) -> Proxy:
        """Make a proxy in front of a port of the loopback, which is asked for at each connection."""
        rng = random.Random(f"{self._seed}/{len(self._proxies)}")  # noqa: S311 - repeatable harm
        one = Proxy(self, upstream, rng)
        self.run(one.open())
        self._proxies.append(one)
        return one

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        """Run it where the proxies run, and return what it returns."""
        done: Future[T] = asyncio.run_coroutine_threadsafe(what, self._loop)
        return done.result()

    def close(self) -> None:
        """End every proxy, and the thread."""
        for one in self._proxies:
            self.run(one.close())
        self._proxies.clear()
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


def _abort(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST."""
    with contextlib.suppress(OSError, AttributeError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
