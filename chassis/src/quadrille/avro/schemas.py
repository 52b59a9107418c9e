"""Avro schemas as values: parsed and bounded; what could crash or bloat a decoder never gets past ``parse``."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias, cast

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

MAX_TEXT, MAX_NODES, MAX_DEPTH = 65_536, 1_000, 16
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_PLAIN = ("boolean", "int", "long", "string", "bytes")

CHASSIS, CHASSIS_PACKAGE = "chassis", "quadrille"  # whose events have the namespace quadrille.chassis

Primitive: TypeAlias = Literal["boolean", "int", "long", "string", "bytes"]


class UnsafeSchemaError(ValueError):
    """A schema with which no byte is ever decoded; says why."""


def _refuse(reason: str) -> NoReturn:
    raise UnsafeSchemaError(reason)


@dataclass(frozen=True, slots=True)
class Plain:
    """A value of one of Avro's simple types."""

    kind: Primitive


@dataclass(frozen=True, slots=True)
class OneOf:
    """An Avro enum: read by those who meet one, never written by our own schemas."""

    name: str
    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ArrayOf:
    """A list of values of one shape."""

    items: Shape


@dataclass(frozen=True, slots=True)
class MapOf:
    """Texts to values of one shape."""

    values: Shape


@dataclass(frozen=True, slots=True)
class NullOr:
    """An optional value: a union of null, which comes first, and one shape."""

    inner: Shape


@dataclass(frozen=True, slots=True)
class Field:
    """A named value of a record."""

    name: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class RecordOf:
    """Named values in the order in which they are written; ``name`` is the full name."""

    name: str
    fields: tuple[Field, ...]


Shape: TypeAlias = Plain | OneOf | ArrayOf | MapOf | NullOr | RecordOf


@dataclass(frozen=True, slots=True)
class Schema:
    """One version of one event type, as it was registered."""

    name: str
    text: str
    fingerprint: str
    shape: RecordOf


def parse(text: str) -> Schema:
    """Read a schema and refuse what must never reach a decoder.

    Refused are recursion, floats, values of no width, unions but ``[null, x]``, more than ``MAX_NODES`` nodes after
    named types are written out, and nesting beyond ``MAX_DEPTH``. Raises UnsafeSchemaError.
    """
    if len(text) > MAX_TEXT:
        _refuse(f"longer than {MAX_TEXT} characters")
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        _refuse("not JSON")
    shape = _Parser().shape(raw, "", 0)
    if not isinstance(shape, RecordOf):
        _refuse("not a record")
    fingerprint = hashlib.sha256(canonical(shape).encode()).hexdigest()
    return Schema(shape.name, text, fingerprint, shape)


def of(raw: object) -> Schema:
    """Return the schema of parsed JSON; its text is the JSON without needless blanks, as it is registered."""
    return parse(json.dumps(raw, separators=(",", ":"), ensure_ascii=False))


def canonical(shape: Shape) -> str:
    """Return Avro's parsing canonical form, whose SHA-256 is the fingerprint: docs and defaults do not count."""
    return json.dumps(_plain_json(shape, set()), separators=(",", ":"), ensure_ascii=False)


def emitted_by(owner: str) -> tuple[Schema, ...]:
    """Return the schemas of what a service says (or ``chassis``), sorted by name.

    They travel in the package's wheel as ``schemas/*.avsc``; in a checkout the repository's own directory is read.
    Raises FileNotFoundError if neither is there.
    """
    files = (file for file in folder(owner).iterdir() if file.name.endswith(".avsc"))
    found = [of(json.loads(file.read_text("utf-8"))) for file in files]
    return tuple(sorted(found, key=lambda schema: schema.name))


class _Parser:
    """Turns JSON into a shape; a reference to a named type is written out again, so every node costs its share."""

    def __init__(self) -> None:
        self._named: dict[str, tuple[Any, str]] = {}
        self._open: list[str] = []
        self._again = 0  # above 0 while a reference is written out
        self._left = MAX_NODES

    def shape(self, raw: object, space: str, depth: int) -> Shape:  # noqa: PLR0911 - one return a kind of shape
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            _refuse(f"nested deeper than {MAX_DEPTH} or wider than {MAX_NODES} nodes")
        match raw:
            case str() if raw in _PLAIN:
                return Plain(cast("Primitive", raw))
            case str():
                return self._reference(raw, space, depth)
            case ["null", inner] if not isinstance(inner, list) and inner != "null":
                return NullOr(self.shape(inner, space, depth + 1))
            case {"type": "array", "items": items}:
                return ArrayOf(self.shape(items, space, depth + 1))
            case {"type": "map", "values": values}:
                return MapOf(self.shape(values, space, depth + 1))
            case {"type": "enum" | "record", "name": str()}:
                return self._definition(cast("dict[str, Any]", raw), space, depth)
            case {"type": str(kind)} if kind in _PLAIN:
                return Plain(cast("Primitive", kind))
        _refuse("a type that is not part of the language, or has no width")

    def _reference(self, name: str, space: str, depth: int) -> Shape:
        known = self._named.get(_full(name, space)) or self._named.get(name)
        if known is None:
            _refuse("a type that is not part of the language, or has no width")
        self._again += 1
        shape = self._definition(*known, depth)
        self._again -= 1
        return shape

    def _definition(self, raw: dict[str, Any], space: str, depth: int) -> OneOf | RecordOf:
        name = _full(raw["name"], raw.get("namespace", space))
        if name in self._open:
            _refuse("recursive")
        if name in self._named and not self._again:
            _refuse("one name for two types")
        self._named.setdefault(name, (raw, space))
        if raw["type"] == "enum":
            return OneOf(name, tuple(_unique(raw.get("symbols"))))
        self._open.append(name)
        fields = _objects(raw.get("fields"))
        names = _unique([field.get("name") for field in fields])
        inner = name.rpartition(".")[0]
        shapes = [self.shape(field.get("type"), inner, depth + 1) for field in fields]
        self._open.pop()
        return RecordOf(name, tuple(Field(*pair) for pair in zip(names, shapes, strict=True)))


def _objects(fields: object) -> list[dict[str, Any]]:
    if not isinstance(fields, list) or not all(isinstance(field, dict) for field in fields):
        _refuse("a record without fields")
    return fields


def _full(name: object, space: object) -> str:
    full = name if "." in str(name) or not space else f"{space}.{name}"
    if not isinstance(full, str) or not _NAME.fullmatch(full):
        _refuse("a bad name")
    return full


def _unique(names: object) -> list[str]:
    # an empty record has no width: an array of a billion of them would fit into five bytes
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and _NAME.fullmatch(n) for n in names):
        _refuse("no names, or a bad one")
    if len(set(names)) < len(names) or any("." in name for name in names):
        _refuse("a name twice, or a dotted one")
    return names


def _plain_json(shape: Shape, named: set[str]) -> object:  # noqa: PLR0911 - one return a kind of shape
    match shape:
        case Plain(kind):
            return kind
        case NullOr(inner):
            return ["null", _plain_json(inner, named)]
        case ArrayOf(items):
            return {"type": "array", "items": _plain_json(items, named)}
        case MapOf(values):
            return {"type": "map", "values": _plain_json(values, named)}
        case OneOf(name, _) | RecordOf(name, _) if name in named:
            return name
        case OneOf(name, symbols):
            named.add(name)
            return {"name": name, "type": "enum", "symbols": list(symbols)}
        case RecordOf(name, fields):
            named.add(name)
            columns = [{"name": field.name, "type": _plain_json(field.shape, named)} for field in fields]
            return {"name": name, "type": "record", "fields": columns}


def folder(owner: str) -> Traversable:
    """Return where a service's schemas (or the chassis's) lie, in wheel or checkout; raises FileNotFoundError."""
    package = CHASSIS_PACKAGE if owner == CHASSIS else owner
    inside = resources.files(package) / "schemas"
    return inside if inside.is_dir() else _checkout(package, owner)


def _checkout(package: str, owner: str) -> Path:
    """Find the repository's ``schemas/<owner>`` above an editable package."""
    spec = importlib.util.find_spec(package)
    for above in Path(spec.origin).resolve().parents if spec and spec.origin else ():
        if (there := above / "schemas" / owner).is_dir():
            return there
    message = f"{package} carries no schemas and lies in no checkout that has them"
    raise FileNotFoundError(message)
