"""The oracle of a relayed backlog: each row once, in order for its key, whole."""

from __future__ import annotations

from bench.outbox import KEYS, key_of, verdict


def rows(count: int) -> list[tuple[str, int, bool]]:
    return [(key_of(n), n // KEYS + 1, True) for n in range(count)]


def test_a_backlog_that_arrived_as_it_was_written_is_right() -> None:
    """Any order between keys is right."""
    found = rows(3 * KEYS)
    assert verdict(found, 3 * KEYS) == []
    assert verdict(sorted(found), 3 * KEYS) == []


def test_a_lost_row_is_named() -> None:
    """A gap within a key is seen, and the count."""
    found = rows(3 * KEYS)
    del found[KEYS + 7]
    assert verdict(found, 3 * KEYS) == ["1 rows out of order or after a gap", "2999 of 3000 rows arrived"]


def test_a_doubled_row_is_named() -> None:
    """Even where another one is missing at the end, so that the count is right."""
    found = rows(2 * KEYS)
    assert verdict([*found[:-1], found[0]], 2 * KEYS) == ["1 rows doubled"]


def test_two_rows_of_a_key_that_changed_places_are_named() -> None:
    """The later one came first."""
    found = rows(2 * KEYS)
    found[3], found[KEYS + 3] = found[KEYS + 3], found[3]
    assert verdict(found, 2 * KEYS) == ["1 rows out of order or after a gap", "1 rows doubled"]


def test_a_row_without_all_its_headers_is_named() -> None:
    """A contestant that sends less has done less."""
    found = rows(5)
    found[0] = (*found[0][:2], False)
    assert verdict(found, 5) == ["1 rows not whole"]
