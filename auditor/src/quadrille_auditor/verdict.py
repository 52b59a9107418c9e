"""Invariant, verdict and finding: what is judged, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from quadrille_auditor.evidence import Evidence


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One breach: where, what was expected and what was found, and the ids, amounts and places that show it."""

    invariant: int
    order: str
    says: str
    expected: str = ""
    found: str = ""
    shown_by: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return it as JSON shows it."""
        return {
            "invariant": self.invariant, "order_id": self.order or None, "says": self.says,
            "expected": self.expected, "found": self.found, "evidence": list(self.shown_by),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge found: how many things were held against the invariant, and which breach it."""

    checked: int
    findings: tuple[Finding, ...]
    unjudged: str = ""
    """Why nothing, or not all of it, could be judged: an input that was not given."""


Judge: TypeAlias = Callable[[Evidence], Verdict]


@dataclass(frozen=True, slots=True)
class Invariant:
    """One of the 21 sentences that must hold of the whole (law.md, "Invariants")."""

    number: int
    name: str
    sentence: str
    judge: Judge
    reads: str


INVARIANTS: dict[int, Invariant] = {}
"""All of them, by number, as their modules declare them."""


def invariant(number: int, name: str, sentence: str, *, reads: str) -> Callable[[Judge], Judge]:
    """Declare the function below as the judge of an invariant; ``reads`` says of what evidence."""

    def declare(judge: Judge) -> Judge:
        INVARIANTS[number] = Invariant(number, name, sentence, judge, reads)
        return judge

    return declare


def judged(checked: int | Sequence[object], findings: Iterable[Finding], unjudged: str = "") -> Verdict:
    """Return a verdict, its findings sorted, so that two audits of the same thing compare."""
    count = checked if isinstance(checked, int) else len(checked)
    return Verdict(count, tuple(sorted(set(findings))), unjudged)
