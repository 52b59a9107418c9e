"""Report of a replay: what became of its records, counted; a count is stored with what it counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from quadrille.messages import Event
from quadrille.processing.envelope import Duplicate, EffectBlocked, Envelope, Handled, Outcome, Parked

VERDICTS = ("SEEN", "NEW", "FENCED", "PARKED", "OLD", "UNHEARD", "UNDECODABLE")
LISTED = 20


@dataclass(slots=True)
class ReplayReport:
    """How far a replay is: ``next`` by partition, verdicts by type, what was or would be said and kept back.

    ``parked`` are records whose handler failed now, by error class; ``unreadable`` are the first of those listed.
    """

    step: int = 0
    next: dict[int, int] = field(default_factory=dict)
    verdicts: dict[str, dict[str, int]] = field(default_factory=dict)
    orders: int = 0
    facts: dict[str, int] = field(default_factory=dict)
    kept_back: dict[str, int] = field(default_factory=dict)
    parked: dict[str, int] = field(default_factory=dict)
    unreadable: list[dict[str, Any]] = field(default_factory=list)
    failure: str | None = None

    @property
    def records(self) -> int:
        """How many records were looked at."""
        return sum(sum(counts.values()) for counts in self.verdicts.values())

    def total(self, verdict: str) -> int:
        """Return how many records had a verdict."""
        return sum(counts.get(verdict, 0) for counts in self.verdicts.values())

    def count(self, kind: str, verdict: str) -> None:
        """Count a record."""
        counts = self.verdicts.setdefault(kind, {})
        counts[verdict] = counts.get(verdict, 0) + 1

    def envelope(self, batch: Sequence[tuple[Envelope, Outcome]]) -> None:
        """Count what ``process_batch`` made of a batch."""
        for one, outcome in batch:
            match outcome:
                case Handled(emitted):
                    self.count(one.type, "NEW")
                    _add(self.facts, [fact.type for fact in emitted if isinstance(fact, Event)])
                case Duplicate():
                    self.count(one.type, "SEEN")
                case EffectBlocked(verdict, effects):
                    self.count(one.type, verdict)
                    _add(self.kept_back, effects)
                case Parked(error_class):
                    self.count(one.type, "PARKED")
                    _add(self.parked, [error_class])
                case other:
                    message = f"a fact is neither {type(other).__name__} nor is it read again"
                    raise TypeError(message)
        self.orders += len({one.key for one, outcome in batch if isinstance(outcome, Handled)})

    def unread(self, kind: str, place: tuple[int, int], reason: str, raw: bytes) -> None:
        """Count bytes that cannot be read, and list the first of them."""
        self.count(kind, "UNDECODABLE")
        if len(self.unreadable) < LISTED:
            found = {"partition": place[0], "offset": place[1], "reason": reason, "bytes": raw[:32].hex()}
            self.unreadable.append(found)

    def copy(self) -> ReplayReport:
        """Return one that may be changed and thrown away."""
        return report_of(self.document())

    def document(self) -> dict[str, Any]:
        """Return it as it is stored."""
        document: dict[str, Any] = _REPORT.dump_python(self, mode="json")
        return document | {"records": self.records}


_REPORT = TypeAdapter(ReplayReport)


def report_of(document: dict[str, Any]) -> ReplayReport:
    """Return the tally of a stored document."""
    return _REPORT.validate_python({name: value for name, value in document.items() if name != "records"})


def _add(counts: dict[str, int], names: Sequence[str] | frozenset[str]) -> None:
    for name in names:
        counts[name] = counts.get(name, 0) + 1
