"""The chassis' own events are what their schemas say, and lie on the topic the contract names."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from quadrille import system_messages
from quadrille.avro import projection
from quadrille.avro.codec import Codec
from quadrille.avro.registry import numbered
from quadrille.avro.schemas import emitted_by
from quadrille.messages import key_of
from quadrille.system_messages import InputBuried, InputDead, ReplayStarted, SystemEvent, topic_of

SCHEMAS = {one.name.rpartition(".")[2]: one for one in emitted_by("chassis")}
CLASSES = [one for one in vars(system_messages).values() if isinstance(one, type) and issubclass(one, SystemEvent)][1:]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.type)
def test_a_fact_of_the_chassis_is_its_schema(cls: type[SystemEvent]) -> None:
    """Each class has the fields of its schema, in the same order, of the same types, and a topic."""
    assert [*projection.differences(SCHEMAS[cls.__name__].shape, cls, cls.__name__)] == []
    shared = {"compensation.attempted": "saga.audit", "canary.beat": "", "input.buried": "{service}.dead-letters"}
    assert cls.said_on == shared.get(cls.type, "ops.events")


def test_a_field_may_bear_the_name_of_what_routes_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A replay's event names the topic that is replayed; it is said on ops.events all the same, and can be read."""
    started = ReplayStarted("order", "op-1", "live", "payment.events", 7, "ada", "drill")
    codec = Codec(SCHEMAS.values(), numbered(tmp_path_factory.mktemp("schemas"), SCHEMAS.values()))

    assert (started.said_on, key_of(started)) == ("ops.events", "order")
    assert codec.look(codec.encode(started))[1]["topic"] == "payment.events"


def test_a_copy_of_a_dead_input_lies_on_its_services_own_dead_letters() -> None:
    """The topic of a dead letter is named after the service that could not handle it."""
    buried = InputBuried("o-1", "e-1", b"\xff", cut=False)

    assert topic_of(buried, "pantry") == "pantry.dead-letters"
    assert topic_of(InputDead("o-1", "pantry", "e-1", "HANDLER", "", 0), "pantry") == "ops.events"


def test_times_are_whole_milliseconds(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An optional time is written where there is one and null where there is none."""
    codec = Codec(SCHEMAS.values(), numbered(tmp_path_factory.mktemp("schemas"), SCHEMAS.values()))
    due = datetime(2026, 11, 21, 12, tzinfo=UTC)

    for at, wanted in ((due, 1795262400000), (None, None)):
        fact = system_messages.CompensationAttempted(
            "o-1", "payment", "take_permission", 2, "RETRY", "TRANSIENT", "x", at
        )
        assert codec.look(codec.encode(fact))[1]["next_attempt_at"] == wanted
