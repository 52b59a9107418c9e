"""An order that waits too long: who is told what, when and how often, and that it is over once the order moves on."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from order.domain import Order, Orders, Patience, Status
from order.events import (
    CancelOrder,
    OrderCheck,
    OrderDeadline,
    PaymentCharged,
    PaymentOutcomeUnknown,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentSkipped,
    PlaceOrder,
    StockCommitted,
    StockReleased,
    StockReserved,
)
from quadrille import Message, OrderStuck, Timer
from quadrille.testing import START, InMemory

Sales = InMemory[Orders]
DEADLINE = START + timedelta(minutes=5)
EXPIRED = OrderDeadline("o-1", DEADLINE)
DAY = timedelta(days=1)


def row(order: Sales) -> Order:
    return order.work.known("o-1")


def run(order: Sales, until: datetime) -> list[OrderStuck]:
    """Let every check fire that falls due until then, the deadline first; return who was told to be stuck."""
    order.emitted()
    order.receives(EXPIRED)
    told: list[OrderStuck] = []
    timers: list[OrderCheck] = []
    while True:
        emitted = order.emitted()
        told += [one for one in emitted if isinstance(one, OrderStuck)]
        timers += [one for one in emitted if isinstance(one, OrderCheck)]
        due = [one for one in timers if one.due <= until]
        if not due:
            return told
        timers.remove(due[0])
        order.receives(due[0])


@pytest.mark.parametrize(
    ("before", "owed"),
    [
        ((), [("inventory", "stock.released"), ("payment", "payment.skipped")]),
        ((StockReserved("o-1"),), [("inventory", "stock.released"), ("payment", "payment.skipped")]),
        ((PaymentOutcomeUnknown("o-1"),), [("inventory", "stock.released"), ("payment", "payment.charged")]),
        ((CancelOrder("o-1", "local", "local"), StockReleased("o-1")), [("payment", "payment.skipped")]),
        ((PaymentCharged("o-1"),), [("inventory", "stock.reserved")]),
        ((StockReserved("o-1"), PaymentCharged("o-1")), [("inventory", "stock.committed")]),
        (
            (PaymentCharged("o-1"), CancelOrder("o-1", "local", "local"), StockReleased("o-1")),
            [("payment", "payment.refunded")],
        ),
    ],
)
def test_who_owes_what_is_told_at_each_level_once(
    order: Sales, before: tuple[Message, ...], owed: list[tuple[str, str]]
) -> None:
    """After 5, 10 and 30 minutes everyone who owes an event is named, with the level, since when, and never again."""
    order.given(*before)

    told = run(order, START + DAY)

    since = row(order).history[-1].at
    levels = [(who, fact, level) for level in ("WARN", "PAGE", "ESCALATE") for who, fact in owed]
    assert [(one.owes, one.fact, one.level) for one in told] == levels
    assert {one.since_at for one in told} == {since}
    assert (row(order).attention, row(order).detail.stuck) == ("STUCK", 3)


def test_the_levels_come_in_time(order: Sales) -> None:
    """Nothing is said a moment before 5 minutes after the order began to wait, all is said at 30."""
    since = DEADLINE
    assert run(order, since + timedelta(minutes=4, seconds=59)) == []
    for minutes, level in ((5, "WARN"), (10, "PAGE"), (30, "ESCALATE")):
        order.receives(OrderCheck("o-1", since + timedelta(minutes=minutes)))
        assert {one.level for one in order.emitted() if isinstance(one, OrderStuck)} == {level}


@pytest.mark.parametrize(
    "before",
    [
        (StockReserved("o-1"), PaymentCharged("o-1"), StockCommitted("o-1")),
        (CancelOrder("o-1", "local", "local"), StockReleased("o-1"), PaymentSkipped("o-1")),
    ],
)
def test_an_order_that_is_over_is_looked_after_no_more(order: Sales, before: tuple[Message, ...]) -> None:
    """A check of an order that owes and is owed nothing is a no-op, and no other follows."""
    order.given(*before)
    then = row(order)

    order.receives(EXPIRED, OrderCheck("o-1", START + DAY))

    assert order.emitted() == []
    assert row(order) == then


def test_moving_on_ends_the_call_and_begins_a_new_wait(order: Sales) -> None:
    """Each status has its own clock: a stuck order that moves on is calm again, and is told of anew if it stays."""
    order.given(PaymentCharged("o-1"), CancelOrder("o-1", "local", "local"), StockReleased("o-1"))
    assert [one.level for one in run(order, START + timedelta(minutes=12))] == ["WARN", "PAGE"]

    order.now = START + timedelta(minutes=12)
    order.receives(PaymentRefundFailed("o-1", "BUSINESS", "card_closed", 1))
    assert (row(order).status, row(order).attention) == (Status.COMPENSATION_FAILED, None)
    told = run(order, START + timedelta(minutes=20))
    assert [(one.owes, one.fact, one.level) for one in told] == [("payment", "payment.refunded", "WARN")]

    order.receives(PaymentRefunded("o-1", "REFUND", 2800))
    assert (row(order).status, row(order).attention, row(order).detail.stuck) == (Status.CANCELLED, None, 0)


def test_the_goods_of_a_confirmed_order_are_committed_late(order: Sales) -> None:
    """A confirmed order whose goods are not committed is stuck until they are; its status stays."""
    order.given(StockReserved("o-1"), PaymentCharged("o-1"))
    assert [one.level for one in run(order, START + timedelta(minutes=6))] == ["WARN"]

    order.receives(StockCommitted("o-1"))

    assert (row(order).status, row(order).attention) == (Status.CONFIRMED, None)


def test_one_of_two_debtors_pays(order: Sales) -> None:
    """The order stays marked while anyone still owes it an event; only that one is named at the next level."""
    run(order, DEADLINE + timedelta(minutes=5))
    order.receives(StockReleased("o-1"))

    order.receives(OrderCheck("o-1", DEADLINE + timedelta(minutes=10)))

    assert row(order).attention == "STUCK"
    assert [(one.owes, one.level) for one in order.emitted() if isinstance(one, OrderStuck)] == [("payment", "PAGE")]


def test_cancelled_long_after_the_deadline(order: Sales) -> None:
    """A cancellation after the last look begins a new one; one before it does not."""
    order.given(StockReserved("o-1"), PaymentCharged("o-1"), StockCommitted("o-1"), EXPIRED)
    order.now = START + timedelta(minutes=20)

    order.receives(CancelOrder("o-1", "local", "local"))

    at = START + timedelta(minutes=20, seconds=1)
    assert [one for one in order.emitted() if isinstance(one, Timer)] == [OrderCheck("o-1", at + timedelta(minutes=5))]


def test_a_far_deadline_is_not_waited_for(empty: Sales, place: PlaceOrder) -> None:
    """With a deadline after the first level an order is looked at from its placing on, each level told once.

    One timer is set at a time, of a look or of the deadline, whichever is first; after the deadline looks go on.
    """
    deadline = START + timedelta(minutes=15)
    empty.receives(replace(place, deadline_at=deadline))
    told, due = [], []
    for _ in range(5):
        emitted = empty.emitted()
        told += [(one.owes, one.fact, one.level) for one in emitted if isinstance(one, OrderStuck)]
        [timer] = [one for one in emitted if isinstance(one, OrderCheck | OrderDeadline)]
        due.append((timer.type, timer.due - START))
        empty.receives(timer)

    assert told[:2] == [("inventory", "stock.reserved", "WARN"), ("inventory", "stock.reserved", "PAGE")]
    assert set(told[2:]) == {("inventory", "stock.released", "WARN"), ("payment", "payment.skipped", "WARN")}
    assert due == [
        (kind, timedelta(minutes=minutes))
        for kind, minutes in (
            ("order_check", 5), ("order_check", 10), ("order_deadline", 15), ("order_check", 20), ("order_check", 25)
        )
    ]  # fmt: skip


def test_a_timer_is_set_whatever_was_set_before(order: Sales, place: PlaceOrder) -> None:
    """A look that comes late, as after a change of settings, still sets the deadline it finds passed."""
    order.receives(OrderCheck("o-1", place.deadline_at + timedelta(minutes=1)))

    assert [one for one in order.emitted() if isinstance(one, OrderDeadline)] == [EXPIRED]


def test_cancelled_while_it_is_looked_after(empty: Sales, place: PlaceOrder) -> None:
    """A cancellation of an order that waits sets no second timer: the one that is set looks on."""
    empty.given(replace(place, deadline_at=START + DAY), OrderCheck("o-1", START + timedelta(minutes=5)))
    empty.now = START + timedelta(minutes=6)

    empty.receives(CancelOrder("o-1", "local", "local"))

    assert [one for one in empty.emitted() if isinstance(one, Timer)] == []


def test_patience_is_a_setting(place: PlaceOrder) -> None:
    """The levels are the settings' own; what waits on after the last is looked at as often as that took."""
    short = Patience(*(timedelta(seconds=n) for n in (1, 2, 3)))
    assert [short.level(timedelta(seconds=n)) for n in (0, 1, 2, 3, 9)] == [0, 1, 2, 3, 3]
    assert short.next(START, START + timedelta(seconds=1)) == START + timedelta(seconds=2)
    assert short.next(START, START + timedelta(seconds=3)) == START + timedelta(seconds=6)


def test_a_contradiction_is_louder_than_waiting(order: Sales) -> None:
    """An order marked CONFLICT stays so, stuck or not; that it is stuck is told all the same."""
    order.given(StockReserved("o-1"), PaymentCharged("o-1"), PaymentRefunded("o-1", "VOID", 2800))

    assert [one.fact for one in run(order, START + timedelta(minutes=6))] == ["stock.committed"]

    assert row(order).attention == "CONFLICT"
