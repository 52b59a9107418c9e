"""Bytes that never change: for every published version two encoded events, for other languages to check against.

`golden/events.jsonl` grows only. A line is {"type", "fingerprint", "body", "avro"}: `avro` is the hexadecimal value
behind the five bytes of the schema id; bytes in `body` are hexadecimal too.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import avro.io
import avro.schema
import fastavro
import pytest

from quadrille.avro import decoder, projection
from quadrille.avro.schemas import ArrayOf, MapOf, NullOr, OneOf, Plain, Schema, Shape
from quadrille_cli.schema import lifecycle
from quadrille_cli.schema import published as schema_published

FILE = Path(__file__).parent / "golden" / "events.jsonl"
EVENTS = [json.loads(line) for line in FILE.read_text("utf-8").splitlines()]
USUAL = {"boolean": True, "int": 2, "long": 1_795_252_443_120, "string": "Grüße 🫖", "bytes": "00ff"}
EDGE = {"boolean": False, "int": -(2**31), "long": 2**63 - 1, "string": "", "bytes": ""}


def published() -> dict[str, Schema]:
    """Return every published version by its fingerprint."""
    found, _ = schema_published.load(lifecycle.root())
    return {version.fingerprint: version for _, version in found}


def example(shape: Shape, plain: dict[str, Any]) -> Any:  # noqa: ANN401 - the shape decides
    """Return the body of a golden event as JSON; the edge has no item and no option."""
    edge = plain is EDGE
    match shape:
        case Plain(kind):
            return plain[kind]
        case OneOf(_, symbols):
            return symbols[-1]
        case NullOr(inner):
            return None if edge else example(inner, plain)
        case ArrayOf(items):
            return [] if edge else [example(items, plain)] * 2
        case MapOf(values):
            return {} if edge else {"inventory": example(values, plain), "payment": example(values, plain)}
        case record:
            return {field.name: example(field.shape, plain) for field in record.fields}


def plainly(shape: Shape, body: Any) -> Any:  # noqa: ANN401 - JSON
    """Turn the hexadecimal of a body into bytes."""
    match shape:
        case Plain("bytes"):
            return bytes.fromhex(body)
        case NullOr(inner):
            return None if body is None else plainly(inner, body)
        case ArrayOf(items):
            return [plainly(items, one) for one in body]
        case MapOf(values):
            return {key: plainly(values, one) for key, one in body.items()}
        case Plain() | OneOf():
            return body
        case record:
            return {field.name: plainly(field.shape, body[field.name]) for field in record.fields}


def line(version: Schema, plain: dict[str, Any]) -> str:
    """Return the golden line of a version."""
    body = example(version.shape, plain)
    out = io.BytesIO()
    fastavro.schemaless_writer(out, json.loads(version.text), plainly(version.shape, body))
    event = {"type": version.name, "fingerprint": version.fingerprint, "body": body, "avro": out.getvalue().hex()}
    return json.dumps(event, ensure_ascii=False)


def listed(value: Any) -> Any:  # noqa: ANN401 - any value
    """Turn tuples into lists, all the way down."""
    match value:
        case tuple():
            return [listed(one) for one in value]
        case dict():
            return {key: listed(one) for key, one in value.items()}
        case _:
            return value


def test_every_version_has_its_golden_events() -> None:
    """Every published version has two golden events; if not, the lines to append are printed."""
    there = {event["fingerprint"] for event in EVENTS}
    missing = [line(v, plain) for print_, v in published().items() if print_ not in there for plain in (USUAL, EDGE)]

    assert not missing, "append to golden/events.jsonl:\n" + "\n".join(missing)
    assert len(EVENTS) == 2 * len(there)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event["type"])
def test_golden_events_are_read_alike(event: dict[str, Any]) -> None:
    """Three implementations, ours and two others, read each golden event as its body."""
    version, value = published()[event["fingerprint"]], bytes.fromhex(event["avro"])
    body = plainly(version.shape, event["body"])
    apaches = avro.io.DatumReader(avro.schema.parse(version.text))

    assert listed(decoder.whole(projection.generic(version), value, 0)) == body
    assert fastavro.schemaless_reader(io.BytesIO(value), json.loads(version.text)) == body
    assert apaches.read(avro.io.BinaryDecoder(io.BytesIO(value))) == body
