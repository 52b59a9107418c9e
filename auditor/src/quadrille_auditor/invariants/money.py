"""Money: the processor's own ledger against the orders, never payment's word alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import timedelta

from quadrille_auditor.evidence import Evidence, Money, Order
from quadrille_auditor.ids import time_of
from quadrille_auditor.verdict import Finding, Verdict, invariant, judged

SIGNS = {"CAPTURE": 1, "VOID": -1, "REFUND": -1}
NO_LEDGER = "the processor's ledger was not given"
LONGEST = timedelta(hours=20)


@invariant(
    4, "money",
    "Captured − refunded = total if CONFIRMED, else 0, per order; at most one capture; refunds ≤ captures.",
    reads="the processor's ledger, payment's entries, order's orders, order.placed",
)  # fmt: skip
def money(e: Evidence) -> Verdict:
    """Add up the processor's ledger per order, and hold it against the orders and payment's own ledger."""
    if not e.outside:
        return judged(0, (), NO_LEDGER)
    of_order, entries = _by_order(e.ledger), _by_order(e.entries)
    findings: list[Finding] = []
    for id_, lines in of_order.items():
        findings += _moves(id_, lines, e.orders.get(id_))
    for order in e.resting.values():
        findings += _balance(e, order, of_order[order.id])
        findings += _own_entries(order, of_order[order.id], entries[order.id])
    findings += _prices(e)
    return judged(len(e.orders), findings)


def _moves(id_: str, lines: list[Money], order: Order | None) -> Iterator[Finding]:
    """Yield what is wrong whatever state an order is in."""
    captures = [line for line in lines if line.kind == "CAPTURE"]
    taken = sum(line.amount_minor for line in captures)
    back = sum(line.amount_minor for line in lines) - taken
    keys = tuple(line.key for line in lines)
    if order is None:
        yield Finding(4, id_, "money moved for an order that is not there", "an order", f"{taken - back}", keys)
        return
    if len(captures) > 1:
        yield Finding(4, id_, "a card was charged more than once", "1 capture at most", f"{len(captures)}", keys)
    if back > taken:
        yield Finding(4, id_, "more was given back than was taken", f"{taken} at most", f"{back}", keys)
    for line in captures:
        if (line.amount_minor, line.currency) != (order.amount_minor, order.currency):
            expected, found = f"{order.amount_minor} {order.currency}", f"{line.amount_minor} {line.currency}"
            yield Finding(4, id_, "a charge is not of the order's total", expected, found, (line.key,))


def _balance(e: Evidence, order: Order, lines: list[Money]) -> Iterator[Finding]:
    payment = e.payments.get(order.id)
    if payment and payment.how:
        return  # a person has ended it, on evidence from outside: invariant 20 wants the row that says so
    due = order.amount_minor if order.status == "CONFIRMED" else 0
    kept = sum(SIGNS.get(line.kind, 0) * line.amount_minor for line in lines)
    if kept != due:
        says = f"the processor keeps what it should not of an order that is {order.status}"
        yield Finding(4, order.id, says, f"{due} {order.currency}", f"{kept}", tuple(line.key for line in lines))


def _own_entries(order: Order, lines: list[Money], mine: list[Money]) -> Iterator[Finding]:
    if sorted(mine) != sorted(lines):
        says = "payment's ledger is not the processor's"
        shown = ", ".join(f"{line.kind} {line.amount_minor}" for line in sorted(lines)) or "nothing"
        found = ", ".join(f"{line.kind} {line.amount_minor}" for line in sorted(mine)) or "nothing"
        yield Finding(4, order.id, says, shown, found, tuple(line.key for line in (*lines, *mine)))


def _by_order(lines: Iterable[Money]) -> defaultdict[str, list[Money]]:
    found: defaultdict[str, list[Money]] = defaultdict(list)
    for line in lines:
        found[line.order].append(line)
    return found


def _prices(e: Evidence) -> Iterator[Finding]:
    for record in e.firsts:
        if record.type != "order.placed" or record.fault or (order := e.orders.get(record.key)) is None:
            continue
        total = sum(line["quantity"] * line["unit_price_minor"] for line in record.body["lines"])
        if not total == record.body["amount_minor"] == order.amount_minor:
            found = f"{record.body['amount_minor']} said, {order.amount_minor} kept"
            says = "an order's total is not the sum of its lines"
            yield Finding(4, record.key, says, f"{total}", found, (record.at,))


@invariant(
    5, "charged-implies-reserved", "No capture without an earlier reservation of that order.",
    reads="the processor's ledger, inventory's outbox, payment's inbox",
)  # fmt: skip
def charged_implies_reserved(e: Evidence) -> Verdict:
    """Demand for every capture a reservation that inventory said and payment had handled."""
    if not e.outside:
        return judged(0, (), NO_LEDGER)
    reserved = {row.key: row.id for row in e.databases["inventory"].outbox if row.type == "stock.reserved"}
    handled, floor = e.databases["payment"].inbox, e.databases["inventory"].outbox_floor
    captures = [line for line in e.ledger if line.kind == "CAPTURE"]
    findings = []
    for line in captures:
        order, reservation = e.orders.get(line.order), reserved.get(line.order)
        if order is None or order.placed_at < floor:
            continue  # its reservation is past what an outbox keeps
        if reservation is None:
            says = "a card was charged for an order that nothing was reserved for"
            findings.append(Finding(5, line.order, says, "stock.reserved", "none", (line.key,)))
        elif reservation not in handled and time_of(reservation) >= e.databases["payment"].inbox_floor:
            says = "a card was charged before payment had handled the reservation"
            findings.append(Finding(5, line.order, says, "handled by payment", "not", (line.key, reservation)))
    return judged(captures, findings)


@invariant(
    18, "unknown-outcomes", "No unknown outcome older than 20 h.", reads="payment's payments and tasks",
)  # fmt: skip
def unknown_outcomes(e: Evidence) -> Verdict:
    """Find charges that were begun long ago and have no definite answer, and those that nobody asks about any more."""
    open_ = [one for one in e.payments.values() if one.state in ("CHARGING", "UNKNOWN")]
    asked = {task.key for task in e.databases["payment"].tasks}
    parked = {row.line for row in e.databases["payment"].parked}
    findings = []
    for one in open_:
        if one.began_at and e.at - one.began_at > LONGEST:
            says = "the outcome of a charge is not known after 20 h"
            findings.append(Finding(18, one.order, says, "an answer", one.state, (str(one.began_at),)))
        if one.order not in asked and one.order not in e.moved and not parked & {one.order}:
            says = "nobody asks what became of a charge"
            findings.append(Finding(18, one.order, says, "an open intent", one.state))
    return judged(open_, findings)
