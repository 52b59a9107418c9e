"""Ports are found before anything starts: the usual one, else the next free one; one given by hand is never moved."""

from __future__ import annotations

import errno
import pwd
import random
import socket
import struct
from contextlib import suppress
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import psutil

from quadrille_cli.services import CONSOLE, SERVICES
from quadrille_cli.stack.errors import CannotRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

ROLES = ("api", "worker", "relay")
HIGHEST = 65_535
LISTENING = "0A"  # as /proc/net/tcp writes it


def _usual() -> dict[str, int]:
    ports = {"kafka": 9092, "kafka-controller": 9093, "registry": 8081, "registry-management": 8089}
    ports |= {"sandbox": 8010, "smtp": 8025, "jaeger": 16686, "jaeger-otlp": 4318, "jaeger-grpc": 16685}
    ports |= {f"postgres:{CONSOLE}": 5500, CONSOLE: 8000, f"{CONSOLE}-ops": 8100}
    for n, service in enumerate(SERVICES, start=1):
        ports[f"postgres:{service}"] = 5500 + n
        ports[service] = 8000 + n
        for m, role in enumerate(ROLES, start=1):
            ports[f"{service}-{role}"] = 8000 + 100 * m + n
    return ports


USUAL: Mapping[str, int] = _usual()
"""Where each part listens when nothing is in its way; `order` is its API, `order-api` that process's ops port.

The console is one process: `console` is its pages and API, `console-ops` its ops port.
"""


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
    """Who has the port, as `python3 (pid 4711)`; by the user alone where the process is another user's."""
    pids = [c.pid for c in psutil.net_connections(kind="tcp") if c.laddr and c.laddr.port == port and c.pid]
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            return f"{psutil.Process(pid).name()} (pid {pid})"
    if (start := _claimed_by(port)) is not None:
        return f"another stack that is starting (pid {start})"
    users = {_user(uid) for uid in _listening_users(port)}
    return f"a process of the user {', '.join(sorted(users))}" if users else "a process that has ended meanwhile"


def _listening_users(port: int) -> Iterator[int]:
    """The users (uid) who listen on the port, which the kernel tells of processes that are not ours, too."""
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text(encoding="utf-8").splitlines()[1:] if table.exists() else ():
            _, local, _, state, _, _, _, uid, *_ = line.split()
            if state == LISTENING and int(local.rpartition(":")[2], 16) == port:
                yield int(uid)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _claim(port: int) -> bytes:
    """A claim's name: an abstract socket, which all users and caches see, within the network whose port it is.

    Nothing of it lies in a directory, and it is gone with the process that holds it.
    """
    return b"\0quadrille-port-%d" % port


def _claimed_by(port: int) -> int | None:
    """The pid of the start that claims the port; None where none does."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.setblocking(False)  # noqa: FBT003 - socket's own
        try:
            asking.connect(_claim(port))
        except OSError:
            return None
        pid, _, _ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return int(pid)


class Claims:
    """Ports promised to a start that does not listen on them yet: two starts at once do not take the same."""

    def __init__(self) -> None:
        self._held: dict[int, socket.socket] = {}

    def take(self, port: int) -> bool:
        """Claim a port that nobody listens on; False when it is held or claimed, by ourselves too."""
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(_claim(port))
            claim.listen()
        except OSError as refused:
            claim.close()
            if refused.errno != errno.EADDRINUSE:
                raise
            return False
        if not is_free(port):  # asked under the claim: whoever gave it up a moment ago listens by now
            claim.close()
            return False
        self._held[port] = claim
        return True

    def close(self) -> None:
        """Give up every claim: what was to listen does, or will not."""
        for claim in self._held.values():
            claim.close()
        self._held.clear()


def choose(
    names: Iterable[str], take: Callable[[int], bool], given: Mapping[str, int], usual: Mapping[str, int] = USUAL
) -> dict[str, int]:
    """A free port for each name: as given by hand or refused, else the usual one or the next that can be taken."""
    unknown = sorted(set(given) - set(USUAL))
    if unknown:
        raise CannotRun(what=f"no part listens under the name {unknown[0]}", fix=f"one of: {', '.join(sorted(USUAL))}")
    chosen: dict[str, int] = {}
    for name, port in given.items():
        if twin := next((other for other, taken in chosen.items() if taken == port), None):
            raise CannotRun(what=f"port {port} is given by hand for {twin} and for {name}", fix="give each its own")
        if not take(port):
            raise refusal(name, port)
        chosen[name] = port
    others = set(usual.values())
    for name in names:
        if name not in chosen:
            wanted = (usual[name], *(port for port in range(usual[name] + 1, HIGHEST + 1) if port not in others))
            chosen[name] = _first(wanted, take)
    return chosen


def refusal(name: str, port: int) -> CannotRun:
    """Why a port given by hand is not to be had, and from whom."""
    return CannotRun(
        what=f"port {port}, given by hand for {name}, is held by {owner(port)}",
        fix=f"end that process, or leave --port {name}=... away and the next free one is taken",
    )


def scattered(
    names: Iterable[str], take: Callable[[int], bool] = is_free, had: Mapping[str, int] = MappingProxyType({})
) -> dict[str, int]:
    """Ports as they were, else free ones anywhere below those of outgoing connections: for tests beside a stack."""
    start = random.SystemRandom().randrange(11_000, 31_000)
    free = iter(range(start, start + 1700))
    return {name: _first(chain([had[name]] if name in had else [], free), take) for name in names}


def _first(ports: Iterable[int], take: Callable[[int], bool]) -> int:
    for port in ports:
        if take(port):
            return port
    raise CannotRun(what="no port of the loopback is free", fix="end what listens on so many: ss -ltnp")
