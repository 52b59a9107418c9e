"""The order hears everything it may ever hear, in every order: the laws hold in each of the states it can reach."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from datetime import timedelta
from typing import TypeAlias

import pytest

from order.domain import PHASES, Order, Orders, Status
from order.events import (
    AddWebhook,
    CancelOrder,
    EnableWebhook,
    GiveUpWaiting,
    OrderCancellationRequested,
    OrderCancelled,
    OrderCheck,
    OrderCompensationFailed,
    OrderCompensationResolved,
    OrderConfirmed,
    OrderDeadline,
    PaymentCharged,
    PaymentDeclined,
    PaymentOutcomeUnknown,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentResolved,
    PaymentSkipped,
    PlaceOrder,
    RemoveWebhook,
    RotateWebhook,
    Shortage,
    StockCommitted,
    StockRejected,
    StockReleased,
    StockReleaseFailed,
    StockReserved,
    StockResolved,
    WebhookDropped,
    WebhookGivenUp,
    WebhookPushed,
)
from order.handlers import on
from quadrille import Emitted, Event, Message
from quadrille.testing import START, InMemory, uuid7

Story: TypeAlias = tuple[Order, tuple[str, ...]]
Reached: TypeAlias = dict[Story, list[tuple[Story, tuple[Emitted, ...]]]]
HEARD: tuple[Message, ...] = (
    OrderDeadline("o-1", START + timedelta(minutes=5)),
    CancelOrder("o-1", "local", "local"),
    GiveUpWaiting("o-1", "inventory"),
    GiveUpWaiting("o-1", "payment"),
    StockReserved("o-1"),
    StockRejected("o-1", (Shortage("SKU-TEA", 2, 1),)),
    StockCommitted("o-1"),
    StockReleased("o-1"),
    StockReleaseFailed("o-1", "BUSINESS", 1, "sealed: SKU-TEA"),
    StockResolved("o-1", "WRITTEN_OFF"),
    PaymentCharged("o-1"),
    PaymentDeclined("o-1", "insufficient_funds"),
    PaymentOutcomeUnknown("o-1"),
    PaymentSkipped("o-1"),
    PaymentRefunded("o-1", "VOID", 2800),
    PaymentRefundFailed("o-1", "BUSINESS", "card_closed", 1),
    PaymentResolved("o-1", "EXTERNAL"),
)
CONFIRMED, REQUESTED, CANCELLED = OrderConfirmed.type, OrderCancellationRequested.type, OrderCancelled.type
TOLD = (CONFIRMED, REQUESTED, CANCELLED)


def explored(order: InMemory[Orders], place: PlaceOrder) -> Reached:
    """Return every state that any sequence of messages leads to, with what follows it and what is said there.

    A state is the order's row without its times and counters, and the events it has said so far.
    """
    order.given(place)
    reached: Reached = {}
    waiting: deque[Story] = deque([(timeless(order.work.known("o-1")), ())])
    while waiting:
        story = waiting.popleft()
        if story in reached:
            continue
        reached[story] = []
        for message in HEARD:
            order.work.rows.put("o-1", story[0])
            order.now = START
            order.receives(message)
            emitted = tuple(order.emitted())
            after = (
                timeless(order.work.known("o-1")),
                story[1] + tuple(one.type for one in emitted if one.type in TOLD),
            )
            reached[story].append((after, emitted))
            waiting.append(after)
    return reached


def waits_for_a_day(empty: InMemory[Orders], place: PlaceOrder) -> None:
    """Let an order wait while its deadline is far off, then near; cancel another one that waits for nobody any more."""
    empty.work.rows.drop("o-1")
    patient = replace(place, reference=None, deadline_at=place.placed_at + timedelta(minutes=15))
    empty.receives(patient, *(OrderCheck("o-1", START + timedelta(minutes=minutes)) for minutes in (5, 10)))
    empty.receives(replace(patient, order_id="o-2"))
    empty.receives(StockReserved("o-2"), PaymentCharged("o-2"), StockCommitted("o-2"))
    empty.now = START + timedelta(minutes=20)
    empty.receives(CancelOrder("o-2", None, "operator"))


def timeless(order: Order) -> Order:
    return replace(order, version=1, history=())


@pytest.fixture(params=["cust_demo", "cust_blocked"])
def command(place: PlaceOrder, request: pytest.FixtureRequest) -> PlaceOrder:
    """The command of a customer whose orders are confirmed, and of one whose orders are not."""
    return replace(place, customer_id=request.param)


@pytest.fixture
def reached(empty: InMemory[Orders], command: PlaceOrder) -> Reached:
    return explored(empty, command)


@pytest.mark.proves("L3", "L9")
def test_the_laws_hold_in_every_state(reached: Reached) -> None:
    """At most one confirmation, one cancellation and one end, in this order, and an end only when all have settled."""
    assert len(reached) > 100
    for order, told in reached:
        for fact in TOLD:
            assert told.count(fact) <= 1  # L2, L3, L9
        if CONFIRMED in told and REQUESTED in told:
            assert told.index(CONFIRMED) < told.index(REQUESTED)  # L9
        assert (REQUESTED in told) is (order.reason is not None)
        assert (CANCELLED in told) is (order.status is Status.CANCELLED)
        if order.reason is not None:
            assert order.states.settled is (order.status is Status.CANCELLED)  # L3, and no order waits for nobody
        assert (PHASES[order.status] in ("PENDING", "SUCCEEDED")) is (order.reason is None)


@pytest.mark.proves("L11")
def test_nothing_changes_after_the_end(reached: Reached) -> None:
    """A cancelled order absorbs everything: its row stays and no event is said."""
    ended = [story for story in reached if story[0].status is Status.CANCELLED]
    assert ended
    for story in ended:
        for after, emitted in reached[story]:
            assert after == story
            assert not any(isinstance(one, Event) for one in emitted)


@pytest.mark.proves("order.resolved")
def test_a_failure_is_announced_and_resolved_in_pairs(reached: Reached) -> None:
    """order.compensation_resolved names a participant whose failure was announced, and whose failure stands no more."""
    for (order, _), following in reached.items():
        before = {failure.participant for failure in order.detail.failed}
        for (after, _), emitted in following:
            now = {failure.participant for failure in after.detail.failed}
            failed = {one.participant for one in emitted if isinstance(one, OrderCompensationFailed)}
            resolved = {one.participant for one in emitted if isinstance(one, OrderCompensationResolved)}
            assert now == (before | failed) - resolved
            assert not failed & before
            assert resolved <= before
            assert not failed or after.status is Status.COMPENSATION_FAILED


def test_no_state_is_without_an_exit(reached: Reached) -> None:
    """From every state some events lead to an end: no combination of events strands an order."""
    leads: dict[Story, set[Story]] = {}
    for story, following in reached.items():
        for after, _ in following:
            leads.setdefault(after, set()).add(story)
    waiting = deque(story for story in reached if story[0].status is Status.CANCELLED)
    escape = set(waiting)
    while waiting:
        fresh = leads.get(waiting.popleft(), set()) - escape
        escape |= fresh
        waiting.extend(fresh)
    assert escape == set(reached)


def tells_an_endpoint(order: InMemory[Orders]) -> None:
    """An endpoint is added, told, given up, enabled, rotated and removed; what is not there is none's."""
    webhook_id = str(uuid7())
    order.given(
        AddWebhook(webhook_id, "local", "https://shop.example/", ("order.confirmed",), "whsec_AAAA"),
        WebhookPushed(webhook_id, 7, str(uuid7()), 4, 1),
        RotateWebhook(webhook_id, "local", "whsec_BBBB"),
        WebhookGivenUp(webhook_id, "it took nothing for a day"),
        EnableWebhook(webhook_id, "local"),
        RemoveWebhook(webhook_id, "local"),
        WebhookDropped(webhook_id),
    )


def test_every_declared_edge_is_said(empty: InMemory[Orders], place: PlaceOrder) -> None:
    """Each handler says everything its signature declares, in some state: the saga map shows nothing that is not."""
    explored(empty, place)
    empty.work.rows.drop("o-1")
    explored(empty, replace(place, customer_id="cust_blocked", reference=None))
    waits_for_a_day(empty, place)
    tells_an_endpoint(empty)

    declared = {(reaction.name, emitted.type) for reaction in on.specs.values() for emitted in reaction.emits}
    assert empty.exercised == declared
