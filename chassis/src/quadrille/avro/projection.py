"""Projections: dataclasses to and from the shapes of Avro; a class that its schema cannot fill is refused beforehand.

A consumed class is a projection: it names only the fields it needs, in any order; what an older version does not have
comes from the class's default. An emitted class is its schema, field by field. A text may be ``str``, a ``NewType`` of
it, a ``StrEnum`` or a ``Literal``; a ``long`` may be a ``datetime`` (whole milliseconds); a list is ``tuple[X, ...]``;
a map is ``Mapping[str, X]`` or ``tuple[tuple[str, X], ...]``, which can be hashed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from operator import attrgetter
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NewType, NoReturn, TypeAlias, Union, get_args, get_origin, get_type_hints

from quadrille.avro import decoder
from quadrille.avro.decoder import DecodeFunction
from quadrille.avro.schemas import ArrayOf, Field, MapOf, NullOr, OneOf, Plain, Primitive, RecordOf, Schema, Shape
from quadrille.ids import from_milliseconds, milliseconds

Hint: TypeAlias = Any  # what stands behind a field's colon
Flat: TypeAlias = Callable[[Any], Any]  # a value of a class to what fastavro writes

_READ: dict[str, DecodeFunction] = {
    "boolean": decoder.read_boolean,
    "int": decoder.read_int,
    "long": decoder.read_long,
    "string": decoder.read_string,
    "bytes": decoder.read_bytes,
}
_PYTHON = {"boolean": bool, "int": int, "long": int, "string": str, "bytes": bytes}


class SchemaMismatchError(TypeError):
    """A class that cannot be read from, or said as, a schema; says which field and why."""


class EncodeError(ValueError):
    """A value that its schema cannot hold, or that no reader would take; names the field, never the value."""


def _unsayable(reason: str) -> NoReturn:
    raise EncodeError(reason)


def _unlike(reason: str) -> NoReturn:
    raise SchemaMismatchError(reason)


def reader(schema: Schema, cls: type) -> DecodeFunction:
    """Return what reads this version of a record into the class; raises SchemaMismatchError if it lacks a field."""
    space, _, name = schema.name.rpartition(".")
    source = getattr(cls, "source", "")
    if name != cls.__name__ or (source and space not in (f"quadrille.{source}", "quadrille.chassis")):
        _unlike(f"{schema.name} is no {cls.__name__}")
    return _reader(schema.shape, cls, cls.__name__)


def generic(schema: Schema) -> DecodeFunction:
    """Return what reads a record whole into dicts and tuples, for those who only look: console, command line."""
    return _reader(schema.shape, Any, schema.name)


def flat(schema: Schema, cls: type) -> Flat:
    """Return what turns the class into dicts, lists and plain values as fastavro takes them.

    Raises SchemaMismatchError unless class and schema are alike by field. What it returns raises EncodeError for a text
    with NUL, which the reader refuses and fastavro does not; all else about values is fastavro's to check.
    """
    if found := [*differences(schema.shape, cls, cls.__name__)]:
        _unlike("; ".join(found))
    return _flat_record(schema.shape.fields, cls)


def differences(shape: Shape, hint: Hint, where: str) -> Iterator[str]:
    """Say where a said class and its schema are not the same: names, order, types, what is optional."""
    inner, optional = _bare(hint)
    if optional != isinstance(shape, NullOr):
        yield f"{where}: optional in one, not in the other"
        return
    match shape.inner if isinstance(shape, NullOr) else shape:
        case RecordOf(_, fields) if dataclasses.is_dataclass(inner):
            wanted, found = [f.name for f in fields], [f.name for f in dataclasses.fields(inner)]
            if wanted != found:
                yield f"{where}: {', '.join(found)} where the schema has {', '.join(wanted)}"
                return
            hints = get_type_hints(inner, include_extras=True)
            for field in fields:
                yield from differences(field.shape, hints[field.name], f"{where}.{field.name}")
        case ArrayOf(items) if (item := _item(inner)) is not None:
            yield from differences(items, item, f"{where}[]")
        case other:
            try:
                _reader(other, inner, where)
            except SchemaMismatchError as unlike:
                yield str(unlike)


def _reader(shape: Shape, hint: Hint, where: str) -> DecodeFunction:  # noqa: PLR0911 - one return a kind of shape
    inner, optional = _bare(hint)
    match shape:
        case NullOr(present):
            if not optional and inner is not Any:
                _unlike(f"{where} may be null: declare it X | None")
            return decoder.null_or(_reader(present, inner, where))
        case Plain(kind):
            return _simple(kind, inner, where)
        case OneOf(_, symbols):
            return _text(decoder.one_of(symbols), inner, where)
        case ArrayOf(items) if inner is Any or _item(inner) is not None:
            return decoder.array_of(_reader(items, Any if inner is Any else _item(inner), f"{where}[]"))
        case MapOf(values) if (made := _map(inner)) is not None:
            convert, value = made
            return decoder.then(decoder.pairs_of(_reader(values, value, f"{where}{{}}")), convert)
        case RecordOf(_, fields) if inner is Any:
            return _whole_record(fields, where)
        case RecordOf(_, fields) if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            return _projected(fields, inner, where)
    _unlike(f"{where} is {type(shape).__name__} on the wire, {getattr(inner, '__name__', inner)} in the class")


def _whole_record(fields: tuple[Field, ...], where: str) -> DecodeFunction:
    names = [field.name for field in fields]
    readers = [_reader(field.shape, Any, f"{where}.{field.name}") for field in fields]
    return decoder.record(lambda *values: dict(zip(names, values, strict=True)), readers, range(len(names)), ())


def _projected(fields: tuple[Field, ...], cls: type, where: str) -> DecodeFunction:
    hints = get_type_hints(cls, include_extras=True)
    columns = [field for field in dataclasses.fields(cls) if field.init]
    there = [field.name for field in fields]
    absent = [column for column in columns if column.name not in there]
    places = [column.name for column in absent] + there
    readers = [_reader(field.shape, hints.get(field.name, Any), f"{where}.{field.name}") for field in fields]
    wanted = [places.index(column.name) for column in columns]
    return decoder.record(cls, readers, wanted, [_default(column, where) for column in absent])


def _default(column: dataclasses.Field[Any], where: str) -> object:
    if column.default is not dataclasses.MISSING:
        return column.default
    if column.default_factory is not dataclasses.MISSING:
        return column.default_factory()
    _unlike(f"{where}.{column.name} is not in the schema and has no default")


def _simple(kind: Primitive, hint: Hint, where: str) -> DecodeFunction:
    if kind == "string":
        return _text(decoder.read_string, hint, where)
    if hint in (_PYTHON[kind], Any):
        return _READ[kind]
    if kind == "long" and hint is datetime:
        return decoder.then(decoder.read_long, from_milliseconds)
    _unlike(f"{where} is {kind} on the wire, {getattr(hint, '__name__', hint)} in the class")


def _text(read: DecodeFunction, hint: Hint, where: str) -> DecodeFunction:
    if hint in (str, Any):
        return read
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return decoder.then(read, hint)
    if _origin(hint) is Literal:
        members = {member: member for member in get_args(hint)}
        return decoder.then(read, lambda text: _member(members, text))
    _unlike(f"{where} is a text on the wire, {getattr(hint, '__name__', hint)} in the class")


def _member(members: Mapping[str, str], text: str) -> str:
    if text not in members:
        message = "not one of the literal's texts"
        raise ValueError(message)
    return members[text]


def _bare(hint: Hint) -> tuple[Hint, bool]:
    """Take off names and notes; say whether None is allowed."""
    optional = False
    while True:
        origin, arguments = _origin(hint), get_args(hint)
        if isinstance(hint, NewType):
            hint = hint.__supertype__
        elif origin is Annotated:
            hint = arguments[0]
        elif origin in (Union, UnionType) and NoneType in arguments and len(arguments) == 2:  # noqa: PLR2004 - X and None
            optional, hint = True, next(a for a in arguments if a is not NoneType)
        else:
            return hint, optional


def _origin(hint: Hint) -> Hint:
    return get_origin(hint)


def _item(hint: Hint) -> Hint | None:
    """Return X of ``tuple[X, ...]``."""
    arguments = get_args(hint)
    return arguments[0] if _origin(hint) is tuple and len(arguments) == 2 and arguments[1] is ... else None  # noqa: PLR2004


def _map(hint: Hint) -> tuple[Callable[[Any], Any], Hint] | None:
    """Return how pairs become the map the class wants, and the type of its values."""
    if hint is Any:
        return dict, Any
    if _origin(hint) is Mapping and get_args(hint)[0] is str:
        return dict, get_args(hint)[1]
    pair = get_args(_item(hint)) if _origin(_item(hint)) is tuple else ()
    return (tuple, pair[1]) if len(pair) == 2 and pair[0] is str else None  # noqa: PLR2004 - key and value


def _flat(shape: Shape, hint: Hint) -> Flat | None:
    """Return how a value becomes plain; None is: it is."""
    inner, _ = _bare(hint)
    match shape:
        case Plain("string"):
            return _flat_text
        case Plain():
            return milliseconds if inner is datetime else None
        case NullOr(present):
            return _flat_option(_flat(present, inner))
        case ArrayOf(items):
            item = _flat(items, _item(inner)) or _same
            return lambda values: [item(value) for value in values]
        case MapOf(values):
            return _flat_map(_flat(values, (_map(inner) or (dict, Any))[1]) or _same)
        case RecordOf(_, fields):
            return _flat_record(fields, inner)
        case OneOf(name, _):
            _unlike(f"{name} is an enum: our own schemas say texts")


def _flat_record(fields: tuple[Field, ...], cls: type) -> Flat:
    hints = get_type_hints(cls, include_extras=True)
    names = [field.name for field in fields]
    get = attrgetter(*names) if len(names) > 1 else lambda value: (getattr(value, names[0]),)
    made = [(name, _flat(field.shape, hints[name])) for name, field in zip(names, fields, strict=True)]
    changed = [(name, convert) for name, convert in made if convert]

    def convert_all(value: Any) -> dict[str, Any]:  # noqa: ANN401 - a value of cls
        body = dict(zip(names, get(value), strict=True))
        for name, convert in changed:
            body[name] = convert(body[name])
        return body

    return convert_all


def _flat_option(present: Flat | None) -> Flat | None:
    return present and (lambda value: None if value is None else present(value))


def _flat_map(convert: Flat) -> Flat:
    def convert_all(entries: Any) -> dict[str, Any]:  # noqa: ANN401 - a mapping or pairs
        held = dict(entries)
        if len(held) < len(entries):
            _unsayable("a key twice in a map")
        # sorted, so that equal maps are equal bytes
        return {_flat_text(key): convert(held[key]) for key in sorted(held)}

    return convert_all


def _flat_text(text: str) -> str:
    if "\0" in text:
        _unsayable("NUL in a text")
    return text


def _same(value: Any) -> Any:  # noqa: ANN401 - whatever it is
    return value
