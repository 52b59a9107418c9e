"""A body is read in one way only, or refused with its place."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadrille.web.strict_json import DEPTH, MalformedJsonError, loads

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(VALUES)
def test_what_is_json_is_read(value: object) -> None:
    """Every JSON value of at most 16 levels comes back as it was written."""
    assert loads(json.dumps(value).encode()) == value
    assert loads(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.binary(max_size=200))
def test_nothing_else_gets_through(body: bytes) -> None:
    """Any other bytes are MalformedJsonError, never another exception."""
    try:
        loads(body)
    except MalformedJsonError:
        return
    json.loads(body)


@pytest.mark.parametrize(
    ("body", "position"),
    [
        (b"", 0),
        (b'{"a": 1', 7),
        (b'{"a": 1} x', 9),
        ('{"ä": \xff}'.encode("latin-1"), 2),
        (b"\xef\xbb\xbf{}", None),
        (b'{"a": 1, "a": 2}', None),
        (b'{"a": NaN}', None),
        (b'{"a": -Infinity}', None),
        (b'{"a": "\\ud800"}', None),
        (b'{"\\udfff": 1}', None),
        (b'["\\ude00\\ud83d"]', None),
        (b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1), None),
        (b"[" * 30_000 + b"]" * 30_000, None),
        (b"[" * 30_000, None),
    ],
)
def test_malformed_is_refused_with_its_place(body: bytes, position: int | None) -> None:
    """Not JSON, not UTF-8, a duplicate member, NaN, a lone surrogate, too deep: each is refused."""
    with pytest.raises(MalformedJsonError) as refused:
        loads(body)

    assert position is None or refused.value.position == position


def test_the_deepest_allowed_is_read() -> None:
    """Sixteen levels pass; brackets inside text are no levels."""
    assert loads(b"[" * DEPTH + b"]" * DEPTH)
    assert loads(json.dumps("[" * 100).encode()) == "[" * 100


def test_a_pair_of_surrogates_is_a_character() -> None:
    """An escaped character beyond the first plane is read as one."""
    assert loads(b'"\\ud83d\\ude00"') == "\U0001f600"


def test_an_endless_integer_is_out_of_every_range() -> None:
    """An integer of ten thousand digits is read as a number no field accepts, at once."""
    assert loads(b"9" * 10_000) > 2**63


def test_a_whole_number_is_an_integer() -> None:
    """2.0 and 2e3 are integers, as JSON Schema says; 2.5 and what a float cannot hold exactly stay floats."""
    assert [type(loads(text)) for text in (b"2.0", b"2e3", b"-0.0", b"2.5", b"1e300")] == [int, int, int, float, float]
