"""HTTP server of a process's ports: uvicorn, with our own say in who is let in and how long he stays.

Guarantees: no more connections than the port's share of the process's files, each looked at once a second for its
deadlines; a port already taken is named with its way out; a stop lets what is being answered end, bounded.
"""

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
from starlette.types import ASGIApp

from quadrille import file_limits
from quadrille.settings import Bind
from quadrille.web.connection_limits import Crowd
from quadrille.web.connections import KEEP_ALIVE_SECONDS, Connection, expel

DRAIN_SECONDS = 20
BACKLOG, AT_ONCE = 2048, 16
LOOK_SECONDS = 1.0  # between two looks whose time is over
REST_SECONDS = 0.1  # how long nobody is let in when no file is left to open
_NO_FILE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
log = structlog.get_logger()


def serve(app: ASGIApp, bind: Bind, stop: threading.Event) -> None:
    """Serve an API until told to stop, then drain for at most 20 seconds."""
    crowd = Crowd[Connection]("api", file_limits.shares().api, expel)
    server = Server(app, crowd, lambda: listen(bind.host, bind.port, "API_BIND"), DRAIN_SECONDS)
    with server.runner() as runner:
        runner.run(_until(server, stop))


class Server(uvicorn.Server):
    """uvicorn, but for who is let in and how long: that is ours.

    ``listening`` opens the sockets, once the app is open.
    """

    door: Door

    def __init__(
        self, app: ASGIApp, crowd: Crowd[Connection], listening: Callable[[], list[socket.socket]], drain: int
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http="httptools",
                ws="none",
                log_config=None,
                access_log=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=drain,
                server_header=False,
                proxy_headers=False,
            )
        )
        self.crowd, self._listening, self._ending = crowd, listening, asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the app, then the door."""
        del sockets
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(uvicorn.config.STARTUP_FAILURE)

        def connection() -> Connection:
            return Connection(self.config, self.server_state, self.lifespan.state, self.crowd)

        try:
            listening = self._listening()
        except SystemExit:
            await self.lifespan.shutdown()
            raise
        self.door = Door(listening, connection, self.crowd)
        self.servers = [self.door]  # type: ignore[list-item]  # as much of a server as uvicorn closes
        self.started = True

    async def main_loop(self) -> None:
        """Look now and then whose time is over, until told to end: an idle server is woken by nothing else."""
        while not await self.on_tick(0):
            now = asyncio.get_running_loop().time()
            for connection in tuple(self.server_state.connections):
                connection.look(now)  # type: ignore[union-attr]  # all are ours
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), LOOK_SECONDS)

    def runner(self) -> asyncio.Runner:
        """Return what runs it, on a loop of its own."""
        return asyncio.Runner(loop_factory=self.config.get_loop_factory())

    async def run_until_ended(self) -> None:
        """Serve; the signals are not taken over: they are the process's."""
        await self._serve()

    def end(self) -> None:
        """Stop when what is being answered is; called by the loop."""
        self.should_exit = True
        self._ending.set()


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


def listen(host: str, port: int, setting: str) -> list[socket.socket]:
    """Return a listening socket for each address of a host; for a port that is taken, says so and ends the process."""
    try:
        return _sockets(host, port)
    except OSError as refused:
        log.critical("refused to run", reason=f"found {host}:{port}: {refused.strerror}; free it or set {setting}")
        sys.exit(uvicorn.config.STARTUP_FAILURE)


def _sockets(host: str, port: int) -> list[socket.socket]:
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


async def _until(server: Server, stop: threading.Event) -> None:
    """Serve; a thread waits for the stop event, so that an idle server is woken by nothing."""
    task = asyncio.ensure_future(server.run_until_ended())
    waiter = asyncio.get_running_loop().run_in_executor(None, stop.wait)
    await asyncio.wait((task, waiter), return_when=asyncio.FIRST_COMPLETED)
    server.end()
    stop.set()
    await task
