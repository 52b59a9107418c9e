"""Words: a wire name is derived, a key is the first field, a stamp is no part of the message."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime

import pytest

from quadrille import messages
from quadrille.messages import Command, Event, Intent, Message, key_of, stamp, tell_waiting, wire_type
from tests.chassis.support.sample_messages import (
    BakeCake,
    BeginTasting,
    BreadOrdered,
    CakeBaked,
    FillShelf,
    LoavesHeld,
    SoupServed,
)

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        ("StockReserved", "stock.reserved"),
        ("OrderCancellationRequested", "order.cancellation_requested"),
        ("PaymentOutcomeUnknown", "payment.outcome_unknown"),
    ],
)
def test_the_wire_name_of_a_fact_is_its_class_name(name: str, wire: str) -> None:
    """An event's type is its noun, a dot and what happened."""
    assert wire_type(name) == wire


def test_what_is_not_a_fact_has_no_dot() -> None:
    """Commands, intents, answers and timers stay in the house: one word."""
    assert [m.type for m in (FillShelf, BakeCake, CakeBaked, BeginTasting)] == [
        "fill_shelf", "bake_cake", "cake_baked", "begin_tasting",
    ]  # fmt: skip


def test_a_fact_knows_its_topic_through_slots_and_dataclass() -> None:
    """An event heard names its producer's topic, a shared one its own, and one of ours none, slots or not."""
    assert (BreadOrdered.source, BreadOrdered.topic) == ("order", "order.events")
    assert SoupServed.topic == "ops.events"
    assert (LoavesHeld.source, LoavesHeld.topic) == ("", "")


def test_a_stamp_reaches_neither_fields_nor_equality_nor_hash() -> None:
    """``at`` and ``attempts`` are beside the message: they never reach Avro, equality or hash."""
    early, late = stamp(CakeBaked("o-1"), NOON, 3), CakeBaked("o-1")

    assert (early.at, early.attempts) == (NOON, 3)
    assert (late.at, late.attempts) == (messages.UNDATED, 1)
    assert early == late
    assert hash(early) == hash(late)
    assert [f.name for f in fields(CakeBaked)] == ["order_id", "raw", "odd"]


def test_the_key_is_the_first_field_as_text() -> None:
    """The key of a message is its first field, whatever its type."""

    @dataclass(frozen=True, slots=True)
    class NumberSeen(Event):
        number: int

    assert key_of(NumberSeen(7)) == "7"
    assert key_of(BreadOrdered("o-1")) == "o-1"


def test_a_message_without_fields_has_no_key() -> None:
    """A class that is no dataclass, or has no field, is refused by name."""

    class Nothing(Event):
        pass

    @dataclass(frozen=True, slots=True)
    class Empty(Message):
        pass

    for cls in (Nothing, Empty):
        with pytest.raises(TypeError, match=cls.__name__):
            messages.first_field(cls)


def test_a_command_may_ask_what_waits_for_it() -> None:
    """Only a command that says so asks, through slots and dataclass; untold, nothing waits."""

    @dataclass(frozen=True, slots=True)
    class CountShelf(Command):
        sku: str

    told, untold = FillShelf("rye", 1), FillShelf("rye", 1)
    tell_waiting(told, ["order.dropped"])

    assert (FillShelf.asks_what_waits, CountShelf.asks_what_waits) == (True, False)
    assert (told.waiting, untold.waiting) == (frozenset({"order.dropped"}), frozenset())
    assert told == untold


def test_an_intent_names_its_effect_through_slots_and_dataclass() -> None:
    """What an intent leads to is what it says, through slots and dataclass, or its type."""

    @dataclass(frozen=True, slots=True)
    class PayBaker(Intent, effect="pay"):
        sku: str

    assert (PayBaker.effect, BakeCake.effect) == ("pay", "bake_cake")
