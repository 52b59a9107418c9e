"""People: each customer is written to once, nothing of theirs leaks, and what operators did is written down."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator

from quadrille_auditor.evidence import AuditRow, Evidence
from quadrille_auditor.verdict import Finding, Verdict, invariant, judged

MESSAGE = re.compile(r"<(?P<kind>[a-z]+)\.(?P<order>[0-9a-f-]{36})@")
ADDRESS = re.compile(rb"[A-Za-z0-9][\w.+-]*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")
CARD = re.compile(rb"(?<![\w-])(?:\d[ -]?){15}\d(?![\w-])")
GENESIS = bytes(32)
UNREAD = "traces and metrics are not read"


@invariant(
    15, "one-mail",
    "One `confirmed` mail per confirmed order, unless `notification.failed` or `.suppressed` says why.",
    reads="the mailbox, notification's events and notices",
)  # fmt: skip
def one_mail(e: Evidence) -> Verdict:
    """Hold the mailbox against the orders: who is owed a mail has one, and who is not has none."""
    if not e.outside:
        return judged(0, (), "the mailbox was not given")
    mails: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for mail in e.mails:
        told = MESSAGE.match(mail.message_id)
        mails[mail.order, told["kind"] if told else ""].append(mail.message_id)
    excused = {
        (one.key, str(one.body.get("kind")))
        for one in e.firsts
        if one.type in ("notification.failed", "notification.suppressed")
    }
    if any(low for (topic, _), (low, _) in e.ranges.items() if topic == "notification.events"):
        excused |= {(one.order, one.kind) for one in e.notices if one.state in ("FAILED", "SUPPRESSED")}
    findings = [*_owed(e, mails, excused), *_unowed(e, mails)]
    doubled = {place: ids for place, ids in mails.items() if len(ids) > 1}
    if sum(len(ids) - 1 for ids in doubled.values()) > e.extra_mails:
        for (order, kind), ids in doubled.items():
            says = f"a {kind} mail was sent more than once"
            findings.append(Finding(15, order, says, "1", f"{len(ids)}", tuple(sorted(set(ids)))))
    return judged(len(e.mails), findings)


def _owed(
    e: Evidence, mails: defaultdict[tuple[str, str], list[str]], excused: set[tuple[str, str]]
) -> Iterator[Finding]:
    for id_, order in e.resting.items():
        kind = order.status.lower()
        if (id_, kind) not in excused and not mails[id_, kind]:
            yield Finding(15, id_, f"a customer got no {kind} mail, and nothing says why", "1 mail", "none")


def _unowed(e: Evidence, mails: defaultdict[tuple[str, str], list[str]]) -> Iterator[Finding]:
    for (id_, kind), ids in mails.items():
        order = e.orders.get(id_)
        passed = {status for _, status, _ in order.history} if order else set()
        if ids and kind.upper() not in passed and id_ not in e.moved:
            says = f"a customer got a {kind or 'strange'} mail about an order that never was"
            yield Finding(15, id_, says, "none", f"{len(ids)}", tuple(sorted(set(ids))))
        elif len(set(ids)) > 1:
            shown = tuple(sorted(set(ids)))
            yield Finding(15, id_, "one mail went out under two ids", "1 id", f"{len(shown)}", shown)


@invariant(
    19, "no-personal-data", "No personal datum in topics, logs, traces, metrics or dead letters.",
    reads="every topic, dead letters too, and the logs where their folder is given",
)  # fmt: skip
def no_personal_data(e: Evidence) -> Verdict:
    """Search every record and log for addresses and card numbers: what is found is not told, only where."""
    findings = [
        Finding(19, record.key, f"{what} is in a record", "none", what, (record.at,))
        for record in e.records
        for what in _personal(b"\0".join((record.value, *map(str.encode, (record.key, *record.headers.values())))))
    ]
    findings += [
        Finding(19, "", f"{what} is in a log", "none", what, (f"{name}:{number}",))
        for name, log in e.logs
        for number, line in enumerate(log.splitlines(), 1)
        for what in _personal(line.encode())
    ]
    return judged(len(e.records) + len(e.logs), findings, UNREAD if e.logs else f"{UNREAD}; no logs were given")


def _personal(text: bytes) -> Iterator[str]:
    if b"@" in text and ADDRESS.search(text):
        yield "an address"
    if any(_is_card(found[0]) for found in CARD.finditer(text)):
        yield "a card's number"


def _is_card(digits: bytes) -> bool:
    """Tell whether digits bear their own check, as every card's number does (Luhn)."""
    numbers = [int(digit) for digit in digits.decode() if digit.isdigit()][::-1]
    return sum(n if place % 2 == 0 else sum(divmod(2 * n, 10)) for place, n in enumerate(numbers)) % 10 == 0


@invariant(
    20, "audited", "Every privileged action has an audit row.",
    reads="every audit chain, parked inputs, resolutions, order's orders",
)  # fmt: skip
def audited(e: Evidence) -> Verdict:
    """Verify each chain of hashes, and find for what only a person can do the row that says who did it."""
    findings: list[Finding] = []
    count = 0
    for service, db in e.databases.items():
        count += len(db.audit)
        findings += _chain(service, db.audit)
        rows = Counter((row.action, row.subject) for row in db.audit)
        for parked in db.parked:
            if parked.state == "DISCARDED" and parked.id not in _told_of(db.audit, "discard"):
                says = f"{service} discarded an input, and no audit row says who did"
                findings.append(Finding(20, parked.line, says, "parked-discard", "none", (parked.id,)))
        for row in db.outbox:
            if row.type in ("stock.resolved", "payment.resolved") and not rows["resolve", row.key]:
                says = f"{service} ended an undo by hand, and no audit row says who did"
                findings.append(Finding(20, row.key, says, "resolve", "none", (row.type, row.id)))
    cancelled = {row.subject for row in e.databases["order"].audit if row.action == "cancel"}
    findings += [
        Finding(20, id_, "an operator cancelled an order, and no audit row says who did", "cancel", "none")
        for id_, order in e.orders.items()
        if order.reason == "OPERATOR" and id_ not in cancelled
    ]
    return judged(count, findings)


def _told_of(rows: tuple[AuditRow, ...], verb: str) -> str:
    """Return all that the rows of one verb say: the ids of what they were about are in it."""
    return "\n".join(row.said for row in rows if verb in row.action)


def _chain(service: str, rows: tuple[AuditRow, ...]) -> Iterator[Finding]:
    """Yield the first row of a chain that is missing, changed, or does not follow."""
    previous = GENESIS
    for place, row in enumerate(rows, 1):
        if row.number != place:
            yield Finding(20, "", f"{service}'s audit chain lacks a row", f"{place}", f"{row.number}")
            return
        if row.previous != previous:
            yield Finding(20, row.subject, f"{service}'s audit row does not follow the one before it", "", f"{place}")
            return
        if row.hash != hashlib.sha256(row.previous + row.said.encode()).digest():
            yield Finding(20, row.subject, f"{service}'s audit row was changed", "", f"{place}", (row.action,))
            return
        previous = row.hash
