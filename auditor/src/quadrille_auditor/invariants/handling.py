"""Handling: every input is accounted for and had its effect once, and what was set aside has an end with a name."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from quadrille_auditor.evidence import BEAT, HEARD, Database, Evidence, Record
from quadrille_auditor.ids import hash_in, hash_of, time_of
from quadrille_auditor.invariants.events import of_the_saga
from quadrille_auditor.verdict import Finding, Verdict, invariant, judged

ONCE = frozenset(
    {
        *("order.placed", "order.cancellation_requested", "order.confirmed", "order.cancelled"),
        *("stock.reserved", "stock.rejected", "stock.committed", "stock.released", "stock.resolved"),
        *("payment.charged", "payment.declined", "payment.outcome_unknown", "payment.skipped", "payment.refunded"),
        "payment.resolved",
    }
)
"""What is said of an order once at most (law.md, L3, L9, L11)."""
MAILED = frozenset({"notification.sent", "notification.suppressed", "notification.failed"})
STATES = ("OPEN", "DEAD", "REDRIVEN", "DISCARDED")


@invariant(
    10, "effect-once", "Each (service, event id) has its effect exactly once; no effect without its event.",
    reads="every outbox and inbox",
)  # fmt: skip
def effect_once(e: Evidence) -> Verdict:
    """Reckon anew the id of whatever was said for each input, and count what may be said once only."""
    findings: list[Finding] = []
    count = 0
    for db in e.databases.values():
        rows = [row for row in db.outbox if of_the_saga(db, row)]
        count += len(rows)
        ids = Counter(row.id for row in rows)
        findings += [
            Finding(10, row.key, "an event was committed twice", "1 row", f"{ids[row.id]} rows", (row.type, row.id))
            for row in rows
            if ids[row.id] > 1
        ]
        findings += _derived(db)
        findings += _twice(e, db)
    return judged(count, findings)


def _derived(db: Database) -> Iterator[Finding]:
    """Yield the events whose id is not that of their cause: made by chance, it would be another at every try."""
    together: defaultdict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for row in db.outbox:
        if of_the_saga(db, row):
            together[row.cause, row.type].append((row.id, row.key))
    for (cause, kind), rows in together.items():
        wanted = {hash_of(db.service, cause, kind, ordinal) for ordinal in range(len(rows))}
        for id_, key in rows:
            if hash_in(id_) not in wanted:
                says = "an event's id does not follow from its cause"
                yield Finding(10, key, says, f"of {db.service}, {cause}, {kind}", id_, (kind,))


def _twice(e: Evidence, db: Database) -> Iterator[Finding]:
    said = Counter((row.key, row.type) for row in db.outbox if row.type in ONCE and of_the_saga(db, row))
    for (key, kind), times in said.items():
        if times > 1:
            shown = tuple(row.id for row in db.outbox if (row.key, row.type) == (key, kind))
            yield Finding(10, key, f"{kind} was said more than once of an order", "1", f"{times}", shown)
    if db.service == "notification":
        yield from _mailed_twice(e)


def _mailed_twice(e: Evidence) -> Iterator[Finding]:
    ends: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for record in e.firsts:
        if record.topic == "notification.events" and record.type in MAILED:
            ends[record.key, str(record.body.get("kind"))].append(record.id)
    for (key, kind), ids in ends.items():
        if len(ids) > 1:
            yield Finding(10, key, f"the {kind} mail came to an end more than once", "1", f"{len(ids)}", tuple(ids))


@invariant(
    12, "accounted", "Every record below a consumer's position is handled, parked or dead: none unaccounted.",
    reads="every topic, positions, inboxes, parked inputs",
)  # fmt: skip
def accounted(e: Evidence) -> Verdict:
    """Look up every record that a service has stepped over, in its inbox and among what it set aside."""
    findings: list[Finding] = []
    count = 0
    for db in e.databases.values():
        places = {(row.topic, row.partition, row.offset) for row in db.parked}
        aside = {row.id for row in db.parked}
        for record in _stepped_over(e, db):
            count += 1
            told = record.id in db.inbox or record.id in aside or record[:3] in places
            if not told and not _too_old(record, db):
                says = f"{db.service} has stepped over a record without handling it"
                shown = (record.type, record.id, record.at)
                findings.append(Finding(12, record.key, says, "in its inbox, or parked", "neither", shown))
    return judged(count, findings)


def _stepped_over(e: Evidence, db: Database) -> Iterator[Record]:
    heard = HEARD[db.service]
    for record in e.records:
        if record.offset < db.positions.get((record.topic, record.partition), 0):
            nameless = not record.type and record.topic.endswith(".events")
            if (record.type in heard and record.type != BEAT) or nameless:
                yield record


def _too_old(record: Record, db: Database) -> bool:
    return bool(record.id) and time_of(record.id) < db.inbox_floor


@invariant(
    13, "parked-closed",
    "Every parked or dead record is open, redriven, or discarded by a named person with a reason.",
    reads="parked inputs",
)  # fmt: skip
def parked_closed(e: Evidence) -> Verdict:
    """Look at the end of whatever was set aside."""
    rows = [(db.service, row) for db in e.databases.values() for row in db.parked]
    findings = []
    for service, row in rows:
        shown = (service, row.type, row.id)
        if row.state not in STATES:
            says = "a parked input is in no known state"
            findings.append(Finding(13, row.line, says, "/".join(STATES), row.state, shown))
        elif row.state == "DISCARDED" and not (row.ended_by.strip() and row.reason.strip()):
            says, found = "a parked input was discarded without a name or a reason", row.ended_by or "nobody"
            findings.append(Finding(13, row.line, says, "who, and why", found, shown))
        elif row.state == "REDRIVEN" and not row.ended_by.strip():
            findings.append(Finding(13, row.line, "a parked input was redriven by nobody", "who", "nobody", shown))
    return judged(rows, findings)
