"""Apicurio, a Confluent-compatible schema registry whose ids survive restarts (H2 in a file)."""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING

from quadrille_cli.client import Client, NoAnswerError
from quadrille_cli.stack import leftovers, paths
from quadrille_cli.stack.processes import Process, Spec
from quadrille_cli.stack.servers import artifacts, jvm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

DATABASE = "registry.mv.db"
UNFINISHED = "registry.new"
"""Stands beside a database that was never ready."""
GROUPS = (
    "quarkus/generated-bytecode.jar",
    "quarkus/transformed-bytecode.jar",
    "app/*.jar",
    "lib/boot/*.jar",
    "lib/main/*.jar",
)


def distribution() -> Path:
    """Have the unpacked distribution in the cache."""
    archive = artifacts.fetch(artifacts.REGISTRY)[0]
    return artifacts.unpacked(archive, f"apicurio-{artifacts.digest(artifacts.REGISTRY)}")


def url(port: int) -> str:
    """The base address of the Confluent-compatible API."""
    return f"http://127.0.0.1:{port}/apis/ccompat/v7"


def process(home: Path, logs: Path, ports: Mapping[str, int], options: Sequence[str] | None = None) -> Process:
    """The registry over its database in `home`; `options` replace the AOT archive (to train one)."""
    listens, unfinished = {name: ports[name] for name in ("registry", "registry-management")}, home / UNFINISHED

    def ready() -> bool:
        if there := healthy(listens["registry-management"], "/health/ready"):
            unfinished.unlink(missing_ok=True)
        return there

    def command() -> list[str]:
        archive = jvm.archive_options(artifacts.REGISTRY) if options is None else options
        main = ["-cp", _class_path(distribution()), "io.quarkus.runner.GeneratedMain"]
        return [jvm.binary(), *archive, *jvm.QUIET[1:], jvm.temporary(home), "@java.args", *main]

    return Process(
        Spec(
            name="registry",
            command=command,
            log=logs / "registry.log",
            env=jvm.environment(),
            cwd=home,  # where its database lies: no path is spelled in its settings' syntax
            ready=ready,
            prepare=lambda: _lay_out(home, listens),
            ports=listens,
        )
    )


def _lay_out(home: Path, ports: Mapping[str, int]) -> None:
    """Have the directory of the database and this start's settings."""
    database, unfinished = paths.directory(home) / DATABASE, home / UNFINISHED
    leftovers.unlocked("registry", database)
    if unfinished.exists():  # its first start was cut short: its tables are made in many steps, and there are no others
        database.unlink(missing_ok=True)
    if not database.exists():
        unfinished.touch()
    marks = {"PORT": ports["registry"], "MANAGEMENT_PORT": ports["registry-management"]}
    (home / "java.args").write_text(paths.filled("registry/apicurio.args", **marks), encoding="utf-8")


def healthy(port: int, path: str) -> bool:
    """Whether a GET of this path is answered with 200."""
    with suppress(NoAnswerError), Client(f"http://127.0.0.1:{port}", timeout=2) as server:
        return server.ask("GET", path).status == HTTPStatus.OK
    return False


def _class_path(home: Path) -> str:
    return ":".join(str(jar) for pattern in GROUPS for jar in sorted(home.glob(pattern)))
