"""The services of the whole, in the order of their ports: the only place in the repository where they are listed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quadrille.settings import Settings

SERVICES = ("order", "inventory", "payment", "notification")
CONSOLE = "console"
"""A service that takes no part in the saga: it hears all of it, says nothing and runs as one process."""
PROGRAMS = (*SERVICES, CONSOLE)
SCOPES = (
    "orders:read", "orders:write", "orders:cancel", "events:read", "webhooks:read", "webhooks:write", "stock:read",
    "stock:write", "payments:read", "notices:read", "contacts:read", "contacts:write", "traces:write", "ops:read",
    "ops:redrive", "ops:replay", "ops:resolve", "ops:findings", "admin",
)  # fmt: skip
"""What an API key may be given: the scopes of all routes; the last one holds every other."""


def all_settings() -> type[Settings]:
    """Return the settings that any of the services knows, as one class."""
    from quadrille.settings import Settings  # noqa: PLC0415 - 0.1 s that most starts can spare

    classes = dict.fromkeys(_settings_of(program) for program in PROGRAMS)
    classes.pop(Settings, None)
    return type("AllSettings", (*classes, Settings), {"__module__": __name__})


def known_to(service: str, settings: Mapping[str, str]) -> dict[str, str]:
    """Return those of the settings, by their names in capitals, that a service's own class knows."""
    if not settings:
        return {}
    known = _settings_of(service).model_fields
    return {name: value for name, value in settings.items() if name.lower() in known}


def _settings_of(service: str) -> type[Settings]:
    """Return a service's own class; a service that is not there is refused by name when it is to be started."""
    from quadrille.settings import Settings, settings_of  # noqa: PLC0415 - as above

    try:
        return settings_of(service)
    except ModuleNotFoundError:
        return Settings


def worker_process(program: str) -> str:
    """Return the name of the process that consumes for a program."""
    return program if program == CONSOLE else f"{program}-worker"


def worker_ops(program: str) -> str:
    """Return the name of the ops port of a program's worker."""
    return f"{program}-ops" if program == CONSOLE else f"{program}-worker"
