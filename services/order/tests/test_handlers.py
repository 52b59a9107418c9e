"""Every row of the order's machine (law.md, "Order"): given, when it hears, then it says."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from order.domain import PHASES, Detail, Order, Orders, Status
from order.events import (
    CancelAnswered,
    CancelOrder,
    GiveUpWaiting,
    OrderCancellationRequested,
    OrderCancelled,
    OrderCheck,
    OrderCompensationFailed,
    OrderCompensationResolved,
    OrderConfirmed,
    OrderDeadline,
    OrderPlaced,
    PaymentCharged,
    PaymentDeclined,
    PaymentOutcomeUnknown,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentResolved,
    PaymentSkipped,
    PlaceOrder,
    Shortage,
    StockCommitted,
    StockRejected,
    StockReleased,
    StockReleaseFailed,
    StockReserved,
    StockResolved,
)
from quadrille import Event, FindingRaised, Message, NotYet
from quadrille.testing import START, InMemory

Sales = InMemory[Orders]
EXPIRED = OrderDeadline("o-1", START + timedelta(minutes=5))
CANCEL = CancelOrder("o-1", "local", "local")
OPERATE = CancelOrder("o-1", None, "ada")
SHORT = (Shortage("SKU-TEA", 2, 1),)
RESERVED = StockReserved("o-1")
REJECTED = StockRejected("o-1", SHORT)
COMMITTED = StockCommitted("o-1")
RELEASED = StockReleased("o-1")
RELEASE_FAILED = StockReleaseFailed("o-1", "BUSINESS", 1, "sealed: SKU-TEA")
STOCK_RESOLVED = StockResolved("o-1", "WRITTEN_OFF")
CHARGED = PaymentCharged("o-1")
DECLINED = PaymentDeclined("o-1", "insufficient_funds")
UNKNOWN = PaymentOutcomeUnknown("o-1")
SKIPPED = PaymentSkipped("o-1")
REFUNDED = PaymentRefunded("o-1", "VOID", 2800)
REFUND_FAILED = PaymentRefundFailed("o-1", "BUSINESS", "card_closed", 1)
PAYMENT_RESOLVED = PaymentResolved("o-1", "EXTERNAL")
# Each participant's events in rank; those of one rank in one tuple.
INVENTORY = ((RESERVED,), (COMMITTED,), (RELEASE_FAILED,), (REJECTED, RELEASED, STOCK_RESOLVED))
PAYMENT = ((UNKNOWN,), (CHARGED,), (REFUND_FAILED,), (DECLINED, SKIPPED, REFUNDED, PAYMENT_RESOLVED))
FACTS = [fact for ranked in (*INVENTORY, *PAYMENT) for fact in ranked]
NOT_NEWER = [
    (earlier, later)
    for ranked in (INVENTORY, PAYMENT)
    for n, ones in enumerate(ranked)
    for earlier in ones
    for laters in ranked[: n + 1]
    for later in laters
]
UNDECIDED = [(), (RESERVED,)]


def row(order: Sales) -> Order:
    return order.work.known("o-1")


def passed(order: Sales) -> list[str]:
    return [entry.status.value for entry in row(order).history]


def asked(reason: str, status_then: str, by: str = "order") -> OrderCancellationRequested:
    return OrderCancellationRequested("o-1", reason, by, status_then)


def ended(reason: str, inventory: str, payment: str) -> OrderCancelled:
    return OrderCancelled("o-1", "cust_demo", reason, (("inventory", inventory), ("payment", payment)))


def frozen(participant: str, error: str) -> OrderCompensationFailed:
    return OrderCompensationFailed("o-1", participant, "BUSINESS", 1, error)


@pytest.mark.proves("order.place")
def test_a_placed_order_is_pending(empty: Sales, place: PlaceOrder) -> None:
    """The order is said to the world, its deadline to itself, and the rendered answer to the asker."""
    empty.receives(place)

    fact, timer, answered = empty.emitted()
    assert fact == OrderPlaced("o-1", "cust_demo", place.lines, 2800, "EUR", "tok_ok", place.deadline_at)
    assert timer == OrderDeadline("o-1", place.deadline_at)
    assert answered.outcome == "PLACED"  # type: ignore[union-attr]  # a PlaceAnswered
    assert (row(empty).status, row(empty).version, passed(empty)) == (Status.PENDING, 1, ["PENDING"])
    assert row(empty).history[0].because == "order.placed"


@pytest.mark.proves("order.not-newer", "order.rank", "L11")
@pytest.mark.parametrize(("earlier", "later"), NOT_NEWER)
def test_a_fact_that_is_not_newer_changes_nothing(order: Sales, earlier: Event, later: Event) -> None:
    """An event of a rank that is folded already is a no-op, in whatever state the order is (law L11)."""
    order.given(earlier)
    before = row(order)

    order.receives(later, times=2)

    assert order.emitted() == []
    assert row(order) == before


@pytest.mark.proves("order.reserved")
def test_held_stock(order: Sales) -> None:
    """stock.reserved takes a pending order to INVENTORY_RESERVED and says nothing."""
    order.receives(RESERVED)

    assert order.emitted() == []
    assert passed(order) == ["PENDING", "INVENTORY_RESERVED"]
    assert row(order).history[1].because == "stock.reserved"


@pytest.mark.proves("order.rejected", "L2")
def test_out_of_stock(order: Sales) -> None:
    """stock.rejected undoes a pending order and keeps what was short."""
    order.receives(REJECTED)

    assert order.emitted() == [asked("OUT_OF_STOCK", "PENDING")]
    assert passed(order) == ["PENDING", "INVENTORY_FAILED"]
    assert (row(order).reason, row(order).detail.shortages) == ("OUT_OF_STOCK", SHORT)


@pytest.mark.proves("order.charged", "L8", "late.charged-first")
@pytest.mark.parametrize("before", UNDECIDED)
def test_charged(order: Sales, before: tuple[Event, ...]) -> None:
    """payment.charged confirms an undecided order, stock.reserved read or not (law L8), until its cut-off."""
    order.given(*before)

    order.receives(CHARGED)

    assert order.emitted() == [OrderConfirmed("o-1", "cust_demo", 2800, "EUR")]
    assert passed(order)[-2:] == ["PAYMENT_CHARGED", "CONFIRMED"]
    assert row(order).cancellable_until == CHARGED.at + timedelta(minutes=30)


@pytest.mark.proves("order.charged-rejected", "L2")
@pytest.mark.parametrize("before", UNDECIDED)
def test_charged_but_rejected(empty: Sales, place: PlaceOrder, before: tuple[Event, ...]) -> None:
    """payment.charged of a blocked customer is not confirmed but undone."""
    empty.given(replace(place, customer_id="cust_blocked"), *before)

    empty.receives(CHARGED)

    assert empty.emitted() == [asked("CONFIRMATION_REJECTED", "PAYMENT_CHARGED")]
    assert passed(empty)[-2:] == ["PAYMENT_CHARGED", "CANCELLING"]


@pytest.mark.proves("order.declined", "L2")
@pytest.mark.parametrize("before", UNDECIDED)
def test_declined(order: Sales, before: tuple[Event, ...]) -> None:
    """payment.declined undoes an undecided order and keeps the code."""
    order.given(*before)
    status = row(order).status

    order.receives(DECLINED)

    assert order.emitted() == [asked("PAYMENT_DECLINED", status)]
    assert (passed(order)[-1], row(order).detail.code) == ("PAYMENT_FAILED", "insufficient_funds")


@pytest.mark.proves("order.cancel", "L2")
@pytest.mark.parametrize("before", UNDECIDED)
@pytest.mark.parametrize(
    ("cause", "reason", "by"),
    [(CANCEL, "CUSTOMER", "local"), (OPERATE, "OPERATOR", "ada"), (EXPIRED, "DEADLINE", "order")],
)
def test_an_undecided_order_is_cancelled(
    order: Sales, before: tuple[Event, ...], cause: Message, reason: str, by: str
) -> None:
    """The customer, an operator and the deadline undo an undecided order, each by the same event (law L2)."""
    order.given(*before)
    status = row(order).status

    order.receives(cause)

    facts = [emitted for emitted in order.emitted() if isinstance(emitted, Event)]
    assert facts == [asked(reason, status, by)]
    assert (row(order).status, row(order).reason) == (Status.CANCELLING, reason)
    assert row(order).history[-1].because == "order.cancellation_requested"


@pytest.mark.proves("order.away")
@pytest.mark.parametrize(("before", "participant"), [((), "inventory"), ((RESERVED,), "payment")])
def test_an_order_that_waits_for_who_is_away_is_given_up(
    order: Sales, before: tuple[Event, ...], participant: str
) -> None:
    """It is undone like any other, once, by the one abort event."""
    order.given(*before)
    status = row(order).status

    order.receives(GiveUpWaiting("o-1", participant), times=2)

    assert order.emitted() == [asked("PARTICIPANT_AWAY", status)]
    assert (row(order).status, row(order).reason) == (Status.CANCELLING, "PARTICIPANT_AWAY")


@pytest.mark.proves("order.away-settled")
@pytest.mark.parametrize(
    ("before", "participant"),
    [
        ((), "payment"),
        ((RESERVED,), "inventory"),
        ((CHARGED,), "inventory"),
        ((CHARGED,), "payment"),
        ((CANCEL,), "inventory"),
        ((DECLINED, RELEASED), "payment"),
        ((RESERVED,), "notification"),
    ],
)
def test_an_order_that_waits_for_somebody_else_goes_on(
    order: Sales, before: tuple[Message, ...], participant: str
) -> None:
    """An order that does not wait for who is away, or no longer, or is decided, stays as it is."""
    order.given(*before)
    then = row(order)

    order.receives(GiveUpWaiting("o-1", participant), GiveUpWaiting("o-2", participant))

    assert (order.emitted(), row(order)) == ([], then)


@pytest.mark.proves("order.cancel-confirmed")
@pytest.mark.parametrize(("cause", "reason", "by"), [(CANCEL, "CUSTOMER", "local"), (OPERATE, "OPERATOR", "ada")])
def test_a_confirmed_order_before_its_cut_off(order: Sales, cause: CancelOrder, reason: str, by: str) -> None:
    """A confirmed order can be cancelled until its cut-off, by customer and operator."""
    order.given(CHARGED)

    order.receives(cause)

    assert order.emitted() == [CancelAnswered("o-1", "ACCEPTED"), asked(reason, "CONFIRMED", by)]
    assert (row(order).status, row(order).cancellable_until) == (Status.CANCELLING, None)


@pytest.mark.proves("order.cancel-late")
@pytest.mark.parametrize("cause", [CANCEL, OPERATE])
def test_a_confirmed_order_after_its_cut_off(order: Sales, cause: CancelOrder) -> None:
    """A cancellation after the cut-off is refused, an operator's too."""
    order.given(CHARGED)
    until = row(order).cancellable_until
    assert until is not None
    order.now = until - timedelta(seconds=1)  # the next message comes at that very instant
    before = row(order)

    order.receives(cause)

    assert order.emitted() == [CancelAnswered("o-1", "TOO_LATE")]
    assert row(order) == before


@pytest.mark.proves("order.deadline-late")
@pytest.mark.parametrize(
    "before",
    [
        (CHARGED,),
        (REJECTED,),
        (DECLINED,),
        (CANCEL,),
        (DECLINED, RELEASED),
        (CANCEL, RELEASE_FAILED),
    ],
)
def test_the_deadline_of_a_decided_order(order: Sales, before: tuple[Message, ...]) -> None:
    """The deadline of an order that is decided, whichever way, is a no-op; one that waits is looked after."""
    order.given(*before)
    then = row(order)

    order.receives(EXPIRED, times=2)

    assert [emitted for emitted in order.emitted() if not isinstance(emitted, OrderCheck)] == []
    assert row(order) == then


@pytest.mark.proves("order.released", "order.history")
def test_declined_and_released(order: Sales) -> None:
    """After a decline stock.released takes the order through INVENTORY_RELEASED to its end."""
    order.given(RESERVED, DECLINED)

    order.receives(RELEASED)

    assert order.emitted() == [ended("PAYMENT_DECLINED", "RELEASED", "DECLINED")]
    assert passed(order)[-3:] == ["PAYMENT_FAILED", "INVENTORY_RELEASED", "CANCELLED"]


@pytest.mark.proves("order.asks", "order.history")
def test_released_before_declined(order: Sales) -> None:
    """stock.released that overtook payment.declined is folded, and the decline then ends the order at once."""
    order.receives(RELEASED)
    assert (order.emitted(), passed(order)) == ([], ["PENDING"])

    order.receives(DECLINED)

    assert order.emitted() == [
        asked("PAYMENT_DECLINED", "PENDING"),
        ended("PAYMENT_DECLINED", "RELEASED", "DECLINED"),
    ]
    assert passed(order) == ["PENDING", "PAYMENT_FAILED", "INVENTORY_RELEASED", "CANCELLED"]


@pytest.mark.proves("order.settled", "order.unsettled", "L3")
@pytest.mark.parametrize("stock", [REJECTED, RELEASED, STOCK_RESOLVED])
@pytest.mark.parametrize("money", [DECLINED, SKIPPED, REFUNDED, PAYMENT_RESOLVED])
@pytest.mark.parametrize("stock_first", [True, False])
def test_an_order_ends_when_everyone_has_settled(order: Sales, stock: Event, money: Event, stock_first: bool) -> None:  # noqa: FBT001 - a parameter of the case
    """The first acknowledgement leaves a cancelling order as it is, the second ends it, in any order (law L3)."""
    order.given(CANCEL)
    first, second = (stock, money) if stock_first else (money, stock)

    order.receives(first)
    assert (order.emitted(), row(order).status) == ([], Status.CANCELLING)
    order.receives(second)

    states = row(order).states
    assert order.emitted() == [ended("CUSTOMER", states.inventory, states.payment)]
    assert row(order).status is Status.CANCELLED


@pytest.mark.proves("order.settled")
def test_out_of_stock_ends_without_a_charge(order: Sales) -> None:
    """After stock.rejected the order ends by payment.skipped alone."""
    order.given(REJECTED)

    order.receives(SKIPPED)

    assert order.emitted() == [ended("OUT_OF_STOCK", "REJECTED", "SKIPPED")]
    assert passed(order) == ["PENDING", "INVENTORY_FAILED", "CANCELLED"]


def test_a_refund_is_kept_for_the_client(order: Sales) -> None:
    """What went back, and how, stays in the order's detail."""
    order.given(CHARGED, CANCEL, REFUNDED, RELEASED)

    assert row(order).detail == Detail(refund=REFUNDED)


@pytest.mark.proves("order.undo-failed")
@pytest.mark.parametrize(
    ("before", "failure", "emitted"),
    [
        ((CANCEL,), RELEASE_FAILED, frozen("inventory", "sealed: SKU-TEA")),
        ((DECLINED,), RELEASE_FAILED, frozen("inventory", "sealed: SKU-TEA")),
        ((CANCEL,), REFUND_FAILED, frozen("payment", "card_closed")),
        ((REJECTED,), REFUND_FAILED, frozen("payment", "card_closed")),
    ],
)
def test_a_failed_undo_freezes(
    order: Sales, before: tuple[Message, ...], failure: Event, emitted: OrderCompensationFailed
) -> None:
    """A failed undo freezes a cancelling order, is said once, and commands are refused from then on."""
    order.given(*before)

    order.receives(failure, times=2)
    assert order.emitted() == [emitted]
    assert (row(order).status, row(order).detail.failed) == (Status.COMPENSATION_FAILED, (emitted,))

    order.receives(CANCEL)
    assert order.emitted() == [CancelAnswered("o-1", "FROZEN")]


@pytest.mark.proves("order.undo-failed-too")
def test_both_undos_fail(order: Sales) -> None:
    """The other participant's failure is said too, and the order stays frozen."""
    order.given(CHARGED, CANCEL, RELEASE_FAILED)
    before = passed(order)

    order.receives(REFUND_FAILED)

    assert order.emitted() == [frozen("payment", "card_closed")]
    assert passed(order) == before
    assert [failure.participant for failure in row(order).detail.failed] == ["inventory", "payment"]


@pytest.mark.proves("order.resolved")
@pytest.mark.parametrize(
    ("failure", "undone", "participant", "how"),
    [
        (RELEASE_FAILED, RELEASED, "inventory", "RETRIED"),
        (RELEASE_FAILED, STOCK_RESOLVED, "inventory", "WRITTEN_OFF"),
        (REFUND_FAILED, REFUNDED, "payment", "RETRIED"),
        (REFUND_FAILED, PAYMENT_RESOLVED, "payment", "EXTERNAL"),
    ],
)
def test_a_failed_undo_is_resolved(order: Sales, failure: Event, undone: Event, participant: str, how: str) -> None:
    """What ends an announced failure says how, and ends the order once everyone has settled."""
    other = REFUNDED if participant == "inventory" else RELEASED
    order.given(CHARGED, CANCEL, failure)

    order.receives(undone)
    assert order.emitted() == [OrderCompensationResolved("o-1", participant, how)]
    assert (row(order).status, row(order).detail.failed) == (Status.COMPENSATION_FAILED, ())
    order.receives(other)

    states = row(order).states
    assert order.emitted() == [ended("CUSTOMER", states.inventory, states.payment)]
    assert row(order).status is Status.CANCELLED


@pytest.mark.proves("order.resolved", "order.asks")
def test_the_last_failure_resolved_ends_the_order(order: Sales) -> None:
    """A resolve that was the last thing owed says both: resolved, and cancelled."""
    order.given(CHARGED, CANCEL, RELEASED, REFUND_FAILED)

    order.receives(PAYMENT_RESOLVED)

    assert order.emitted() == [
        OrderCompensationResolved("o-1", "payment", "EXTERNAL"),
        ended("CUSTOMER", "RELEASED", "RESOLVED"),
    ]
    assert row(order).detail == Detail(resolved="EXTERNAL")


@pytest.mark.proves("order.folded", "L5")
@pytest.mark.parametrize(
    ("before", "fact"),
    [
        ((), UNKNOWN),
        ((CANCEL,), UNKNOWN),
        ((CANCEL,), RESERVED),
        ((CANCEL,), CHARGED),
        ((DECLINED,), RESERVED),
        ((CHARGED,), RESERVED),
        ((CHARGED,), COMMITTED),
        ((CHARGED, CANCEL), COMMITTED),
        ((RESERVED,), REJECTED),
        ((), RELEASED),
        ((CANCEL, REFUND_FAILED), RESERVED),
    ],
)
def test_any_other_newer_fact_is_folded(order: Sales, before: tuple[Message, ...], fact: Event) -> None:
    """An event that decides nothing is folded into the order, which stays where it is and says nothing (law L5)."""
    order.given(*before)
    then = row(order)

    order.receives(fact)

    assert order.emitted() == []
    assert (row(order).status, row(order).history, row(order).attention) == (then.status, then.history, None)
    assert row(order).states != then.states
    assert row(order).version == then.version + 1


@pytest.mark.proves("order.conflict", "L5")
@pytest.mark.parametrize("fact", [RELEASED, REJECTED, STOCK_RESOLVED, RELEASE_FAILED, DECLINED, SKIPPED, REFUNDED])
def test_a_confirmed_order_contradicted(order: Sales, fact: Event) -> None:
    """An event that contradicts a confirmation changes no status: it marks the order for a person, and is a finding."""
    order.given(RESERVED, CHARGED)

    order.receives(fact, times=2)

    assert order.emitted() == [FindingRaised("order", "3", f"{fact.type} while CONFIRMED", "o-1")]
    assert (row(order).status, row(order).attention) == (Status.CONFIRMED, "CONFLICT")


def test_an_undo_nobody_asked_for_fails(order: Sales) -> None:
    """A failed undo of an order that goes on marks it for a person; nothing else happens."""
    order.receives(RELEASE_FAILED)

    assert order.emitted() == [FindingRaised("order", "3", "stock.release_failed while PENDING", "o-1")]
    assert (row(order).status, row(order).attention) == (Status.PENDING, "CONFLICT")


@pytest.mark.proves("order.asks")
@pytest.mark.parametrize("decision", [CANCEL, EXPIRED])
def test_a_decision_after_everyone_has_settled(order: Sales, decision: Message) -> None:
    """An order whose participants have settled already ends with the decision: no order waits for ever."""
    order.given(RELEASED, SKIPPED)

    order.receives(decision)

    assert [emitted.type for emitted in order.emitted() if isinstance(emitted, Event)] == [
        "order.cancellation_requested",
        "order.cancelled",
    ]


@pytest.mark.proves("late.unknown-order")
@pytest.mark.parametrize("fact", FACTS)
def test_a_fact_of_an_unknown_order(empty: Sales, fact: Event) -> None:
    """An event of an order that was never placed here asks to be heard later."""
    with pytest.raises(NotYet):
        empty.receives(fact)


@pytest.mark.parametrize(
    ("before", "command", "outcome"),
    [
        ((CANCEL,), CANCEL, "ALREADY"),
        ((DECLINED,), CANCEL, "ALREADY"),
        ((DECLINED, RELEASED), CANCEL, "ALREADY"),
        ((CANCEL,), replace(CANCEL, version=1), "ALREADY"),
        ((), replace(CANCEL, version=1), "ACCEPTED"),
        ((RESERVED,), replace(CANCEL, version=1), "CHANGED"),
        ((), replace(CANCEL, caller="somebody"), "UNKNOWN"),
        ((), replace(CANCEL, order_id="o-2"), "UNKNOWN"),
    ],
)
def test_a_wish_to_cancel_is_answered(
    order: Sales, before: tuple[Message, ...], command: CancelOrder, outcome: str
) -> None:
    """The asker is told what became of the command; only an accepted one changes the order."""
    order.given(*before)
    then = row(order)

    order.receives(command)

    answered = [emitted for emitted in order.emitted() if isinstance(emitted, CancelAnswered)]
    assert answered == [CancelAnswered(command.order_id, outcome)]  # type: ignore[arg-type]  # one of the outcomes
    assert (row(order) == then) is (outcome != "ACCEPTED")


@pytest.mark.proves("order.history")
def test_every_status_has_a_phase() -> None:
    """The phases are those of the order table, and no status is without one."""
    assert {status: phase for status, phase in PHASES.items() if phase != "COMPENSATING"} == {
        Status.PENDING: "PENDING",
        Status.INVENTORY_RESERVED: "PENDING",
        Status.PAYMENT_CHARGED: "PENDING",
        Status.CONFIRMED: "SUCCEEDED",
        Status.CANCELLED: "COMPENSATED",
        Status.COMPENSATION_FAILED: "COMPENSATION_FAILED",
    }
    assert set(PHASES) == set(Status)
