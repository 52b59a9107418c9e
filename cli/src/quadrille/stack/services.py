"""The processes of our own packages: sandbox and, per service, api, worker and relay; started when importable."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING

from quadrille.stack.ports import SERVICES
from quadrille.stack.processes import Process, Spec
from quadrille.stack.registry import healthy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DATABASE_ROLE = {"api": "app", "worker": "app", "relay": "relay"}


def installed(package: str) -> bool:
    """Whether `python -m package` would find something to run."""
    try:
        return importlib.util.find_spec(f"{package}.__main__") is not None
    except ModuleNotFoundError:
        return False


def present() -> tuple[str, ...]:
    """The services and the sandbox that this environment has."""
    return tuple(name for name in ("sandbox", *SERVICES) if installed(name))


def inherited() -> dict[str, str]:
    """Our own environment without any setting of the product, which come from the stack alone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QUADRILLE_")}
    return kept | {"MALLOC_ARENA_MAX": "2"}


def command(package: str, *arguments: str) -> list[str]:
    """How a package of ours is run."""
    return [sys.executable, "-m", package, *arguments]


def sandbox(data: Path, logs: Path, ports: Mapping[str, int]) -> Process:
    """The outside world: card processor and mailbox."""
    http, smtp = ports["sandbox"], ports["smtp"]
    settings = {
        "QUADRILLE_SANDBOX_BIND": f"127.0.0.1:{http}",
        "QUADRILLE_SMTP_BIND": f"127.0.0.1:{smtp}",
        "QUADRILLE_SANDBOX_DATA": str(data),
    }
    return Process(
        Spec(
            name="sandbox",
            command=lambda: command("sandbox"),
            log=logs / "sandbox.log",
            env=inherited() | settings,
            cwd=data,
            ready=lambda: healthy(http, "/livez") or healthy(http, "/ledger"),
            ports={"sandbox": http, "smtp": smtp},
        )
    )


def role(service: str, name: str, env: Mapping[str, str], logs: Path, ports: Mapping[str, int]) -> Process:
    """One process of a service; ready when its ops port says so."""
    process = f"{service}-{name}"
    ops = ports[process]
    listens = {process: ops} | ({service: ports[service]} if name == "api" else {})
    settings = {"QUADRILLE_OPS_BIND": f"127.0.0.1:{ops}", "QUADRILLE_API_BIND": f"127.0.0.1:{ports[service]}"}
    return Process(
        Spec(
            name=process,
            command=lambda: command(service, name),
            log=logs / f"{process}.log",
            env=dict(env) | settings,
            cwd=logs,
            ready=lambda: healthy(ops, "/readyz"),
            ports=listens,
        )
    )
