"""Avro's bytes, read strictly; the guarantee: any bytes give a value or DecodeError, in memory bound by their number.

A reader takes (bytes, position) and returns (value, next position). No native code sees what came from outside:
readers are closures over Python bytes, built once per schema and class (docs/adr/0010-avro.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NoReturn, TypeAlias

DecodeFunction: TypeAlias = Callable[[bytes, int], tuple[Any, int]]

INT_MAX = 2**31 - 1
_MORE = 128  # this bit of a byte says that the number goes on
_TOP_SHIFT = 63  # the tenth byte of a varint holds bit 63 and nothing else


_PHRASES = (
    (IndexError, "ends within a field"),
    (UnicodeDecodeError, "text that is not UTF-8"),
    (Exception, "a value the class refuses"),
)


class DecodeError(Exception):
    """Bytes that are not what they should be; ``reason`` is a fixed phrase that quotes no value."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def refuse(reason: str) -> NoReturn:
    """Raise DecodeError."""
    raise DecodeError(reason)


def whole(reader: DecodeFunction, value: bytes, at: int) -> Any:  # noqa: ANN401 - the shape decides
    """Read one value that must end exactly where the bytes end."""
    try:
        found, end = reader(value, at)
    except (IndexError, ValueError, OverflowError, OSError) as bad:
        raise DecodeError(next(phrase for kind, phrase in _PHRASES if isinstance(bad, kind))) from None
    if end != len(value):
        refuse("bytes after the end")
    return found


def read_long(value: bytes, at: int) -> tuple[int, int]:
    """Read a zigzag varint of at most 64 bits, in its shortest form."""
    byte = value[at]
    if byte < _MORE:
        return (byte >> 1) ^ -(byte & 1), at + 1
    number, shift = byte & 127, 7
    while True:
        at += 1
        byte = value[at]
        number |= (byte & 127) << shift
        if byte < _MORE:
            break
        shift += 7
        if shift > _TOP_SHIFT:
            refuse("number longer than 64 bits")
    if byte == 0 or (shift == _TOP_SHIFT and byte > 1):
        refuse("number overlong or wider than 64 bits")
    return (number >> 1) ^ -(number & 1), at + 1


def read_int(value: bytes, at: int) -> tuple[int, int]:
    """Read a number of at most 32 bits."""
    number, at = read_long(value, at)
    if not -INT_MAX <= number + 1 <= INT_MAX + 1:
        refuse("number wider than 32 bits")
    return number, at


def read_boolean(value: bytes, at: int) -> tuple[bool, int]:
    """Read the byte 0 or 1."""
    byte = value[at]
    if byte > 1:
        refuse("a boolean that is neither 0 nor 1")
    return byte == 1, at + 1


def read_bytes(value: bytes, at: int) -> tuple[bytes, int]:
    """Read a length and that many bytes, which must be there."""
    size, at = read_long(value, at)
    end = at + size
    if size < 0 or end > len(value):
        refuse("longer than the bytes that are left")
    return value[at:end], end


def read_string(value: bytes, at: int) -> tuple[str, int]:
    """Read UTF-8 text without NUL, which no database column could take."""
    byte = value[at]
    if byte < _MORE and not byte & 1:  # shorter than 64 bytes: the usual case, without a call
        at += 1
        end = at + (byte >> 1)
    else:
        size, at = read_long(value, at)
        end = at + size
    if end > len(value) or end < at:
        refuse("longer than the bytes that are left")
    text = value[at:end].decode()
    if "\0" in text:
        refuse("NUL in a text")
    return text, end


def one_of(symbols: Sequence[str]) -> DecodeFunction:
    """Return the reader of an enum: an index within its symbols."""

    def read(value: bytes, at: int) -> tuple[str, int]:
        index, at = read_long(value, at)
        if not 0 <= index < len(symbols):
            refuse("an enum index out of range")
        return symbols[index], at

    return read


def null_or(inner: DecodeFunction) -> DecodeFunction:
    """Return the reader of a union of null and one type."""

    def read(value: bytes, at: int) -> tuple[Any, int]:
        branch = value[at]
        if branch == 0:
            return None, at + 1
        if branch != 2:  # noqa: PLR2004 - zigzag of branch 1
            refuse("a union branch out of range")
        return inner(value, at + 1)

    return read


def array_of(item: DecodeFunction) -> DecodeFunction:
    """Return the reader of a list, as a tuple; every item is at least one byte wide."""

    def read(value: bytes, at: int) -> tuple[tuple[Any, ...], int]:
        found = []
        count, at, size = _block(value, at)
        while count:
            begin = at
            for _ in range(count):
                one, at = item(value, at)
                found.append(one)
            if size is not None and at - begin != size:
                refuse("a block of another size than it says")
            count, at, size = _block(value, at)
        return tuple(found), at

    return read


def pairs_of(values: DecodeFunction) -> DecodeFunction:
    """Return the reader of a map, as a tuple of pairs; a key twice is refused."""

    def pair(value: bytes, at: int) -> tuple[tuple[str, Any], int]:
        key, at = read_string(value, at)
        one, at = values(value, at)
        return (key, one), at

    pairs = array_of(pair)

    def read(value: bytes, at: int) -> tuple[tuple[tuple[str, Any], ...], int]:
        found, at = pairs(value, at)
        if len({key for key, _ in found}) < len(found):
            refuse("a key twice in a map")
        return found, at

    return read


def then(reader: DecodeFunction, convert: Callable[[Any], Any]) -> DecodeFunction:
    """Return a reader whose value goes through ``convert``, which may raise ValueError."""

    def read(value: bytes, at: int) -> tuple[Any, int]:
        found, at = reader(value, at)
        return convert(found), at

    return read


def record(
    make: Callable[..., Any], fields: Sequence[DecodeFunction], wanted: Sequence[int], absent: Sequence[Any]
) -> DecodeFunction:
    """Return the reader of a record; all fields are read, as strictly, the wanted ones are handed to ``make``.

    ``wanted`` are places among (absent values, then fields): what the bytes do not have comes from ``absent``.
    """
    fields, absent = tuple(fields), list(absent)
    everything = not absent and list(wanted) == list(range(len(fields)))
    pick = itemgetter(*wanted) if len(wanted) > 1 else lambda values: (values[wanted[0]],)

    def read(value: bytes, at: int) -> tuple[Any, int]:
        values = absent.copy()
        for field in fields:
            found, at = field(value, at)
            values.append(found)
        return make(*(values if everything else pick(values))), at

    return read


def _block(value: bytes, at: int) -> tuple[int, int, int | None]:
    """Read how many items follow, and how many bytes if it says so; 0 is the end."""
    count, at = read_long(value, at)
    size = None
    if count < 0:
        size, at = read_long(value, at)
        count = -count
    if count > len(value) - at:  # every item is at least one byte wide
        refuse("more items than bytes that are left")
    return count, at, size
