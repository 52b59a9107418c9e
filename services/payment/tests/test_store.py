"""Payment's SQL on a real Postgres, through commit: the join, the tasks, the ledger that only grows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import LiteralString
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa

from payment import store
from payment.domain import Entry, OrderId, Payment, Payments, Price, State
from payment.events import (
    CardCharged,
    CardDeclined,
    CardRefunded,
    ChargeCard,
    ChargeNotFound,
    ChargeUnknown,
    InquireCharge,
    OrderCancellationRequested,
    OrderPlaced,
    RefundCard,
    StockReserved,
)
from payment.handlers import on
from quadrille import HandlerRegistry
from quadrille.service import Store
from quadrille.testing import Duplicate, Handled, OnPostgres, Parked, drift

Money = OnPostgres[Payments]
LATER = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def migrated(on_postgres: Callable[[HandlerRegistry[Payments], Store[Payments]], Money]) -> Money:
    return on_postgres(on, store)


@pytest.fixture
def payment(migrated: Money) -> Money:
    """Payment over its database, with nothing said yet."""
    migrated.emitted()
    return migrated


@pytest.fixture
def order() -> str:
    return str(uuid4())


@contextmanager
def reading(payment: Money) -> Iterator[sa.Connection]:
    """A connection as the API's reads use it."""
    engine = sa.create_engine(payment.logins.app.replace("postgresql://", "postgresql+psycopg://", 1))
    try:
        with engine.begin() as db:
            yield db
    finally:
        engine.dispose()


def placed(order: str) -> OrderPlaced:
    return OrderPlaced(order, 2500, "EUR", "tok_ok", LATER)


def emitted(payment: Money, order: str) -> list[str]:
    return [kind for kind, _ in payment.published(order)]


@pytest.mark.proves("payment.join", "L10")
def test_the_join_over_two_batches(payment: Money, order: str) -> None:
    """Amount and permission of two topics meet in one row, and the intent is committed before any call (law L10)."""
    payment.receives(StockReserved(order))
    assert payment.intents(order) == []
    payment.receives(placed(order))

    assert payment.intents(order) == [ChargeCard(order, 2500, "EUR", "tok_ok")]
    assert emitted(payment, order) == []


def test_a_batch_of_every_shape(payment: Money) -> None:
    """Rows with and without a price, one or all of their fields empty, are saved and found again in one batch."""
    orders = [str(uuid4()) for _ in range(4)]
    both, price, permission, cancelled = orders

    payment.given(placed(both), StockReserved(both), placed(price), StockReserved(permission))
    payment.given(OrderCancellationRequested(cancelled, "CUSTOMER"))
    payment.given(StockReserved(price), placed(permission), placed(cancelled), StockReserved(cancelled))

    charges = [len(payment.intents(order)) for order in orders]
    assert charges == [1, 1, 1, 0]
    assert emitted(payment, cancelled) == ["payment.skipped"]


def test_the_same_order_twice_in_a_batch(payment: Money, order: str) -> None:
    """Joined and cancelled in one batch: the charge in flight is marked, and refunded when its answer comes."""
    payment.given(placed(order), StockReserved(order), OrderCancellationRequested(order, "CUSTOMER"))

    payment.given(CardCharged(order, "ch-1"))

    assert emitted(payment, order) == ["payment.charged"]
    assert payment.intents(order) == [RefundCard(order, 2500)]


def test_a_cancellation_is_remembered_until_the_answer(payment: Money, order: str) -> None:
    """A cancellation stored while the outcome is unknown counts when the answer comes: charged, then refunded."""
    payment.given(placed(order), StockReserved(order))
    payment.given(ChargeUnknown(order, 3))
    payment.given(OrderCancellationRequested(order, "CUSTOMER"))

    payment.given(CardCharged(order, "ch-1"))

    assert emitted(payment, order) == ["payment.outcome_unknown", "payment.charged"]
    assert payment.intents(order) == [RefundCard(order, 2500)]


def test_every_column_that_changes_is_stored(payment: Money, order: str) -> None:
    """A row that grew over three batches is read back whole: permission, price, start, command and code."""
    payment.given(StockReserved(order))
    (answer,) = payment.inputs([placed(order)])
    payment.takes([answer])
    payment.given(OrderCancellationRequested(order, "CUSTOMER"))
    payment.given(CardDeclined(order, "expired_card"))

    with reading(payment) as db:
        account = store.payment_of(db, order)

    price, began_at = Price(2500, "EUR", "tok_ok", LATER), answer.at
    assert account is not None
    assert account.payment == Payment(OrderId(order), State.DECLINED, True, True, began_at, "expired_card", price)  # noqa: FBT003 - the row as it is


def test_a_whole_life_leaves_two_entries(payment: Money, order: str) -> None:
    """Charged and refunded: the API shows the payment, both entries under their keys, and nothing pending."""
    payment.given(placed(order), StockReserved(order))
    payment.given(CardCharged(order, "ch-1"))
    payment.given(OrderCancellationRequested(order, "CUSTOMER"))
    payment.given(CardRefunded(order, "VOID", "re-1"))

    with reading(payment) as db:
        account = store.payment_of(db, order)
    assert account is not None
    assert account.payment.state is State.REFUNDED
    assert account.payment.price == Price(2500, "EUR", "tok_ok", LATER)
    assert [(e.key, e.kind, e.amount_minor, e.reference) for e in account.entries] == [
        (f"charge:{order}", "CAPTURE", 2500, "ch-1"),
        (f"refund:{order}", "VOID", 2500, "re-1"),
    ]
    assert account.pending == ()
    assert emitted(payment, order) == ["payment.charged", "payment.refunded"]


def test_an_unknown_outcome_walks_to_its_end(payment: Money, order: str) -> None:
    """Unknown, not found, asked again, unknown, found: one intent at a time, one payment.outcome_unknown."""
    payment.given(placed(order), StockReserved(order))
    payment.given(ChargeUnknown(order, 3))
    assert payment.intents(order) == [InquireCharge(order)]
    payment.given(ChargeNotFound(order))
    assert payment.intents(order) == [ChargeCard(order, 2500, "EUR", "tok_ok")]
    payment.given(ChargeUnknown(order, 3))
    payment.given(CardCharged(order, "ch-1"))

    assert payment.intents(order) == []
    assert emitted(payment, order) == ["payment.outcome_unknown", "payment.charged"]


def test_what_is_pending_is_shown(payment: Money, order: str) -> None:
    """The API shows an open intent with its tries; an order nobody heard of is not there."""
    payment.given(placed(order), StockReserved(order))

    with reading(payment) as db:
        account, none = store.payment_of(db, order), store.payment_of(db, str(uuid4()))

    assert account is not None
    price, began_at = Price(2500, "EUR", "tok_ok", LATER), account.payment.began_at
    wanted = Payment(OrderId(order), State.CHARGING, permitted=True, began_at=began_at, price=price)
    assert account.payment == wanted
    assert [(p.type, p.attempts, p.error) for p in account.pending] == [("charge_card", 0, None)]
    assert none is None


def test_an_answer_twice_is_seen(payment: Money, order: str) -> None:
    """The same answer twice, in one batch and in the next, is handled once: one entry, one payment.charged."""
    payment.given(placed(order), StockReserved(order))
    (answer,) = payment.inputs([CardCharged(order, "ch-1")])

    outcomes = [*payment.takes([answer, answer]), *payment.takes([answer])]

    assert [type(outcome) for outcome in outcomes] == [Handled, Duplicate, Duplicate]
    assert emitted(payment, order) == ["payment.charged"]


def test_two_answers_race(payment: Money, order: str) -> None:
    """Charged and declined answered at one instant on two connections: one of them counts, the other is absorbed."""
    payment.given(placed(order), StockReserved(order))
    start, failures = threading.Barrier(2), list[BaseException]()

    def answered(answer: CardCharged | CardDeclined) -> None:
        try:
            inputs = payment.inputs([answer])
            with payment.connect() as tx:
                start.wait(60)
                payment.takes(inputs, tx=tx)
        except BaseException as failure:  # noqa: BLE001 - told to the test's own thread
            failures.append(failure)

    answers = CardCharged(order, "ch-1"), CardDeclined(order, "expired_card")
    threads = [threading.Thread(target=answered, args=(answer,)) for answer in answers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert failures == []
    assert emitted(payment, order) in (["payment.charged"], ["payment.declined"])


@pytest.mark.proves("payment.ledger")
@pytest.mark.parametrize("statement", ["UPDATE entry SET amount_minor = 0", "DELETE FROM entry"])
def test_the_ledger_only_grows(payment: Money, statement: LiteralString) -> None:
    """The app may neither change nor remove an entry: the database refuses."""
    with payment.connect() as tx, pytest.raises(psycopg.errors.InsufficientPrivilege):
        tx.execute(statement)


@pytest.mark.proves("payment.ledger", "payment.keys")
def test_a_second_entry_under_one_key_is_refused(payment: Money, order: str) -> None:
    """A capture that is in the ledger already cannot be entered again, whatever the payment's row says."""
    payment.given(placed(order), StockReserved(order))
    entry = (f"charge:{order}", order, "CAPTURE", 2500, "EUR", "ch-0")
    payment.tx.execute("INSERT INTO entry VALUES (%s, %s, %s, %s, %s, %s, now())", entry)  # the fault

    (outcome,) = payment.receives(CardCharged(order, "ch-1"))

    assert isinstance(outcome, Parked)
    assert emitted(payment, order) == ["input.parked"]


def test_the_migration_makes_what_the_store_describes(payment: Money) -> None:
    """No drift: the migrated tables have the columns, types and keys that the store describes."""
    with reading(payment) as db:
        assert drift(db, store.metadata) == []


def test_entries_come_back_as_they_were(payment: Money, order: str) -> None:
    """An entry read back is the entry that was written, its time in UTC to the microsecond."""
    payment.given(placed(order), StockReserved(order))
    (answer,) = payment.inputs([CardCharged(order, "ch-1")])
    payment.takes([answer])

    with reading(payment) as db:
        account = store.payment_of(db, order)

    assert account is not None
    assert account.entries == (Entry(f"charge:{order}", OrderId(order), "CAPTURE", 2500, "EUR", "ch-1", answer.at),)
