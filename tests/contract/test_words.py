"""What a service says is its schema; what it hears, it can read in every version that was ever published."""

from __future__ import annotations

import io
import json
from importlib import import_module
from typing import Any

import fastavro
import pytest

from quadrille.avro import decoder, projection, schemas
from quadrille.avro.codec import writer
from quadrille.avro.schemas import ArrayOf, MapOf, NullOr, OneOf, Plain, Schema, Shape
from quadrille.handlers import HandlerRegistry
from quadrille.messages import Event
from quadrille_cli.schema import lifecycle
from quadrille_cli.schema import published as schema_published
from quadrille_cli.services import SERVICES


def reactions(service: str) -> HandlerRegistry[Any]:
    """Return a service's handlers."""
    found: HandlerRegistry[Any] = import_module(f"{service}.handlers").on
    return found


SAID = [(service, cls) for service in SERVICES for cls in reactions(service).emits(Event).values()]
HEARD = [(service, cls) for service in SERVICES for cls in reactions(service).consumes(Event).values()]


def language(service: str) -> tuple[Schema, ...]:
    """Return the schemas a service's handlers may speak: its own and the chassis'."""
    return (*schemas.emitted_by(service), *schemas.emitted_by("chassis"))


def versions(cls: type[Event]) -> tuple[Schema, ...]:
    """Return every published version of what a class hears."""
    published, _ = schema_published.load(lifecycle.root())
    return published.versions[f"quadrille.{cls.source}.{cls.__name__}"]


def sample(shape: Shape, *, empty: bool) -> Any:  # noqa: ANN401 - the shape decides
    """Return a value of a shape; an empty one has no item and no option."""
    match shape:
        case Plain(kind):
            return {"boolean": True, "int": 7, "long": 1_795_252_443_120, "string": "text", "bytes": b"\0"}[kind]
        case OneOf(_, symbols):
            return symbols[0]
        case NullOr(inner):
            return None if empty else sample(inner, empty=False)
        case ArrayOf(items):
            return [] if empty else [sample(items, empty=False)]
        case MapOf(values):
            return {} if empty else {"key": sample(values, empty=False)}
        case record:
            return {field.name: sample(field.shape, empty=empty) for field in record.fields}


def written(version: Schema, body: object) -> bytes:
    """Return the bytes fastavro writes."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, json.loads(version.text), body)
    return out.getvalue()


@pytest.mark.parametrize(("service", "cls"), SAID, ids=[f"{s}-{c.type}" for s, c in SAID])
def test_what_is_said_is_its_schema(service: str, cls: type[Event]) -> None:
    """A said class has the fields of its schema, in the same order, of the same types."""
    said = {one.name.rpartition(".")[2]: one for one in language(service)}

    assert [*projection.differences(said[cls.__name__].shape, cls, cls.__name__)] == []


@pytest.mark.parametrize(("service", "cls"), SAID, ids=[f"{s}-{c.type}" for s, c in SAID])
@pytest.mark.parametrize("empty", [False, True])
def test_what_is_said_is_plain_avro(service: str, cls: type[Event], empty: bool) -> None:  # noqa: FBT001
    """A said event, read into its class and said again, is the very bytes it was made of."""
    said = next(one for one in language(service) if one.name.endswith(f".{cls.__name__}"))
    value = written(said, sample(said.shape, empty=empty))
    fact = decoder.whole(projection.reader(said, cls), value, 0)

    assert isinstance(fact, cls)
    assert writer(said, cls)(fact) == value


@pytest.mark.parametrize(("service", "cls"), HEARD, ids=[f"{s}-{c.type}" for s, c in HEARD])
@pytest.mark.parametrize("empty", [False, True])
def test_what_is_heard_is_read_in_every_version(service: str, cls: type[Event], empty: bool) -> None:  # noqa: FBT001
    """A heard class reads every published version of its event, and takes from it what it names."""
    for version in versions(cls):
        body = sample(version.shape, empty=empty)

        heard = decoder.whole(projection.reader(version, cls), written(version, body), 0)

        assert heard.order_id == body["order_id"], service


def test_every_service_hears_and_says() -> None:
    """No service is left out by an empty map: each says events, and each hears those of others."""
    assert {service for service, _ in SAID} == {service for service, _ in HEARD} == set(SERVICES)


def test_a_wheel_says_what_its_folder_holds() -> None:
    """A service's package gives exactly the schemas of its folder."""
    for service in (*SERVICES, "chassis"):
        files = {file.stem for file in (lifecycle.root() / service).glob("*.avsc")}
        assert len(schemas.emitted_by(service)) == len(files) > 0
