"""What a service may rely on when it says events and hears those of others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NewType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quadrille.avro import schemas
from quadrille.avro.codec import Codec
from quadrille.avro.decoder import DecodeError
from quadrille.avro.projection import EncodeError, SchemaMismatchError
from quadrille.avro.registry import numbered
from quadrille.messages import Event

Sku = NewType("Sku", str)


class Why(StrEnum):
    """Reasons, as an enum of the class, a string on the wire."""

    LATE = "LATE"


@dataclass(frozen=True, slots=True)
class Line:
    """A nested record."""

    sku: Sku
    quantity: int


@dataclass(frozen=True, slots=True)
class ThingDone(Event):
    """A said class with a field of every kind."""

    thing_id: str
    done: bool
    count: int
    price_minor: int
    raw: bytes
    lines: tuple[Line, ...]
    settlement: Mapping[str, str]
    why: Why
    since_at: datetime
    error: str | None = None
    until_at: datetime | None = None


THING = {
    "type": "record",
    "name": "ThingDone",
    "namespace": "quadrille.things",
    "fields": [
        {"name": "thing_id", "type": "string"},
        {"name": "done", "type": "boolean"},
        {"name": "count", "type": "int"},
        {"name": "price_minor", "type": "long"},
        {"name": "raw", "type": "bytes"},
        {
            "name": "lines",
            "type": {
                "type": "array",
                "items": {
                    "type": "record",
                    "name": "Line",
                    "fields": [{"name": "sku", "type": "string"}, {"name": "quantity", "type": "int"}],
                },
            },
        },
        {"name": "settlement", "type": {"type": "map", "values": "string"}},
        {"name": "why", "type": "string"},
        {"name": "since_at", "type": "long"},
        {"name": "error", "type": ["null", "string"], "default": None},
        {"name": "until_at", "type": ["null", "long"], "default": None},
    ],
}
OLDER = THING | {"fields": THING["fields"][:-2]}
NOON = datetime(2026, 11, 21, 12, 0, 0, 123_000, tzinfo=UTC)
GOOD = ThingDone("t-1", True, 7, 2**40, b"\0\1", (Line(Sku("tea"), 2),), {"b": "2", "a": "1"}, Why.LATE, NOON)  # noqa: FBT003


@pytest.fixture
def codec(tmp_path: Path) -> Codec:
    return speaking(tmp_path, THING)


def speaking(folder: Path, *raw: dict[str, Any]) -> Codec:
    """Return the codec of a service that says these schemas, whose ids are 1, 2, 3."""
    emitted = [schemas.of(one) for one in raw]
    return Codec(emitted, numbered(folder, emitted))


def hearing(folder: Path, raw: dict[str, Any]) -> Codec:
    """Return the codec of a service that says nothing, and finds this schema under the id 1."""
    return Codec((), numbered(folder, [schemas.of(raw)]))


def heard_as(fields: dict[str, Any], defaults: dict[str, Any] | None = None, **attributes: object) -> type[Event]:
    """Return a projection called ThingDone of these fields."""
    body = {"__annotations__": fields, "__module__": __name__} | (defaults or {}) | attributes
    return dataclass(frozen=True)(type("ThingDone", (Event,), body))


def test_a_fact_is_read_as_it_was_said(codec: Codec) -> None:
    """Every kind of field survives the way, and equal events are equal bytes whatever the order of a map."""
    value = codec.encode(GOOD)

    assert value[:5] == b"\0\0\0\0\1"
    assert codec.decode(value, ThingDone) == GOOD
    assert codec.encode(codec.decode(value, ThingDone)) == value


@given(
    st.builds(
        ThingDone,
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
        st.booleans(),
        st.integers(-(2**31), 2**31 - 1),
        st.integers(-(2**63), 2**63 - 1),
        st.binary(),
        st.lists(st.builds(Line, st.just(Sku("tea")), st.integers(0, 100))).map(tuple),
        st.dictionaries(st.sampled_from("abc"), st.just("x")),
        st.just(Why.LATE),
        st.integers(-(10**13), 10**14).map(lambda ms: datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=ms)),
        st.none() | st.just("broken"),
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
def test_any_fact_is_read_as_it_was_said(codec: Codec, fact: ThingDone) -> None:
    """Whatever values an event carries, it is read back equal; a time keeps its milliseconds exactly."""
    assert codec.decode(codec.encode(fact), ThingDone) == fact


def test_a_consumer_names_only_what_it_needs(codec: Codec, tmp_path: Path) -> None:
    """A projection takes the fields it names, in its own order, and nothing else."""
    few = heard_as({"thing_id": str, "price_minor": int, "lines": tuple[Line, ...]})

    decoded = hearing(tmp_path, THING).decode(codec.encode(GOOD), few)

    assert decoded == few("t-1", 2**40, (Line(Sku("tea"), 2),))  # type: ignore[call-arg]  # made by heard_as


def test_one_field_is_enough(codec: Codec) -> None:
    """A projection of a single field is read like any other."""
    one = heard_as({"thing_id": str})

    assert codec.decode(codec.encode(GOOD), one) == one("t-1")  # type: ignore[call-arg]  # made by heard_as


def test_an_older_version_is_read_with_defaults(tmp_path: Path) -> None:
    """What a version does not have yet comes from the class's default."""
    older = heard_as({f: h for f, h in ThingDone.__annotations__.items() if f not in {"error", "until_at"}})
    emitted = older(*[getattr(GOOD, name) for name in older.__annotations__])
    value = speaking(tmp_path, OLDER).encode(emitted)

    assert hearing(tmp_path, OLDER).decode(value, ThingDone) == GOOD


def test_a_newer_version_is_read_without_what_is_new(codec: Codec, tmp_path: Path) -> None:
    """A consumer that does not know a field yet skips it."""
    older = heard_as({"thing_id": str, "count": int})

    assert hearing(tmp_path, THING).decode(codec.encode(GOOD), older) == older("t-1", 7)  # type: ignore[call-arg]


def test_maps_may_be_pairs_that_can_be_hashed(codec: Codec) -> None:
    """A map is read as pairs in the record's order where a class wants to be hashed."""
    pairs = heard_as({"thing_id": str, "settlement": tuple[tuple[str, str], ...]})

    decoded = codec.decode(codec.encode(GOOD), pairs)

    assert decoded == pairs("t-1", (("a", "1"), ("b", "2")))  # type: ignore[call-arg]  # made by heard_as
    assert hash(decoded)


def test_a_literal_takes_its_texts_only(codec: Codec) -> None:
    """A text that is not one of the literal's, or of the enum's, is DecodeError."""
    value = codec.encode(GOOD)

    assert codec.decode(value, heard_as({"thing_id": str, "why": Literal["LATE", "LOST"]})) is not None
    for hint in (Literal["LOST"], StrEnum("Other", ["LOST"])):
        with pytest.raises(DecodeError):
            codec.decode(value, heard_as({"thing_id": str, "why": hint}))


@pytest.mark.parametrize(
    ("hints", "attributes"),
    [
        ({"thing_id": str, "missing": str}, {}),
        ({"thing_id": int}, {}),
        ({"thing_id": str, "count": str}, {}),
        ({"thing_id": str, "count": datetime}, {}),
        ({"thing_id": str, "error": str}, {}),
        ({"thing_id": str, "lines": list[Line]}, {}),
        ({"thing_id": str, "lines": tuple[str, ...]}, {}),
        ({"thing_id": str, "settlement": Mapping[str, int]}, {}),
        ({"thing_id": str, "raw": str}, {}),
        ({"thing_id": str}, {"source": "others"}),
    ],
)
def test_a_class_the_schema_cannot_fill_is_refused(
    codec: Codec, hints: dict[str, Any], attributes: dict[str, Any]
) -> None:
    """A field that is missing, of another type, or may be null unasked makes the record DecodeError for that class."""
    with pytest.raises(DecodeError, match="cannot read"):
        codec.decode(codec.encode(GOOD), heard_as(hints, None, **attributes))


def test_another_record_is_refused(codec: Codec, tmp_path: Path) -> None:
    """A record whose schema is not the one its type promises is DecodeError, however well it would fit."""
    other = hearing(tmp_path / "other", THING | {"name": "ThingUndone"})

    with pytest.raises(DecodeError, match="ThingUndone"):
        other.decode(codec.encode(GOOD), ThingDone)


@pytest.mark.parametrize("value", [None, b"", b"\0", b"\0\0\0\0\1", b"\1\0\0\0\1x", b"\0\0\0\0\1" + b"\0" * 262_144])
def test_a_value_that_is_none_is_refused(codec: Codec, value: bytes | None) -> None:
    """A missing, empty, cut, foreign or oversized value is DecodeError."""
    with pytest.raises(DecodeError):
        codec.decode(value, ThingDone)


@pytest.mark.parametrize(
    "changed",
    [
        {"count": 2**31},
        {"count": "7"},
        {"count": 7.5},
        {"count": True},
        {"count": -(2**31) - 1},
        {"count": None},
        {"price_minor": 2**63},
        {"price_minor": -(2**63) - 1},
        {"done": None},
        {"done": 1},
        {"raw": "bytes"},
        {"raw": memoryview(b"bytes")},
        {"thing_id": "a\0b"},
        {"thing_id": "\ud800"},
        {"thing_id": None},
        {"thing_id": b"t-1"},
        {"lines": (None,)},
        {"lines": None},
        {"lines": (Line(Sku("tea"), 2**31),)},
        {"settlement": {"a": 1}},
        {"settlement": {1: "a"}},
        {"settlement": {"a\0b": "1"}},
        {"settlement": {"\ud800": "1"}},
        {"settlement": "one text"},
        {"settlement": None},
        {"settlement": (("a", "1"), ("a", "2"))},
        {"why": None},
        {"error": 7},
        {"error": "a\0b"},
        {"error": "\ud800"},
        {"since_at": NOON.replace(tzinfo=None)},
        {"since_at": 7},
        {"since_at": None},
        {"until_at": 7},
    ],
)
def test_what_nobody_could_read_is_not_said(codec: Codec, changed: dict[str, Any]) -> None:
    """A value that its schema cannot hold raises EncodeError, and the message does not quote it."""
    values = {name: getattr(GOOD, name) for name in ThingDone.__annotations__} | changed

    with pytest.raises(EncodeError) as refused:
        codec.encode(ThingDone(**values))

    quoted = [str(one) for one in changed.values() if isinstance(one, str | int) and not isinstance(one, bool)]
    assert not [one for one in quoted if one in str(refused.value)]
    assert refused.value.__context__ is None or refused.value.__suppress_context__, "a traceback would quote it"


@pytest.mark.parametrize(
    "hints",
    [
        {"thing_id": str},
        {"count": int, "thing_id": str},
        {"thing_id": str, "count": str},
        {"thing_id": str, "count": int | None},
    ],
)
def test_a_said_class_is_its_schema(tmp_path: Path, hints: dict[str, Any]) -> None:
    """A class with other fields, another order or other types than its schema is refused before it is first said."""
    fields = [{"name": "thing_id", "type": "string"}, {"name": "count", "type": "int"}]
    cls = heard_as(hints)

    with pytest.raises(SchemaMismatchError):
        speaking(tmp_path, THING | {"fields": fields}).encode(cls(*[None for _ in hints]))


def test_a_fact_without_a_schema_is_refused(tmp_path: Path) -> None:
    """A class for which the service carries no schema cannot be said."""
    with pytest.raises(SchemaMismatchError, match="no schema"):
        speaking(tmp_path).encode(GOOD)


def test_looking_gives_the_whole_record(codec: Codec) -> None:
    """Those who only look at records get the schema's name and every field as plain values."""
    schema, body = codec.look(codec.encode(GOOD))

    assert schema.name == "quadrille.things.ThingDone"
    assert body["lines"] == ({"sku": "tea", "quantity": 2},)
    assert body["settlement"] == {"a": "1", "b": "2"}


def test_a_class_may_refuse_a_value(codec: Codec) -> None:
    """A value that the class's own check refuses is DecodeError, with a reason that does not quote it."""

    def check(thing: Any) -> None:  # noqa: ANN401 - the class made below
        message = f"{thing.thing_id} is not a thing"
        raise ValueError(message)

    with pytest.raises(DecodeError) as refused:
        codec.decode(codec.encode(GOOD), heard_as({"thing_id": str}, None, __post_init__=check))

    assert "t-1" not in refused.value.reason


def test_defaults_may_be_made(tmp_path: Path) -> None:
    """A default that is made by a factory serves for what a version does not have."""
    later = heard_as({"thing_id": str, "later": tuple[str, ...]}, {"later": field(default_factory=tuple)})
    value = speaking(tmp_path, THING).encode(GOOD)

    assert hearing(tmp_path, THING).decode(value, later) == later("t-1")  # type: ignore[call-arg]  # made by heard_as
