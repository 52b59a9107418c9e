"""What every role's /readyz says while faults last, and whether that is the truth.

The truth: a role needs its own database, writable; worker and relay need Kafka too; nobody needs the registry once
schemas are known, nor the processor, nor another service. Who lacks what it needs is not ready; everybody else is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeAlias

from quadrille_cli.client import Client, NoAnswerError, Reply
from quadrille_cli.stack import Stack
from tests.faults.faults import ROLES, Fault

ANSWER_SECONDS = 8.0  # longer than the checks themselves may take; who is not asked in vain does not answer at all
STEADY = 3
"""Looks in a row: a single late check of a busy machine is no lie."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a role said, and what it gave as the reason if it is not ready."""

    ready: bool
    why: str = ""


Sample: TypeAlias = Mapping[str, Answer]
SILENT = Answer(ready=False, why="no answer")


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


class Watch:
    """Asks the roles of a stack."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def look(self, but: Collection[str] = ()) -> dict[str, Answer]:
        """Ask every role at once, but those that cannot answer."""
        asked = [role for role in ROLES if role not in but]
        with ThreadPoolExecutor(len(asked)) as pool:
            return dict(zip(asked, pool.map(self._ask, asked), strict=True))

    def _ask(self, role: str) -> Answer:
        with Client(f"http://127.0.0.1:{self._stack.ports[role]}", ANSWER_SECONDS) as ops:
            try:
                return _read(ops.ask("GET", "/readyz"))
            except NoAnswerError:
                return SILENT


def _read(reply: Reply) -> Answer:
    if reply.status == HTTPStatus.OK:
        return Answer(ready=True)
    checks = reply.body.get("checks", {})
    failed = {name: check.get("error") for name, check in checks.items() if not check.get("ok")}
    return Answer(ready=False, why=", ".join(f"{name} {error or 'not ok'}" for name, error in failed.items()))
