"""Every row of notification's machine (law.md, "Notification"): given, when it hears, then it says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from notification.domain import CustomerId, Kind, OrderId, Post, State
from notification.events import (
    ContactErased,
    ContactStored,
    DeleteContact,
    MailFailed,
    MailSent,
    NotificationFailed,
    NotificationSent,
    NotificationSuppressed,
    OrderCancellationRequested,
    OrderCancelled,
    OrderConfirmed,
    PutContact,
    SendMail,
    SendMailDropped,
)
from notification.handlers import on, when_mail
from quadrille import Decision, Message
from quadrille.testing import InMemory

CONFIRMED = OrderConfirmed("o-1", "cust_demo", 2500, "EUR")
CANCEL = OrderCancellationRequested("o-1")
CANCELLED = OrderCancelled("o-1", "cust_demo", "CUSTOMER")
MAIL = SendMail(
    "o-1",
    "confirmed",
    "cust_demo",
    "demo@example.com",
    "Order o-1 is confirmed",
    "Your order is confirmed. Charged: 25.00 EUR.\n",
)
SENT = MailSent("o-1", "confirmed")
BOUNCED = MailFailed("o-1", "confirmed", "SMTP 550: refused for good")
DROPPED = SendMailDropped("o-1", "confirmed", "cust_demo", MAIL.subject, MAIL.text)


def state(notification: InMemory[Post], kind: Kind = Kind.CONFIRMED) -> State | None:
    notice = notification.work.notices.get((OrderId("o-1"), kind))
    return notice.state if notice else None


@pytest.mark.proves("mail.send")
def test_a_confirmed_order_is_written_about_once(notification: InMemory[Post]) -> None:
    """order.confirmed says one intent to send one mail, however often it arrives."""
    notification.receives(CONFIRMED, times=3)

    assert notification.emitted() == [MAIL]
    assert state(notification) is State.SENDING


@pytest.mark.proves("mail.send")
@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("CUSTOMER", "as you asked"),
        ("DEADLINE", "because it could not be completed in time"),
        ("PARTICIPANT_AWAY", "because it could not be completed in time"),
        ("OUT_OF_STOCK", "because something in it is out of stock"),
        ("PAYMENT_DECLINED", "because the card was declined"),
        ("OPERATOR", "because we could not carry it out"),
        ("CONFIRMATION_REJECTED", "because we could not carry it out"),
    ],
)
def test_a_cancelled_order_is_written_about_once(notification: InMemory[Post], reason: str, words: str) -> None:
    """order.cancelled says one mail that names the reason in the customer's words."""
    notification.receives(OrderCancelled("o-1", "cust_demo", reason), times=3)

    (mail,) = notification.emitted()
    assert isinstance(mail, SendMail)
    assert (mail.kind, mail.text) == ("cancelled", f"Your order is cancelled, {words}.\n")


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [
        (5, "EUR", "0.05 EUR"),
        (2500, "JPY", "2500 JPY"),
        (2500, "KWD", "2.500 KWD"),
        (10**15, "EUR", "10000000000000.00 EUR"),
    ],
)
def test_an_amount_is_shown_in_its_currency(
    notification: InMemory[Post], amount: int, currency: str, shown: str
) -> None:
    """Minor units are shown with as many decimals as ISO 4217 gives the currency."""
    notification.receives(OrderConfirmed("o-1", "cust_demo", amount, currency))

    (mail,) = notification.emitted()
    assert isinstance(mail, SendMail)
    assert mail.text == f"Your order is confirmed. Charged: {shown}.\n"


@pytest.mark.proves("mail.send")
def test_a_mail_that_went_is_said_once(notification: InMemory[Post]) -> None:
    """MailSent says notification.sent once, however often it arrives."""
    notification.given(CONFIRMED)

    notification.receives(SENT, times=3)

    assert notification.emitted() == [NotificationSent("o-1", "confirmed", "email")]
    assert state(notification) is State.SENT


@pytest.mark.proves("mail.fail")
def test_a_mail_that_is_given_up_is_said_once(notification: InMemory[Post]) -> None:
    """MailFailed says notification.failed once; nobody's money or stock hears of it."""
    notification.given(CONFIRMED)

    notification.receives(BOUNCED, times=3)

    assert notification.emitted() == [NotificationFailed("o-1", "confirmed", "SMTP 550: refused for good")]
    assert state(notification) is State.FAILED


@pytest.mark.proves("mail.no-address")
@pytest.mark.parametrize("fact", [CONFIRMED, CANCELLED], ids=lambda fact: fact.type)
def test_without_an_address_nothing_is_sent(
    notification: InMemory[Post], fact: OrderConfirmed | OrderCancelled
) -> None:
    """A customer without an address gets no mail, and notification.suppressed says so once."""
    notification.given(DeleteContact("cust_demo"))

    notification.receives(fact, times=3)

    (emitted,) = notification.emitted()
    assert isinstance(emitted, NotificationSuppressed)
    assert emitted.reason == "NO_ADDRESS"


@pytest.mark.proves("mail.suppress", "L4")
def test_a_cancellation_heard_first_suppresses_the_confirmation(notification: InMemory[Post]) -> None:
    """A confirmation that comes after the cancellation is suppressed, not sent (law L4)."""
    notification.receives(CANCEL, CONFIRMED, CONFIRMED)

    assert notification.emitted() == [NotificationSuppressed("o-1", "confirmed", "CANCELLED")]


@pytest.mark.proves("mail.suppress")
def test_a_cancellation_before_the_lease_drops_the_confirmation(notification: InMemory[Post]) -> None:
    """A confirmation still waiting when the cancellation is heard is dropped at its lease and said as suppressed."""
    notification.given(CONFIRMED)
    assert when_mail(MAIL, notification.work) is Decision.PROCEED

    notification.given(CANCEL)
    assert when_mail(MAIL, notification.work) is Decision.CANCEL
    notification.receives(DROPPED, times=2)

    assert notification.emitted() == [NotificationSuppressed("o-1", "confirmed", "CANCELLED")]


def test_a_cancelled_order_still_hears_that_it_is_cancelled(notification: InMemory[Post]) -> None:
    """A cancellation request does not hold back the mail that tells of the cancellation."""
    notification.given(CONFIRMED, SENT, CANCEL)

    notification.receives(CANCELLED)

    (mail,) = notification.emitted()
    assert isinstance(mail, SendMail)
    assert when_mail(mail, notification.work) is Decision.PROCEED


def test_an_erased_customer_gets_no_mail(notification: InMemory[Post]) -> None:
    """A customer erased before the lease gets no mail: it is dropped and said as suppressed without an address."""
    notification.given(CONFIRMED, DeleteContact("cust_demo"))

    assert when_mail(MAIL, notification.work) is Decision.CANCEL
    notification.receives(DROPPED)

    assert notification.emitted() == [NotificationSuppressed("o-1", "confirmed", "NO_ADDRESS")]


def test_a_mail_that_waits_follows_its_customer(notification: InMemory[Post]) -> None:
    """Erased and entered anew before the lease: nothing goes to the old address, the same mail to the new one."""
    notification.given(CONFIRMED, DeleteContact("cust_demo"), PutContact("cust_demo", "new@example.com"))

    assert when_mail(MAIL, notification.work) is Decision.CANCEL
    notification.receives(DROPPED)

    moved = replace(MAIL, address="new@example.com")
    assert notification.emitted() == [moved]
    assert when_mail(moved, notification.work) is Decision.PROCEED


@pytest.mark.proves("L11")
@pytest.mark.parametrize(
    "past",
    [[CONFIRMED, SENT], [CONFIRMED, BOUNCED], [CONFIRMED, CANCEL, DROPPED]],
    ids=["SENT", "FAILED", "SUPPRESSED"],
)
def test_an_ended_notice_absorbs_everything(notification: InMemory[Post], past: list[Message]) -> None:
    """A mail that was sent, given up or suppressed is never sent again, whatever arrives (law L11)."""
    notification.given(*past)
    before = state(notification)

    notification.receives(CONFIRMED, CANCEL, SENT, BOUNCED, DROPPED, times=2)

    assert notification.emitted() == []
    assert state(notification) is before
    assert when_mail(MAIL, notification.work) is Decision.CANCEL


def test_answers_nobody_asked_for_are_absorbed(notification: InMemory[Post]) -> None:
    """Answers about a mail that was never wanted say nothing."""
    notification.receives(SENT, BOUNCED, DROPPED)

    assert notification.emitted() == []


def test_a_cancellation_alone_says_nothing(notification: InMemory[Post]) -> None:
    """An order cancelled before it was confirmed has no confirmation to suppress."""
    notification.receives(CANCEL, times=2)

    assert notification.emitted() == []
    assert state(notification) is State.NONE


def test_the_address_book_keeps_one_address(notification: InMemory[Post]) -> None:
    """PUT creates or replaces a customer's address and says which it did."""
    notification.receives(PutContact("cust_new", "a@example.com"), PutContact("cust_new", "b@example.com"))

    assert notification.emitted() == [
        ContactStored("cust_new", "a@example.com", created=True),
        ContactStored("cust_new", "b@example.com", created=False),
    ]


def test_an_erased_customer_is_gone(notification: InMemory[Post]) -> None:
    """DELETE erases the address; a second one finds nothing."""
    notification.receives(DeleteContact("cust_demo"), times=2)

    assert notification.emitted() == [
        ContactErased("cust_demo", existed=True),
        ContactErased("cust_demo", existed=False),
    ]
    assert notification.work.contacts.get(CustomerId("cust_demo")) is None


def test_every_edge_of_the_map_was_walked() -> None:
    """Each (handler, said) pair that notification declares is exercised by one story or another."""
    walked: set[tuple[str, str]] = set()
    known = PutContact("cust_demo", "demo@example.com")
    for story in (
        [known, CONFIRMED, SENT, CANCELLED, DeleteContact("cust_demo")],
        [known, CONFIRMED, BOUNCED],
        [known, CONFIRMED, CANCEL, DROPPED],
        [known, CONFIRMED, DROPPED],
        [CONFIRMED, CANCELLED],
    ):
        notification = InMemory(on)
        notification.receives(*story)
        walked |= notification.exercised

    assert walked == {(r.name, emitted.type) for r in on.specs.values() for emitted in r.emits}
