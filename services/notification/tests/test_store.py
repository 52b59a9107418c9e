"""Notification's SQL on a real Postgres, through commit: notices, tombstones, the address book."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from uuid import uuid4

import pytest
import sqlalchemy as sa

from notification import store
from notification.domain import Contact, CustomerId, Kind, Post, State
from notification.events import (
    ContactErased,
    ContactStored,
    DeleteContact,
    MailFailed,
    MailSent,
    OrderCancellationRequested,
    OrderCancelled,
    OrderConfirmed,
    PutContact,
    SendMail,
    SendMailDropped,
)
from notification.handlers import on, when_mail
from quadrille import Decision, HandlerRegistry
from quadrille.service import Store
from quadrille.testing import OnPostgres, drift

Office = OnPostgres[Post]


@pytest.fixture(scope="module")
def migrated(on_postgres: Callable[[HandlerRegistry[Post], Store[Post]], Office]) -> Office:
    return on_postgres(on, store)


@pytest.fixture
def notification(migrated: Office) -> Office:
    """Notification over its database, with nothing said yet."""
    migrated.emitted()
    return migrated


@pytest.fixture
def customer(notification: Office) -> str:
    """A customer of its own with an address."""
    name = f"cust-{uuid4()}"
    notification.given(PutContact(name, f"{name}@example.com"))
    return name


@pytest.fixture
def order() -> str:
    return str(uuid4())


@contextmanager
def reading(notification: Office) -> Iterator[sa.Connection]:
    """A connection as the API's reads use it."""
    engine = sa.create_engine(notification.logins.app.replace("postgresql://", "postgresql+psycopg://", 1))
    try:
        with engine.begin() as db:
            yield db
    finally:
        engine.dispose()


def emitted(notification: Office, order: str) -> list[str]:
    return [f"{kind} {body['kind']}" for kind, body in notification.published(order)]


def ruling(notification: Office, mail: SendMail) -> Decision:
    with notification.tx.transaction():
        return when_mail(mail, store.load(notification.tx, [mail]))


def test_both_mails_of_an_order(notification: Office, customer: str, order: str) -> None:
    """Confirmed, cancelled: one intent and one event each, and the API shows both, the oldest first."""
    notification.given(OrderConfirmed(order, customer, 2500, "EUR"))
    notification.given(MailSent(order, "confirmed"))
    notification.given(OrderCancellationRequested(order))
    notification.given(OrderCancelled(order, customer, "CUSTOMER"))
    notification.given(MailFailed(order, "cancelled", "refused by the mail server: 550"))

    assert emitted(notification, order) == ["notification.sent confirmed", "notification.failed cancelled"]
    assert notification.intents(order) == []
    with reading(notification) as db:
        shown = [(one.notice.kind, one.notice.state, one.notice.because) for one in store.notices_of(db, order)]
    assert shown == [
        (Kind.CONFIRMED, State.SENT, None),
        (Kind.CANCELLED, State.FAILED, "refused by the mail server: 550"),
    ]


def test_a_batch_of_many_customers(notification: Office, customer: str) -> None:
    """One batch with known, unknown and repeated orders makes one mail or one suppression each."""
    known, unknown = str(uuid4()), str(uuid4())

    notification.given(
        OrderConfirmed(known, customer, 2500, "EUR"),
        OrderConfirmed(known, customer, 2500, "EUR"),
        OrderConfirmed(unknown, "cust-nobody", 2500, "EUR"),
    )

    (mail,) = notification.intents(known)
    assert isinstance(mail, SendMail)
    assert mail.address == f"{customer}@example.com"
    assert notification.intents(unknown) == []
    assert emitted(notification, unknown) == ["notification.suppressed confirmed"]


def test_a_tombstone_is_kept_and_not_shown(notification: Office, customer: str, order: str) -> None:
    """A cancellation heard first suppresses the confirmation of a later batch; alone it is no notice."""
    notification.given(OrderCancellationRequested(order))
    with reading(notification) as db:
        assert store.notices_of(db, order) == []

    notification.given(OrderConfirmed(order, customer, 2500, "EUR"))

    assert notification.intents(order) == []
    assert emitted(notification, order) == ["notification.suppressed confirmed"]


def test_a_waiting_mail_is_judged_against_the_database(notification: Office, customer: str, order: str) -> None:
    """The lease's ruling sees what other batches stored: the mail goes, until a cancellation was heard."""
    notification.given(OrderConfirmed(order, customer, 2500, "EUR"))
    (mail,) = notification.intents(order)
    assert isinstance(mail, SendMail)
    assert ruling(notification, mail) is Decision.PROCEED

    notification.given(OrderCancellationRequested(order))
    assert ruling(notification, mail) is Decision.CANCEL
    notification.given(SendMailDropped(order, "confirmed", customer, mail.subject, mail.text))

    assert emitted(notification, order) == ["notification.suppressed confirmed"]


def test_an_erased_customer_is_judged_against_the_database(notification: Office, customer: str, order: str) -> None:
    """Erased before the lease of its mail, which does not go then; entered anew, it goes to the new address."""
    notification.given(OrderConfirmed(order, customer, 2500, "EUR"))
    (mail,) = notification.intents(order)
    assert isinstance(mail, SendMail)

    notification.given(DeleteContact(customer))
    assert ruling(notification, mail) is Decision.CANCEL

    notification.given(PutContact(customer, "new@example.com"))
    assert ruling(notification, mail) is Decision.CANCEL
    notification.given(SendMailDropped(order, "confirmed", customer, mail.subject, mail.text))

    assert notification.intents(order)[-1] == replace(mail, address="new@example.com")


def test_the_address_book(notification: Office, customer: str) -> None:
    """Created, replaced, erased and entered again, over batches and within one."""
    notification.receives(PutContact(customer, "b@example.com"))
    with reading(notification) as db:
        assert store.contact_of(db, customer) == Contact(CustomerId(customer), "b@example.com")

    notification.receives(DeleteContact(customer), DeleteContact(customer), PutContact(customer, "c@example.com"))
    notification.receives(DeleteContact(customer))

    with reading(notification) as db:
        assert store.contact_of(db, customer) is None
    assert notification.emitted() == [
        ContactStored(customer, "b@example.com", created=False),
        ContactErased(customer, existed=True),
        ContactErased(customer, existed=False),
        ContactStored(customer, "c@example.com", created=True),
        ContactErased(customer, existed=True),
    ]


@pytest.mark.proves("mail.address-book")
def test_no_address_leaves_the_database(notification: Office, customer: str, order: str) -> None:
    """What is said about a mail names order and kind, never an address."""
    notification.given(OrderConfirmed(order, customer, 2500, "EUR"))
    notification.given(MailSent(order, "confirmed"))

    assert notification.published(order) == [
        ("notification.sent", {"order_id": order, "kind": "confirmed", "channel": "email"})
    ]
    rows = notification.tx.execute("SELECT count(*) FROM task WHERE key = %s", [order]).fetchone()
    assert rows == (0,)


def test_the_migration_makes_what_the_store_describes(notification: Office) -> None:
    """No drift: the migrated tables have the columns, types and keys that the store describes."""
    with reading(notification) as db:
        assert drift(db, store.metadata) == []
