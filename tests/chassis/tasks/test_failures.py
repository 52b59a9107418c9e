"""What the outside failed with is kept with its task: kind, address, a phrase, the time; never a secret."""

from __future__ import annotations

import socket

import pytest

from quadrille.gateway.http_client import HttpClient, NoResponseError
from quadrille.intents import TransientError
from quadrille.tasks.failures import failure_of
from tests.chassis.support.database import Database, envelope_of, wait_until
from tests.chassis.support.sample_gateway import Oven, working
from tests.chassis.support.sample_messages import CakeOrdered


def refused() -> tuple[int, TransientError]:
    """Call where nobody listens; return the port and what a gateway makes of it."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port: int = closed.getsockname()[1]
    client = HttpClient(f"http://127.0.0.1:{port}", 1.0)
    with pytest.raises(NoResponseError) as lost:
        client.call("GET", "/v1/charges/secret", {})
    trouble = TransientError(str(lost.value))
    trouble.__cause__ = lost.value
    return port, trouble


def test_a_refused_connection_names_the_address_alone() -> None:
    """Where nobody listens: the system's own words and host:port, without the path."""
    port, trouble = refused()
    failure = failure_of(trouble)

    assert failure.pop("at").endswith("Z")
    assert failure == {
        "kind": "ConnectionRefusedError", "address": f"127.0.0.1:{port}", "phrase": "connection refused",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("trouble", "kind", "phrase"),
    [
        (TransientError("the oven answered 503", address="oven:80"), "TransientError", "the oven answered 503"),
        (TimeoutError("o-1 of ann@example.com"), "TimeoutError", "no answer in time"),
        (ValueError("o-1 of ann@example.com"), "ValueError", "ValueError"),
        (socket.gaierror(-2, "ann"), "gaierror", "its name is not known"),
    ],
)
def test_only_phrases_are_kept(trouble: Exception, kind: str, phrase: str) -> None:
    """Our own phrases and the system's are kept, another exception's text is not."""
    failure = failure_of(trouble)

    assert (failure["kind"], failure["phrase"]) == (kind, phrase)


def test_a_task_keeps_its_last_failure_until_it_is_done(db: Database) -> None:
    """The row of an intent says what the outside failed with while it waits for its next try."""
    port, trouble = refused()
    oven = Oven()
    oven.trouble = [trouble]
    oven.door.clear()
    db.commit(envelope_of(CakeOrdered("o-1")))
    with working(db, oven):
        wait_until(lambda: oven.calls["o-1"] == 1)
        oven.trouble = [trouble] * 500
        oven.door.set()
        wait_until(lambda: db.one("SELECT failure FROM task") is not None)
        kept = db.one("SELECT failure FROM task")
        oven.trouble = []
        wait_until(lambda: db.one("SELECT count(*) FROM task") == 0)

    assert (kept["kind"], kept["address"]) == ("ConnectionRefusedError", f"127.0.0.1:{port}")
