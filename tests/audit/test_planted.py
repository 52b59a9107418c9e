"""Planted bugs: what each would have left behind is put into what was read, and the invariant named finds it.

Each takes a clean run's evidence, as it was read from real databases, topics, ledger and mailbox, and does to it what
the bug of its name does to the whole; the invariant stands in the table before it is tried.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeAlias

import pytest

from quadrille_auditor import Evidence, judge
from quadrille_auditor.evidence import Asked, Database, Hold, Money, Order, OutboxRow, ParkedRow, Record, Task
from quadrille_auditor.topics import Schemas
from tests.conftest import Shop

Bug: TypeAlias = Callable[[Evidence], Evidence]
BUGS: dict[str, tuple[int, Bug]] = {}


def caught_by(number: int) -> Callable[[Bug], Bug]:
    """Put a bug into the table, with the invariant that must catch it."""

    def put(bug: Bug) -> Bug:
        BUGS[bug.__name__] = number, bug
        return bug

    return put


# what a bug is made of ----------------------------------------------------------------------------------------------


def an_order(e: Evidence, status: str, *, charged: bool | None = None) -> Order:
    """An order at rest in a status, of whose card the processor took money, or did not."""
    taken = {line.order for line in e.ledger if line.kind == "CAPTURE"}
    by_hand = {one.order for one in e.payments.values() if one.how}
    return next(
        order
        for order in e.resting.values()
        if order.status == status and charged in (None, order.id in taken) and order.id not in by_hand
    )


def database(e: Evidence, service: str, **changes: Any) -> Evidence:  # noqa: ANN401 - the fields of a database
    """The evidence with something else in one service's database."""
    changed = e.databases[service]._replace(**changes)
    return replace(e, databases={**e.databases, service: changed})


def a_row(e: Evidence, service: str, kind: str, order: str = "") -> OutboxRow:
    """A row of an outbox, of a type, of an order if asked."""
    return next(row for row in e.databases[service].outbox if row.type == kind and order in ("", row.key))


def a_record(e: Evidence, kind: str, order: str = "") -> Record:
    """A record of a type, of an order if asked."""
    return next(one for one in e.records if one.type == kind and order in ("", one.key))


def with_records(e: Evidence, change: Callable[[Record], list[Record]]) -> Evidence:
    """The evidence with each record exchanged for others, or for none."""
    return replace(e, records=tuple(new for old in e.records for new in change(old)))


def without(e: Evidence, gone: Record) -> Evidence:
    """The evidence without one record."""
    return with_records(e, lambda one: [] if one == gone else [one])


def with_header(record: Record, name: str, value: str) -> Record:
    """A record with another header."""
    return record._replace(headers={**record.headers, name: value})


def with_rows(db: Database, old: OutboxRow, *new: OutboxRow) -> tuple[OutboxRow, ...]:
    """A database's outbox with a row exchanged for others, or for none."""
    return tuple(one for row in db.outbox for one in (new if row == old else (row,)))


def with_order(e: Evidence, order: Order) -> Evidence:
    """The evidence with another row of an order."""
    return replace(e, orders={**e.orders, order.id: order})


def fresh() -> str:
    """An id that follows from nothing."""
    return str(uuid.UUID(int=uuid.uuid4().int & ~(0xF << 76) | 0x8 << 76))


# intake: 1, 2, 16 ---------------------------------------------------------------------------------------------------


@caught_by(1)
def accepted_before_the_commit(e: Evidence) -> Evidence:
    """The client was told 202, and the transaction was rolled back."""
    gone = next(one.order for one in e.clients or () if one.outcome == "accepted")
    return replace(e, orders={id_: order for id_, order in e.orders.items() if id_ != gone})


@caught_by(1)
def key_committed_without_its_order(e: Evidence) -> Evidence:
    """The answer is kept under its key, the order is not there."""
    return replace(e, keys=(*e.keys, e.keys[0]._replace(key="alone", subject=fresh())))


@caught_by(1)
def unknown_outcome_done_twice(e: Evidence) -> Evidence:
    """A client got no answer, sent again under its key, and has two orders."""
    first, second = e.keys[0], e.keys[1]
    clients = (*(e.clients or ()), Asked("test", first.key, "", "unknown"))
    return replace(e, clients=clients, keys=(*e.keys, second._replace(key=first.key, caller=first.caller)))


@caught_by(2)
def key_row_in_a_transaction_of_its_own(e: Evidence) -> Evidence:
    """The order was committed, its key was lost: a repeat makes another one."""
    newest = max(e.keys, key=lambda key: key.at)
    return replace(e, keys=tuple(key for key in e.keys if key != newest))


@caught_by(2)
def order_placed_under_two_keys(e: Evidence) -> Evidence:
    """Two keys lead to one order."""
    return replace(e, keys=(*e.keys, e.keys[0]._replace(key="another")))


@caught_by(2)
def answer_of_another_order(e: Evidence) -> Evidence:
    """The answer that is given again under a key names another order."""
    first, second = e.keys[0], e.keys[1]
    return replace(e, keys=(first._replace(answer=second.answer), *e.keys[1:]))


@caught_by(2)
def repeat_answered_with_a_new_order(e: Evidence) -> Evidence:
    """One key, sent twice by a client, was answered with two orders."""
    first, *_, last = [one for one in e.clients or () if one.outcome == "accepted"]
    return replace(e, clients=(*(e.clients or ()), first._replace(order=last.order)))


@caught_by(16)
def status_from_a_stale_cache(e: Evidence) -> Evidence:
    """A client saw the end, and then the beginning again."""
    last = next(one for one in e.clients or () if one.outcome == "seen" and one.status == "CONFIRMED")
    return replace(e, clients=(*(e.clients or ()), Asked(last.client, "", last.order, "seen", "PENDING", 1)))


@caught_by(16)
def history_goes_backwards(e: Evidence) -> Evidence:
    """A late fact put an order back to where it was."""
    order = an_order(e, "CONFIRMED")
    (_, first, at), *rest = order.history
    steps = [*rest, (0, first, at)]
    return with_order(e, order._replace(history=tuple((n, s, t) for n, (_, s, t) in enumerate(steps, 1))))


# lives: 3, 17 -------------------------------------------------------------------------------------------------------


@caught_by(3)
def confirm_without_looking_at_the_state(e: Evidence) -> Evidence:
    """A cancelled order was confirmed all the same."""
    sold, undone = a_record(e, "order.confirmed"), a_record(e, "order.cancelled")
    late = with_header(sold, "ce_id", fresh())._replace(
        key=undone.key, partition=undone.partition, offset=undone.offset + 10_000
    )
    return replace(e, records=tuple(sorted((*e.records, late), key=lambda one: one[:3])))


@caught_by(3)
def confirmed_twice(e: Evidence) -> Evidence:
    """An order was confirmed by each of two facts."""
    sold = a_record(e, "order.confirmed", an_order(e, "CONFIRMED").id)
    again = with_header(sold, "ce_id", fresh())._replace(offset=sold.offset + 10_000)
    return replace(e, records=tuple(sorted((*e.records, again), key=lambda one: one[:3])))


@caught_by(3)
def cancelled_before_all_are_settled(e: Evidence) -> Evidence:
    """`order.cancelled` was said while the money was still ours."""
    undone = a_record(e, "order.cancelled")
    body = {**undone.body, "settlement": {"inventory": "RELEASED", "payment": "CHARGED"}}
    return with_records(e, lambda one: [one._replace(body=body)] if one == undone else [one])


@caught_by(3)
def cancelled_without_asking_anybody(e: Evidence) -> Evidence:
    """An order was cancelled, and no cancellation was ever asked for."""
    return without(e, a_record(e, "order.cancellation_requested"))


@caught_by(3)
def deadline_cancels_a_confirmed_order(e: Evidence) -> Evidence:
    """The row of an order that was confirmed says that it is cancelled."""
    order = an_order(e, "CONFIRMED")
    number, _, at = order.history[-1]
    history = (*order.history, (number + 1, "CANCELLED", at))
    return with_order(e, order._replace(status="CANCELLED", history=history))


@caught_by(3)
def cancelled_after_the_cut_off(e: Evidence) -> Evidence:
    """A confirmed order was cancelled when its goods were on their way."""
    confirmed = {one.key for one in e.records if one.type == "order.confirmed"}
    order = next(one for one in e.resting.values() if one.status == "CANCELLED" and one.id in confirmed)
    return with_order(e, order._replace(cancellable_until=order.placed_at))


@caught_by(3)
def history_with_a_hole(e: Evidence) -> Evidence:
    """A status was passed through and not written down."""
    order = an_order(e, "CONFIRMED")
    return with_order(e, order._replace(history=order.history[:1] + order.history[2:]))


@caught_by(17)
def order_that_nothing_moves(e: Evidence) -> Evidence:
    """A fact was swallowed: everything is handled, nothing is open, and an order is not at its end."""
    order = an_order(e, "CANCELLED")
    long_ago = order.placed_at - timedelta(hours=1)
    return with_order(e, order._replace(status="CANCELLING", history=order.history[:-1], placed_at=long_ago))


@caught_by(17)
def order_open_long_after_the_heal(e: Evidence) -> Evidence:
    """The last fault healed a minute ago, and an order has still not ended."""
    order = an_order(e, "CANCELLED")
    task = Task(fresh(), order.id, "refund_card", e.at, 3)
    open_ = with_order(e, order._replace(status="CANCELLING", history=order.history[:-1]))
    tasks = (*open_.databases["payment"].tasks, task)
    healed = e.at + timedelta(hours=1)
    return replace(database(open_, "payment", tasks=tasks), healed_at=healed, at=healed + timedelta(minutes=1))


# money: 4, 5, 18 ----------------------------------------------------------------------------------------------------


def _capture(e: Evidence, order: str) -> Money:
    return next(line for line in e.ledger if line.kind == "CAPTURE" and line.order == order)


@caught_by(4)
def random_processor_key(e: Evidence) -> Evidence:
    """A charge was tried again under another key: two captures."""
    line = _capture(e, an_order(e, "CONFIRMED").id)
    return replace(e, ledger=(*e.ledger, line._replace(key=f"charge:{fresh()}")))


@caught_by(4)
def charge_in_flight_not_refunded(e: Evidence) -> Evidence:
    """A cancellation during the charge was ignored: the order is cancelled, the money is ours."""
    order = an_order(e, "CANCELLED", charged=True).id
    kept = tuple(line for line in e.ledger if line.order != order or line.kind == "CAPTURE")
    entries = tuple(line for line in e.entries if line.order != order or line.kind == "CAPTURE")
    return replace(e, ledger=kept, entries=entries)


@caught_by(4)
def unknown_taken_for_declined(e: Evidence) -> Evidence:
    """A charge whose answer was lost was called declined: the processor has the money, payment knows nothing."""
    order = an_order(e, "CANCELLED", charged=False)
    line = Money(f"charge:{order.id}", order.id, "CAPTURE", order.amount_minor, order.currency)
    return replace(e, ledger=(*e.ledger, line))


@caught_by(4)
def fresh_refund_key_per_attempt(e: Evidence) -> Evidence:
    """A refund was tried again under another key: more went back than came."""
    line = next(line for line in e.ledger if line.kind != "CAPTURE")
    return replace(e, ledger=(*e.ledger, line._replace(key=f"refund:{fresh()}")))


@caught_by(4)
def float_amount(e: Evidence) -> Evidence:
    """An amount went through a float on its way to the processor: a minor unit is gone."""
    line = _capture(e, an_order(e, "CONFIRMED").id)
    wrong = line._replace(amount_minor=line.amount_minor - 1)
    return replace(e, ledger=tuple(wrong if one == line else one for one in e.ledger))


@caught_by(4)
def confirmed_and_never_charged(e: Evidence) -> Evidence:
    """A charge was recorded that the processor knows nothing of."""
    line = _capture(e, an_order(e, "CONFIRMED").id)
    return replace(e, ledger=tuple(one for one in e.ledger if one != line))


@caught_by(4)
def answer_recorded_nowhere(e: Evidence) -> Evidence:
    """The processor charged, payment died before it wrote that down, and forgot."""
    line = _capture(e, an_order(e, "CONFIRMED").id)
    return replace(e, entries=tuple(one for one in e.entries if one != line))


@caught_by(4)
def charge_for_no_order(e: Evidence) -> Evidence:
    """A card was charged for an order that nobody has."""
    return replace(e, ledger=(*e.ledger, e.ledger[0]._replace(order=fresh(), key="charge:nobody")))


@caught_by(4)
def total_that_is_not_the_sum(e: Evidence) -> Evidence:
    """An order's row has another total than its lines."""
    order = an_order(e, "CONFIRMED")
    return with_order(e, order._replace(amount_minor=order.amount_minor + 1))


@caught_by(5)
def charge_on_order_placed_alone(e: Evidence) -> Evidence:
    """Nothing was reserved, and the card was charged."""
    order = next(one for one in e.resting.values() if one.reason == "OUT_OF_STOCK")
    line = Money(f"charge:{order.id}", order.id, "CAPTURE", order.amount_minor, order.currency)
    return replace(e, ledger=(*e.ledger, line))


@caught_by(5)
def charge_before_the_permission(e: Evidence) -> Evidence:
    """The goods were reserved, and payment had not heard of it when it charged."""
    reservation = a_row(e, "inventory", "stock.reserved", an_order(e, "CONFIRMED").id)
    return database(e, "payment", inbox=e.databases["payment"].inbox - {reservation.id})


@caught_by(18)
def inquiry_that_gives_up(e: Evidence) -> Evidence:
    """Nobody knows whether a card was charged, and nobody asks any more."""
    payment = next(iter(e.payments.values()))
    lost = payment._replace(state="UNKNOWN", began_at=e.at)
    return replace(e, payments={**e.payments, payment.order: lost})


@caught_by(18)
def outcome_unknown_for_a_day(e: Evidence) -> Evidence:
    """It is still asked, and the processor's key is about to expire."""
    payment = next(iter(e.payments.values()))
    lost = payment._replace(state="UNKNOWN", began_at=e.at - timedelta(hours=21))
    tasks = (Task(fresh(), payment.order, "inquire_charge", e.at, 90),)
    return replace(database(e, "payment", tasks=tasks), payments={**e.payments, payment.order: lost})


# goods: 6, 7 --------------------------------------------------------------------------------------------------------


@caught_by(6)
def read_then_write_stock(e: Evidence) -> Evidence:
    """Two workers read a level and both wrote it: a piece is gone."""
    first, *rest = e.levels
    return replace(e, levels=(first._replace(available=first.available - 1), *rest))


@caught_by(6)
def oversold(e: Evidence) -> Evidence:
    """More was promised than there is."""
    first, *rest = e.levels
    return replace(e, levels=(first._replace(available=-1, held=first.held + first.available + 1), *rest))


@caught_by(6)
def hold_that_expires(e: Evidence) -> Evidence:
    """A hold went by itself, and its pieces stayed held."""
    tea = next(level for level in e.levels if level.sku == "SKU-TEA")
    leaked = tea._replace(held=tea.held + 2, available=tea.available - 2)
    return replace(e, levels=tuple(leaked if one == tea else one for one in e.levels))


@caught_by(6)
def fast_path_releases_twice(e: Evidence) -> Evidence:
    """Both the declined card and the cancellation gave the pieces back."""
    tea = next(level for level in e.levels if level.sku == "SKU-TEA")
    twice = tea._replace(committed=tea.committed - 2, available=tea.available + 2)
    return replace(e, levels=tuple(twice if one == tea else one for one in e.levels))


@caught_by(7)
def committed_goods_not_returned(e: Evidence) -> Evidence:
    """A cancelled order keeps its goods for ever."""
    order = an_order(e, "CANCELLED").id
    kept = Hold(order, "RESERVED", (("SKU-TEA", 2),))
    return replace(e, holds={**e.holds, order: kept})


@caught_by(7)
def goods_of_a_sale_not_committed(e: Evidence) -> Evidence:
    """A confirmed order only holds its goods."""
    order = an_order(e, "CONFIRMED").id
    return replace(e, holds={**e.holds, order: e.holds[order]._replace(state="RESERVED")})


@caught_by(7)
def tombstone_hides_a_charge(e: Evidence) -> Evidence:
    """A cancelled order's payment is still charged."""
    order = an_order(e, "CANCELLED", charged=True).id
    return replace(e, payments={**e.payments, order: e.payments[order]._replace(state="CHARGED")})


@caught_by(7)
def intent_left_at_the_end(e: Evidence) -> Evidence:
    """A cancelled order's refund is still to be made."""
    order = an_order(e, "CANCELLED", charged=True).id
    return database(e, "payment", tasks=(Task(fresh(), order, "refund_card", e.at, 1),))


# events: 8, 9, 11, 14, 21 -------------------------------------------------------------------------------------------


@caught_by(8)
def late_commit_skipped(e: Evidence) -> Evidence:
    """A relay that asks by number stepped over a row that was committed late."""
    return without(e, a_record(e, "notification.sent"))


def burial(e: Evidence, *, told: bool) -> Evidence:
    """A row that the broker refused and a person has buried, with the fact in its place, or without."""
    gone = a_record(e, "notification.sent")
    db = e.databases["notification"]
    fact = b"\x18notification\x18relay.buried" + f"row {gone.id} (notification.sent) was refused and buried".encode()
    row = db.outbox[0]._replace(id=fresh(), topic="ops.events", type="finding.raised", payload=fact, key="notification")
    e = database(without(e, gone), "notification", buried=frozenset({gone.id}))
    if not told:
        return e
    headers = {"ce_id": row.id, "ce_type": row.type, "ce_sequence": str(row.sequence)}
    headers |= {"ce_causationid": row.cause, "traceparent": row.traceparent, "ce_time": row.at.isoformat()}
    record = gone._replace(topic=row.topic, key=row.key, headers={**gone.headers, **headers}, value=fact)
    first = {**e.first, "notification": e.first["notification"] | {row.id}}
    e = replace(e, records=(*e.records, record), first=first)
    return database(e, "notification", outbox=(*db.outbox, row))


@caught_by(8)
def buried_and_nobody_was_told(e: Evidence) -> Evidence:
    """A row was marked as buried by hand: no fact says so, and no hearer knows that it misses something."""
    return burial(e, told=False)


@caught_by(8)
def another_row_than_the_buried_one_is_lost(e: Evidence) -> Evidence:
    """One row was buried and that was told; the relay lost another one."""
    return without(burial(e, told=True), a_record(e, "payment.charged"))


@caught_by(8)
def burial_told_in_the_outbox_alone(e: Evidence) -> Evidence:
    """The fact that takes a buried row's place was committed, and never published."""
    buried = burial(e, told=True)
    return without(buried, a_record(buried, "finding.raised"))


@caught_by(8)
def slot_recreated_without_a_scan(e: Evidence) -> Evidence:
    """Whatever a service said in the meantime is gone."""
    return with_records(e, lambda one: [] if one.topic == "payment.events" else [one])


@caught_by(8)
def fact_said_after_a_rollback(e: Evidence) -> Evidence:
    """A fact is on its topic whose transaction never was."""
    row = a_row(e, "inventory", "stock.released")
    return database(e, "inventory", outbox=with_rows(e.databases["inventory"], row))


@caught_by(8)
def bytes_changed_on_the_way(e: Evidence) -> Evidence:
    """A record has other bytes than its row."""
    old = a_record(e, "payment.charged")
    return with_records(e, lambda one: [one._replace(value=one.value[:-1] + b"\x00\x01")] if one == old else [one])


@caught_by(8)
def sequence_from_the_clock(e: Evidence) -> Evidence:
    """A record has another number than its row."""
    old = a_record(e, "payment.charged")
    return with_records(e, lambda one: [with_header(one, "ce_sequence", "4711")] if one == old else [one])


@caught_by(9)
def failed_record_produced_again(e: Evidence) -> Evidence:
    """A record failed, those behind it went through, then it was sent again: it lies behind them."""
    first = a_record(e, "order.placed", an_order(e, "CONFIRMED").id)
    late = with_records(e, lambda one: [one._replace(offset=one.offset + 10_000)] if one == first else [one])
    return replace(late, records=tuple(sorted(late.records, key=lambda one: one[:3])))


@caught_by(9)
def keyed_by_event_id(e: Evidence) -> Evidence:
    """An order's events lie in several partitions."""
    moved = a_record(e, "order.confirmed")
    other = (moved.partition + 1) % 12
    return with_records(e, lambda one: [one._replace(partition=other)] if one == moved else [one])


@caught_by(11)
def inbox_in_its_own_transaction(e: Evidence) -> Evidence:
    """An effect was committed, that its cause was handled was not."""
    row = a_row(e, "inventory", "stock.reserved")
    return database(e, "inventory", inbox=e.databases["inventory"].inbox - {row.cause})


@caught_by(11)
def causation_is_its_own_id(e: Evidence) -> Evidence:
    """An event names itself as its cause."""
    row = a_row(e, "inventory", "stock.reserved")
    db = e.databases["inventory"]
    outbox = with_rows(db, row, row._replace(cause=row.id))
    return database(e, "inventory", outbox=outbox, inbox=db.inbox | {row.id})


@caught_by(14)
def schema_id_off_by_one(e: Evidence) -> Evidence:
    """A record names another schema than it was written by."""
    old = a_record(e, "payment.charged")
    number = int.from_bytes(old.value[1:5]) - 1
    value = old.value[:1] + number.to_bytes(4) + old.value[5:]
    name, body, fault = SCHEMAS[0].decode(value)
    new = old._replace(value=value, name=name, body=body, fault=fault)
    return with_records(e, lambda one: [new] if one == old else [one])


@caught_by(14)
def undecodable_bytes(e: Evidence) -> Evidence:
    """A record is cut in its middle."""
    old = a_record(e, "order.placed")
    value = old.value[: len(old.value) // 2]
    name, body, fault = SCHEMAS[0].decode(value)
    new = old._replace(value=value, name=name, body=body, fault=fault)
    return with_records(e, lambda one: [new] if one == old else [one])


@caught_by(14)
def header_of_another_type(e: Evidence) -> Evidence:
    """A record says in its header that it is something else."""
    old = a_record(e, "stock.committed")
    return with_records(e, lambda one: [with_header(one, "ce_type", "stock.released")] if one == old else [one])


@caught_by(21)
def traceparent_left_out(e: Evidence) -> Evidence:
    """A service began a trace of its own for what it said."""
    row = a_row(e, "notification", "notification.sent")
    outbox = with_rows(e.databases["notification"], row, row._replace(traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01"))
    return database(e, "notification", outbox=outbox)


# handling: 10, 12, 13 -----------------------------------------------------------------------------------------------


@caught_by(10)
def random_fact_ids(e: Evidence) -> Evidence:
    """An id that is made anew at every try: after a restore the same fact has two."""
    row = a_row(e, "inventory", "stock.reserved")
    return database(e, "inventory", outbox=with_rows(e.databases["inventory"], row, row._replace(id=fresh())))


@caught_by(10)
def seen_ids_read_before_the_locks(e: Evidence) -> Evidence:
    """Two workers handled one input: what it leads to was committed twice."""
    row = a_row(e, "inventory", "stock.reserved")
    return database(e, "inventory", outbox=with_rows(e.databases["inventory"], row, row, row))


@caught_by(10)
def redriven_under_a_new_id(e: Evidence) -> Evidence:
    """An input was handled again as if it were another: the goods were given back twice."""
    row = a_row(e, "inventory", "stock.released")
    db = e.databases["inventory"]
    outbox = with_rows(db, row, row, row._replace(id=fresh(), cause=fresh(), sequence=row.sequence + 1))
    return database(e, "inventory", outbox=outbox)


@caught_by(12)
def position_without_compare_and_set(e: Evidence) -> Evidence:
    """A worker that had lost its partition moved the position over what another had not handled."""
    record = a_record(e, "stock.committed")
    return database(e, "order", inbox=e.databases["order"].inbox - {record.id})


@caught_by(12)
def undecodable_skipped(e: Evidence) -> Evidence:
    """A record that could not be read was stepped over, and set aside nowhere."""
    old = a_record(e, "stock.committed")
    nameless = old._replace(headers={}, offset=old.offset)
    return with_records(e, lambda one: [nameless] if one == old else [one])


def _parked(state: str, by: str, reason: str) -> ParkedRow:
    return ParkedRow(fresh(), fresh(), state, "stock.reserved", "inventory.events", 3, 7, by, reason)


@caught_by(13)
def discarded_without_a_name(e: Evidence) -> Evidence:
    """An input was discarded, by nobody."""
    return database(e, "order", parked=(_parked("DISCARDED", "", "no need"),))


@caught_by(13)
def discarded_without_a_reason(e: Evidence) -> Evidence:
    """An input was discarded, for nothing."""
    return database(e, "order", parked=(_parked("DISCARDED", "local", " "),))


@caught_by(13)
def parked_row_in_no_state(e: Evidence) -> Evidence:
    """An input was set aside, and is in a state that nobody looks for."""
    return database(e, "order", parked=(_parked("LOST", "", ""),))


# people: 15, 19, 20 -------------------------------------------------------------------------------------------------


@caught_by(15)
def message_id_per_attempt(e: Evidence) -> Evidence:
    """A mail was sent again under another id."""
    mail = e.mails[0]
    kind, _, rest = mail.message_id.partition(".")
    return replace(e, mails=(*e.mails, mail._replace(number=9_999, message_id=f"{kind}.{rest[:-1]}x>")))


@caught_by(15)
def mail_sent_twice(e: Evidence) -> Evidence:
    """A mail was sent twice, and no sender had been killed."""
    return replace(e, mails=(*e.mails, e.mails[0]._replace(number=9_999)))


@caught_by(15)
def mail_lost(e: Evidence) -> Evidence:
    """A customer was told nothing."""
    return replace(e, mails=e.mails[1:])


@caught_by(15)
def mail_that_is_untrue(e: Evidence) -> Evidence:
    """A customer was told that an order is confirmed that never was."""
    order = next(one for one in e.resting.values() if one.reason == "OUT_OF_STOCK").id
    mail = e.mails[0]._replace(number=9_999, order=order, message_id=f"<confirmed.{order}@quadrille.example>")
    return replace(e, mails=(*e.mails, mail))


@caught_by(19)
def address_in_an_event(e: Evidence) -> Evidence:
    """A customer's address is in a record for ever."""
    old = a_record(e, "notification.sent")
    value = old.value + b"demo.person@example.org"
    return with_records(e, lambda one: [one._replace(value=value)] if one == old else [one])


@caught_by(19)
def address_in_an_error_log(e: Evidence) -> Evidence:
    """A customer's address is in a log."""
    return replace(e, logs=(*e.logs, ("notification-worker.log", '{"event":"refused","to":"demo.person@example.org"}')))


@caught_by(19)
def card_number_in_a_dead_letter(e: Evidence) -> Evidence:
    """A card's number is in a copy of what could not be read."""
    old = e.records[0]
    letter = old._replace(topic="payment.dead-letters", value=b"\x00pan=4111 1111 1111 1111")
    return replace(e, records=(*e.records, letter))


@caught_by(20)
def audit_row_edited(e: Evidence) -> Evidence:
    """Somebody wrote another reason into the audit log."""
    first, *rest = e.databases["payment"].audit
    edited = first._replace(said=first.said.replace("a scenario", "on request"))
    return database(e, "payment", audit=(edited, *rest))


@caught_by(20)
def audit_row_cut_out(e: Evidence) -> Evidence:
    """Somebody took a row out of the audit log, and closed the gap in its numbers."""
    rows = e.databases["payment"].audit
    doubled = (rows[0], *(row._replace(number=row.number + 1) for row in rows))
    return database(e, "payment", audit=doubled[1:])


@caught_by(20)
def resolved_without_an_audit_row(e: Evidence) -> Evidence:
    """An undo was ended by hand, and nobody knows by whom."""
    return database(e, "payment", audit=())


@caught_by(20)
def operator_cancels_unseen(e: Evidence) -> Evidence:
    """An operator cancelled an order, and nobody knows who."""
    return database(e, "order", audit=())


@caught_by(20)
def discard_without_an_audit_row(e: Evidence) -> Evidence:
    """An input was discarded by somebody with a reason, and the audit log does not know it."""
    return database(e, "order", parked=(_parked("DISCARDED", "local", "no need"),))


# --------------------------------------------------------------------------------------------------------------------

SCHEMAS: list[Schemas] = []


@pytest.fixture(scope="module", autouse=True)
def _registry(audited: Shop) -> None:
    SCHEMAS[:] = [Schemas(audited.stack.registry_url)]


def test_there_are_thirty_and_each_invariant_has_one() -> None:
    """No judge is without a bug that it has caught."""
    assert len(BUGS) >= 30
    assert {number for number, _ in BUGS.values()} == set(range(1, 22))


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_caught_by_the_invariant_named_beforehand(captured: Evidence, name: str) -> None:
    """What the bug would leave behind is found, by that invariant, with what shows it."""
    number, bug = BUGS[name]
    assert judge(captured, [str(number)]).findings == ()
    found = judge(bug(captured), [str(number)]).findings
    assert found, f"{name} was not caught by {number}"
    assert all(one.invariant == number and one.says for one in found)
    assert all(one.order or one.shown_by or one.found for one in found)


def test_a_buried_row_is_no_lost_one(captured: Evidence) -> None:
    """With its fact in its place, or about to be told, a row that a person has buried is no finding, nor is its gap."""
    told = burial(captured, told=True)
    assert judge(told, ["8"]).findings == ()
    row = next(iter(told.databases["notification"].buried))
    waiting = database(
        burial(captured, told=False), "notification", buried=frozenset({row}), burials=(f"row {row} (…",)
    )
    assert judge(waiting, ["8"]).findings == ()
    [lost] = judge(burial(captured, told=False), ["8"]).findings
    assert (lost.found, lost.shown_by[0]) == ("buried, and nobody was told", row)
