"""An app behind the real server, in a thread, and a plain client for it."""

from __future__ import annotations

import json
import resource
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from quadrille.settings import Bind
from quadrille.web.server import serve
from quadrille_cli import client


@dataclass(frozen=True, slots=True)
class Got:
    """An answer: status, headers by lower-case name, bytes."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:  # noqa: ANN401 - any JSON value
        """Return the body's value."""
        return json.loads(self.body)


class Client:
    """Asks one server; each request has a connection of its own."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None, seconds: float = 60
    ) -> Got:
        """Send one request; a body that is no bytes is sent as JSON."""
        with client.Client(f"http://127.0.0.1:{self.port}", seconds) as one:
            reply = one.ask(method, path, body, headers)
        return Got(reply.status, reply.headers, reply.raw)

    def raw(self, data: bytes, seconds: float = 60) -> bytes:
        """Send bytes as they are and return all that comes back until the server closes or falls silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65_536), b""))


def free_port() -> int:
    """Return a port nobody holds now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(app: ASGIApp) -> Iterator[Client]:
    """Serve the app while the block runs; ends within the drain's time."""
    stop, port = threading.Event(), free_port()
    thread = threading.Thread(target=serve, args=(app, Bind(f"127.0.0.1:{port}"), stop), daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not _listens(port):
        assert thread.is_alive(), "the server ended"
        assert time.monotonic() < deadline, "the server did not start within 60 s"
        time.sleep(0.01)
    try:
        yield Client(port)
    finally:
        stop.set()
        thread.join(60)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def drip(connection: socket.socket, byte: bytes) -> bytes:
    """Send bytes one by one until something is answered; return all that is."""
    for _ in range(10_000):
        try:
            connection.sendall(byte)
            found = connection.recv(65_536)
        except TimeoutError:
            continue
        connection.settimeout(30)
        return found + b"".join(iter(lambda: connection.recv(65_536), b""))
    message = "nothing was answered"
    raise AssertionError(message)


@contextmanager
def no_more_files() -> Iterator[None]:
    """Let this process open no file beyond those it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as held:
        most = max(int(one.name) for one in Path("/dev/fd").iterdir()) + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        with suppress(OSError):
            for _ in range(most):
                held.enter_context(socket.socket())
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
