"""What every role's /readyz says while faults last, and whether that is the truth.

The truth: a role needs its own database, writable; worker and relay need Kafka too; nobody needs the registry once
schemas are known, nor the processor, nor another service. Who lacks what it needs is not ready; everybody else is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from quadrille_cli.chaos.readiness import Sample
from tests.faults.faults import Fault

STEADY = 3
"""Looks in a row: a single late check of a busy machine is no lie."""


def needs(role: str) -> frozenset[str]:
    """Return the processes without which a role cannot do its work."""
    service, _, name = role.partition("-")
    return frozenset({role, f"postgres:{service}"} | (set() if name == "api" else {"kafka"}))


def lacking(role: str, faults: Collection[Fault]) -> list[Fault]:
    """Return the faults that keep a role from its work; a relay's sessions write whatever a database's default says."""
    kept = [fault for fault in faults if fault.target in needs(role)]
    return [fault for fault in kept if not (fault.kind == "read-only" and role.endswith("-relay"))]


def lies(faults: Collection[Fault], samples: Sequence[Sample]) -> list[str]:
    """Hold what was said while these faults lasted against the truth."""
    found = []
    for role in samples[-1] if samples else ():
        missing = " and ".join(str(fault) for fault in lacking(role, faults))
        if missing and samples[-1][role].ready:
            found.append(f"{role} says it is ready with {missing}, asked {len(samples)} times")
        if not missing and (why := _unready(role, samples)):
            found.append(f"{role}, which lacks nothing, says it is not ready: {why}")
    return found


def _unready(role: str, samples: Sequence[Sample]) -> str:
    """Return why a role was not ready several times in a row, or the last time; empty if it was."""
    for n in range(len(samples)):
        run = samples[n : n + STEADY]
        if all(not sample[role].ready for sample in run):
            return run[-1][role].why
    return ""
