"""Ports are found before anything starts: the usual one, else the next free one; one given by hand is never moved."""

from __future__ import annotations

import errno
import fcntl
import random
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from quadrille.stack.problems import CannotRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import TextIO

SERVICES = ("order", "inventory", "payment", "notification")
ROLES = ("api", "worker", "relay")


def _usual() -> dict[str, int]:
    ports = {"kafka": 9092, "kafka-controller": 9093, "registry": 8081, "registry-management": 8089}
    ports |= {"sandbox": 8010, "smtp": 8025, "jaeger": 16686, "jaeger-otlp": 4318, "jaeger-grpc": 16685}
    for n, service in enumerate(SERVICES, start=1):
        ports[f"postgres:{service}"] = 5500 + n
        ports[service] = 8000 + n
        for m, role in enumerate(ROLES, start=1):
            ports[f"{service}-{role}"] = 8000 + 100 * m + n
    return ports


USUAL: Mapping[str, int] = _usual()
"""Where each part listens when nothing is in its way; `order` is its API, `order-api` that process's ops port."""


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as refused:
            if refused.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def owner(port: int) -> str:
    """Who listens on the port, as `python3 (pid 4711)`."""
    for connection in psutil.net_connections(kind="tcp"):
        if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
            if connection.pid is None:
                break
            return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return "a process of another user"


class Claims:
    """Ports promised to a start that does not listen on them yet: two starts at once do not take the same."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._files: dict[int, TextIO] = {}

    def take(self, port: int) -> bool:
        """Claim a port that nobody listens on; False when it is held or claimed, by ourselves too."""
        if port in self._files or not is_free(port):
            return False
        self._home.mkdir(parents=True, exist_ok=True)
        file = (self._home / str(port)).open("w", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._files[port] = file
        return True

    def close(self) -> None:
        """Give up every claim: what was to listen does, or will not."""
        for file in self._files.values():
            Path(file.name).unlink(missing_ok=True)
            file.close()
        self._files.clear()


def choose(
    names: Iterable[str], take: Callable[[int], bool], given: Mapping[str, int], usual: Mapping[str, int] = USUAL
) -> dict[str, int]:
    """A free port for each name: as given by hand or refused, else the usual one or the next that can be taken."""
    unknown = sorted(set(given) - set(USUAL))
    if unknown:
        raise CannotRun(what=f"no part listens under the name {unknown[0]}", fix=f"one of: {', '.join(sorted(USUAL))}")
    chosen = dict(given)
    for name, port in chosen.items():
        if not take(port):
            raise CannotRun(
                what=f"port {port}, given by hand for {name}, is held by {owner(port)}",
                fix=f"end that process, or leave --port {name}=... away and the next free one is taken",
            )
    others = set(usual.values())
    for name in names:
        if name not in chosen:
            first = usual[name]
            after = (port for port in range(first + 1, 65536) if port not in others)
            chosen[name] = first if take(first) else next(port for port in after if take(port))
    return chosen


def scattered(names: Iterable[str], take: Callable[[int], bool] = is_free) -> dict[str, int]:
    """Free ports anywhere below the range of outgoing connections: for tests beside a running stack."""
    start = random.SystemRandom().randrange(11_000, 31_000)
    free = (port for port in range(start, start + 1700) if take(port))
    return {name: next(free) for name in names}
