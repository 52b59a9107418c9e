"""An audit: everything is read, then judged invariant by invariant; what came of it is a report."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from quadrille_auditor import invariants
from quadrille_auditor.evidence import SERVICES, Evidence
from quadrille_auditor.gather import gather
from quadrille_auditor.sources import Sources, StillMovingError, UnreadableError
from quadrille_auditor.verdict import INVARIANTS, Finding, Verdict

CLEAN, BROKEN, UNJUDGED = 0, 1, 8
DECLARED = invariants.__all__
"""Where the judges are: to import them is to have them in ``INVARIANTS``."""


@dataclass(frozen=True, slots=True)
class Row:
    """One invariant as it was judged."""

    number: int
    name: str
    verdict: Verdict
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """What an audit found; ``unread`` could not be read, ``moving`` did not stand still in time."""

    rows: tuple[Row, ...] = ()
    read: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    moving: tuple[str, ...] = ()
    orders: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every breach, by invariant."""
        return tuple(finding for row in self.rows for finding in row.verdict.findings)

    @property
    def code(self) -> int:
        """0 clean, 1 a breach, 8 something could not be read or did not stand still: never green by omission."""
        if self.unread or self.moving:
            return UNJUDGED
        return BROKEN if self.findings else CLEAN

    def document(self) -> dict[str, Any]:
        """Return it as JSON shows it."""
        return {
            "code": self.code, "orders": self.orders, "read": list(self.read), "unread": list(self.unread),
            "moving": list(self.moving), "seconds": round(self.seconds, 1),
            "invariants": [
                {"number": row.number, "name": row.name, "checked": row.verdict.checked,
                 "findings": len(row.verdict.findings), "unjudged": row.verdict.unjudged or None}
                for row in self.rows
            ],
            "findings": [finding.document() for finding in self.findings],
        }  # fmt: skip


def audit(sources: Sources, only: Collection[str] = ()) -> Report:
    """Read everything and judge it by all invariants, or by those of these names or numbers."""
    began = time.monotonic()
    try:
        evidence = gather(sources)
    except UnreadableError as unread:
        return Report(unread=(str(unread),), seconds=time.monotonic() - began)
    except StillMovingError as moving:
        return Report(moving=moving.behind, seconds=time.monotonic() - began)
    return judge(evidence, only, began)


def judge(evidence: Evidence, only: Collection[str] = (), began: float | None = None) -> Report:
    """Judge what was read; pure but for the clock that says how long it took."""
    since = time.monotonic() if began is None else began
    rows = []
    for number, one in sorted(INVARIANTS.items()):
        if only and one.name not in only and str(number) not in only:
            continue
        start = time.monotonic()
        verdict = one.judge(evidence)
        rows.append(Row(number, one.name, verdict, time.monotonic() - start))
    orders = {
        "all": len(evidence.orders), "at_rest": len(evidence.resting), "in_flight": len(evidence.in_flight),
        "frozen": len(evidence.frozen),
    }  # fmt: skip
    return Report(tuple(rows), tuple(_read(evidence)), orders=orders, seconds=time.monotonic() - since)


def _read(e: Evidence) -> Iterator[str]:
    """Yield what was read, a line a source."""
    topics = sorted({topic for topic, _ in e.ranges})
    for topic in topics:
        mine = [bounds for (name, _), bounds in e.ranges.items() if name == topic]
        count = sum(record.topic == topic for record in e.records)
        cut = sum(low for low, _ in mine)
        gone = f", the first {cut:,} gone by retention" if cut else ""
        yield f"{topic}: {count:,} records, to offset {sum(high for _, high in mine):,}{gone}"
    for service in SERVICES:
        db = e.databases[service]
        told = f"{len(db.outbox):,} outbox rows, {len(db.inbox):,} handled, {len(db.parked):,} set aside"
        yield f"database {service}: {told}, {len(db.audit):,} audit rows"
    yield f"outside: {len(e.ledger):,} ledger lines, {len(e.mails):,} mails"
    if e.clients is not None:
        yield f"clients' log: {len(e.clients):,} lines"
    if e.logs:
        yield f"logs: {len(e.logs)} files"
