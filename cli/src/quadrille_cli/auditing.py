"""An audit of a stack: where everything of it lies, for the command, for benches and for whoever breaks things."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quadrille_auditor import Report, Sources, audit
from quadrille_cli.services import SERVICES

if TYPE_CHECKING:
    from collections.abc import Collection

    from quadrille_cli.stack import Stack


def sources(stack: Stack, **more: Any) -> Sources:  # noqa: ANN401 - as ``Sources`` has them
    """Return where an auditor reads a stack; ``more`` are fields of ``Sources``: clients, logs, wait, healed_at."""
    return Sources(
        databases={name: stack.database_url(name) for name in SERVICES}, bootstrap=stack.kafka_bootstrap,
        registry=stack.registry_url, sandbox=stack.url("sandbox") if "sandbox" in stack.ports else "", **more,
    )  # fmt: skip


def audited(stack: Stack, only: Collection[str] = (), **more: Any) -> Report:  # noqa: ANN401 - as above
    """Audit a stack by all invariants, or by those of these names or numbers."""
    return audit(sources(stack, **more), only)
