"""Kafka clients that fail in ways of their own: nobody ends for it, and one that never answers again is replaced."""

from __future__ import annotations

import socket

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from quadrille.kafka import topics as questions
from quadrille.kafka.config import client_settings
from quadrille.kafka.topics import Topics
from quadrille.observability.tracing import Spans
from quadrille.relay.publisher import Care, DeliveryFailedError, Publisher
from tests.chassis.support.database import wait_until
from tests.chassis.support.kafka_harness import Kitchen

FATAL = KafkaException(KafkaError(KafkaError._GAPLESS_GUARANTEE, "purged in flight", True))  # noqa: FBT003, SLF001 - so named
PENDING = SystemError("<function Transaction.reported> returned a result with an exception set")


class GivenUp:
    """A client that has failed for good and says so as it likes."""

    def __init__(self, error: Exception) -> None:
        self.error, self.flushed = error, False

    def poll(self, _: float) -> int:
        """Serve nothing more."""
        raise self.error

    def purge(self) -> None:
        """Forget what is left."""

    def flush(self, _: float) -> int:
        """Say once more that it has failed."""
        self.flushed = True
        raise self.error


@pytest.mark.parametrize("error", [FATAL, PENDING], ids=lambda error: type(error).__name__)
def test_a_producer_that_failed_for_good_is_discarded_whatever_it_says(error: Exception) -> None:
    """It is known as failed, and to end it ends nobody else: not the thread of its reports, not the relay."""
    outlet, gone = Publisher("127.0.0.1:9", "pantry", ["pantry.events"], Spans.disabled(), Care()), GivenUp(error)
    outlet._producer = gone  # type: ignore[assignment]  # noqa: SLF001 - the library's, in a state it comes to by itself
    wait_until(lambda: outlet.fatal)
    with pytest.raises(DeliveryFailedError):
        outlet.check()

    outlet.discard()

    assert gone.flushed


def test_a_client_that_never_answers_again_is_replaced(kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions go to another once it has been without an answer for long; before that it is left to try again."""
    asked = Topics(kitchen.bootstrap)
    asked.answers()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        deaf = AdminClient(client_settings(f"127.0.0.1:{silent.getsockname()[1]}"))
        asked._admin = deaf  # noqa: SLF001 - a client as it was found: the broker is there, its answers are not
        with pytest.raises(KafkaException):
            asked.answers()
        assert asked._admin is deaf  # noqa: SLF001 - as above
        monkeypatch.setattr(questions, "RENEW_SECONDS", 0.0)
        with pytest.raises(KafkaException):
            asked.answers()
        asked.answers()
