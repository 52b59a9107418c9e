"""The HTTP server of an api process: uvicorn on uvloop and httptools, ended by the process's own stop event."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog
import uvicorn
from uvicorn._types import ASGIApplication

from chassis import files
from chassis.connections import KEEP_ALIVE_SECONDS, Connection
from chassis.crowd import Crowd
from chassis.settings import Bind

DRAIN_SECONDS = 20
BACKLOG, AT_ONCE = 2048, 16
LOOK_TICKS = 10  # of uvicorn's tenths of a second, between two looks whose time is over
REST_SECONDS = 0.1  # how long nobody is let in when no file is left to open
_NO_FILE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
log = structlog.get_logger()


def serve(app: ASGIApplication, bind: Bind, stop: threading.Event) -> None:
    """Serve until told to stop, then drain for at most 20 seconds."""
    config = uvicorn.Config(
        app,
        host=bind.host,
        port=bind.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        server_header=False,
        proxy_headers=False,
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_until(Server(config), stop))


class Server(uvicorn.Server):
    """uvicorn, but for who is let in and how long: that is ours."""

    door: Door

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the app, then the door."""
        del sockets
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(uvicorn.config.STARTUP_FAILURE)
        loop = asyncio.get_running_loop()

        def close(connection: Connection) -> None:
            with suppress(RuntimeError):  # the loop has ended, and everyone with it
                loop.call_soon_threadsafe(connection.transport.abort)

        crowd = Crowd[Connection]("api", files.shares().api, close)

        def connection() -> Connection:
            return Connection(self.config, self.server_state, self.lifespan.state, crowd)

        try:
            listening = _listen(self.config.host, self.config.port)
        except OSError as refused:
            where = f"{self.config.host}:{self.config.port}"
            log.critical("refused to run", reason=f"found {where}: {refused.strerror}; free it or set API_BIND")
            await self.lifespan.shutdown()
            sys.exit(uvicorn.config.STARTUP_FAILURE)
        self.door = Door(listening, connection, crowd)
        self.servers = [self.door]  # type: ignore[list-item]  # as much of a server as uvicorn closes
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        """Look whose time is over, now and then."""
        if counter % LOOK_TICKS == 0:
            now = asyncio.get_running_loop().time()
            for connection in tuple(self.server_state.connections):
                connection.look(now)  # type: ignore[union-attr]  # all are ours
        return await super().on_tick(counter)


class Door:
    """Lets clients in; when no more files can be opened it rests for a moment instead of asking again at once."""

    def __init__(
        self, sockets: Sequence[socket.socket], connection: Callable[[], Connection], crowd: Crowd[Connection]
    ) -> None:
        self.sockets, self._connection, self._crowd = sockets, connection, crowd
        self._loop = asyncio.get_running_loop()
        self._entering: set[asyncio.Task[object]] = set()
        self._closed = False
        self._open()

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True
        for one in self.sockets:
            self._loop.remove_reader(one)
            one.close()

    async def wait_closed(self) -> None:
        """Return when whoever was on the threshold is in."""
        if self._entering:
            await asyncio.wait(self._entering)

    def _open(self) -> None:
        for one in () if self._closed else self.sockets:
            self._loop.add_reader(one, self._let_in, one)

    def _let_in(self, listening: socket.socket) -> None:
        while len(self._entering) + self._crowd.leaving < AT_ONCE:  # then those go first whose places they take
            try:
                client, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError as refused:
                if refused.errno not in _NO_FILE:
                    raise
                self._rest()
                return
            client.setblocking(False)  # noqa: FBT003 - the socket module's own
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self._loop.create_task(self._enter(client))
            self._entering.add(task)
            task.add_done_callback(self._entering.discard)

    async def _enter(self, client: socket.socket) -> object:
        try:
            return await self._loop.connect_accepted_socket(self._connection, client)
        except OSError:  # gone before it was in
            client.close()
            return None

    def _rest(self) -> None:
        for one in self.sockets:
            self._loop.remove_reader(one)
        self._crowd.thin()
        self._loop.call_later(REST_SECONDS, self._open)


def _listen(host: str, port: int) -> list[socket.socket]:
    """Return a listening socket for each address of a host; raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            one = socket.socket(family, kind, protocol)
            opened.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.setblocking(False)  # noqa: FBT003 - the socket module's own
            one.bind(address)
            one.listen(BACKLOG)
    except OSError:
        for one in opened:
            one.close()
        raise
    return opened


async def _until(server: uvicorn.Server, stop: threading.Event) -> None:
    """Serve; a thread waits for the stop event, so that an idle server is woken by nothing."""
    task = asyncio.ensure_future(server._serve())  # noqa: SLF001 - serve() would take over the signals, which are ours
    waiter = asyncio.get_running_loop().run_in_executor(None, stop.wait)
    await asyncio.wait((task, waiter), return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    stop.set()
    await task
