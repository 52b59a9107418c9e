"""AOT archives of the two JVM servers, trained once in the background: 2 to 5 s less at every later start.

Nothing depends on them: without an archive, or with one the JRE refuses, the servers start as ever.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from quadrille_cli.stack import paths, ports, shell, topics
from quadrille_cli.stack.processes import Process, Spec
from quadrille_cli.stack.servers import artifacts, jvm, kafka, registry

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "aot-training"
MAIN = "from quadrille.stack import aot; aot.main()"
ROOM = 400 * 10**6
DUMP = 120.0
"""Seconds a JVM is given to write its archive when it ends; 7 to 12 were measured on a quiet machine."""


def missing() -> list[str]:
    """The lock files whose archives are not there."""
    return [lock for lock in (artifacts.KAFKA, artifacts.REGISTRY) if not jvm.archive(lock).exists()]


def wanted() -> bool:
    """Whether training would bring something and is not forbidden by QUADRILLE_NO_AOT."""
    roomy = shutil.disk_usage(paths.cache_dir()).free > ROOM
    return not os.environ.get("QUADRILLE_NO_AOT") and roomy and bool(missing())


def process(logs: Path) -> Process:
    """The training as a process of the stack that asked for it, at the lowest priority."""
    return Process(
        Spec(
            name=NAME,
            command=lambda: ["nice", "-n", "19", sys.executable, "-I", "-X", "utf8", "-c", MAIN],
            log=logs / f"{NAME}.log",
            env=shell.program() | {"QUADRILLE_CACHE": str(paths.cache_dir())},
            ready=lambda: True,
        )
    )


def train() -> None:
    """Train what is missing; another trainer at work is left to it."""
    home = paths.directory(paths.cache_dir() / "aot")
    with (home / "lock").open("w") as lock, closing(ports.Claims()) as claims:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        for left in home.glob("tmp*"):  # by a training that was killed
            shutil.rmtree(left, ignore_errors=True)
        for wanted_lock in missing():
            _train(wanted_lock, home, claims)


def _train(lock: str, home: Path, claims: ports.Claims) -> None:
    """Run one server until it is ready, ask it to end, keep what it learned."""
    with tempfile.TemporaryDirectory(dir=home) as name:
        scratch = Path(name)
        archive = scratch / "home" / "archive"
        options = [f"-XX:AOTCacheOutput={archive.name}"]  # in the server's own directory
        if lock == artifacts.KAFKA:
            listens = ports.scattered(["kafka", "kafka-controller"], claims.take)
            server = kafka.process(scratch / "home", scratch, listens, options)
            _run(server, lambda: topics.apply(f"127.0.0.1:{listens['kafka']}"))
        else:
            listens = ports.scattered(["registry", "registry-management"], claims.take)
            server = registry.process(scratch / "home", scratch, listens, options)
            _run(server, lambda: registry.healthy(listens["registry"], "/apis/ccompat/v7/subjects"))
        if archive.exists():
            archive.replace(jvm.archive(lock))


def _run(server: Process, use: Callable[[], object]) -> None:
    try:
        server.start()
        use()
        server.stop(DUMP)
    finally:
        server.kill()


def _end(_signal: int, _frame: object) -> None:
    sys.exit(0)


def main() -> None:
    """The training process: ends when all is trained, or at once when told to."""
    signal.signal(signal.SIGTERM, _end)
    with contextlib.suppress(KeyboardInterrupt):
        train()
