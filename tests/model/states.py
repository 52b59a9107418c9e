"""What must hold in every state that is reached, and in the quiet ones: laws L1 to L11, invariants 3 to 7 and 15."""

from __future__ import annotations

from typing import Any

from notification.events import SendMail
from order.domain import Order
from payment.events import ChargeCard
from quadrille.messages import Message
from tests.model.actors import State, row
from tests.model.laws import ASKED, CANCELLED, CONFIRMED, must
from tests.model.life import INVENTORY, NOTIFICATION, PAYMENT, Life
from tests.model.world import World

ENDS = ("CONFIRMED", "CANCELLED", "COMPENSATION_FAILED")  # the last one waits for a person
SAYS = {  # who has come to an end has said so (L3)
    "DECLINED": "payment.declined",
    "SKIPPED": "payment.skipped",
    "REFUNDED": "payment.refunded",
    "REFUND_FAILED": "payment.refund_failed",
    "REJECTED": "stock.rejected",
    "RELEASED": "stock.released",
    "RELEASE_FAILED": "stock.release_failed",
}
SAYS_OF_MONEY = SAYS | {"RESOLVED": "payment.resolved"}
SAYS_OF_STOCK = SAYS | {"RESOLVED": "stock.resolved"}
FACTS_OF_MAIL = ("notification.sent", "notification.failed", "notification.suppressed")


def check_life(world: World, life: Life) -> None:
    """Check one order, its payment and the processor against each other and against what was said."""
    told, order = world.told[life.told], world.order(life)
    _check_processor(world, life, told)
    payment = _payment(world, life)
    if payment and payment.state in SAYS_OF_MONEY:
        must(SAYS_OF_MONEY[payment.state] in told, "L3", f"a payment is {payment.state}, and nobody was told")
    refunds = sum(world.messages[row.intent].type == "refund_card" for row in life.rows)
    least = int(payment is not None and payment.state == "REFUNDING")
    must(
        least <= refunds <= 1, "L10", f"{refunds} refunds are under way, and the payment is {payment and payment.state}"
    )
    if payment and payment.state == "RESOLVED":
        must(not _may_charge(world, life), "L7", "a person closed a charge that has no answer yet")
    must((order.reason is not None) == (ASKED in told), "L2", f"a {order.status} order and its request to cancel")
    must((order.status == "CANCELLED") == (CANCELLED in told), "L3", f"a {order.status} order and its end")
    must(order.attention is None, "3", "an order is marked CONFLICT")
    if order.status == "CONFIRMED":
        must(CONFIRMED in told, "L9", "an order is CONFIRMED and nobody was told")
        must(life.charge == "charged" and not life.refunded, "4", "CONFIRMED, and the money is not ours")
    if order.status == "CANCELLED":
        owes = life.charge == "charged" and not life.refunded and "payment.resolved" not in told
        must(not owes, "4", "CANCELLED, and the customer's money is still here")
        must(not _may_charge(world, life), "7", "CANCELLED, and a charge may still reach the processor")
    if world.at_rest(life):
        _check_quiet(world, order, told, payment.state if payment else "NONE")
        _check_ledger(world, life, told)


def check_hold(world: World, stock: int, life: Life) -> None:
    """Check one order against its hold: invariants 5 and 7, laws L1, L3 and L8."""
    told, status = world.told[life.told], world.order(life).status
    hold = row(_stock(world, stock), "holds", world.name(life))
    state = hold.state if hold else "NONE"
    if CANCELLED in told:
        must(state in ("REJECTED", "RELEASED", "RESOLVED"), "7", f"CANCELLED, and its hold is {state}")
    if status == "CONFIRMED":
        must(state in ("RESERVED", "COMMITTED"), "L1", f"CONFIRMED, and its hold is {state}")
    emitted = SAYS_OF_STOCK.get(state)
    must(emitted is None or emitted in told, "L3", f"a hold is {state}, and nobody was told")
    if world.at_rest(life):
        must(state != "RESERVED", "7", "nothing is under way, and the hold is still open")
        must(status != "CONFIRMED" or state == "COMMITTED", "7", "CONFIRMED for good, and its goods are not committed")


def _check_processor(world: World, life: Life, told: frozenset[str]) -> None:
    """L6, L7, L10: what payment said is what the processor did, and it did nothing that was not intended before."""
    if life.charge:
        must("charge_card" in told, "L10", "the processor was asked for a charge that nobody had committed to")
        must("stock.reserved" in told, "5", "charged without a reservation")
    if "payment.charged" in told:
        must(life.charge == "charged", "L7", f"payment said charged, the processor: {life.charge or 'never asked'}")
    if "payment.declined" in told:
        must(life.charge == "declined", "L7", f"payment said declined, the processor: {life.charge or 'never asked'}")
    if "payment.refunded" in told:
        must(life.refunded, "4", "payment said refunded, the processor gave nothing back")
    if life.refunded:
        must(life.charge == "charged" and "refund_card" in told, "L10", "money went back that nobody had promised")


def _check_quiet(world: World, order: Order, told: frozenset[str], payment: str) -> None:
    """Invariants 3, 7 and 15: what is quiet has ended, and everybody concerned knows it."""
    must(order.status in ENDS, "3", f"nothing is under way any more, and the order stays {order.status} for ever")
    wanted = {"CONFIRMED": ("CHARGED",), "CANCELLED": ("DECLINED", "SKIPPED", "REFUNDED", "RESOLVED")}
    if order.status in wanted:
        must(payment in wanted[order.status], "7", f"{order.status} for good, and its payment is {payment}")
    if world.scope.mail:
        for fact, kind in ((CONFIRMED, "confirmed"), (CANCELLED, "cancelled")):
            endings = sum(f"{ending} of {kind}" in told for ending in FACTS_OF_MAIL)
            must(endings == (fact in told), "15", f"{fact}, and {endings} endings of its mail")


def _check_ledger(world: World, life: Life, told: frozenset[str]) -> None:
    """Invariant 4 at the end: our books are the processor's, unless a refund landed that nobody was waiting for."""
    tables = dict(world.actors[PAYMENT].states[life.states[PAYMENT]])
    kinds = [entry.kind for key, entry in tables["entries"] if entry.order_id == world.name(life)]
    must(("CAPTURE" in kinds) == (life.charge == "charged"), "4", "the ledger and the processor differ on the charge")
    back = any(kind != "CAPTURE" for kind in kinds)
    doubted = life.stray or _payment(world, life).state == "REFUND_FAILED"  # which an operator's command inquires after
    must(back == life.refunded or doubted, "4", "money went back, and the ledger does not know")
    if "payment.resolved" in told:
        must(back == ("finding.raised" in told), "4", "money went back after a person resolved it: no finding")


def _may_charge(world: World, life: Life) -> bool:
    """Tell whether a key without an answer may still be charged."""
    asked = [*life.adrift, *(row.intent for row in life.rows)]
    return life.charge in ("", "processing") and any(world.messages[i].type == "charge_card" for i in asked)


def _payment(world: World, life: Life) -> Any:  # noqa: ANN401 - a row, or None
    return row(world.actors[PAYMENT].states[life.states[PAYMENT]], "payments", world.name(life))


def _stock(world: World, stock: int) -> State:
    return world.actors[INVENTORY].states[stock]


def check_leased(world: World, life: Life, intent: Message) -> None:
    """Check an intent that is about to go out: L1 for a charge past its deadline, invariant 15 for a confirmation."""
    if isinstance(intent, SendMail):
        notice = row(
            world.actors[NOTIFICATION].states[life.states[NOTIFICATION]], "notices", (intent.order_id, intent.kind)
        )
        must(not notice.outdated, "15", "a confirmation is sent though its cancellation was heard")
    if isinstance(intent, ChargeCard) and life.late:
        begun = "payment.outcome_unknown" in world.told[life.told]
        must(
            begun or _payment(world, life).cancel_wanted, "L1", "a charge begins past its deadline, and nobody decided"
        )
