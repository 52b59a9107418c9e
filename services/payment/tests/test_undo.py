"""An operator's hand on payment's undo: the retry, the resolution with evidence, and what comes to light after it."""

from __future__ import annotations

from typing import Literal

import pytest

from payment.domain import OrderId, Payments, State
from payment.events import (
    CardCharged,
    CardDeclined,
    CardRefunded,
    ChargeUnknown,
    InquireRefund,
    OrderCancellationRequested,
    OrderPlaced,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentResolved,
    PaymentSkipped,
    RefundCard,
    RefundCardDropped,
    RefundExhausted,
    RefundNotFound,
    RefundRefused,
    StockReserved,
)
from payment.handlers import when_refund
from quadrille import (
    CompensationAnswered,
    Decision,
    FindingRaised,
    Message,
    ResolveCompensation,
    RetryCompensation,
)
from quadrille.testing import START, InMemory, tell_waiting

PLACED = OrderPlaced("o-1", 2500, "EUR", "tok_ok", START)
RESERVED = StockReserved("o-1")
CANCEL = OrderCancellationRequested("o-1", "CUSTOMER")
TAKEN = CardCharged("o-1", "ch-1")
UNKNOWN = ChargeUnknown("o-1", 3)
CLOSED, EXHAUSTED = RefundRefused("o-1", "card_closed"), RefundExhausted("o-1")
BACK, GONE = CardRefunded("o-1", "VOID", "re-1"), RefundNotFound("o-1")
DROPPED = RefundCardDropped("o-1")
INQUIRY, AGAIN = InquireRefund("o-1"), RefundCard("o-1", 2500, again=True)
RETRY = RetryCompensation("o-1")
RESOLVED = PaymentResolved("o-1", "EXTERNAL", "ann", "T-7")
REFUNDED = PaymentRefunded("o-1", "refund:o-1", "VOID", 2500, "EUR")
CHARGED: list[Message] = [PLACED, RESERVED, TAKEN]
REFUNDING = [*CHARGED, CANCEL]
FAILED = [*REFUNDING, CLOSED]
Outcome = Literal["ASKED", "CHARGE_OPEN", "NOT_OWED", "UNKNOWN"]


def resolve(*waiting: str, how: Literal["WRITTEN_OFF", "EXTERNAL"] = "EXTERNAL") -> ResolveCompensation:
    """Return a command to resolve that finds these types parked or discarded."""
    command = ResolveCompensation("o-1", how, "ann", "T-7")
    tell_waiting(command, waiting)
    return command


def replied(outcome: Outcome, state: str) -> CompensationAnswered:
    return CompensationAnswered("o-1", outcome, state)


def state(payment: InMemory[Payments]) -> State:
    return payment.work.state(OrderId("o-1"))


def ledger(payment: InMemory[Payments]) -> list[str]:
    return [entry.key for entry in payment.work.entries]


@pytest.mark.proves("payment.retry", "payment.old-intent")
@pytest.mark.parametrize("failure", [CLOSED, EXHAUSTED], ids=["refused", "exhausted"])
def test_a_failed_refund_is_tried_again_on_wish(payment: InMemory[Payments], failure: Message) -> None:
    """A retry says one more refund, which is to inquire first; its answer ends it like the first one's."""
    payment.given(*REFUNDING, failure)

    payment.receives(RETRY)
    assert payment.emitted() == [AGAIN, replied("ASKED", "REFUNDING")]
    payment.receives(BACK, times=2)

    assert payment.emitted() == [REFUNDED]


@pytest.mark.proves("payment.retry")
def test_a_retry_may_fail_again(payment: InMemory[Payments]) -> None:
    """A second failure is said again, and a person may resolve again."""
    payment.given(*FAILED, RETRY)

    payment.receives(CLOSED, RETRY)

    failed = PaymentRefundFailed("o-1", "BUSINESS", "card_closed", 1)
    assert payment.emitted() == [failed, AGAIN, replied("ASKED", "REFUNDING")]


@pytest.mark.proves("payment.retry")
def test_a_second_retry_only_hurries_the_first(payment: InMemory[Payments]) -> None:
    """While a refund is under way a retry starts no other one: the one that is open falls due."""
    payment.given(*FAILED, RETRY)

    payment.receives(RETRY, times=2)

    assert payment.emitted() == [replied("ASKED", "REFUNDING")] * 2
    assert list(payment.work.hurried) == ["o-1"]


@pytest.mark.proves("resolve.owed")
@pytest.mark.parametrize(
    ("past", "outcome", "stands"),
    [
        ([], "UNKNOWN", "NONE"),
        ([PLACED], "NOT_OWED", "NONE"),
        ([PLACED, RESERVED], "NOT_OWED", "CHARGING"),
        (CHARGED, "NOT_OWED", "CHARGED"),
        ([CANCEL], "NOT_OWED", "SKIPPED"),
        ([PLACED, RESERVED, CANCEL, CardDeclined("o-1", "expired_card")], "NOT_OWED", "DECLINED"),
        ([*REFUNDING, BACK], "NOT_OWED", "REFUNDED"),
        ([*FAILED, resolve(), GONE], "NOT_OWED", "RESOLVED"),
    ],
    ids=["unknown", "NONE", "CHARGING", "CHARGED", "SKIPPED", "DECLINED", "REFUNDED", "RESOLVED"],
)
@pytest.mark.parametrize("command", [RETRY, resolve()], ids=["retry", "resolve"])
def test_nothing_is_owed_without_a_cancellation_or_after_its_acknowledgement(
    payment: InMemory[Payments], command: Message, past: list[Message], outcome: Outcome, stands: str
) -> None:
    """A command that finds nothing owed is refused, says nothing and changes nothing."""
    payment.given(*past)

    payment.receives(command)

    assert payment.emitted() == [replied(outcome, stands)]
    assert (list(payment.work.hurried), state(payment)) == ([], stands)


@pytest.mark.proves("resolve.owed")
def test_an_order_known_only_by_what_waits_is_not_unknown(payment: InMemory[Payments]) -> None:
    """Parked events of an order are something heard of it, though nothing is owed before its cancellation came."""
    payment.receives(resolve("order.placed"))

    assert payment.emitted() == [replied("NOT_OWED", "NONE")]


@pytest.mark.proves("payment.resolve", "resolve.inquires", "resolve.owed")
@pytest.mark.parametrize(
    ("past", "waiting", "stands"),
    [
        ([], ["order.cancellation_requested"], "NONE"),
        (CHARGED, ["order.cancellation_requested", "order.placed"], "CHARGED"),
        (REFUNDING, [], "REFUNDING"),
        (FAILED, [], "REFUND_FAILED"),
    ],
    ids=["NONE", "CHARGED", "REFUNDING", "REFUND_FAILED"],
)
def test_what_is_owed_is_resolved_once_nothing_went_back(
    payment: InMemory[Payments], past: list[Message], waiting: list[str], stands: str
) -> None:
    """A resolve inquires; only when nothing went back it says, once, how it ended, by whom and on what evidence."""
    payment.given(*past)

    payment.receives(resolve(*waiting))
    assert payment.emitted() == [INQUIRY, replied("ASKED", stands)]
    payment.receives(GONE, times=2)

    assert payment.emitted() == [RESOLVED]
    assert state(payment) is State.RESOLVED


@pytest.mark.proves("resolve.inquires")
@pytest.mark.parametrize("past", [[*CHARGED, resolve(CANCEL.type)], [*FAILED, resolve()]], ids=["CHARGED", "FAILED"])
def test_refunded_after_all_wins(payment: InMemory[Payments], past: list[Message]) -> None:
    """When the inquiry finds the refund, the payment is REFUNDED and not RESOLVED, whatever answers later."""
    payment.given(*past)

    payment.receives(BACK, GONE, BACK)

    assert payment.emitted() == [REFUNDED]
    assert (state(payment), ledger(payment)) == (State.REFUNDED, ["charge:o-1", "refund:o-1"])


@pytest.mark.proves("resolve.charge-open", "L7")
@pytest.mark.parametrize("past", [[], [UNKNOWN]], ids=["CHARGING", "UNKNOWN"])
@pytest.mark.parametrize("cancelled", ["handled", "waiting"])
def test_a_charge_without_an_answer_is_never_closed_by_hand(
    payment: InMemory[Payments], past: list[Message], cancelled: str
) -> None:
    """The open call falls due and nothing else: the charge keeps its way to its one answer, refund included."""
    payment.given(PLACED, RESERVED, *past, *([CANCEL] if cancelled == "handled" else []))
    before = state(payment)

    payment.receives(resolve(*([CANCEL.type] if cancelled == "waiting" else [])), GONE)

    assert payment.emitted() == [replied("CHARGE_OPEN", before)]
    assert (list(payment.work.hurried), state(payment)) == (["o-1"], before)


def test_a_wish_made_before_the_charge_does_not_write_it_off(payment: InMemory[Payments]) -> None:
    """Nothing was charged when the command was made: a charge that begins meanwhile takes it back."""
    payment.given(PLACED, resolve(CANCEL.type), RESERVED)

    payment.receives(GONE, TAKEN, GONE)

    assert [emitted.type for emitted in payment.emitted()] == ["payment.charged"]


@pytest.mark.proves("payment.resolve", "L4")
def test_a_resolved_order_that_was_never_charged_never_will_be(payment: InMemory[Payments]) -> None:
    """RESOLVED before the charge is a tombstone like SKIPPED."""
    payment.given(resolve(CANCEL.type), GONE)

    payment.receives(CANCEL, PLACED, RESERVED)

    assert payment.emitted() == []


def test_a_retry_takes_back_an_earlier_wish_to_resolve(payment: InMemory[Payments]) -> None:
    """The later command of a person counts: an inquiry's answer resolves nothing any more."""
    payment.given(*FAILED, resolve(), RETRY)

    payment.receives(GONE, CLOSED, GONE)

    assert payment.emitted() == [PaymentRefundFailed("o-1", "BUSINESS", "card_closed", 1)]


def test_the_last_of_several_wishes_counts(payment: InMemory[Payments]) -> None:
    """Resolved twice: each asks, the first answer ends it as wished last, and it is said once."""
    payment.given(*FAILED, resolve())

    payment.receives(resolve(how="WRITTEN_OFF"), GONE, GONE)

    written_off = PaymentResolved("o-1", "WRITTEN_OFF", "ann", "T-7")
    assert payment.emitted() == [INQUIRY, replied("ASKED", "REFUND_FAILED"), written_off]


def test_a_cancellation_handled_after_the_wish_does_not_hinder_it(payment: InMemory[Payments]) -> None:
    """The parked cancellation is redriven while the inquiry runs: it refunds or skips, and the command still counts."""
    payment.given(*CHARGED, resolve(CANCEL.type), CANCEL)
    payment.receives(GONE)
    assert payment.emitted() == [RESOLVED]

    fresh = InMemory(payment.on)
    fresh.given(resolve(CANCEL.type))
    fresh.receives(CANCEL, GONE)
    assert fresh.emitted() == [PaymentSkipped("o-1", "CUSTOMER")]


@pytest.mark.proves("resolve.late-refund")
def test_a_refund_that_lands_after_all_is_recorded_and_found(payment: InMemory[Payments]) -> None:
    """After RESOLVED the money's way back is an entry and a finding, once, and nothing is said again."""
    payment.given(*REFUNDING, resolve(), GONE)

    payment.receives(BACK, times=3)

    why = "the money went back after a person had resolved it"
    assert payment.emitted() == [FindingRaised("payment", "4", why, "o-1")]
    assert (state(payment), ledger(payment)) == (State.RESOLVED, ["charge:o-1", "refund:o-1"])


@pytest.mark.proves("resolve.late-refund")
def test_an_open_refund_is_dropped_once_resolved_and_asked_for(payment: InMemory[Payments]) -> None:
    """A refund whose answer was lost may have landed: dropped, it asks, and what is found is a finding."""
    payment.given(*REFUNDING, resolve(), GONE)

    assert when_refund(RefundCard("o-1", 2500), payment.work) is Decision.CANCEL
    payment.receives(DROPPED)

    assert payment.emitted() == [INQUIRY]


def test_a_refund_dropped_for_any_other_reason_asks_nothing(payment: InMemory[Payments]) -> None:
    """A second sender's refund that is done already is let go."""
    payment.given(*REFUNDING, BACK)

    payment.receives(DROPPED)

    assert payment.emitted() == []
