"""Payment's gateway against a real processor: no answer is guessed, whatever becomes of the calls."""

from __future__ import annotations

import http.server
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from payment.events import (
    CardCharged,
    CardDeclined,
    CardRefunded,
    ChargeCard,
    ChargeNotFound,
    ChargeUnknown,
    InquireCharge,
    InquireRefund,
    RefundCard,
    RefundExhausted,
    RefundNotFound,
    RefundRefused,
)
from payment.gateway import FAST_TRIES, JITTER, Processor, charge, inquire_charge, inquire_refund, outside, refund
from quadrille.gateway import FOR_A_DAY, INQUIRY, Limits, State, TransientError
from quadrille_sandbox.testing import Running, running

TIMEOUT = 0.3  # seconds; nothing here depends on the 3 s of production
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("sandbox")) as started:
        yield started


@pytest.fixture
def processor(sandbox: Running) -> Iterator[Processor]:
    with connected(f"http://{sandbox.http}") as made:
        yield made


@contextmanager
def connected(url: str, timeout: float = TIMEOUT, limits: Limits | None = None) -> Iterator[Processor]:
    made = Processor(url, timeout, limits)
    with closing(made.peer):
        yield made


@pytest.fixture
def order_id() -> str:
    return f"01a1fd62-57f0-7eeb-be96-{next(_numbers):012x}"


def asked(order_id: str, token: str = "tok_ok") -> ChargeCard:  # noqa: S107 - a test value
    return ChargeCard(order_id, 2500, "EUR", token)


def kinds(sandbox: Running, order_id: str) -> list[object]:
    return [line["kind"] for line in sandbox.ledger(order_id)]


# charges -------------------------------------------------------------------------------------------------------------


@pytest.mark.proves("payment.keys")
def test_a_charge_is_made_once_however_often_it_is_asked_for(
    processor: Processor, sandbox: Running, order_id: str
) -> None:
    """The same intent, carried out again after a crash, gets the first answer; the ledger has one capture."""
    answers = [charge(asked(order_id), processor) for _ in range(5)]

    (line,) = sandbox.ledger(order_id)
    assert answers == [CardCharged(order_id, str(line["reference"]))] * 5
    assert (line["key"], line["amount_minor"], line["currency"]) == (f"charge:{order_id}", 2500, "EUR")


def test_a_decline_is_said_with_its_code(processor: Processor, sandbox: Running, order_id: str) -> None:
    """A declined card is a definite answer, to the charge and to the inquiry."""
    declined = CardDeclined(order_id, "insufficient_funds")

    assert charge(asked(order_id, "tok_declined_funds"), processor) == declined
    assert inquire_charge(InquireCharge(order_id), processor) == declined
    assert kinds(sandbox, order_id) == []


@pytest.mark.proves("F3")
def test_retries_come_after_100_200_and_400_ms(order_id: str) -> None:
    """A call and three retries, each after so long and up to 100 ms more: no sooner, whatever the machine does."""
    assert (FAST_TRIES, JITTER) == ((0.0, 0.1, 0.2, 0.4), 0.1)
    with answering(503, "{}") as url, connected(url) as sick:
        began = time.monotonic()
        assert charge(asked(order_id), sick) == ChargeUnknown(order_id, 4)
        assert time.monotonic() - began >= sum(FAST_TRIES)


@pytest.mark.proves("F3")
def test_three_fast_retries_outlast_two_errors(processor: Processor, sandbox: Running, order_id: str) -> None:
    """A processor that answers 503 twice charges at the third try, in one call of the gateway."""
    assert isinstance(charge(asked(order_id, "tok_flaky_2"), processor), CardCharged)
    assert kinds(sandbox, order_id) == ["CAPTURE"]


@pytest.mark.proves("F3", "payment.keys")
def test_a_lost_answer_is_asked_for_again(processor: Processor, sandbox: Running, order_id: str) -> None:
    """Charged, answer lost: the second try with the same key hears it, and the card is charged once."""
    assert isinstance(charge(asked(order_id, "tok_timeout_after_charge"), processor), CardCharged)
    assert kinds(sandbox, order_id) == ["CAPTURE"]


def test_a_lost_call_is_made_again(processor: Processor, sandbox: Running, order_id: str) -> None:
    """Nothing done, answer lost: the second try charges, once."""
    assert isinstance(charge(asked(order_id, "tok_timeout_before_charge"), processor), CardCharged)
    assert kinds(sandbox, order_id) == ["CAPTURE"]


@pytest.mark.proves("L7", "F3")
def test_a_slow_charge_is_unknown_and_then_found(processor: Processor, sandbox: Running, order_id: str) -> None:
    """Longer than all tries: unknown, never declined (law L7); inquiry is patient and then finds the one charge."""
    assert charge(asked(order_id, "tok_slow_6s"), processor) == ChargeUnknown(order_id, 4)
    with pytest.raises(TransientError):
        inquire_charge(InquireCharge(order_id), processor)

    found = wait_for(lambda: inquire_charge(InquireCharge(order_id), processor))

    assert isinstance(found, CardCharged)
    assert charge(asked(order_id, "tok_slow_6s"), processor) == found
    assert kinds(sandbox, order_id) == ["CAPTURE"]


def test_a_charge_still_processing_is_unknown(processor: Processor, sandbox: Running, order_id: str) -> None:
    """Processing is no answer: four tries say so, and an inquiry is to be made again later."""
    assert charge(asked(order_id, "tok_pending_15s"), processor) == ChargeUnknown(order_id, 4)
    with pytest.raises(TransientError, match="202"):
        inquire_charge(InquireCharge(order_id), processor)
    assert kinds(sandbox, order_id) == []


def test_a_charge_never_heard_of_is_not_found(processor: Processor, order_id: str) -> None:
    """The inquiry tells that nothing is stored; what follows from that is not the gateway's business."""
    assert inquire_charge(InquireCharge(order_id), processor) == ChargeNotFound(order_id)


def test_another_amount_under_the_same_key_is_neither_charged_nor_declined(
    processor: Processor, sandbox: Running, order_id: str
) -> None:
    """A key with other parameters is our bug: the intent stays open for a person to see."""
    charge(asked(order_id), processor)

    with pytest.raises(TransientError, match="422"):
        charge(ChargeCard(order_id, 9999, "EUR", "tok_ok"), processor)
    assert kinds(sandbox, order_id) == ["CAPTURE"]


# refunds -------------------------------------------------------------------------------------------------------------


@pytest.mark.proves("payment.keys", "payment.void")
def test_a_refund_is_made_once(processor: Processor, sandbox: Running, order_id: str) -> None:
    """The charge is voided once however often it is asked for, and the inquiry finds it."""
    charge(asked(order_id), processor)
    assert inquire_refund(InquireRefund(order_id), processor) == RefundNotFound(order_id)

    answers = [refund(RefundCard(order_id, 2500), processor) for _ in range(3)]

    assert isinstance(answers[0], CardRefunded)
    assert answers == [CardRefunded(order_id, "VOID", answers[0].reference)] * 3
    assert inquire_refund(InquireRefund(order_id), processor) == answers[0]
    assert kinds(sandbox, order_id) == ["CAPTURE", "VOID"]


@pytest.mark.proves("payment.void")
def test_a_refused_refund_is_definite(processor: Processor, sandbox: Running, order_id: str) -> None:
    """A closed card is a business refusal: no try will change it."""
    charge(asked(order_id, "tok_refund_fails_business"), processor)

    assert refund(RefundCard(order_id, 2500), processor) == RefundRefused(order_id, "card_closed")
    assert kinds(sandbox, order_id) == ["CAPTURE"]


def test_a_failing_refund_climbs_its_ladder(processor: Processor, sandbox: Running, order_id: str) -> None:
    """Four errors use up the fast tries of one attempt; the next attempt gives the money back, once."""
    charge(asked(order_id, "tok_refund_flaky"), processor)

    with pytest.raises(TransientError):
        refund(RefundCard(order_id, 2500), processor)
    assert isinstance(refund(RefundCard(order_id, 2500), processor), CardRefunded)
    assert kinds(sandbox, order_id) == ["CAPTURE", "VOID"]


def test_a_slow_refund_is_neither_done_nor_absent(processor: Processor, sandbox: Running, order_id: str) -> None:
    """While it runs neither the refund nor the inquiry has an answer, so nobody resolves it; then it is found."""
    charge(asked(order_id, "tok_refund_slow_6s"), processor)

    with pytest.raises(TransientError):
        refund(RefundCard(order_id, 2500), processor)
    with pytest.raises(TransientError):
        inquire_refund(InquireRefund(order_id), processor)

    assert isinstance(wait_for(lambda: inquire_refund(InquireRefund(order_id), processor)), CardRefunded)
    assert kinds(sandbox, order_id) == ["CAPTURE", "VOID"]


# a processor that is away or strange ---------------------------------------------------------------------------------


def test_a_processor_that_is_away_leaves_the_intent_open(sandbox: Running, order_id: str) -> None:
    """Nothing was sent, so nothing is unknown: the intent is tried again later."""
    with closed_port() as url, connected(url) as away, pytest.raises(TransientError, match="not reached"):
        charge(asked(order_id), away)
    assert kinds(sandbox, order_id) == []


def test_an_open_breaker_leaves_the_intent_open(order_id: str) -> None:
    """Refused before execution means not executed: neither charged nor unknown."""
    with answering(503, "{}") as url, connected(url, limits=Limits(window=4)) as sick:
        assert charge(asked(order_id), sick) == ChargeUnknown(order_id, 4)
        assert sick.peer.breaker.state is State.OPEN
        for carry_out in (
            lambda: charge(asked(order_id), sick),
            lambda: refund(RefundCard(order_id, 2500), sick),
            lambda: inquire_charge(InquireCharge(order_id), sick),
        ):
            with pytest.raises(TransientError, match="breaker OPEN"):
                carry_out()


def test_a_breaker_that_opens_during_the_tries_leaves_the_outcome_unknown(order_id: str) -> None:
    """What was sent before the breaker opened may have been carried out."""
    with answering(503, "{}") as url, connected(url, limits=Limits(window=1)) as sick:
        assert charge(asked(order_id), sick) == ChargeUnknown(order_id, 1)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, ""),
        (200, "<html>"),
        (200, "[]"),
        (200, "{}"),
        (200, '{"status":"charged"}'),
        (200, '{"status":"declined","code":7}'),
        (200, '{"status":"maybe"}'),
        (200, "[" * 10_000),
        (404, "<html>not found"),
        (401, "{}"),
        (301, "{}"),
    ],
)
def test_what_is_not_understood_is_no_answer(order_id: str, status: int, body: str) -> None:
    """A stranger's page is neither a charge, nor a decline, nor a charge not found, nor a refund that never was."""
    with answering(status, body) as url, connected(url) as stranger:
        for carry_out in (
            lambda: charge(asked(order_id), stranger),
            lambda: inquire_charge(InquireCharge(order_id), stranger),
            lambda: refund(RefundCard(order_id, 2500), stranger),
            lambda: inquire_refund(InquireRefund(order_id), stranger),
        ):
            with pytest.raises(TransientError):
                carry_out()


def test_charge_and_inquiry_never_give_up_and_a_refund_tries_for_a_day() -> None:
    """No charge is ever given up; a refund is after 24 h, and it is told as exhausted."""
    for asking in (ChargeCard, InquireCharge, InquireRefund):
        assert (outside.policies[asking].exhausted, outside.policies[asking].retry) == (None, INQUIRY)
    exhausted = outside.policies[RefundCard].exhausted
    assert exhausted is not None
    assert exhausted(RefundCard("o", 1)) == RefundExhausted("o")
    assert outside.policies[RefundCard].retry == FOR_A_DAY


def wait_for(carry_out: Callable[[], object]) -> object:
    """Carry out an inquiry until it has an answer, for at most 15 s."""
    late = threading.Event()
    with closing_timer(15, late):
        while not late.wait(0.1):
            try:
                return carry_out()
            except TransientError:
                continue
    pytest.fail("no answer in 15 s")


@contextmanager
def closing_timer(seconds: float, late: threading.Event) -> Iterator[None]:
    timer = threading.Timer(seconds, late.set)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """Run a server that answers everything alike."""

    class Alike(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST  # noqa: N815 - the base class names it

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Alike) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(60)


@contextmanager
def closed_port() -> Iterator[str]:
    with answering(200, "{}") as url:
        pass
    yield url
