"""The window: a position counts only when every record before it has been delivered."""

from __future__ import annotations

import itertools
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, Message
from hypothesis import given
from hypothesis import strategies as st

from quadrille.relay.publisher import DeliveryFailedError, InFlight, UnprovenError
from quadrille.relay.replication import Position

START = Position(100, 0)
NONE = cast("Any", None)
offsets = itertools.count()


def record(offset: int | None = None) -> Message:
    """An acknowledged record, behind all before it unless said otherwise."""
    return Message(topic="t", partition=0, offset=next(offsets) if offset is None else offset)


@given(st.lists(st.integers(0, 3), max_size=8), st.randoms(use_true_random=False))
def test_the_position_is_the_end_of_the_last_gapless_delivery(sizes: list[int], random: Any) -> None:  # noqa: ANN401
    """In whatever order reports arrive, the position stands before the first transaction with one outstanding."""
    window, waiting, ends = InFlight(START), [], [START]
    left = list(sizes)
    for n, size in enumerate(sizes):
        transaction = window.begin()
        transaction.handed = size
        transaction.end = Position(200 + n, n)
        ends.append(transaction.end)
        waiting += [(n, transaction)] * size
    random.shuffle(waiting)

    for n, transaction in waiting:
        transaction.reported(None, record())
        left[n] -= 1
        gapless = next((i for i, count in enumerate(left) if count), len(left))
        assert window.settle()[0] == ends[gapless]

    assert window.settle()[0] == ends[-1]
    assert window.idle
    assert window.in_flight == 0


def test_an_open_transaction_holds_the_position() -> None:
    """All of its records so far delivered is not enough: its commit has not been read."""
    window = InFlight(START)
    transaction = window.begin()
    transaction.handed = 1
    transaction.reported(None, record())

    assert window.settle() == (START, 0)
    transaction.end = Position(200, 1)
    assert window.settle() == (Position(200, 1), 1)


def test_idle_wal_counts_only_with_nothing_in_flight() -> None:
    """A keepalive's end is taken when the window is empty, and never moves the position back."""
    window = InFlight(START)
    window.idle_until(Position(150, 5))
    window.idle_until(Position(120, 9))
    assert window.settle()[0] == Position(150, 5)

    window.begin()
    window.idle_until(Position(300, 7))
    assert window.settle()[0] == Position(150, 5)


def test_a_failed_delivery_stops_the_stretch() -> None:
    """A refused record is never counted and never produced again: the stretch ends with the first reason."""
    window = InFlight(START)
    transaction = window.begin()
    transaction.handed = 2
    transaction.end = Position(200, 1)
    transaction.reported(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), NONE)
    transaction.reported(KafkaError(KafkaError._PURGE_QUEUE), NONE)  # noqa: SLF001 - its public name begins so

    assert window.settle()[0] == START
    with pytest.raises(DeliveryFailedError, match="large"):
        window.check()


@pytest.mark.parametrize("offset", [4, 5])
def test_an_offset_that_does_not_grow_is_no_delivery(offset: int) -> None:
    """A log that acknowledges a place it has given away, or one before it, is another log: its word counts nothing."""
    window = InFlight(START, {("t", 0): 3})
    transaction = window.begin()
    transaction.handed = 2
    transaction.reported(None, record(5))
    transaction.reported(None, record(offset))
    transaction.end = Position(200, 1)

    assert window.settle()[0] == START
    with pytest.raises(UnprovenError, match=rf"t \[0\] acknowledged {offset} after 5"):
        window.check()
