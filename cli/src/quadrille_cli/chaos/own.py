"""A stack of one's own to break: in a directory of its own, on ports of its own, each server behind a proxy."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from quadrille_cli.chaos.faults import SERVERS, Arena
from quadrille_cli.chaos.proxy import Network
from quadrille_cli.stack import EVERYTHING, Stack
from quadrille_cli.stack.steps import Progress

SETTINGS = {"ORDER_DEADLINE": "2h", "INTAKE_FAILURE_MINIMUM": "100000"}
"""Orders are to end by themselves however long an outage takes, and the intake is not to shut for those that fail."""


def directory() -> Path:
    """Make a directory for a stack to break."""
    home = Path(tempfile.mkdtemp(prefix="quadrille-chaos-"))
    home.chmod(0o711)  # Postgres may run as another user
    return home


def removed(arena: Arena) -> None:
    """Remove a stack's data, and the directory that was made for it."""
    home = arena.stack.data.parent
    arena.stack.wipe()
    home.rmdir()


@contextmanager
def arena(home: Path, seed: int, progress: Progress | None = None) -> Iterator[Arena]:
    """Start a stack behind proxies, and end it with the block; its data stays in ``home``."""
    made: list[Stack] = []
    with Network(seed) as network:
        proxies = {name: network.proxy(partial(_behind, made, name)) for name in SERVERS}
        via = {name: proxy.port for name, proxy in proxies.items()}
        stack = Stack(home / "stack", parts=EVERYTHING, scattered=True, settings=SETTINGS, progress=progress, via=via)
        made.append(stack)  # its ports are known once it starts
        with stack:
            yield Arena(stack, proxies)


def _behind(made: list[Stack], name: str) -> int:
    """Return where a server itself listens."""
    return made[0].ports[name]
