"""Order's SQL on a real Postgres, through commit: batches, keys, references, races, and what the API reads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
import sqlalchemy as sa

from order import store
from order.domain import Order, Orders, Status
from order.events import (
    CancelAnswered,
    CancelOrder,
    OrderCancellationRequested,
    OrderCancelled,
    OrderCheck,
    OrderConfirmed,
    OrderDeadline,
    PaymentCharged,
    PaymentDeclined,
    PaymentRefunded,
    PaymentRefundFailed,
    PaymentSkipped,
    PlaceAnswered,
    PlaceOrder,
    Shortage,
    StockCommitted,
    StockRejected,
    StockReleased,
    StockReserved,
)
from order.handlers import on
from order.store import Filters
from quadrille import Event, HandlerRegistry, Message, Timer
from quadrille.service import Store
from quadrille.testing import Handled, OnPostgres, Parked, drift, process_batch, upgrade, uuid7
from quadrille_cli.testing import Start

Sales = OnPostgres[Orders]
Wish = Callable[..., PlaceOrder]


@pytest.fixture(scope="module")
def migrated(on_postgres: Callable[[HandlerRegistry[Orders], Store[Orders]], Sales]) -> Sales:
    return on_postgres(on, store)


@pytest.fixture
def order(migrated: Sales) -> Sales:
    """Order over its database, with nothing said yet."""
    migrated.emitted()
    return migrated


@pytest.fixture
def caller() -> str:
    """A caller who has placed nothing yet."""
    return f"caller-{uuid4()}"


@pytest.fixture
def command(place: PlaceOrder, caller: str) -> Wish:
    """Makes commands of this caller, each with ids of its own unless told otherwise."""

    def made(**fields: object) -> PlaceOrder:
        own = {"order_id": str(uuid7()), "reference": str(uuid4())}
        at = datetime.now(UTC)
        now = {"placed_at": at, "deadline_at": at + timedelta(minutes=5)}
        return replace(place, caller=caller, **(own | now | fields))  # type: ignore[arg-type]  # fields of PlaceOrder

    return made


@contextmanager
def reading(order: Sales) -> Iterator[sa.Connection]:
    """A connection as the API's reads use it."""
    engine = sa.create_engine(order.logins.app.replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.begin() as db:
        yield db
    engine.dispose()


def row(order: Sales, placed: PlaceOrder) -> Order:
    with reading(order) as db:
        found = store.get_order(db, placed.caller, placed.order_id)
    assert found is not None
    return found


def owner(order: Sales, sql: str, *values: object) -> None:
    with psycopg.connect(order.logins.owner, autocommit=True) as tx:
        tx.execute(sql.encode(), values)


def outcomes_of(order: Sales) -> list[str]:
    return [emitted.outcome for emitted in order.emitted() if isinstance(emitted, PlaceAnswered)]


def test_the_migration_makes_what_the_store_describes(order: Sales) -> None:
    """No drift: the migrated tables have the columns, types and keys that the store describes."""
    with reading(order) as db:
        assert drift(db, store.metadata) == []


def test_a_happy_order_over_batches(order: Sales, command: Wish) -> None:
    """Placed, held, paid and committed in four batches: each finds what the one before has stored."""
    placed = command()
    order.receives(placed)
    order.receives(StockReserved(placed.order_id))
    order.receives(PaymentCharged(placed.order_id))
    order.receives(StockCommitted(placed.order_id))

    found = row(order, placed)
    assert (found.status, found.states.inventory, found.states.payment) == (Status.CONFIRMED, "COMMITTED", "CHARGED")
    assert [entry.status for entry in found.history] == [
        "PENDING",
        "INVENTORY_RESERVED",
        "PAYMENT_CHARGED",
        "CONFIRMED",
    ]
    assert found.version == 1 + 2 + 3 + 1
    assert (found.lines, found.reference, found.placed_at) == (placed.lines, placed.reference, placed.placed_at)
    assert found.cancellable_until is not None
    assert [kind for kind, _ in order.published(placed.order_id)] == ["order.placed", "order.confirmed"]


def test_a_whole_life_in_one_batch(order: Sales, command: Wish) -> None:
    """Placed, declined and released in one batch: each message sees what the one before left."""
    placed = command()
    key = placed.order_id
    order.receives(placed, StockReserved(key), PaymentDeclined(key, "insufficient_funds"), StockReleased(key))

    settled = (("inventory", "RELEASED"), ("payment", "DECLINED"))
    assert order.emitted()[3:] == [
        OrderCancellationRequested(key, "PAYMENT_DECLINED", "order", "INVENTORY_RESERVED"),
        OrderCancelled(key, "cust_demo", "PAYMENT_DECLINED", settled),
    ]
    assert row(order, placed).detail.code == "insufficient_funds"
    body = {"order_id": key, "customer_id": "cust_demo", "reason": "PAYMENT_DECLINED", "settlement": dict(settled)}
    assert order.published(key)[-1] == ("order.cancelled", body)


def test_what_is_said_of_a_placed_order(order: Sales, command: Wish) -> None:
    """order.placed carries what the others need, its deadline in milliseconds; the timer is due at the deadline."""
    placed = command()
    order.receives(placed)

    ((kind, body),) = order.published(placed.order_id)
    assert kind == "order.placed"
    assert (body["payment_token"], body["amount_minor"]) == ("tok_ok", 2800)
    assert body["deadline_at"] == int(placed.deadline_at.timestamp() * 1000)
    due = order.tx.execute("SELECT due FROM task WHERE key = %s", [placed.order_id]).fetchall()
    assert due == [(placed.deadline_at,)]


def test_every_detail_survives_the_database(order: Sales, command: Wish) -> None:
    """Shortages, codes, refunds and failures come back as the values they were."""
    short, back, stuck = command(), command(), command()
    failure = PaymentRefundFailed(stuck.order_id, "BUSINESS", "card_closed", 1)
    order.given(short, back, stuck, *(PaymentCharged(p.order_id) for p in (back, stuck)))
    order.given(StockRejected(short.order_id, (Shortage("SKU-TEA", 2, 1),)))
    order.given(*(CancelOrder(p.order_id, p.caller, "customer") for p in (back, stuck)))
    order.given(PaymentRefunded(back.order_id, "VOID", 2800), failure)

    assert row(order, short).detail.shortages == (Shortage("SKU-TEA", 2, 1),)
    assert row(order, back).detail.refund == PaymentRefunded(back.order_id, "VOID", 2800)
    assert [f.error for f in row(order, stuck).detail.failed] == ["card_closed"]
    order.receives(PaymentRefunded(stuck.order_id, "REFUND", 2800))
    assert "order.compensation_resolved" in [emitted.type for emitted in order.emitted()]
    assert row(order, stuck).detail.failed == ()


def test_a_blocked_customer(order: Sales, command: Wish) -> None:
    """A customer in the table of blocked ones is not confirmed; another one of the same batch is."""
    customer = f"cust-{uuid4()}"
    owner(order, "INSERT INTO blocked VALUES (%s)", customer)
    bad, good = command(customer_id=customer), command()
    order.given(bad, good)

    order.receives(PaymentCharged(bad.order_id), PaymentCharged(good.order_id))

    asked = OrderCancellationRequested(bad.order_id, "CONFIRMATION_REJECTED", "order", "PAYMENT_CHARGED")
    assert order.emitted() == [asked, OrderConfirmed(good.order_id, "cust_demo", 2800, "EUR")]


def test_a_blocked_customer_in_the_batch_that_places(order: Sales, command: Wish) -> None:
    """Placed and charged in one batch, a blocked customer is not confirmed either."""
    customer = f"cust-{uuid4()}"
    owner(order, "INSERT INTO blocked VALUES (%s)", customer)
    placed = command(customer_id=customer)

    order.receives(placed, PaymentCharged(placed.order_id))

    assert row(order, placed).reason == "CONFIRMATION_REJECTED"


def test_a_reference_in_and_over_batches(order: Sales, command: Wish) -> None:
    """A reference places one order, whether the second comes in the same batch or later; none places two."""
    first = command(reference="basket")
    order.receives(first, command(reference="basket"), command(reference=None))
    order.receives(
        command(reference="basket"), command(reference=None), command(reference="basket", customer_id="cust_other")
    )

    taken = "REFERENCE_TAKEN"
    assert outcomes_of(order) == ["PLACED", taken, "PLACED", taken, "PLACED", "PLACED"]


def test_two_processes_want_one_reference(order: Sales, command: Wish) -> None:
    """Eight connections place orders of one reference at one instant: one is placed, seven learn whose it is."""
    commands = [command(reference="last-basket") for _ in range(8)]
    start, answered, lock = threading.Barrier(8), [], threading.Lock()

    def ask(mine: PlaceOrder) -> None:
        with order.connect() as tx:
            start.wait(60)
            (outcome,) = order.takes(order.inputs([mine]), tx=tx)
            with lock:
                answered.append(outcome.emitted[-1] if isinstance(outcome, Handled) else outcome)

    threads = [threading.Thread(target=ask, args=(mine,)) for mine in commands]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    outcomes = sorted(str(getattr(one, "outcome", one)) for one in answered)
    assert outcomes == ["PLACED"] + ["REFERENCE_TAKEN"] * 7
    assert len({one.order_id for one in answered if isinstance(one, PlaceAnswered)}) == 1


def cancelled(order: Sales, command: PlaceOrder) -> None:
    """Let an order be placed and end, as one whose card was declined."""
    order.given(command)
    order.given(StockReserved(command.order_id), PaymentDeclined(command.order_id, "card_declined"))
    order.given(StockReleased(command.order_id))
    assert row(order, command).status is Status.CANCELLED


def test_a_cancelled_order_frees_its_reference(order: Sales, command: Wish, caller: str) -> None:
    """Once an order has ended CANCELLED its reference places another, which bears it alone; both are found by it."""
    first, again = command(reference="declined"), command(reference="declined")
    cancelled(order, first)
    order.emitted()
    order.receives(again, command(reference="declined"))

    assert outcomes_of(order) == ["PLACED", "REFERENCE_TAKEN"]
    with reading(order) as db:
        found = store.list_orders(db, caller, Filters(reference="declined"))
    assert {o.order_id for o in found} == {again.order_id, first.order_id}


def test_an_order_that_is_being_undone_keeps_its_reference(order: Sales, command: Wish) -> None:
    """Until it has ended, and when its undo has failed, an order's reference is its own."""
    first = command(reference="undone")
    order.given(first)
    order.given(StockReserved(first.order_id), PaymentCharged(first.order_id), StockCommitted(first.order_id))
    for undoing in (
        CancelOrder(first.order_id, first.caller, "customer"), PaymentRefundFailed(first.order_id, "BUSINESS", "x", 1),
        StockReleased(first.order_id),
    ):  # fmt: skip
        order.given(undoing)
        order.receives(command(reference="undone"))
    order.given(PaymentRefunded(first.order_id, "REFUND", first.amount_minor))
    order.receives(command(reference="undone"))

    assert outcomes_of(order) == [*["REFERENCE_TAKEN"] * 3, "PLACED"]


def test_a_reference_is_wanted_while_its_order_ends(order: Sales, command: Wish) -> None:
    """One connection ends an order while seven want its reference, twenty times: one order at most bears it."""
    outcomes: list[str] = []
    for number in range(20):
        name = f"ending-{number}"
        first, commands = command(reference=name), [command(reference=name) for _ in range(7)]
        order.given(first)
        order.given(StockReserved(first.order_id), PaymentDeclined(first.order_id, "card_declined"))
        outcomes += at_once(order, StockReleased(first.order_id), *commands)
    sql = "SELECT count(*) FROM orders WHERE status <> 'CANCELLED' AND reference LIKE 'ending-%' GROUP BY reference"
    with psycopg.connect(order.logins.owner) as tx:
        bearers = [count for (count,) in tx.execute(sql)]
    assert set(outcomes) <= {"PLACED", "REFERENCE_TAKEN"}
    assert bearers == [1] * outcomes.count("PLACED")


def at_once(order: Sales, *messages: Message) -> list[str]:
    """Let each message arrive on a connection of its own at one instant; return how the commands were answered."""
    start, told = threading.Barrier(len(messages)), []

    def ask(message: Message) -> None:
        with order.connect() as tx:
            start.wait(30)
            (outcome,) = process_batch(tx, order.service, order.inputs([message]))
            told.append(outcome.emitted if isinstance(outcome, Handled) else outcome)

    threads = [threading.Thread(target=ask, args=(message,)) for message in messages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    emitted = [one for outcome in told for one in (outcome if isinstance(outcome, tuple) else (outcome,))]
    return [
        one.outcome if isinstance(one, PlaceAnswered) else repr(one)
        for one in emitted
        if not isinstance(one, Event | Timer)
    ]


def test_orders_of_before_survive(parts_of_the_stack: Start) -> None:
    """What was placed before references came free stays as it is, found and taken; what had ended CANCELLED is free."""
    stack = parts_of_the_stack("postgres:order")
    cluster = stack.database_url("order", "postgres")
    with psycopg.connect(cluster, autocommit=True) as tx:
        tx.execute("CREATE DATABASE older OWNER owner")
    url = f"{cluster.rpartition('/')[0]}/older?options=-c%20role%3Downer"
    upgrade("order", url, "0006")
    insert = """
      INSERT INTO orders (order_id, caller, customer_id, reference, lines, amount_minor, currency, status, states,
      version, history, detail, placed_at, deadline_at, trace_id)
      SELECT gen_random_uuid(), 'local', 'c', %s, '[]', 1, 'EUR', %s, '{}', 1, '[]', '{}', now(), now(), ''"""
    with psycopg.connect(url) as tx:
        for name, status in (("a", "CONFIRMED"), ("b", "CANCELLED"), (None, "PENDING"), (None, "PENDING")):
            tx.execute(insert, [name, status])
    upgrade("order", url)
    upgrade("order", url)
    with psycopg.connect(url, autocommit=True) as tx:
        tx.execute(insert, ["b", "PENDING"])
        for name in "ab":
            with pytest.raises(psycopg.errors.UniqueViolation):
                tx.execute(insert, [name, "PENDING"])
        assert tx.execute("SELECT count(*) FROM orders").fetchone() == (5,)


def test_answers_kept_before_are_given_still(parts_of_the_stack: Start) -> None:
    """What was kept while order had a table of its own for it is in the chassis's after the migration, unchanged."""
    stack = parts_of_the_stack("postgres:order")
    cluster = stack.database_url("order", "postgres")
    with psycopg.connect(cluster, autocommit=True) as tx:
        tx.execute("CREATE DATABASE answered OWNER owner")
    url = f"{cluster.rpartition('/')[0]}/answered?options=-c%20role%3Downer"
    upgrade("order", url, "0007")
    at, identity = datetime(2026, 11, 21, tzinfo=UTC), str(uuid7())
    kept = ("local", "POST /v1/orders", "k-1", "f", identity, '{"order_id":  "née"}', at)
    with psycopg.connect(url) as tx:
        insert = "INSERT INTO request (caller, route, key, fingerprint, order_id, answer, at)"
        tx.execute(f"{insert} VALUES (%s, %s, %s, %s, %s, %s, %s)".encode(), kept)
    upgrade("order", url)
    upgrade("order", url)
    with psycopg.connect(url) as tx:
        found = tx.execute("SELECT caller, route, key, fingerprint, subject, answer, at FROM idempotency_key")
        assert found.fetchall() == [kept]
        assert tx.execute("SELECT to_regclass('request')").fetchone() == (None,)


@pytest.mark.proves("order.deadline-late")
def test_a_deadline_after_the_confirmation(order: Sales, command: Wish) -> None:
    """The timer of a confirmed order falls due and changes nothing; that of an undecided one undoes it."""
    confirmed, undecided = command(), command()
    order.given(confirmed, undecided, PaymentCharged(confirmed.order_id))
    before = row(order, confirmed)

    order.receives(*(OrderDeadline(p.order_id, p.deadline_at) for p in (confirmed, undecided)))

    emitted = order.emitted()
    requested = OrderCancellationRequested(undecided.order_id, "DEADLINE", "order", "PENDING")
    assert [one for one in emitted if not isinstance(one, OrderCheck)] == [requested]
    assert sorted(one.order_id for one in emitted if isinstance(one, OrderCheck)) == sorted(
        [confirmed.order_id, undecided.order_id]  # both wait still: for the goods, and for the undo
    )
    assert row(order, confirmed) == before


@pytest.mark.proves("late.unknown-order")
def test_a_fact_before_its_order(order: Sales, command: Wish) -> None:
    """An event of an order that was never placed is parked as CAUSALITY, alone; its neighbour is handled."""
    placed = command()
    order.given(placed)

    early, fine = order.receives(StockReserved(str(uuid7())), StockReserved(placed.order_id))

    assert isinstance(early, Parked)
    assert early.error_class == "CAUSALITY"
    assert isinstance(fine, Handled)


@pytest.mark.proves("L1", "L9")
def test_cancel_races_confirm(order: Sales, command: Wish) -> None:
    """Confirmed and cancelled from two connections at one instant: one order of events, never confirmed after it."""
    commands = [command() for _ in range(20)]
    order.given(*commands)

    def confirm() -> None:
        with order.connect() as tx:
            for one in commands:
                order.takes(order.inputs([PaymentCharged(one.order_id)]), tx=tx)

    def cancel() -> None:
        with order.connect() as tx:
            for one in reversed(commands):
                order.takes(order.inputs([CancelOrder(one.order_id, one.caller, "customer")]), tx=tx)

    threads = [threading.Thread(target=confirm), threading.Thread(target=cancel)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    for one in commands:
        kinds = [kind.removeprefix("order.") for kind, _ in order.published(one.order_id)]
        assert kinds in (["placed", "confirmed", "cancellation_requested"], ["placed", "cancellation_requested"])
        assert row(order, one).reason == "CUSTOMER"


def test_a_cancellation_over_the_database(order: Sales, command: Wish) -> None:
    """A stored order is cancelled once, and ends when both have settled."""
    placed = command()
    key = placed.order_id
    order.given(placed)

    order.receives(CancelOrder(key, placed.caller, "customer"))
    order.receives(CancelOrder(key, placed.caller, "customer"), CancelOrder(key, "somebody", "somebody"))
    order.receives(StockReleased(key), PaymentSkipped(key))

    answers = [emitted.outcome for emitted in order.emitted() if isinstance(emitted, CancelAnswered)]
    assert answers == ["ACCEPTED", "ALREADY", "UNKNOWN"]
    assert row(order, placed).status is Status.CANCELLED
    intent = order.tx.execute("SELECT intent FROM orders WHERE order_id = %s", [UUID(key)]).fetchone()
    assert intent == ("CANCEL",)


def test_an_order_is_its_callers_own(order: Sales, command: Wish) -> None:
    """Another caller does not find the order, by id or in a list."""
    placed = command()
    order.given(placed)

    with reading(order) as db:
        assert store.get_order(db, "somebody", placed.order_id) is None
        assert store.list_orders(db, "somebody", Filters()) == []
        assert store.find_orders(db, placed.caller, [placed.order_id, str(uuid7())]) == [row(order, placed)]


def test_a_list_is_paged_newest_first(order: Sales, command: Wish, caller: str) -> None:
    """Pages follow one another without gap or repeat, newest first."""
    commands = [command() for _ in range(7)]
    order.given(*commands)
    ids = sorted((one.order_id for one in commands), reverse=True)

    with reading(order) as db:
        first = store.list_orders(db, caller, Filters(), limit=4)
        second = store.list_orders(db, caller, Filters(), limit=4, after=first[-1].order_id)

    assert [o.order_id for o in first] == ids[:4]
    assert [o.order_id for o in second] == ids[4:]


def test_a_list_is_narrowed(order: Sales, command: Wish, caller: str) -> None:
    """Each filter finds exactly the orders it names, alone and together with others."""
    old = command(order_id=str(uuid7(1_700_000_000_000)), placed_at=datetime.fromtimestamp(1_700_000_000, UTC))
    paid, short, open_ = (
        command(customer_id="cust_a"),
        command(lines=command().lines[:1]),
        command(reference="basket-9"),
    )
    order.given(old, paid, short, open_)
    order.given(PaymentCharged(paid.order_id), StockRejected(short.order_id, (Shortage("SKU-TEA", 2, 1),)))
    order.given(PaymentSkipped(short.order_id), StockReleased(paid.order_id))
    names = {old.order_id: "old", paid.order_id: "paid", short.order_id: "short", open_.order_id: "open"}
    moment = datetime.fromtimestamp(1_700_000_000, UTC)

    def found(**by: object) -> set[str]:
        with reading(order) as db:
            return {names[o.order_id] for o in store.list_orders(db, caller, Filters(**by))}  # type: ignore[arg-type]

    assert found() == {"old", "paid", "short", "open"}
    assert found(status=Status.PENDING) == {"old", "open"}
    assert found(phase="SUCCEEDED") == {"paid"}
    assert found(final=True) == {"paid", "short"}
    assert found(final=False) == {"old", "open"}
    assert found(reason="OUT_OF_STOCK") == {"short"}
    assert found(attention="CONFLICT") == {"paid"}
    assert found(customer_id="cust_a") == {"paid"}
    assert found(sku="SKU-CUP") == {"old", "paid", "open"}
    assert found(reference="basket-9") == {"open"}
    assert found(placed_after=moment + timedelta(milliseconds=1)) == {"paid", "short", "open"}
    assert found(placed_after=moment, placed_before=moment + timedelta(seconds=1)) == {"old"}
    assert found(placed_before=moment) == set()
    assert found(sku="SKU-CUP", status=Status.PENDING, placed_after=moment + timedelta(days=1)) == {"open"}


def test_what_the_app_may_not_do(order: Sales) -> None:
    """The service itself cannot unblock a customer, nor delete an order."""
    with order.connect() as tx:
        for sql in (b"DELETE FROM orders", b"DELETE FROM blocked", b"INSERT INTO blocked VALUES ('x')"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                tx.execute(sql)
