"""Payment's gateway when a try is long ago: it asks the processor what became of it before it acts."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from payment.events import (
    CardCharged,
    CardDeclined,
    CardRefunded,
    ChargeCard,
    InquireRefund,
    RefundCard,
    RefundNotFound,
    RefundRefused,
)
from payment.gateway import Processor, inquire_refund, outside, refund
from quadrille.gateway import TransientError

CHARGED = {"status": "charged", "reference": "ch_1"}
DECLINED = {"status": "declined", "code": "insufficient_funds"}
REFUNDED = {"status": "refunded", "kind": "VOID", "reference": "re_1"}
REFUSED = {"status": "refused", "code": "card_closed"}
MISSING: tuple[int, dict[str, Any]] = (404, {"error": "not_found"})


@dataclass
class Calls:
    """What the processor was asked, in order, and how it answers."""

    posted: dict[str, Any]
    stored: tuple[int, dict[str, Any]]
    asked: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def processor(calls: Calls) -> Iterator[Processor]:
    """Run a processor that answers a POST with ``posted`` and a GET with what is ``stored``."""

    class Answers(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(200, calls.posted)

        def do_GET(self) -> None:
            self.answer(*calls.stored)

        def answer(self, status: int, document: dict[str, Any]) -> None:
            calls.asked.append((self.command, self.path))
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    made = Processor(f"http://127.0.0.1:{server.server_port}", 2.0)
    try:
        with closing(made.peer):
            yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)


def first(intent: type[ChargeCard | RefundCard]) -> Callable[[Any, Any], object]:
    """Return what the scheduler asks before it carries out an intent older than 20 h."""
    inquires = outside.policies[intent].look_up
    assert inquires is not None
    return inquires


@pytest.mark.proves("payment.old-intent")
@pytest.mark.parametrize(
    ("stored", "answer"),
    [
        ((200, CHARGED), CardCharged("o-1", "ch_1")),
        ((200, DECLINED), CardDeclined("o-1", "insufficient_funds")),
        (MISSING, None),
    ],
)
def test_an_old_charge_is_looked_for_before_it_is_made(stored: tuple[int, dict[str, Any]], answer: object) -> None:
    """What the processor knows is the answer; where it knows nothing the charge is made, under its key."""
    calls = Calls(CHARGED, stored)
    with processor(calls) as made:
        assert first(ChargeCard)(ChargeCard("o-1", 2500, "EUR", "tok_ok"), made) == answer
    assert calls.asked == [("GET", "/v1/charges/charge:o-1")]


@pytest.mark.proves("payment.old-intent")
@pytest.mark.parametrize(
    ("stored", "answer"),
    [((200, REFUNDED), CardRefunded("o-1", "VOID", "re_1")), ((200, REFUSED), None), (MISSING, None)],
)
def test_an_old_refund_is_looked_for_before_it_is_made(stored: tuple[int, dict[str, Any]], answer: object) -> None:
    """Money that went back is the answer; nothing, or a refusal of long ago, lets it be tried."""
    calls = Calls(REFUNDED, stored)
    with processor(calls) as made:
        assert first(RefundCard)(RefundCard("o-1", 2500), made) == answer
    assert calls.asked == [("GET", "/v1/refunds/refund:o-1")]


@pytest.mark.proves("payment.old-intent")
def test_a_persons_retry_asks_first_however_new_it_is() -> None:
    """The refund was made and nobody heard of it: the retry finds it and posts nothing; not made, it is posted."""
    known, unknown = Calls(REFUSED, (200, REFUNDED)), Calls(REFUSED, MISSING)
    with processor(known) as made:
        assert refund(RefundCard("o-1", 2500, again=True), made) == CardRefunded("o-1", "VOID", "re_1")
    with processor(unknown) as made:
        assert refund(RefundCard("o-1", 2500, again=True), made) == RefundRefused("o-1", "card_closed")

    assert [method for method, _ in known.asked] == ["GET"]
    assert [method for method, _ in unknown.asked] == ["GET", "POST"]


def test_a_persons_retry_posts_nothing_while_nobody_can_tell() -> None:
    """The processor is not understood: the retry waits for its next turn, and money is not sent twice."""
    calls = Calls(REFUNDED, (401, {}))
    with processor(calls) as made, pytest.raises(TransientError):
        refund(RefundCard("o-1", 2500, again=True), made)
    assert {method for method, _ in calls.asked} == {"GET"}


@pytest.mark.parametrize(
    ("stored", "answer"),
    [
        ((200, REFUNDED), CardRefunded("o-1", "VOID", "re_1")),
        ((200, REFUSED), RefundNotFound("o-1")),
        (MISSING, RefundNotFound("o-1")),
    ],
)
def test_an_inquiry_tells_only_whether_money_went_back(stored: tuple[int, dict[str, Any]], answer: object) -> None:
    """Refunded or not: a stored refusal is no money back, and a resolution need not wait for more."""
    with processor(Calls(REFUNDED, stored)) as made:
        assert inquire_refund(InquireRefund("o-1"), made) == answer
