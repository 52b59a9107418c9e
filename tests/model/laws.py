"""The laws of law.md as checks: of one reaction, of one thing said, and of every state that is reached.

They restate the page and share no code with the handlers: a table here is a table there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from inventory.domain import Hold, Level
from notification.domain import Notice
from order.domain import Order
from order.events import CancelAnswered
from payment.domain import Entry, Payment
from quadrille.messages import Emitted, Message
from quadrille.system_messages import CompensationAnswered, ResolveCompensation, RetryCompensation
from tests.model.actors import State, is_outward, row, token


class Broken(Exception):  # noqa: N818 - the name says what is the case
    """A law or an invariant does not hold."""


ASKED, CONFIRMED, CANCELLED = "order.cancellation_requested", "order.confirmed", "order.cancelled"
STOCK_SETTLED = frozenset({"stock.rejected", "stock.released", "stock.resolved"})
MONEY_SETTLED = frozenset({"payment.declined", "payment.skipped", "payment.refunded", "payment.resolved"})
AGAIN = frozenset(  # everything else is said once
    {"charge_card", "inquire_charge", "inquire_refund", "refund_card", "payment.refund_failed"}
)

# What must have been said before (one of each group), and what must not.
NEEDS: dict[str, tuple[set[str] | frozenset[str], ...]] = {
    CONFIRMED: ({"payment.charged"},),
    CANCELLED: ({ASKED}, STOCK_SETTLED, MONEY_SETTLED),
    "stock.committed": ({CONFIRMED}, {"stock.reserved"}),
    "stock.released": ({ASKED, "payment.declined"},),
    "stock.release_failed": ({ASKED}, {"stock.committed"}),
    "stock.resolved": ({ASKED},),
    "payment.resolved": ({ASKED},),
    "finding.raised": ({"payment.resolved"}, {"refund_card"}),
    "charge_card": ({"stock.reserved"},),
    "payment.charged": ({"charge_card"},),
    "payment.declined": ({"charge_card"},),
    "payment.outcome_unknown": ({"charge_card"},),
    "payment.skipped": ({ASKED},),
    "refund_card": ({ASKED}, {"payment.charged"}),
    "payment.refunded": ({"refund_card"},),
    "payment.refund_failed": ({"refund_card"},),
    "order.compensation_failed of inventory": ({"stock.release_failed"}, {ASKED}),
    "order.compensation_failed of payment": ({"payment.refund_failed"}, {ASKED}),
    "order.compensation_resolved of inventory": ({"order.compensation_failed of inventory"},),
    "order.compensation_resolved of payment": ({"order.compensation_failed of payment"},),
    "send_mail of confirmed": ({CONFIRMED},),
    "send_mail of cancelled": ({CANCELLED},),
}
FORBIDS: dict[str, Iterable[str]] = {
    CONFIRMED: {ASKED, CANCELLED},
    "stock.reserved": STOCK_SETTLED,
    "stock.committed": STOCK_SETTLED,
    "stock.rejected": STOCK_SETTLED | {"stock.reserved"},
    "stock.released": STOCK_SETTLED,
    "stock.release_failed": STOCK_SETTLED,
    "stock.resolved": STOCK_SETTLED,
    "payment.resolved": MONEY_SETTLED,
    "refund_card": MONEY_SETTLED,
    "payment.refund_failed": MONEY_SETTLED,
    "charge_card": MONEY_SETTLED | {"payment.charged"},
    "payment.charged": MONEY_SETTLED,
    "payment.declined": MONEY_SETTLED | {"payment.charged"},
    "payment.skipped": MONEY_SETTLED | {"charge_card"},
    "payment.refunded": MONEY_SETTLED,
    "order.compensation_failed of inventory": {CANCELLED},
    "order.compensation_failed of payment": {CANCELLED},
}
FOLDS = {  # the rank each event gives its participant (law.md, "Order", row `order.rank`)
    "stock.reserved": ("inventory", 1), "stock.committed": ("inventory", 2), "stock.release_failed": ("inventory", 3),
    "stock.rejected": ("inventory", 4), "stock.released": ("inventory", 4), "payment.outcome_unknown": ("payment", 1),
    "payment.charged": ("payment", 2), "payment.refund_failed": ("payment", 3), "payment.declined": ("payment", 4),
    "payment.skipped": ("payment", 4), "payment.refunded": ("payment", 4), "payment.resolved": ("payment", 4),
    "stock.resolved": ("inventory", 4),
}  # fmt: skip


def _ranks(line: str) -> dict[str, int]:
    return {state: rank for rank, states in enumerate(line.split(" < ")) for state in states.split()}


RANKS = {
    "inventory": _ranks("NONE < RESERVED < COMMITTED < RELEASE_FAILED < REJECTED RELEASED RESOLVED"),
    "payment": _ranks("NONE < UNKNOWN < CHARGED < REFUND_FAILED < DECLINED SKIPPED REFUNDED RESOLVED"),
}
MOVES = {  # from which status to which an order may be seen to go, one input at a time
    "PENDING": "INVENTORY_RESERVED INVENTORY_FAILED CONFIRMED PAYMENT_FAILED CANCELLING CANCELLED",
    "INVENTORY_RESERVED": "CONFIRMED PAYMENT_FAILED CANCELLING CANCELLED",
    "CONFIRMED": "CANCELLING",
    "INVENTORY_FAILED": "CANCELLED COMPENSATION_FAILED",
    "PAYMENT_FAILED": "CANCELLED COMPENSATION_FAILED",
    "CANCELLING": "CANCELLED COMPENSATION_FAILED",
    "COMPENSATION_FAILED": "CANCELLED",
    "CANCELLED": "",
}
REFUSED = "refused"
CompensationCommand: TypeAlias = ResolveCompensation | RetryCompensation
Check: TypeAlias = Callable[[Message, State, State, tuple[Emitted, ...]], None]


def tell(told: frozenset[str], tokens: Iterable[str]) -> frozenset[str]:
    """Return what was ever said of an order, with this; raises Broken if it may not be said now, or not again."""
    for one in tokens:
        must(
            one in AGAIN or one not in told, "L9" if one.startswith("order.") else "L3", f"{one} is said a second time"
        )
        for group in NEEDS.get(one, ()):
            must(not told.isdisjoint(group), "L1 to L3", f"{one} is said before {' or '.join(sorted(group))}")
        wrong = told.intersection(FORBIDS.get(one, ()))
        must(not wrong, "L4, L9", f"{one} is said after {', '.join(sorted(wrong))}")
        told |= {one}
    return told


def order_reaction(message: Message, before: State, after: State, emitted: tuple[Emitted, ...]) -> None:
    """What one message may do to an order: L5, L9, L11 and invariants 3 and 16."""
    name = getattr(message, "order_id", "")
    old, new = row(before, "rows", name), row(after, "rows", name)
    if old is None:
        return
    must(old.status is new.status or new.status in MOVES[old.status].split(), "3", f"{old.status} to {new.status}")
    must(not new.history or new.history[-1].status is new.status, "16", "the history ends elsewhere than the order")
    must(new.version > old.version or _bare(new) == _bare(old), "L9", "the row changed and its version did not")
    must(old.reason is None or new.reason == old.reason, "3", "the reason of a cancellation changed")
    _check_folded(message, old, new)
    if old.status == "CANCELLED":
        must(_bare(new) == _bare(old) and not any(s.type in NEEDS for s in emitted), "3", "a cancelled order changed")
    for answer in emitted:
        if isinstance(answer, CancelAnswered):
            _check_answered(message, old, new, answer.outcome)


def _check_folded(message: Message, old: Order, new: Order) -> None:
    for participant, ranks in RANKS.items():
        was, now = ranks[getattr(old.states, participant)], ranks[getattr(new.states, participant)]
        must(now >= was, "L11", f"{message.type}: what is known of {participant} went back")
        whose, least = FOLDS.get(message.type, (participant, 0))
        must(whose != participant or now >= least, "L5", f"{message.type} was not folded")


def _check_answered(message: Message, old: Order, new: Order, outcome: str) -> None:
    late = old.cancellable_until is not None and message.at >= old.cancellable_until
    wanted = "FROZEN" if old.status == "COMPENSATION_FAILED" else "ALREADY" if old.reason else "ACCEPTED"
    wanted = "TOO_LATE" if late and wanted == "ACCEPTED" else wanted
    must(outcome == wanted, "L9", f"a command to cancel in {old.status} is answered {outcome}, not {wanted}")
    must(outcome == "ACCEPTED" or _bare(new) == _bare(old), "L9", f"a command answered {outcome} changed the order")


def _bare(order: Order) -> tuple[object, ...]:
    return order.status, order.states, order.detail, order.reason, order.attention, order.cancellable_until


def stock_reaction(message: Message, before: State, after: State, emitted: tuple[Emitted, ...]) -> None:
    """Invariant 6: received = available + held + committed, held is what is open, nothing below zero; L11 for holds."""
    tables = dict(after)
    holds: list[Hold] = [hold for _, hold in tables["holds"]]
    levels: list[Level] = [level for _, level in tables["levels"]]
    for level in levels:
        must(level.available >= 0, "6", f"{level.sku} is oversold: {level.available} available")
        parts = level.available + level.held + level.committed
        must(level.received == parts, "6", f"{level.sku}: {level.received} received, {parts} accounted for")
        must(_pieces(holds, level, {"RESERVED"}) == level.held, "6", f"{level.sku}: held is not the sum of open holds")
        sold = _pieces(holds, level, {"COMMITTED", "RELEASE_FAILED"})
        kept = level.committed - sold
        must(0 <= kept <= _pieces(holds, level, {"RESOLVED"}), "6", f"{level.sku}: committed is not what was sold")
    name = getattr(message, "order_id", "")
    old, new = row(before, "holds", name), row(after, "holds", name)
    if old and old.state in ("REJECTED", "RELEASED", "RESOLVED"):
        quiet = not any(is_outward(one) for one in emitted)
        must(old == new and quiet, "L11", f"a hold that ended {old.state} changed or spoke again")
    if isinstance(message, ResolveCompensation):
        sales = [[level.committed for _, level in dict(state)["levels"]] for state in (before, after)]
        must(sales[0] == sales[1], "6", "what was sold came back by an operator's word")
    if isinstance(message, ResolveCompensation | RetryCompensation):
        sealed = any(level.sealed for level in levels)
        _check_command(message, emitted, _stock_owes(message, old.state if old else "NONE", sealed=sealed))


def _pieces(holds: list[Hold], level: Level, states: set[str]) -> int:
    return sum(line.quantity for h in holds if h.state in states for line in h.lines if line.sku == level.sku)


def _stock_owes(command: CompensationCommand, state: str, *, sealed: bool) -> str:
    """Tell what an operator is to be answered about a hold."""
    if isinstance(command, RetryCompensation):
        return ("STILL_FAILED" if sealed else "DONE") if state == "RELEASE_FAILED" else REFUSED
    unread = ASKED in command.waiting and state in ("NONE", "RESERVED", "COMMITTED")
    return "DONE" if unread or state == "RELEASE_FAILED" else REFUSED


def _money_owes(command: CompensationCommand, payment: Payment | None) -> str:
    """Tell what an operator is to be answered about a payment."""
    state = payment.state if payment else "NONE"
    undoing = state in ("REFUNDING", "REFUND_FAILED")
    if isinstance(command, RetryCompensation) or undoing:
        return "ASKED" if undoing else REFUSED
    begun = state in ("CHARGING", "UNKNOWN")
    if begun and (ASKED in command.waiting or (payment and payment.cancel_wanted)):
        return "CHARGE_OPEN"
    return "ASKED" if ASKED in command.waiting and state in ("NONE", "CHARGED") else REFUSED


def _check_command(command: CompensationCommand, emitted: tuple[Emitted, ...], wanted: str) -> None:
    """An operator may act on what is owed, and on nothing else (law.md, "Undo that failed")."""
    answers = [one.outcome for one in emitted if isinstance(one, CompensationAnswered)]
    answer = REFUSED if answers[0] in ("NOT_OWED", "UNKNOWN") else answers[0]
    must(answer == wanted, "L11", f"{command.type} is answered {answer}, not {wanted}")
    must(answer != REFUSED or len(emitted) == 1, "L11", f"{command.type} was refused, and yet something was said")


def money_reaction(message: Message, before: State, after: State, emitted: tuple[Emitted, ...]) -> None:
    """Invariant 4 in our own books: the ledger only grows, by one capture and one refund of it at most."""
    old, new = dict(dict(before)["entries"]), dict(dict(after)["entries"])
    must(all(new.get(key) == entry for key, entry in old.items()), "4", "a line of the ledger changed or went")
    entries: list[Entry] = list(new.values())
    captures = sum(entry.amount_minor for entry in entries if entry.kind == "CAPTURE")
    returns = sum(entry.amount_minor for entry in entries if entry.kind != "CAPTURE")
    must(returns <= captures, "4", "more money went back than was taken")
    must(sum(entry.kind == "CAPTURE" for entry in entries) <= 1, "4", "two captures of one order")
    if isinstance(message, ResolveCompensation | RetryCompensation):
        _check_command(message, emitted, _money_owes(message, row(before, "payments", message.order_id)))


def mail_reaction(message: Message, before: State, after: State, emitted: tuple[Emitted, ...]) -> None:
    """Invariant 15: what ended does not begin again, and no confirmation is begun after a cancellation was heard."""
    name = getattr(message, "order_id", "")
    for kind in ("confirmed", "cancelled"):
        old, new = row(before, "notices", (name, kind)), row(after, "notices", (name, kind))
        if isinstance(old, Notice) and old.state in ("SENT", "FAILED", "SUPPRESSED"):
            must(new is not None and new.state is old.state, "15", f"the mail {kind} ended {old.state} and began again")
        if isinstance(old, Notice) and old.outdated:
            must(all(token(one) != f"send_mail of {kind}" for one in emitted), "15", "an outdated mail is sent")


def must(holds: bool, law: str, why: str) -> None:  # noqa: FBT001 - a condition
    """Raise Broken unless the condition holds."""
    if not holds:
        message = f"{'law' if law.startswith('L') else 'invariant'} {law}: {why}"
        raise Broken(message)


CHECKS: dict[str, Check] = {
    "order": order_reaction,
    "inventory": stock_reaction,
    "payment": money_reaction,
    "notification": mail_reaction,
}
