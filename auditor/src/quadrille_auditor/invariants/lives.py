"""An order's life: one end, reached by the law's steps, and nothing that stands still for ever."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from quadrille_auditor.evidence import Evidence, Order, Record
from quadrille_auditor.verdict import Finding, Verdict, invariant, judged

STEPS = {
    ("", "order.placed"): "open",
    ("open", "order.confirmed"): "confirmed",
    ("open", "order.cancellation_requested"): "cancelling",
    ("confirmed", "order.cancellation_requested"): "cancelling",
    ("cancelling", "order.compensation_failed"): "cancelling",
    ("cancelling", "order.compensation_resolved"): "cancelling",
    ("cancelling", "order.cancelled"): "cancelled",
}
"""What order may say, and when (law.md, L9): whatever is not here, it may not."""
SETTLED = {
    "inventory": frozenset({"REJECTED", "RELEASED", "RESOLVED"}),
    "payment": frozenset({"DECLINED", "SKIPPED", "REFUNDED", "RESOLVED"}),
}
"""What each participant must have acknowledged before an order may be called cancelled (law.md, L3)."""
ENDS = {"confirmed": "CONFIRMED", "cancelled": "CANCELLED"}
HEALING = timedelta(seconds=30)
TIMERS = frozenset({"order_deadline", "order_check"})
"""What ends an undecided order at its deadline: one timer at a time, a look sets the next (law.md, "Clocks")."""
LATE = timedelta(minutes=1)


@invariant(
    3, "one-end",
    "Every order reaches exactly one end; nothing changes it afterwards but a cancellation before the cut-off.",
    reads="order.events, order's orders",
)  # fmt: skip
def one_end(e: Evidence) -> Verdict:
    """Follow what order said of each order, a step each, and hold its row against where that came to."""
    findings: list[Finding] = []
    for id_, order in e.orders.items():
        said = [one for one in e.story.get(id_, ()) if one.topic == "order.events"]
        if said and e.whole(said[0]):
            findings += _walked(e, order, said)
        findings += _history(order)
    return judged(len(e.orders), findings)


def _walked(e: Evidence, order: Order, said: list[Record]) -> Iterator[Finding]:
    at = ""
    for record in said:
        following = STEPS.get((at, record.type))
        if following is None:
            says = "order said what it may not say there"
            yield Finding(3, order.id, says, f"no {record.type} when {at or 'not placed'}", record.type, (record.at,))
            return
        if at == "confirmed" and order.cancellable_until and _time(record) > order.cancellable_until:
            says = "a confirmed order was cancelled after its cut-off"
            yield Finding(3, order.id, says, str(order.cancellable_until), str(_time(record)), (record.at,))
        if following == "cancelled":
            yield from _unsettled(order, record)
        at = following
    wanted = ENDS.get(at)
    if order.id in e.resting and order.status != wanted:
        says = "an order's row is not at the end that was said"
        yield Finding(3, order.id, says, wanted or f"not at an end ({at})", order.status, (said[-1].at,))


def _unsettled(order: Order, record: Record) -> Iterator[Finding]:
    settlement = dict(record.body.get("settlement", {}))
    for participant, states in SETTLED.items():
        if settlement.get(participant) not in states:
            says, found = f"an order was called cancelled before {participant} had settled", settlement.get(participant)
            yield Finding(3, order.id, says, " or ".join(sorted(states)), str(found), (record.at,))


def _time(record: Record) -> datetime:
    return datetime.fromisoformat(record.headers["ce_time"])


def _history(order: Order) -> Iterator[Finding]:
    numbers = [number for number, _, _ in order.history]
    statuses = [status for _, status, _ in order.history]
    if numbers != list(range(1, len(numbers) + 1)) or not statuses or statuses[-1] != order.status:
        says = "an order's history does not lead to its status"
        yield Finding(3, order.id, says, order.status, " → ".join(statuses) or "nothing")
    for end in ENDS.values():
        if statuses.count(end) > 1:
            yield Finding(3, order.id, "an order reached one end twice", f"1 × {end}", f"{statuses.count(end)} × {end}")


@invariant(
    17, "all-ended", "30 s after the last fault heals: all orders ended, lag 0.",
    reads="order's orders, every task, parked inputs, the time of the last heal where it is given",
)  # fmt: skip
def all_ended(e: Evidence) -> Verdict:
    """Find the orders that nothing will ever move, and, where the time of the last heal is known, the late ones."""
    waiting = [order for id_, order in e.orders.items() if id_ in e.in_flight and id_ not in e.moved]
    open_ = [order for order in waiting if order.status not in ("CONFIRMED", "CANCELLED")]
    findings = []
    for order in open_:
        if not _moves(e, order):
            says = "nothing will ever move an order that is not at its end"
            findings.append(Finding(17, order.id, says, "an end, or something open for it", order.status))
    if e.healed_at is None:
        return judged(len(e.orders), findings, "when the last fault healed is not known: only dead ends are found")
    if e.at >= e.healed_at + HEALING:
        for order in open_:
            if order.placed_at <= e.healed_at:
                says = "an order has not ended 30 s after the last fault healed"
                findings.append(Finding(17, order.id, says, "an end", order.status, (str(e.healed_at),)))
    return judged(len(e.orders), findings)


def _moves(e: Evidence, order: Order) -> bool:
    """Tell whether something will go on with an order: an intent, a parked input, its deadline, who discarded one."""
    if any(row.line == order.id and row.state == "DISCARDED" for db in e.databases.values() for row in db.parked):
        return True
    timers = {task.key for task in e.databases["order"].tasks if task.type in TIMERS}
    undecided = order.status in ("PENDING", "INVENTORY_RESERVED")
    return order.id in e.under_way or (undecided and order.id in timers) or e.at < order.placed_at + LATE
