"""Which schemas a decoder may meet, and how one is told from another."""

from __future__ import annotations

import json
from typing import Any

import avro.schema
import fastavro.schema
import pytest

from quadrille.avro import schemas
from quadrille.avro.schemas import UnsafeSchemaError


def record(*types: Any, name: str = "R") -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Return a record of fields of these types."""
    return {"type": "record", "name": name, "fields": [{"name": f"f{i}", "type": t} for i, t in enumerate(types)]}


def widening(levels: int) -> dict[str, Any]:
    """Return a schema of a few hundred characters that stands for 10 to the power of ``levels`` fields."""
    inner: Any = "long"
    for level in range(levels):
        inner = record(inner, *[inner if isinstance(inner, str) else inner["name"]] * 9, name=f"L{level}")
    return record(inner)


def nested(levels: int) -> Any:  # noqa: ANN401 - JSON
    """Return arrays in arrays."""
    return "long" if levels == 0 else {"type": "array", "items": nested(levels - 1)}


UNSAFE: dict[str, Any] = {
    "recursion": record(["null", "R"]),
    "recursion through another": record(record({"type": "array", "items": "R"}, name="S")),
    "recursion of no width": record("R"),
    "a float": record("float"),
    "a double": record({"type": "array", "items": "double"}),
    "items of no width": record({"type": "array", "items": "null"}),
    "an empty record": record({"type": "array", "items": {"type": "record", "name": "S", "fields": []}}),
    "an enum of nothing": record({"type": "enum", "name": "E", "symbols": []}),
    "a fixed of no width": record({"type": "fixed", "name": "F", "size": 0}),
    "null alone": record("null"),
    "null of null": record(["null", "null"]),
    "null last": record(["string", "null"]),
    "three branches": record(["null", "string", "long"]),
    "a union in a union": record(["null", ["null", "long"]]),
    "an unknown name": record("S"),
    "one name for two": record(record("int", name="S"), record("int", name="S")),
    "a field twice": {"type": "record", "name": "R", "fields": [{"name": "f", "type": "int"}] * 2},
    "a field without a type": {"type": "record", "name": "R", "fields": [{"name": "f"}]},
    "a field that is no object": {"type": "record", "name": "R", "fields": [{"name": "f", "type": "int"}, "f"]},
    "a dotted field": {"type": "record", "name": "R", "fields": [{"name": "a.b", "type": "int"}]},
    "a bad name": record("int", name="R-1"),
    "no name": {"type": "record", "fields": [{"name": "f", "type": "int"}]},
    "no record": {"type": "array", "items": "int"},
    "a list": [record("int")],
    "too deep": record(nested(20)),
    "too wide": record(*["int"] * 1001),
    "a billion fields in ten names": widening(9),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_an_unsafe_schema_is_refused(case: str) -> None:
    """A schema with which a few bytes could crash or bloat a decoder, or that is none, is refused before any byte."""
    with pytest.raises(UnsafeSchemaError):
        schemas.of(UNSAFE[case])


@pytest.mark.parametrize("text", ["", "{", "[" * 60_000, '{"type":"record"}' + " " * 70_000, "1e999", "null"])
def test_text_that_is_no_schema_is_refused(text: str) -> None:
    """Whatever a registry answers under an id, it is a schema or UnsafeSchemaError."""
    with pytest.raises(UnsafeSchemaError):
        schemas.parse(text)


def test_a_type_may_be_named_again() -> None:
    """A record defined once and named later is the same record in both places, also in the canonical form."""
    raw = record(record("int", name="S"), {"type": "array", "items": "S"}) | {"namespace": "a.b"}

    schema = schemas.of(raw)

    assert schema.shape.fields[0].shape == schema.shape.fields[1].shape.items  # type: ignore[union-attr]  # an array
    assert schemas.canonical(schema.shape) == fastavro.schema.to_parsing_canonical_form(raw)


@pytest.mark.parametrize("schema", schemas.emitted_by("chassis"), ids=lambda schema: schema.name)
def test_the_fingerprint_is_avros_own(schema: schemas.Schema) -> None:
    """Two independent libraries compute our canonical form and fingerprint, so that any language can."""
    form = fastavro.schema.to_parsing_canonical_form(json.loads(schema.text))

    assert schemas.canonical(schema.shape) == form == avro.schema.parse(schema.text).canonical_form
    assert schema.fingerprint == fastavro.schema.fingerprint(form, "SHA-256")


def test_docs_do_not_change_the_fingerprint() -> None:
    """What does not change the bytes does not change the fingerprint."""
    plain = schemas.of(record("int"))

    assert schemas.of(record("int") | {"doc": "A number."}).fingerprint == plain.fingerprint
    assert schemas.of(record("long")).fingerprint != plain.fingerprint


def test_a_package_without_schemas_is_named() -> None:
    """Asking for the schemas of a package that has none fails with its name."""
    with pytest.raises(FileNotFoundError, match="structlog"):
        schemas.emitted_by("structlog")
