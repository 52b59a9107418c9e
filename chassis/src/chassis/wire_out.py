"""Avro's bytes, written; the guarantee: what is written here is what ``chassis.wire`` reads, or nothing is written.

A writer takes (value, output) and appends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NoReturn, TypeAlias

Writer: TypeAlias = Callable[[Any, bytearray], None]

INT_MAX, LONG_MAX = 2**31 - 1, 2**63 - 1
_SHORT = 64  # numbers below take one byte


class Unsayable(ValueError):  # noqa: N818 - the name says what is the case
    """A value that its schema cannot hold; names the field's kind, never the value."""


def write_long(number: int, out: bytearray) -> None:
    """Append a zigzag varint."""
    if 0 <= number < _SHORT:
        out.append(number << 1)
        return
    if not -LONG_MAX <= number + 1 <= LONG_MAX + 1:
        _refuse("number wider than 64 bits")
    rest = (number << 1) ^ (number >> 63)
    while rest > 127:  # noqa: PLR2004 - seven bits a byte
        out.append(rest & 127 | 128)
        rest >>= 7
    out.append(rest)


def write_int(number: int, out: bytearray) -> None:
    """Append a number of at most 32 bits."""
    if not -INT_MAX <= number + 1 <= INT_MAX + 1:
        _refuse("number wider than 32 bits")
    write_long(number, out)


def write_boolean(truth: bool, out: bytearray) -> None:  # noqa: FBT001 - a writer takes its value
    """Append the byte 0 or 1."""
    if truth is not True and truth is not False:
        _refuse("a boolean that is neither True nor False")
    out.append(truth)


def write_bytes(raw: bytes, out: bytearray) -> None:
    """Append a length and the bytes."""
    write_long(len(raw), out)
    out += raw


def write_string(text: str, out: bytearray) -> None:
    """Append UTF-8 text, which must hold no NUL."""
    raw = text.encode()
    if 0 in raw:
        _refuse("NUL in a text")
    size = len(raw)
    if size < _SHORT:  # the usual case, without a call
        out.append(size << 1)
    else:
        write_long(size, out)
    out += raw


def write_null_or(inner: Writer) -> Writer:
    """Return the writer of a union of null and one type."""

    def write(value: Any, out: bytearray) -> None:  # noqa: ANN401 - the inner writer decides
        if value is None:
            out.append(0)
        else:
            out.append(2)
            inner(value, out)

    return write


def write_array_of(item: Writer) -> Writer:
    """Return the writer of a list: one block, then the end."""

    def write(values: Sequence[Any], out: bytearray) -> None:
        if values:
            write_long(len(values), out)
            for value in values:
                item(value, out)
        out.append(0)

    return write


def write_pairs_of(values: Writer) -> Writer:
    """Return the writer of a map, given as a mapping or as pairs; sorted, so that equal maps are equal bytes."""

    def pair(entry: tuple[str, Any], out: bytearray) -> None:
        write_string(entry[0], out)
        values(entry[1], out)

    pairs = write_array_of(pair)

    def write(entries: Any, out: bytearray) -> None:  # noqa: ANN401 - a mapping or pairs
        pairs(sorted(dict(entries).items()), out)

    return write


def write_record(names: Sequence[str], fields: Sequence[Writer]) -> Writer:
    """Return the writer of a record: the named attributes in the schema's order."""
    get = attrgetter(*names) if len(names) > 1 else lambda value: (getattr(value, names[0]),)
    fields = tuple(fields)

    def write(value: Any, out: bytearray) -> None:  # noqa: ANN401 - any object with these attributes
        for found, field in zip(get(value), fields, strict=True):
            field(found, out)

    return write


def _refuse(reason: str) -> NoReturn:
    raise Unsayable(reason)
