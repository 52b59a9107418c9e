"""Ids: the same cause yields the same id, a range of ids is a range of time, a lock is of the parsed key."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadrille.ids import event_id, floor_of, id_milliseconds, id_time, lock_key, milliseconds, record_id, uuid7

COMMAND = UUID("01a1fd62-57f0-7eeb-be96-e59ce40f9cb1")
RESERVED = UUID("01a1fd62-57f0-8654-81bf-64a9a8cc9acb")
MOMENTS = st.datetimes(datetime(1960, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds are naive by contract


@pytest.mark.proves("late.ids")
def test_the_vectors_of_the_contract() -> None:
    """The two ids that contracts.md, section 3, gives byte for byte."""
    assert event_id("inventory", COMMAND, "stock.reserved", 0) == RESERVED
    assert event_id("payment", RESERVED, "charge_card", 0) == UUID("01a1fd62-57f0-8638-89d8-c384a9d477f4")


@pytest.mark.proves("late.ids")
def test_every_part_of_the_cause_makes_another_id() -> None:
    """Service, cause, type and ordinal each tell ids apart; the time stays the cause's."""
    ids = {
        event_id(service, cause, kind, ordinal)
        for service in ("inventory", "payment")
        for cause in (COMMAND, RESERVED)
        for kind in ("a.b", "a.bc")
        for ordinal in (0, 1)
    }

    assert len(ids) == 16
    assert {i.version for i in ids} == {8}
    assert {id_milliseconds(i) for i in ids} == {id_milliseconds(COMMAND)}


def test_a_timer_takes_its_due_time() -> None:
    """An id made for another time than its cause's carries that time."""
    due = datetime(2026, 11, 21, 9, 19, 3, 120_000, tzinfo=UTC)

    made = event_id("order", COMMAND, "order_deadline", 0, milliseconds(due))

    assert id_time(made) == due


def test_a_fresh_command_id_is_a_version_7_of_now() -> None:
    """Two commands of one instant differ, and carry that instant."""
    before = time.time_ns() // 1_000_000

    one, two = uuid7(), uuid7()

    after = time.time_ns() // 1_000_000
    assert one != two
    assert (one.version, one.variant) == (7, "specified in RFC 4122")
    assert before <= id_milliseconds(one) <= after


@given(MOMENTS)
def test_milliseconds_are_rounded_down(moment: datetime) -> None:
    """Whatever the microseconds, before 1970 too: never later than the moment, never a millisecond early."""
    back = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds(moment))

    assert timedelta(0) <= moment - back < timedelta(milliseconds=1)


@given(st.integers(0, 2**48 - 1), st.binary(min_size=1, max_size=9))
def test_a_range_of_ids_is_a_range_of_time(ms: int, seed: bytes) -> None:
    """Every id of a millisecond lies at or above its floor and below the next one's, sorted as Postgres sorts."""
    made = [uuid7(ms), record_id(seed.hex(), 3, 4, ms), event_id(seed.hex(), COMMAND, "a.b", 0, ms)]

    assert all(floor_of(ms) <= i and (i.int >> 80) == ms for i in made)
    assert sorted(made) == sorted(made, key=lambda i: i.bytes)


def test_a_record_without_an_id_gets_its_coordinates() -> None:
    """Topic, partition and offset tell two records apart, and the same record is the same again."""
    ids = [record_id("a", 1, 2, 5), record_id("a", 1, 3, 5), record_id("a", 2, 2, 5), record_id("b", 1, 2, 5)]

    assert len(set(ids)) == 4
    assert ids[0] == record_id("a", 1, 2, 5)


def test_a_lock_is_of_the_parsed_key_not_of_its_spelling() -> None:
    """Two spellings of one order id take one lock; other text, lone surrogates included, has its own."""
    assert lock_key(str(COMMAND)) == lock_key(str(COMMAND).upper()) == lock_key(COMMAND.hex)
    assert len({lock_key(key) for key in ("", "o-1", "o-2", "\ud800", "\0", str(COMMAND))}) == 6


@given(st.text())
def test_a_lock_fits_a_bigint(key: str) -> None:
    """Any key gives a signed 64-bit number."""
    assert -(2**63) <= lock_key(key) < 2**63
