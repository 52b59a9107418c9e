"""Rows: what a handler changed can be undone, and only what changed is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadrille.rows import NotLoadedError, Rows

KEYS = ("a", "b", "c")
Step = tuple[str, int | None]
STEPS = st.lists(st.tuples(st.sampled_from(KEYS), st.one_of(st.none(), st.integers(0, 3))), max_size=12)


def fresh() -> Rows[str, int]:
    return Rows(KEYS, {"a": 1, "b": 2})


def play(rows: Rows[str, int], steps: list[Step]) -> None:
    for key, value in steps:
        if value is not None:
            rows.put(key, value)
        elif rows.get(key) is not None:
            rows.drop(key)


def test_absent_and_unknown_differ() -> None:
    """A key that was asked for and is not there is None; one that was never asked for is an error, read or written."""
    rows = fresh()

    assert rows.get("c") is None
    with pytest.raises(NotLoadedError):
        rows.get("z")
    with pytest.raises(NotLoadedError):
        rows.put("z", 1)
    with pytest.raises(NotLoadedError):
        rows.drop("z")


def test_a_row_is_inserted_updated_or_deleted_never_two_of_them() -> None:
    """Added, changed and dropped are told by what was found at load."""
    rows = fresh()
    play(rows, [("a", 9), ("b", None), ("c", 3)])

    assert (rows.added, rows.changed, rows.dropped) == ([3], [9], ["b"])


def test_what_ends_as_it_began_is_not_written() -> None:
    """A row put back, or added and dropped again, leaves nothing to write."""
    rows = fresh()
    play(rows, [("a", 9), ("a", 1), ("c", 3), ("c", None), ("b", None), ("b", 2)])

    assert (rows.added, rows.changed, rows.dropped) == ([], [], [])
    assert sorted(rows) == [1, 2]


def test_dropping_what_is_not_there_is_an_error_that_can_be_rewound() -> None:
    """A drop that fails leaves a journal that still rewinds to the start."""
    rows = fresh()
    mark = rows.mark()

    with pytest.raises(KeyError):
        rows.drop("c")
    rows.rewind(mark)

    assert rows.get("c") is None
    assert (rows.added, rows.changed, rows.dropped) == ([], [], [])


@given(before=STEPS, after=STEPS)
def test_a_rewind_undoes_exactly_what_came_after_the_mark(before: list[Step], after: list[Step]) -> None:
    """Whatever a handler did before it raised, the rows are as the one before it left them."""
    rows, twin = fresh(), fresh()
    play(rows, before)
    play(twin, before)

    mark = rows.mark()
    play(rows, after)
    rows.rewind(mark)

    assert [rows.get(k) for k in KEYS] == [twin.get(k) for k in KEYS]
    assert (rows.added, rows.changed, rows.dropped) == (twin.added, twin.changed, twin.dropped)
