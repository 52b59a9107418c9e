"""What a worker can do without is told when it fails, and when it is back."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError
from structlog.testing import capture_logs

from quadrille.consumer import loop
from quadrille.consumer.loop import HINT, hinted
from quadrille.observability import degraded
from tests.chassis.support.database import wait_until
from tests.chassis.support.kafka_harness import Kitchen, running


def test_offsets_that_lag_tools_look_at_are_told(kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker refuses them: told and shown; a worker whose offsets it takes says that they are back."""
    monkeypatch.setattr(loop, "HINT_SECONDS", 0.05)
    kitchen.start_here()
    with capture_logs() as told:
        hinted(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED), [])
        hinted(KafkaError(KafkaError.ILLEGAL_GENERATION), [])
        assert degraded.shown()[HINT.name]["reason"] == "GROUP_AUTHORIZATION_FAILED"
        with running(kitchen.worker()):
            wait_until(lambda: HINT.name not in degraded.shown())
    about = [(line["event"], line["count"]) for line in told if line.get("dependency") == HINT.name]
    assert about == [("degraded", 1), ("degraded no longer", 1)]
