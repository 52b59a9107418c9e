"""The table of parts: which processes each has, on which ports, with which settings."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from quadrille.stack import jaeger, kafka, registry, services, shell
from quadrille.stack.ports import ROLES, SERVICES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quadrille.stack.core import Stack
    from quadrille.stack.processes import Process

DATABASES = frozenset(f"postgres:{service}" for service in SERVICES)
INFRASTRUCTURE = frozenset({"kafka", "registry", *DATABASES})
EVERYTHING = frozenset({*INFRASTRUCTURE, "topics", "schemas", "sandbox", *SERVICES})
PARTS = EVERYTHING | {"jaeger"}

LISTENS = {
    "kafka": ("kafka", "kafka-controller"),
    "registry": ("registry", "registry-management"),
    "sandbox": ("sandbox", "smtp"),
    "jaeger": ("jaeger", "jaeger-otlp", "jaeger-grpc"),
    "topics": (),
    "schemas": (),
    **{service: (service, *(f"{service}-{role}" for role in ROLES)) for service in SERVICES},
}


def is_server(name: str) -> bool:
    """Whether a part or process is foreign: what our own processes stand on."""
    return name in {"kafka", "registry", "jaeger"} or name.startswith("postgres:")


def part_of(process: str) -> str:
    """The part a process belongs to: `inventory` for `inventory-worker`, else its own name."""
    head = process.partition("-")[0]
    return head if head in SERVICES else process


def port_names(parts: Iterable[str]) -> list[str]:
    """The names of the ports these parts listen on."""
    return [name for part in sorted(parts) for name in LISTENS.get(part, (part,))]


def processes(stack: Stack) -> list[Process]:
    """Every process of the stack's parts, none of them started."""
    made = [cluster.process for cluster in stack.clusters.values()]
    if "kafka" in stack.parts:
        made.append(kafka.process(stack.data / "kafka", stack.logs, stack.ports))
    if "registry" in stack.parts:
        made.append(registry.process(stack.data / "registry", stack.logs, stack.ports))
    if "jaeger" in stack.parts:
        made.append(jaeger.process(stack.data / "jaeger", stack.logs, stack.ports, stack.progress.said))
    if "sandbox" in stack.parts:
        made.append(services.sandbox(stack.data / "sandbox", stack.logs, stack.ports))
    for service in [part for part in SERVICES if part in stack.parts]:
        role = partial(services.role, service, logs=stack.logs, ports=stack.ports)
        made += [role(name, env=environment(stack, service, name)) for name in ROLES]
    return made


def environment(stack: Stack, service: str, role: str) -> dict[str, str]:
    """The settings of one process of ours: addresses of this stack, then what was asked for."""
    settings = {
        "DATABASE_URL": stack.database_url(service, services.DATABASE_ROLE[role]),
        "SCHEMA_CACHE": str(stack.data / "schemas" / service),
    }
    if "kafka" in stack.parts:
        settings["KAFKA_BOOTSTRAP"] = stack.kafka_bootstrap
    if "registry" in stack.parts:
        settings["REGISTRY_URL"] = stack.registry_url
    if "sandbox" in stack.parts:
        settings["PROCESSOR_URL"] = stack.url("sandbox")
        settings["SMTP_URL"] = f"smtp://127.0.0.1:{stack.ports['smtp']}"
    if "jaeger" in stack.parts:
        settings["OTLP_ENDPOINTS"] = stack.url("jaeger-otlp")
        settings["JAEGER_URL"] = stack.url("jaeger")
    if service in stack.ports:
        settings["PUBLIC_URL"] = stack.url(service)
    named = {f"QUADRILLE_{name}": value for name, value in (settings | stack.settings).items()}
    return shell.program() | named
