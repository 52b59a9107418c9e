"""docs/asyncapi.yaml is valid AsyncAPI 3, and says of topics, events and services what is so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from quadrille.messages import Event
from quadrille_cli.reference import asyncapi
from quadrille_cli.saga.saga_map import saga_of
from quadrille_cli.services import SERVICES
from quadrille_cli.stack.topics import TOPICS

ROOT = Path(__file__).parents[2]
SCHEMA = Path(__file__).with_name("asyncapi") / "asyncapi-3.0.0.json"
Document = dict[str, Any]


@cache
def validator() -> Draft7Validator:
    return Draft7Validator(json.loads(SCHEMA.read_text("utf-8")))


def findings(document: Document) -> list[str]:
    """What the specification's own schema says against a document."""
    return [f"{error.json_path}: {error.message[:200]}" for error in validator().iter_errors(document)]


@pytest.fixture(scope="module")
def document() -> Document:
    return dict(yaml.safe_load((ROOT / asyncapi.PAGE).read_text("utf-8")))


def test_it_is_valid_and_current(document: Document) -> None:
    """It keeps to AsyncAPI 3's own JSON schema, and is what schemas, topics and handlers give."""
    assert findings(document) == []
    assert document == asyncapi.document(ROOT)


def _without_action(document: Document) -> None:
    del document["operations"]["order.says.order.events"]["action"]


def _odd_binding(document: Document) -> None:
    document["channels"]["ops.events"]["bindings"]["kafka"]["partitions"] = "twelve"


def _odd_member(document: Document) -> None:
    document["components"]["messages"]["order.placed"]["payloads"] = {}


@pytest.mark.parametrize("plant", [_without_action, _odd_binding, _odd_member])
def test_a_planted_fault_is_noticed(document: Document, plant: Callable[[Document], None]) -> None:
    """An operation without action, a binding of a wrong kind, a member that is none: each is found."""
    planted = deepcopy(document)
    plant(planted)

    assert findings(planted)


def references(node: Any) -> Iterator[str]:  # noqa: ANN401 - any part of a document
    """Every reference within a document."""
    if isinstance(node, dict):
        if isinstance(there := node.get("$ref"), str):
            yield there
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from references(part)


def found(document: Document, reference: str) -> Any:  # noqa: ANN401 - any part of a document
    """What a reference leads to."""
    node: Any = document
    for step in reference.removeprefix("#/").split("/"):
        node = node[step]
    return node


def test_every_reference_leads_somewhere(document: Document) -> None:
    """No message, channel or trait is named that is not there."""
    named = set(references(document))

    assert all(found(document, one) for one in named)
    assert len(named) > 50


def test_every_topic_is_a_channel_and_every_event_a_message(document: Document) -> None:
    """The channels are the declared topics as they are made; the messages are the published schemas, whole."""
    kept = {name: one["bindings"]["kafka"] for name, one in document["channels"].items()}
    schemas = {file.stem: json.loads(file.read_text("utf-8")) for file in (ROOT / "schemas").glob("*/*.avsc")}
    messages = {name: one["payload"] for name, one in document["components"]["messages"].items()}

    assert {(name, one["partitions"], one["topicConfiguration"]["retention.ms"]) for name, one in kept.items()} == {
        (topic.name, topic.partitions, int(topic.retention_ms)) for topic in TOPICS
    }
    assert {name: one["schema"] for name, one in messages.items() if "schema" in one} == schemas


def test_every_service_hears_and_says_what_its_handlers_do(document: Document) -> None:
    """For each handler's event there is an operation of its service that receives it; for each said one, that sends."""

    def named(operation: str) -> set[str]:
        wanted = document["operations"].get(operation, {"messages": []})["messages"]
        return {str(one["$ref"]).rpartition("/")[2] for one in wanted}

    for service in saga_of():
        for kind, cls in service.consumes(Event).items():
            assert kind in named(f"{service.service}.hears.{cls.topic}")
        for kind, cls in service.emits(Event).items():
            topic = getattr(cls, "said_on", "") or f"{service.service}.events"
            assert kind in named(f"{service.service}.says.{topic}")
    heard = {name for name in document["operations"] if ".hears." in name}
    assert {f"order.hears.{name}.events" for name in SERVICES if name != "order"} <= heard
