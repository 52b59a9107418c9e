"""Avro codec: events to the bytes of a record and back; what was encoded can be read, what cannot be read is an error.

A value is 0, four bytes of schema id, big-endian, then Avro. An event is encoded once, when it enters the outbox, by
fastavro; bytes from outside are read by ``quadrille.avro.decoder``, strictly (docs/adr/0010-avro.md).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeAlias, TypeVar, cast

from fastavro import parse_schema, schemaless_writer
from fastavro.validation import ValidationError, validate

from quadrille.avro import decoder, projection
from quadrille.avro.decoder import DecodeError, DecodeFunction, refuse
from quadrille.avro.projection import EncodeError, SchemaMismatchError
from quadrille.avro.schemas import Schema
from quadrille.messages import Event

__all__ = ["Codec", "Ids"]

F = TypeVar("F", bound=Event)
Writer: TypeAlias = Callable[[Event], bytes]
HEAD = 5
MAX_VALUE = 262_144  # bytes; the outbox takes no more


class Ids(Protocol):
    """Where schemas and their ids meet: ``chassis.schema_ids.SchemaIds``."""

    def id_of(self, schema: Schema) -> int:
        """Return the id under which a schema is registered."""
        ...

    def by_id(self, number: int) -> Schema:
        """Return the schema of an id."""
        ...

    def verify(self, number: int) -> None:
        """Raise if the id no longer means the schema it meant."""
        ...


class Codec:
    """Writes what one service says, reads what it hears; safe to share between threads.

    Args:
        said: the schemas of what the service says, the chassis's own among them (``chassis.schemas.emitted_by``).
        ids: registry and cache; a missing id is looked up when it is first needed, or in ``prepare``.
    """

    def __init__(self, said: Iterable[Schema], ids: Ids) -> None:
        said = tuple(said)
        self._said = {schema.name.rpartition(".")[2]: schema for schema in said}
        if len(self._said) < len(said):
            message = "one record name is said twice"
            raise ValueError(message)
        self._ids = ids
        self._writers: dict[type[Event], tuple[bytes, Writer]] = {}
        self._readers: dict[tuple[type[Event], bytes], DecodeFunction] = {}

    def prepare(self) -> None:
        """Look up the id of everything the service says; raises RegistryUnavailableError as ``encode`` would later."""
        for schema in self._said.values():
            self._ids.id_of(schema)

    def encode(self, fact: Event) -> bytes:
        """Return an event's wire bytes.

        Raises EncodeError for a value its schema cannot hold, SchemaMismatchError for a class that is not its schema,
        RegistryUnavailableError while the schema's id is not known.
        """
        head, write = self._writers.get(type(fact)) or self._writer(type(fact))
        return head + write(fact)

    def decode(self, value: bytes | None, cls: type[F]) -> F:
        """Return a record's value as the consumer's own class.

        Raises DecodeError for bytes, or a schema, that no redelivery will make readable; RegistryUnavailableError while
        the id is not known, or no longer means what it meant.
        """
        if value is None or len(value) > MAX_VALUE:
            refuse("no value, or one larger than a payload may be")
        try:
            read = self._readers.get((cls, value[:HEAD])) or self._reader(cls, value)
            return cast("F", decoder.whole(read, value, HEAD))
        except DecodeError:
            # before a record is blamed: a registry rebuilt with other ids would make every record look like this
            if len(value) >= HEAD and value[0] == 0:
                self._ids.verify(schema_id(value))
            raise

    def look(self, value: bytes) -> tuple[Schema, dict[str, Any]]:
        """Return a record's schema and its whole body as plain values, for those who only look at it."""
        schema = self._ids.by_id(schema_id(value))
        return schema, decoder.whole(projection.generic(schema), value, HEAD)

    def _writer(self, cls: type[Event]) -> tuple[bytes, Writer]:
        schema = self._said.get(cls.__name__)
        if schema is None:
            message = f"{cls.__name__} has no schema among those this service says"
            raise SchemaMismatchError(message)
        write = writer(schema, cls)
        made = b"\0" + self._ids.id_of(schema).to_bytes(4, "big"), write
        self._writers[cls] = made
        return made

    def _reader(self, cls: type[Event], value: bytes) -> DecodeFunction:
        schema = self._ids.by_id(schema_id(value))
        try:
            read = projection.reader(schema, cls)
        except SchemaMismatchError as unlike:
            reason = f"written with a schema this service cannot read: {unlike}"
            raise DecodeError(reason) from unlike
        self._readers[cls, value[:HEAD]] = read
        return read


def writer(schema: Schema, cls: type[Event]) -> Writer:
    """Return what writes the class as this schema, without a head; it raises EncodeError, this SchemaMismatchError."""
    flat, parsed = projection.flat(schema, cls), parse_schema(json.loads(schema.text))

    def write(fact: Event) -> bytes:
        out = io.BytesIO()
        try:
            body = flat(fact)
            # fastavro alone would write 7.5 as 7 and 2**31 as an int: what is no value of the schema is found before
            validate(body, parsed, strict=True)
            schemaless_writer(out, parsed, body, strict=True)
        except ValidationError as bad:
            message = f"{fact.type}: {bad.errors[-1].field} is no value of its type"
            raise EncodeError(message) from None  # its message quotes the value
        except EncodeError:
            raise
        except (TypeError, AttributeError, ValueError):
            message = f"{fact.type}: a value of another type than the schema's"
            raise EncodeError(message) from None
        return out.getvalue()

    return write


def schema_id(value: bytes) -> int:
    """Return the schema id in front of a value; raises DecodeError if there is none."""
    if len(value) < HEAD or value[0] != 0:
        refuse("no schema id in front")
    return int.from_bytes(value[1:HEAD], "big")
