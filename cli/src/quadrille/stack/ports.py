"""Ports are found before anything starts: the usual one, else the next free one; one given by hand is never moved."""

from __future__ import annotations

import errno
import random
import socket
from typing import TYPE_CHECKING

import psutil

from quadrille.stack.problems import CannotRun

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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


def choose(
    names: Iterable[str], given: Mapping[str, int] | None = None, usual: Mapping[str, int] = USUAL
) -> dict[str, int]:
    """A free port for each name: as given by hand or refused, else the usual one or the next free one."""
    given = given or {}
    unknown = sorted(set(given) - set(USUAL))
    if unknown:
        raise CannotRun(what=f"no part listens under the name {unknown[0]}", fix=f"one of: {', '.join(sorted(USUAL))}")
    chosen = {name: port for name, port in given.items() if port}
    for name, port in chosen.items():
        if not is_free(port):
            raise CannotRun(
                what=f"port {port}, given by hand for {name}, is held by {owner(port)}",
                fix=f"end that process, or leave --port {name}=... away and the next free one is taken",
            )
    taken = set(chosen.values()) | set(usual.values())
    for name in names:
        if name not in chosen:
            chosen[name] = _next_free(usual[name], taken)
            taken.add(chosen[name])
    return chosen


def _next_free(usual: int, taken: set[int]) -> int:
    if is_free(usual):
        return usual
    return next(p for p in range(usual + 1, 65536) if p not in taken and is_free(p))


def scattered(names: Iterable[str]) -> dict[str, int]:
    """Free ports anywhere below the range of outgoing connections: for tests beside a running stack."""
    start = random.SystemRandom().randrange(11_000, 31_000)
    free = (p for p in range(start, start + 1700) if is_free(p))
    return {name: next(free) for name in names}
