"""Events: what was committed is on its topic, in sequence, readable, with a cause, within one trace."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime

from quadrille_auditor.evidence import BEAT, SERVICES, Database, Evidence, OutboxRow, Record
from quadrille_auditor.ids import is_root, time_of
from quadrille_auditor.verdict import Finding, Verdict, invariant, judged

CHASSIS = "quadrille.chassis."
DEEPEST = 64
TELLS, BURIAL = "finding.raised", b"relay.buried"
"""The fact that takes a buried row's place: its text names the row. That it is on its topic is judged as of any row."""


@invariant(
    8, "outbox-on-topic", "Committed outbox ids = ids in the topic: none missing, none phantom.",
    reads="every outbox, every topic from its beginning",
)  # fmt: skip
def outbox_on_topic(e: Evidence) -> Verdict:
    """Hold each outbox against its topics, id by id and byte by byte."""
    there: dict[tuple[str, str], Record] = {(one.topic, one.id): one for one in e.firsts}
    beginnings = _beginnings(e)
    findings: list[Finding] = []
    count = 0
    for db in e.databases.values():
        rows = {(row.topic, row.id): row for row in db.outbox}
        count += len(rows)
        buried = _told_of(db)
        for place, row in rows.items():
            if place not in there:
                due = row.id in e.first[db.service] and row.at >= beginnings.get(row.topic, row.at)
                if due and row.id not in buried:
                    says = "an event was committed and is not on its topic"
                    found = "buried, and nobody was told" if row.id in db.buried else "missing"
                    shown = (row.id, row.type, f"sequence {row.sequence}")
                    findings.append(Finding(8, row.key, says, row.topic, found, shown))
            else:
                findings += _altered(row, there[place])
        findings += _phantoms(e, db, rows)
    return judged(count, findings)


def _told_of(db: Database) -> frozenset[str]:
    """Return the rows a person has buried of which the service has told, or is about to tell."""
    told = [row.payload for row in db.outbox if row.type == TELLS and BURIAL in row.payload]
    told += [detail.encode() for detail in db.burials]
    return frozenset(one for one in db.buried if any(f"row {one} ".encode() in text for text in told))


def _beginnings(e: Evidence) -> dict[str, datetime]:
    """Return, of topics that retention has cut, from when on they are whole."""
    found: dict[str, datetime] = {}
    for (topic, partition), (low, _) in e.ranges.items():
        if low:
            times = [
                datetime.fromisoformat(one.headers["ce_time"])
                for one in e.records
                if (one.topic, one.partition) == (topic, partition) and one.headers.get("ce_time")
            ]
            found[topic] = max(found.get(topic, datetime.min.replace(tzinfo=e.at.tzinfo)), min(times, default=e.at))
    return found


def _altered(row: OutboxRow, record: Record) -> Iterator[Finding]:
    mine = (row.key, row.type, str(row.sequence), row.cause, row.traceparent)
    headers = record.headers
    theirs = (
        record.key, record.type, headers.get("ce_sequence"), headers.get("ce_causationid"), headers.get("traceparent"),
    )  # fmt: skip
    if row.payload != record.value:
        says = "an event lies on its topic with other bytes than were committed"
        yield Finding(8, row.key, says, f"{len(row.payload)} bytes", f"{len(record.value)} bytes", (row.id, record.at))
    if mine != theirs:
        says = "an event lies on its topic under another key or headers than were committed"
        yield Finding(8, row.key, says, " ".join(mine), " ".join(map(str, theirs)), (row.id, record.at))


def _phantoms(e: Evidence, db: Database, rows: dict[tuple[str, str], OutboxRow]) -> Iterator[Finding]:
    for record in e.firsts:
        if record.source != db.service or (record.topic, record.id) in rows:
            continue
        told = record.headers.get("ce_time")
        if told and datetime.fromisoformat(told) >= db.outbox_floor:
            says = "an event is on a topic that no outbox holds"
            yield Finding(8, record.key, says, f"a row of {db.service}'s", "phantom", (record.id, record.at))


@invariant(
    9, "sequence",
    "Per source, topic and key, first appearances carry sequence 1..n in one partition: no gap, no inversion.",
    reads="every topic from its beginning",
)  # fmt: skip
def sequence(e: Evidence) -> Verdict:
    """Follow each stream through its topic."""
    last: dict[tuple[str, str, str], tuple[int, int]] = {}
    gaps: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for db in e.databases.values():
        for row in db.outbox:
            if row.id in db.buried:
                gaps[db.service, row.topic, row.key].add(row.sequence)
    findings = []
    for record in e.firsts:
        number, buried = record.headers.get("ce_sequence", ""), gaps.get((record.source, record.topic, record.key), ())
        if not number.isdecimal() or not record.source:
            continue  # a fault of its headers: invariant 14 names it
        stream = record.source, record.topic, record.key
        before = last.get(stream)
        partition, expected = (record.partition, 1) if before is None else (before[0], before[1] + 1)
        while expected in buried:
            expected += 1
        if before is None and not e.whole(record):
            expected = int(number)
        if record.partition != partition:
            says, found = "a key lies in two partitions", f"{record.partition}"
            findings.append(Finding(9, record.key, says, f"{partition}", found, (record.id, record.at)))
        if int(number) != expected:
            says = "events of a key have a gap, or are not in their order"
            findings.append(Finding(9, record.key, says, f"{expected}", number, (record.type, record.id, record.at)))
        last[stream] = partition, max(int(number), expected - 1 if before else 0)
    return judged(len(last), findings)


@invariant(
    11, "causation", "Causation ids resolve, roots excepted; no cycle.", reads="every outbox and inbox",
)  # fmt: skip
def causation(e: Evidence) -> Verdict:
    """Look up the cause of whatever services said for an order, and follow the causes to their roots."""
    causes: dict[str, str] = {}
    findings = []
    count = 0
    for db in e.databases.values():
        for row in (one for one in db.outbox if of_the_saga(db, one)):
            count += 1
            causes[row.id] = row.cause
            if not (is_root(row.cause) or row.cause in db.inbox or _forgotten(row.cause, db)):
                says = f"{db.service} said something for a cause that it has not handled"
                findings.append(Finding(11, row.key, says, "a cause in its inbox", row.cause, (row.type, row.id)))
    circles = {circle for start in causes if (circle := _circle(start, causes)) is not None}
    findings += [Finding(11, "", "events are each other's cause", "a root", "a circle", one) for one in circles]
    return judged(count, findings)


def of_the_saga(db: Database, row: OutboxRow) -> bool:
    """Tell whether a row is what a handler said on its service's own topic, not the chassis of itself."""
    return row.topic == f"{db.service}.events" and row.type != BEAT


def _forgotten(cause: str, db: Database) -> bool:
    """Tell whether the inbox of a cause's day has gone."""
    return time_of(cause) < db.inbox_floor


def _circle(start: str, causes: dict[str, str]) -> tuple[str, ...] | None:
    at, path = start, [start]
    while (at := causes.get(at, "")) and len(path) < DEEPEST:
        if at == start:
            return tuple(sorted(path))
        path.append(at)
    return tuple(path[:3]) if len(path) >= DEEPEST else None


@invariant(
    14, "decodes", "Every record decodes with its schema id.", reads="every topic, the registry",
)  # fmt: skip
def decodes(e: Evidence) -> Verdict:
    """Name what could not be read, and what is not of the type and order that its headers and key say."""
    findings = []
    for record in e.records:
        if record.fault:
            says = "a record cannot be read"
            findings.append(Finding(14, record.key, says, "Avro of its schema", record.fault, (record.id, record.at)))
            continue
        wanted = "".join(word.capitalize() for word in record.type.replace("_", ".").split("."))
        owner = f"quadrille.{record.source}."
        if record.name not in (owner + wanted, CHASSIS + wanted):
            says = "a record is not of the type its header names"
            findings.append(Finding(14, record.key, says, wanted, record.name, (record.id, record.at)))
        elif record.type != BEAT and next(iter(record.body.values()), None) != record.key:
            says = "a record's key is not its body's"
            findings.append(Finding(14, record.key, says, record.key, "another", (record.id, record.at)))
    return judged(e.records, findings)


@invariant(
    21, "one-trace", "One trace per order joins all services that acted.", reads="every outbox, order's orders",
)  # fmt: skip
def one_trace(e: Evidence) -> Verdict:
    """Demand that whatever was said of an order is in its trace; what an operator began may be in one of its own."""
    traces: defaultdict[str, set[tuple[str, str, str]]] = defaultdict(set)
    for service in SERVICES:
        db = e.databases[service]
        for row in (one for one in db.outbox if of_the_saga(db, one)):
            traces[row.key].add((row.traceparent[3:35], service, f"{row.type} {row.id}"))
    by_hand = {row.subject for db in e.databases.values() for row in db.audit}
    findings = []
    for id_, order in e.orders.items():
        inside = {service for trace, service, _ in traces.get(id_, ()) if trace == order.trace_id}
        for trace, service, where in traces.get(id_, ()):
            if trace != order.trace_id and (id_ not in by_hand or service not in inside):
                says = f"{service} has acted on an order outside its trace"
                findings.append(Finding(21, id_, says, order.trace_id, trace, (where,)))
    return judged(len(e.orders), findings)
