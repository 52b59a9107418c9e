"""Kafka clients that fail in ways of their own: nobody ends for it, and one that never answers again is replaced."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, cycle

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from quadrille.kafka import topics as questions
from quadrille.kafka.config import BACKLOG_MESSAGES, client_settings, producer_settings
from quadrille.kafka.topics import Topics
from quadrille.observability.tracing import Spans
from quadrille.relay import publisher
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
def test_a_producer_that_failed_for_good_is_discarded_whatever_it_says(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known as failed, and to end it ends nobody else: not the thread of its reports, not the relay."""
    gone = GivenUp(error)  # the library's, in a state it comes to by itself
    monkeypatch.setattr(publisher, "Producer", lambda *_, **__: gone)
    outlet = Publisher("127.0.0.1:9", "pantry", ["pantry.events"], Spans.disabled(), Care())
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


API_VERSIONS, METADATA, OLD = 18, 3, 35
ASK = """
import sys
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from quadrille.kafka.config import client_settings
from quadrille.kafka.topics import cluster_of
admin = AdminClient(client_settings(sys.argv[1]))
try:
    print({question})
except (KafkaException, TimeoutError):
    print("no answer")
"""


def _answer(key: int, version: int, port: int, *, named: bool) -> bytes:
    """Return what a broker says; once it is fenced it knows its cluster, and no broker of it."""
    if key == METADATA and named:
        return struct.pack(">iih9sihh5sii", 1, 1, 9, b"127.0.0.1", port, -1, 5, b"alone", 1, 0)
    if key == METADATA:
        return struct.pack(">ih5sii", 0, 5, b"alone", -1, 0)
    there = struct.pack(">i3h3h", 2, API_VERSIONS, 0, 0, METADATA, 2, 2)
    return struct.pack(">h", OLD if version else 0) + there


def _serve(client: socket.socket, named: Iterator[bool]) -> None:
    port = client.getsockname()[1]
    with client, suppress(OSError), client.makefile("rb") as stream:
        while head := stream.read(4):
            request = stream.read(struct.unpack(">i", head)[0])
            key, version, number = struct.unpack(">hhi", request[:8])
            body = struct.pack(">i", number) + _answer(key, version, port, named=key == METADATA and next(named))
            client.sendall(struct.pack(">i", len(body)) + body)


@pytest.fixture
def fenced() -> Iterator[str]:
    """The address of a broker that names itself once, and then none, as one does that comes back and is fenced."""
    named = chain([True], cycle([False]))

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=_serve, args=(server.accept()[0], named), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def _ask(bootstrap: str, question: str) -> subprocess.CompletedProcess[str]:
    program = ASK.format(question=question)
    return subprocess.run([sys.executable, "-c", program, bootstrap], capture_output=True, text=True, check=False)


def test_a_broker_that_names_no_broker_ends_no_process(fenced: str) -> None:
    """It is an outage like another: an exception, after which one asks again."""
    done = _ask(fenced, "cluster_of(admin, 2)")

    assert (done.returncode, done.stdout) == (0, "no answer\n"), done.stderr


def test_the_clients_own_question_ends_the_process(fenced: str) -> None:
    """Planted: ``describe_cluster``. The day this one is red it may be used again."""
    done = _ask(fenced, "admin.describe_cluster(request_timeout=2).result(3)")

    assert (done.returncode, "rko_result" in done.stderr) == (-signal.SIGABRT, True), done.stdout + done.stderr


def test_a_relay_gathers_as_long_as_its_setting_says() -> None:
    """Nothing is waited for unless it is said; what is said is librdkafka's, in whole milliseconds."""
    assert producer_settings("127.0.0.1:9")["linger.ms"] == 0
    gathering = producer_settings("127.0.0.1:9", 0.04)
    assert (gathering["linger.ms"], gathering["queue.buffering.max.messages"]) == (40, BACKLOG_MESSAGES)
