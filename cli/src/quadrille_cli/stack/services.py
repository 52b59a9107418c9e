"""The processes of our own packages: sandbox; per service api, worker and relay; the console."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

from quadrille_cli.services import CONSOLE, SERVICES
from quadrille_cli.stack import shell
from quadrille_cli.stack.errors import CannotRun
from quadrille_cli.stack.ports import ROLES
from quadrille_cli.stack.processes import Process, Spec
from quadrille_cli.stack.servers.registry import healthy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

DATABASE_ROLE = {"api": "app", "worker": "app", "relay": "relay", "all": "app"}
MODULES = {"sandbox": "quadrille_sandbox"}  # where a part is not the module of its own name


def required(packages: Iterable[str]) -> None:
    """Refuse by name, before anything starts, to run without a package or with a stranger of its name."""
    for name in packages:
        found = importlib.util.find_spec(name)
        where = found.origin or ", ".join(found.submodule_search_locations or ()) if found else ""
        if (
            found is None
            or found.submodule_search_locations is None
            or importlib.util.find_spec(f"{name}.main") is None
        ):
            raise CannotRun(
                what=f"the package {name} is shadowed by {where}" if where else f"the package {name} is not installed",
                fix="move that away" if where else "make (installs what this checkout has)",
            )


def command(package: str, *arguments: str) -> list[str]:
    """How a package of ours is run: isolated from the shell and from the directory it stands in."""
    return [sys.executable, "-I", "-X", "utf8", "-m", package, *arguments]


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
            package=MODULES["sandbox"],
            command=lambda: command(MODULES["sandbox"]),
            log=logs / "sandbox.log",
            env=shell.program() | settings,
            cwd=data,
            ready=lambda: healthy(http, "/livez") or healthy(http, "/ledger"),
            ports={"sandbox": http, "smtp": smtp},
        )
    )


def outside(service: str, ports: Mapping[str, int]) -> dict[str, str]:
    """Where a service finds the sandbox instead of the world, and that what it calls may be on this machine."""
    found = {
        "order": {"WEBHOOK_LOOPBACK": "true"},
        "payment": {"PROCESSOR_URL": f"http://127.0.0.1:{ports['sandbox']}"},
        "notification": {"SMTP_URL": f"smtp://127.0.0.1:{ports['smtp']}"},
    }
    return found.get(service, {})


def disk(service: str, data: Path) -> dict[str, str]:
    """Where the disk is of which a service must know how full it is: order's intake shuts while it is filling."""
    return {"INTAKE_DISK_DIRECTORY": str(data)} if service == "order" else {}


def watched(ports: Mapping[str, int]) -> dict[str, str]:
    """Whom the console asks: the services' APIs, and every ops port of ours."""
    here = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    ops = {name: here[name] for service in SERVICES for role in ROLES if (name := f"{service}-{role}") in here}
    apis = {name: here[name] for name in (*SERVICES, "sandbox") if name in here}
    return {name: ",".join(f"{n}={url}" for n, url in found.items()) for name, found in (("OPS", ops), ("APIS", apis))}


def console(env: Mapping[str, str], logs: Path, ports: Mapping[str, int]) -> Process:
    """The console: api and worker in one process."""
    http, ops = ports[CONSOLE], ports[f"{CONSOLE}-ops"]
    settings = {"QUADRILLE_OPS_BIND": f"127.0.0.1:{ops}", "QUADRILLE_API_BIND": f"127.0.0.1:{http}"}
    return Process(
        Spec(
            name=CONSOLE,
            package=CONSOLE,
            command=lambda: command(CONSOLE, "all"),
            log=logs / f"{CONSOLE}.log",
            env=dict(env) | settings,
            cwd=logs,
            ready=lambda: healthy(ops, "/readyz"),
            ports={CONSOLE: http, f"{CONSOLE}-ops": ops},
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
            package=service,
            command=lambda: command(service, name),
            log=logs / f"{process}.log",
            env=dict(env) | settings,
            cwd=logs,
            ready=lambda: healthy(ops, "/readyz"),
            ports=listens,
        )
    )
