"""Dataclasses as readers and writers of Avro; the guarantee: a class its schema cannot fill is refused beforehand.

A heard class is a projection: it names only the fields it needs, in any order; what an older version does not have
comes from the class's default. A said class is its schema, field by field. A text may be ``str``, a ``NewType`` of it,
a ``StrEnum`` or a ``Literal``; a ``long`` may be a ``datetime`` (whole milliseconds); a list is ``tuple[X, ...]``;
a map is ``Mapping[str, X]`` or ``tuple[tuple[str, X], ...]``, which can be hashed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NewType, NoReturn, TypeAlias, Union, get_args, get_origin, get_type_hints

from chassis import wire, wire_out
from chassis.schemas import ArrayOf, Field, Kind, MapOf, NullOr, OneOf, Plain, Record, Schema, Shape
from chassis.wire import Reader
from chassis.wire_out import Writer

Hint: TypeAlias = Any  # what stands behind a field's colon

_READ: dict[str, Reader] = {
    "boolean": wire.read_boolean,
    "int": wire.read_int,
    "long": wire.read_long,
    "string": wire.read_string,
    "bytes": wire.read_bytes,
}
_WRITE: dict[str, Writer] = {
    "boolean": wire_out.write_boolean,
    "int": wire_out.write_int,
    "long": wire_out.write_long,
    "string": wire_out.write_string,
    "bytes": wire_out.write_bytes,
}
_EPOCH, _MILLISECOND = datetime.fromtimestamp(0, UTC), timedelta(milliseconds=1)
_PYTHON = {"boolean": bool, "int": int, "long": int, "string": str, "bytes": bytes}


class Mismatch(TypeError):  # noqa: N818 - the name says what is the case
    """A class that cannot be read from, or said as, a schema; says which field and why."""


def _unlike(reason: str) -> NoReturn:
    raise Mismatch(reason)


def reader(schema: Schema, cls: type) -> Reader:
    """Return what reads this version of a record into the class; raises Mismatch if it lacks what the class needs."""
    space, _, name = schema.name.rpartition(".")
    source = getattr(cls, "source", "")
    if name != cls.__name__ or (source and space not in (f"quadrille.{source}", "quadrille.chassis")):
        _unlike(f"{schema.name} is no {cls.__name__}")
    return _reader(schema.shape, cls, cls.__name__)


def generic(schema: Schema) -> Reader:
    """Return what reads a record whole into dicts and tuples, for those who only look: console, command line."""
    return _reader(schema.shape, Any, schema.name)


def writer(schema: Schema, cls: type) -> Writer:
    """Return what writes the class as this schema; raises Mismatch unless they are the same, field by field."""
    if found := [*differences(schema.shape, cls, cls.__name__)]:
        _unlike("; ".join(found))
    return _writer(schema.shape, cls)


def differences(shape: Shape, hint: Hint, where: str) -> Iterator[str]:
    """Say where a said class and its schema are not the same: names, order, types, what is optional."""
    inner, optional = _bare(hint)
    if optional != isinstance(shape, NullOr):
        yield f"{where}: optional in one, not in the other"
        return
    match shape.inner if isinstance(shape, NullOr) else shape:
        case Record(_, fields) if dataclasses.is_dataclass(inner):
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
            except Mismatch as unlike:
                yield str(unlike)


def _reader(shape: Shape, hint: Hint, where: str) -> Reader:  # noqa: PLR0911 - one return a kind of shape
    inner, optional = _bare(hint)
    match shape:
        case NullOr(present):
            if not optional and inner is not Any:
                _unlike(f"{where} may be null: declare it X | None")
            return wire.null_or(_reader(present, inner, where))
        case Plain(kind):
            return _simple(kind, inner, where)
        case OneOf(_, symbols):
            return _text(wire.one_of(symbols), inner, where)
        case ArrayOf(items) if inner is Any or _item(inner) is not None:
            return wire.array_of(_reader(items, Any if inner is Any else _item(inner), f"{where}[]"))
        case MapOf(values) if (made := _map(inner)) is not None:
            convert, value = made
            return wire.then(wire.pairs_of(_reader(values, value, f"{where}{{}}")), convert)
        case Record(_, fields) if inner is Any:
            return _whole_record(fields, where)
        case Record(_, fields) if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            return _projected(fields, inner, where)
    _unlike(f"{where} is {type(shape).__name__} on the wire, {getattr(inner, '__name__', inner)} in the class")


def _whole_record(fields: tuple[Field, ...], where: str) -> Reader:
    names = [field.name for field in fields]
    readers = [_reader(field.shape, Any, f"{where}.{field.name}") for field in fields]
    return wire.record(lambda *values: dict(zip(names, values, strict=True)), readers, range(len(names)), ())


def _projected(fields: tuple[Field, ...], cls: type, where: str) -> Reader:
    hints = get_type_hints(cls, include_extras=True)
    columns = [field for field in dataclasses.fields(cls) if field.init]
    there = [field.name for field in fields]
    absent = [column for column in columns if column.name not in there]
    places = [column.name for column in absent] + there
    readers = [_reader(field.shape, hints.get(field.name, Any), f"{where}.{field.name}") for field in fields]
    wanted = [places.index(column.name) for column in columns]
    return wire.record(cls, readers, wanted, [_default(column, where) for column in absent])


def _default(column: dataclasses.Field[Any], where: str) -> object:
    if column.default is not dataclasses.MISSING:
        return column.default
    if column.default_factory is not dataclasses.MISSING:
        return column.default_factory()
    _unlike(f"{where}.{column.name} is not in the schema and has no default")


def _simple(kind: Kind, hint: Hint, where: str) -> Reader:
    if kind == "string":
        return _text(wire.read_string, hint, where)
    if hint in (_PYTHON[kind], Any):
        return _READ[kind]
    if kind == "long" and hint is datetime:
        return wire.then(wire.read_long, _moment)
    _unlike(f"{where} is {kind} on the wire, {getattr(hint, '__name__', hint)} in the class")


def _text(read: Reader, hint: Hint, where: str) -> Reader:
    if hint in (str, Any):
        return read
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return wire.then(read, hint)
    if _origin(hint) is Literal:
        members = {member: member for member in get_args(hint)}
        return wire.then(read, lambda text: _member(members, text))
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


def _writer(shape: Shape, hint: Hint) -> Writer:
    inner, _ = _bare(hint)
    match shape:
        case Plain() if inner is datetime:
            return _write_moment
        case Plain(kind):
            return _WRITE[kind]
        case NullOr(present):
            return wire_out.write_null_or(_writer(present, inner))
        case ArrayOf(items):
            return wire_out.write_array_of(_writer(items, _item(inner)))
        case MapOf(values):
            return wire_out.write_pairs_of(_writer(values, (_map(inner) or (dict, Any))[1]))
        case Record(_, fields):
            hints = get_type_hints(inner, include_extras=True)
            return wire_out.write_record([f.name for f in fields], [_writer(f.shape, hints[f.name]) for f in fields])
        case OneOf(name, _):
            _unlike(f"{name} is an enum: our own schemas say texts")


def _moment(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)  # exact; a float is not, from the year 2286 on


def _write_moment(moment: datetime, out: bytearray) -> None:
    wire_out.write_long((moment - _EPOCH) // _MILLISECOND, out)
