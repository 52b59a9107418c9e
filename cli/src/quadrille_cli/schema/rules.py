"""What a schema must be before it may be published: the house's language, one finding a broken rule."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from quadrille.avro import schemas
from quadrille.avro.schemas import ArrayOf, Field, MapOf, NullOr, OneOf, Plain, RecordOf, Schema, UnsafeSchemaError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEYS = {"chassis": ("order_id", "service")}
OBVIOUS = frozenset({"order_id", "sku", "quantity", "topic", "operation_id"})
LONG_NAMES = re.compile(r".+(_at|_minor|_ms)|number")
SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
TYPE = re.compile(r"[a-z]+(\.[a-z0-9_]+)+")


def read(root: Path) -> tuple[dict[str, Schema], list[str]]:
    """Return every schema below ``root`` by its full name, and what is wrong with the files."""
    found: dict[str, Schema] = {}
    wrong: list[str] = []
    for file in sorted(root.glob("*/*.avsc")):
        where = f"{file.parent.name}/{file.name}"
        try:
            raw = json.loads(file.read_text("utf-8"))
            schema = schemas.of(raw)
        except (ValueError, UnsafeSchemaError) as bad:
            wrong.append(f"{where}: {bad}")
            continue
        wrong += [f"{where}: {finding}" for finding in findings(raw, schema, file.parent.name, file.stem)]
        found[schema.name] = schema
    return found, wrong


def findings(raw: dict[str, Any], schema: Schema, service: str, wire_type: str) -> Iterator[str]:
    """Say what breaks the rules of contracts.md, section 1, in one schema."""
    yield from _names(schema, service, wire_type)
    yield from _written(raw, "record")
    yield from _shapes(schema.shape)


def _names(schema: Schema, service: str, wire_type: str) -> Iterator[str]:
    if not TYPE.fullmatch(wire_type):
        yield f"the type {wire_type} is not noun.past_participle"
    wanted = f"quadrille.{service}.{record_name(wire_type)}"
    if schema.name != wanted:
        yield f"the record is {schema.name}, its file says {wanted}"
    keys = KEYS.get(service, ("order_id",))
    first = schema.shape.fields[0]
    if first.name not in keys or first.shape != Plain("string"):
        yield f"the first field must be {' or '.join(keys)}, a string: it is the record's key"


def record_name(wire_type: str) -> str:
    """Return the record name of a type: ``stock.release_failed`` is ``StockReleaseFailed``."""
    return "".join(word.capitalize() for word in re.split(r"[._]", wire_type))


def _written(raw: object, what: str) -> Iterator[str]:
    """Look at what parsing leaves out: docs, defaults, aliases, logical types."""
    if isinstance(raw, list):
        for branch in raw:
            yield from _written(branch, what)
    if isinstance(raw, dict):
        yield from _attributes(raw, what)
        for inner in ("items", "values", "type"):
            yield from _written(raw.get(inner), "record")
        for field in raw.get("fields", ()):
            yield from _written(field, "field")


def _attributes(raw: dict[str, Any], what: str) -> Iterator[str]:
    name = raw.get("name", "")
    if extra := sorted(raw.keys() & {"aliases", "logicalType", "order", "precision", "scale"}):
        yield f"{name or raw.get('type')}: no {' or '.join(extra)}"
    if name and name not in OBVIOUS and not str(raw.get("doc", "")).endswith("."):
        yield f"{name}: a {what} needs a doc, which is a sentence"
    optional = isinstance(raw.get("type"), list)
    if optional and raw.get("default", "") is not None:
        yield f"{name}: an optional field has the default null"
    if "default" in raw and not optional:
        yield f"{name}: only an optional field has a default"


def _shapes(record: RecordOf) -> Iterator[str]:
    optional = [isinstance(field.shape, NullOr) for field in record.fields]
    if optional != sorted(optional):
        yield f"{record.name}: optional fields come last"
    names = {field.name for field in record.fields}
    if "amount_minor" in names and "currency" not in names:
        yield f"{record.name}: an amount needs its currency"
    for field in record.fields:
        yield from _field(field)


def _field(field: Field) -> Iterator[str]:
    if not SNAKE.fullmatch(field.name):
        yield f"{field.name}: not snake_case"
    match field.shape.inner if isinstance(field.shape, NullOr) else field.shape:
        case Plain(kind):
            if (kind == "long") != bool(LONG_NAMES.fullmatch(field.name)):
                yield f"{field.name} is {kind}: times (_at), money (_minor) and durations (_ms) are long, counts int"
        case ArrayOf(RecordOf() as item):
            yield from _shapes(item)
        case ArrayOf():
            yield f"{field.name}: a list holds a named record, which can grow"
        case OneOf():
            yield f"{field.name}: an enum cannot grow, say a string"
        case MapOf(Plain("string")):
            pass
        case MapOf() | RecordOf() | NullOr():
            yield f"{field.name}: nothing but lists and maps of strings nest"
