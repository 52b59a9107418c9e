"""What the strict reader promises about bytes from anywhere, with fastavro as the second opinion."""

from __future__ import annotations

import io
import json
import tracemalloc
from typing import Any

import fastavro
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from quadrille.avro import decoder, projection, schemas
from quadrille.avro.decoder import DecodeError
from quadrille.avro.schemas import Schema

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=80)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1) | st.integers(-200, 200),
    "string": TEXT,
    "bytes": st.binary(max_size=80),
}


def shapes() -> st.SearchStrategy[Any]:
    """Give JSON of any shape the language knows, records named by depth."""
    plain = st.sampled_from(list(VALUES))

    def wider(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return (
            inner.map(lambda items: {"type": "array", "items": items})
            | inner.map(lambda values: {"type": "map", "values": values})
            | inner.filter(lambda one: not isinstance(one, list)).map(lambda one: ["null", one])
            | st.lists(inner, min_size=1, max_size=4).map(record)
        )

    return st.recursive(plain, wider, max_leaves=8)


def record(types: list[Any]) -> dict[str, Any]:
    """Return a record of these types."""
    return {"type": "record", "name": "R", "fields": [{"name": f"f{i}", "type": t} for i, t in enumerate(types)]}


def named(raw: Any, path: str = "R") -> Any:  # noqa: ANN401 - JSON
    """Give every record of a shape a name of its own."""
    match raw:
        case dict():
            inner = {key: named(value, f"{path}_{key}") for key, value in raw.items()}
            return inner | {"name": path} if raw.get("type") == "record" else inner
        case list():
            return [named(value, f"{path}_{i}") for i, value in enumerate(raw)]
        case _:
            return raw


def values(shape: Any) -> st.SearchStrategy[Any]:  # noqa: ANN401 - JSON
    """Give values of a shape, as fastavro takes them."""
    match shape:
        case str():
            return VALUES[shape]
        case ["null", inner]:
            return st.none() | values(inner)
        case {"type": "array", "items": items}:
            return st.lists(values(items), max_size=4)
        case {"type": "map", "values": inner}:
            return st.dictionaries(TEXT, values(inner), max_size=4)
        case _:
            return st.fixed_dictionaries({field["name"]: values(field["type"]) for field in shape["fields"]})


def bodies() -> st.SearchStrategy[tuple[Schema, Any]]:
    """Give a schema of a record and a value for it."""
    records = st.lists(shapes(), min_size=1, max_size=4).map(record).map(named)
    return records.flatmap(lambda raw: values(raw).map(lambda value: (schemas.of(raw), value)))


def written(schema: Schema, value: object) -> bytes:
    """Return the bytes fastavro writes."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(schema.text)), value)
    return out.getvalue()


def read(schema: Schema, value: bytes) -> Any:  # noqa: ANN401 - the shape decides
    """Return the whole record, lists as lists so that it compares with fastavro's."""
    return listed(decoder.whole(projection.generic(schema), value, 0))


def listed(value: Any) -> Any:  # noqa: ANN401 - any value
    """Turn tuples into lists, all the way down."""
    match value:
        case tuple():
            return [listed(one) for one in value]
        case dict():
            return {key: listed(one) for key, one in value.items()}
        case _:
            return value


@given(bodies())
@settings(max_examples=150, deadline=None)
def test_what_others_write_is_read(body: tuple[Schema, Any]) -> None:
    """Every value of every schema of the language, written by fastavro, is read as that value."""
    schema, value = body

    assert read(schema, written(schema, value)) == value


@given(bodies(), st.binary(max_size=60), st.integers(0, 10_000), st.integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_value_or_undecodable(body: tuple[Schema, Any], noise: bytes, at: int, cut: int) -> None:
    """Noise, damaged and cut records raise nothing but DecodeError, or are read as fastavro reads them."""
    schema, value = body
    good = written(schema, value)
    at %= len(good) + 1
    for damaged in (noise, good[:at], good[:at] + noise + good[at + cut :]):
        try:
            found = read(schema, damaged)
        except DecodeError:
            continue
        source = io.BytesIO(damaged)
        assert fastavro.schemaless_reader(source, json.loads(schema.text)) == found
        assert not source.read()


@given(VALUES["long"])
def test_numbers_are_read_in_their_shortest_form(number: int) -> None:
    """A number is read from the bytes fastavro gives it, and from no other spelling of it."""
    value = written(schemas.of(record(["long"])), {"f0": number})
    overlong = bytes([*value[:-1], value[-1] | 128, 0])

    assert decoder.read_long(value, 0) == (number, len(value))
    with pytest.raises(DecodeError):
        decoder.read_long(overlong, 0)


ENUM = {"type": "enum", "name": "E", "symbols": ["A", "B"]}
LISTS = {"type": "array", "items": "string"}
MAPS = {"type": "map", "values": "int"}
HOSTILE = {
    "nothing at all": ("string", b""),
    "a number cut off": ("long", b"\x80"),
    "an overlong number": ("long", b"\x80\x00"),
    "a number of eleven bytes": ("long", b"\xff" * 10 + b"\x01"),
    "a number of 65 bits": ("long", b"\xff" * 9 + b"\x02"),
    "an int of 33 bits": ("int", b"\x80\x80\x80\x80\x10"),
    "a boolean of 2": ("boolean", b"\x02"),
    "a third branch": (["null", "string"], b"\x04"),
    "a negative branch": (["null", "string"], b"\x01"),
    "an overlong branch": (["null", "string"], b"\x80\x00"),
    "a third symbol": (ENUM, b"\x04"),
    "a negative symbol": (ENUM, b"\x01"),
    "a text of negative length": ("string", b"\x01"),
    "a text longer than its record": ("string", b"\x7eabc"),
    "a text of 2^62 bytes": ("string", b"\xfe" + b"\xff" * 8 + b"\x00"),
    "bytes of negative length": ("bytes", b"\x03ab"),
    "a text with NUL": ("string", b"\x06a\x00b"),
    "a text that is not UTF-8": ("string", b"\x02\xff"),
    "a text with a surrogate": ("string", b"\x06\xed\xa0\x80"),
    "bytes after the end": ("boolean", b"\x00\x00"),
    "a billion items": (LISTS, b"\x80\xa8\xd6\xb9\x07\x00\x00"),
    "a list without its end": (LISTS, b"\x02\x02a"),
    "a block of another size": (LISTS, b"\x01\x06\x02a\x00"),
    "a block of negative size": (LISTS, b"\x01\x01\x02a\x00"),
    "a key twice": (MAPS, b"\x04\x02a\x00\x02a\x00\x00"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_nonsense_is_refused(case: str) -> None:
    """Each way of bending the format is DecodeError, with a reason that quotes no byte of it."""
    kind, value = HOSTILE[case]

    with pytest.raises(DecodeError) as refused:
        read(schemas.of(record([kind])), value)

    assert refused.value.reason


LENIENT = {
    "an overlong number",
    "a number of eleven bytes",
    "a number of 65 bits",
    "an int of 33 bits",
    "a boolean of 2",
    "an overlong branch",
    "a negative symbol",
    "a text with NUL",
    "a block of another size",
    "a block of negative size",
    "a key twice",
}


def test_why_the_reader_is_ours() -> None:
    """fastavro, held to the end of the bytes, reads these; the day it refuses them, our reader may go (ADR 10)."""
    assert {case for case, (kind, value) in HOSTILE.items() if read_by_fastavro(kind, value)} == LENIENT


def read_by_fastavro(kind: Any, value: bytes) -> bool:  # noqa: ANN401 - JSON
    """Tell whether fastavro makes a value of all these bytes."""
    source = io.BytesIO(value)
    try:
        fastavro.schemaless_reader(source, fastavro.parse_schema(record([kind])))
    except (EOFError, IndexError, ValueError, OverflowError):
        return False
    return not source.read()


def test_blocks_with_a_size_are_read() -> None:
    """A list in blocks that say their size, as other writers make them, is read like any other."""
    assert read(schemas.of(record([LISTS])), b"\x01\x04\x02a\x02\x02b\x00") == {"f0": ["a", "b"]}


def test_a_few_bytes_cannot_bloat_memory() -> None:
    """Seven bytes that announce two billion items cost kilobytes, not gigabytes."""
    schema = schemas.of(named(record([{"type": "array", "items": record(["boolean"])}])))
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            read(schema, b"\xfe\xff\xff\xff\x0f\x00\x00")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 100_000


@given(bodies(), TEXT)
@settings(max_examples=50, deadline=None)
def test_bytes_after_the_end_are_refused(body: tuple[Schema, Any], more: str) -> None:
    """A good record with anything behind it is DecodeError."""
    assume(more)
    schema, value = body

    with pytest.raises(DecodeError):
        read(schema, written(schema, value) + more.encode())
