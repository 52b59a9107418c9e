"""Notification's gateway against a real mail server: one mail per order and kind, and no header but ours."""

from __future__ import annotations

import itertools
import smtplib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from email import message_from_bytes
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notification import gateway
from notification.events import MailFailed, MailSent, SendMail
from notification.gateway import GIVEN_UP, Mailer, UnsafeHeaderError, compose, outside, safe, send_mail
from quadrille.gateway import Limits, State, TransientError
from quadrille_sandbox.testing import Running, running

HEADERS = [
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "X-Order-Id",
    "Auto-Submitted",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
]
HOSTILE = (
    "a@b.example\r\nBcc: victim@c.example",
    "a@b.example\nBcc: victim@c.example",
    "a@b.example\rBcc: victim@c.example",
    "a@b.example\x0bBcc: victim@c.example",
    "a@b.example\x85Bcc: victim@c.example",
    "a@b.example\u2028Bcc: victim@c.example",
    "=?utf-8?q?a=0D=0ABcc:_victim=40c.example?= <a@b.example>",
    "=?utf-8?b?YQ0KQmNjOiB2aWN0aW1AYy5leGFtcGxl?=",
    "=?utf-8?q?=0ABcc=3A?=@b.example",
    "=?x-unknown?q?a?=@b.example",
    "a@b.example, victim@c.example",
    "a@b.example> RCPT TO:<victim@c.example",
    "<a@b.example>",
    '"a b"@c.example',
    "a@b.example\x00",
    "a@b.example\u202e",
    "grüße@b.example",
    "a" * 65 + "@b.example",
    "a@" + "b" * 300,
    "nobody",
    "",
)
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("sandbox")) as started:
        yield started


@pytest.fixture
def mailer(sandbox: Running) -> Iterator[Mailer]:
    with closing(Mailer(f"smtp://{sandbox.smtp}")) as made:
        yield made


@pytest.fixture
def order_id() -> str:
    return f"01a1fd62-57f0-7eeb-be96-{next(_numbers):012x}"


def mail(order_id: str, address: str = "demo@customers.example", text: str = "Thank you.\n") -> SendMail:
    return SendMail(order_id, "confirmed", "cust_demo", address, f"Order {order_id} is confirmed", text)


@pytest.mark.proves("mail.id")
def test_a_mail_arrives_with_exactly_our_headers(mailer: Mailer, sandbox: Running, order_id: str) -> None:
    """What is sent is what is delivered: fixed headers, the text, and a Message-ID of order and kind."""
    assert send_mail(mail(order_id), mailer) == MailSent(order_id, "confirmed")

    (found,) = sandbox.mails(order_id)
    headers = found["headers"]
    assert isinstance(headers, list)
    assert [name for name, _ in headers] == HEADERS
    assert found["message_id"] == f"<confirmed.{order_id}@quadrille.example>"
    assert (found["subject"], found["recipients"]) == (f"Order {order_id} is confirmed", ["demo@customers.example"])
    assert found["text"] == "Thank you.\n"


@pytest.mark.proves("mail.id")
def test_a_mail_sent_again_is_seen_to_be_the_same(mailer: Mailer, sandbox: Running, order_id: str) -> None:
    """A worker killed after the server said yes sends once more, with the same Message-ID."""
    for _ in range(2):
        send_mail(mail(order_id), mailer)

    assert len({str(found["message_id"]) for found in sandbox.mails(order_id)}) == 1


@pytest.mark.parametrize("text", ["Grüße, 25.00 €\n", ".\n..dots\n.", "x" * 5000, "", "a\x00b\rc\x0b", "<b>&</b>\n"])
def test_any_text_arrives_whole(mailer: Mailer, sandbox: Running, order_id: str, text: str) -> None:
    """No line ends the mail early, is cut, or loses a character."""
    assert send_mail(mail(order_id, text=text), mailer) == MailSent(order_id, "confirmed")

    (found,) = sandbox.mails(order_id)
    assert str(found["text"]).rstrip("\n") == text.rstrip("\n")


def test_a_bounce_is_definite(mailer: Mailer, sandbox: Running, order_id: str) -> None:
    """Nobody lives there: given up at once, told in codes without the address, and the connection goes on."""
    bounced = send_mail(mail(order_id, "cust@bounce.example"), mailer)

    assert bounced == MailFailed(order_id, "confirmed", "refused by the mail server: 550 5.1.1")
    assert send_mail(mail(order_id), mailer) == MailSent(order_id, "confirmed")
    assert len(sandbox.mails(order_id)) == 1
    assert len(mailer._idle) == 1  # noqa: SLF001 - that it is one connection is the promise


def test_one_connection_carries_all_mails_of_a_sender(mailer: Mailer, sandbox: Running, order_id: str) -> None:
    """Mails one after the other share a connection; ten at once have ten, and all arrive."""
    for _ in range(20):
        send_mail(mail(order_id), mailer)
    assert len(mailer._idle) == 1  # noqa: SLF001 - as above

    with ThreadPoolExecutor(10) as senders:
        list(senders.map(lambda _: send_mail(mail(order_id), mailer), range(100)))
    assert len(mailer._idle) <= 10  # noqa: SLF001 - as above
    assert len(sandbox.mails(order_id)) == 120


def test_a_restarted_server_costs_no_mail(tmp_path: Path, order_id: str) -> None:
    """Away: tried again later. Back: the dead connection is not used, the mail arrives."""
    with running(tmp_path) as sandbox, closing(Mailer(f"smtp://{sandbox.smtp}")) as mailer:
        send_mail(mail(order_id), mailer)
        address = sandbox.smtp
        sandbox.process.terminate()
        sandbox.process.wait(60)

        with pytest.raises(TransientError, match="ConnectionRefusedError"):
            send_mail(mail(order_id), mailer)

        with running(tmp_path, QUADRILLE_SMTP_BIND=address) as back:
            assert send_mail(mail(order_id), mailer) == MailSent(order_id, "confirmed")
            assert len(back.mails(order_id)) == 2


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ((b"421 busy",), "SMTPConnectError"),
        ((b"220 hello", b"250 hi", b"451 later"), "SMTPResponseException"),
        ((b"220 hello", b"250 hi", b"553 you may not send"), "SMTPResponseException"),
        ((b"220 hello", b"250 hi", b"250 ok", b"450 box busy"), "SMTPResponseException"),
        ((b"220 hello", b"250 hi", b"250 ok", b"250 ok", b"354 go", b"452 full"), "SMTPResponseException"),
        ((b"220 hello", b"250 hi", b"250 ok", b"250 ok", b"354 go"), "SMTPServerDisconnected"),
        ((b"220 hello", b"250 hi", b"250 ok", b"250 ok", b"451 no data now"), "SMTPResponseException"),
        ((b"I am no mail server",), "SMTPConnectError"),
        ((), "SMTPServerDisconnected"),
    ],
)
def test_trouble_of_the_server_is_tried_again(order_id: str, script: tuple[bytes, ...], expected: str) -> None:
    """Whatever is not a refusal of this very mail leaves the intent open."""
    with scripted(script) as url, closing(Mailer(url)) as mailer, pytest.raises(TransientError, match=expected):
        send_mail(mail(order_id), mailer)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ((b"220 x", b"250 x", b"250 x", b"552 box of demo@customers.example is full"), "552"),
        ((b"220 x", b"250 x", b"250 x", b"250 x", b"554 5.7.1 demo@customers.example is spam"), "554"),
        ((b"220 x", b"250 x", b"250 x", b"250 x", b"354 go", b"554 5.7.1 spam"), "554 5.7.1"),
    ],
)
def test_a_refusal_tells_codes_not_words(order_id: str, script: tuple[bytes, ...], told: str) -> None:
    """The server's words may hold an address, so only its codes reach an event or a log."""
    with scripted(script) as url, closing(Mailer(url)) as mailer:
        failed = send_mail(mail(order_id), mailer)

    assert failed == MailFailed(order_id, "confirmed", f"refused by the mail server: {told}")


def test_a_server_that_is_away_is_left_in_peace(order_id: str) -> None:
    """After so many deliveries in vain the next one is not begun: it waits for its next try, and operators see why."""
    with closing(socket.create_server(("127.0.0.1", 0))) as nobody:
        url = f"smtp://127.0.0.1:{nobody.getsockname()[1]}"
    with closing(Mailer(url, limits=Limits(window=2, open_for=3600))) as mailer:
        for _ in range(2):
            with pytest.raises(TransientError, match="ConnectionRefusedError"):
                send_mail(mail(order_id), mailer)
        with pytest.raises(TransientError, match="breaker OPEN") as refused:
            send_mail(mail(order_id), mailer)
        assert refused.value.address == url.removeprefix("smtp://")
        assert mailer.breaker.told() == {"state": "OPEN", "calls": 0, "places": 10}


@pytest.mark.parametrize(
    ("script", "state"),
    [
        ((b"220 hello", b"250 hi", b"250 ok", b"450 greylisted"), State.CLOSED),
        ((b"220 hello", b"250 hi", b"250 ok", b"550 no such box"), State.CLOSED),
        ((b"220 hello", b"250 hi", b"421 closing"), State.OPEN),
        ((), State.OPEN),
    ],
)
def test_what_is_said_of_a_mail_is_no_failure_of_the_server(
    order_id: str, script: tuple[bytes, ...], state: State
) -> None:
    """A box that is full, unknown or greylisted stops no other mail; a server that closes or hangs up does."""
    with scripted(script) as url, closing(Mailer(url, limits=Limits(window=1))) as mailer:
        with suppress(TransientError):
            send_mail(mail(order_id), mailer)
        assert mailer.breaker.state is state


def test_a_silent_server_is_left_within_the_lease(order_id: str) -> None:
    """A server that takes the mail and never answers is given up after the time of one delivery."""
    script = (b"220 x", b"250 x", b"250 x", b"250 x", b"354 go", b"")
    with scripted(script) as url, closing(Mailer(url, timeout=0.3)) as mailer, pytest.raises(TransientError):
        send_mail(mail(order_id), mailer)


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("at", range(2, 5))
def test_a_sender_that_was_frozen_sends_nothing_when_it_goes_on(
    order_id: str,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    guarded: bool,  # noqa: FBT001
) -> None:
    """Its lease may be another's by now, who has sent the mail; planted: without the look at the clock it goes out."""
    clock = SimpleNamespace(frozen=0.0)
    clock.time, clock.monotonic = time.time, lambda: time.monotonic() + clock.frozen
    monkeypatch.setattr(gateway, "time", clock)
    if not guarded:
        monkeypatch.delattr(gateway._Timely, "send")  # noqa: SLF001 - planted
        monkeypatch.setattr(smtplib.SMTP, "getreply", _patient(smtplib.SMTP.getreply))
    heard: list[bytes] = []

    def freeze(said: int) -> None:
        clock.frozen = 60.0 if said >= at else 0.0

    script = (b"220 x", b"250 x", b"250 x", b"250 x", b"354 go", b"250 taken")
    with scripted(script, heard, freeze) as url, closing(Mailer(url)) as mailer, suppress(TransientError):
        send_mail(mail(order_id), mailer)
    assert (b".\r\n" in heard) is not guarded


def _patient(usual: Callable[[smtplib.SMTP], tuple[int, bytes]]) -> Callable[[smtplib.SMTP], tuple[int, bytes]]:
    """Have an answer awaited that is there at once on a machine with nothing to do."""

    def getreply(server: smtplib.SMTP) -> tuple[int, bytes]:
        if server.sock:
            server.sock.settimeout(60)
        return usual(server)

    return getreply


@pytest.mark.parametrize("address", HOSTILE)
def test_an_address_that_would_say_more_is_refused(
    mailer: Mailer, sandbox: Running, order_id: str, address: str
) -> None:
    """No second recipient, no further header, no further command: the mail fails and nothing is sent."""
    failed = send_mail(mail(order_id, address), mailer)

    assert isinstance(failed, MailFailed)
    assert not address or address not in failed.error
    assert sandbox.mails(order_id) == []


@pytest.mark.parametrize(
    "value",
    [
        "Order 1\r\nBcc: victim@c.example",
        "Order =?utf-8?q?1=0D=0ABcc:_victim=40c.example?=",
        "=?utf-8?b?T3JkZXIgMQ0KQmNjOiB2aWN0aW1AYy5leGFtcGxl?= is confirmed",
        "=?utf-8?q?a=E2=80=AEb?=",
        "=?utf-8?q?a=E2=80=A8b?=",
        "=?utf-16?b?AA==?=",
        "a half-open =?utf-8?q?word",
        "Grüße",
        "a" * 1000,
        "",
    ],
)
def test_a_header_that_is_more_than_it_looks_is_refused(value: str) -> None:
    """Line ends, encoded words whatever they hold, what is not visible ASCII, what is too long, and nothing at all."""
    with pytest.raises(UnsafeHeaderError):
        safe(value)


@given(subject=st.text(max_size=200), address=st.text(max_size=80), order_id=st.text(min_size=1, max_size=60))
def test_no_values_make_another_header(subject: str, address: str, order_id: str) -> None:
    """Whatever the values are: refused, or exactly the ten headers, each once, with the value as it was."""
    intent = SendMail(order_id, "confirmed", "c", address, subject, "text")
    try:
        content = compose(intent, 0)
    except UnsafeHeaderError:
        return
    parsed = message_from_bytes(content)
    assert parsed.keys() == HEADERS
    assert parsed["To"] == address
    assert parsed.get_payload() == "text\r\n"


@given(
    st.tuples(
        st.sampled_from(["=?utf-8?q?", "=?utf-8?b?", "=?iso-8859-1?Q?", ""]),
        st.text("=0AD \r\nBbc:_?@<>", max_size=30),
        st.sampled_from(["?=", ""]),
    )
)
def test_no_encoded_word_makes_another_header(parts: tuple[str, str, str]) -> None:
    """Encoded words of any content: refused, or one Subject in a mail of ten headers."""
    intent = SendMail("o-1", "confirmed", "c", "a@b.example", "".join(parts) or "x", "text")
    try:
        content = compose(intent, 0)
    except UnsafeHeaderError:
        return
    assert message_from_bytes(content).keys() == HEADERS


def test_a_mail_is_given_up_by_name() -> None:
    """When its retries are used up a mail is told as failed, with a fixed phrase."""
    exhausted = outside.policies[SendMail].exhausted
    assert exhausted is not None
    assert exhausted(mail("o")) == MailFailed("o", "confirmed", GIVEN_UP)


@pytest.mark.parametrize("url", ["127.0.0.1:25", "http://127.0.0.1", "smtp://", "smtp://user:secret@mail.example"])
def test_an_address_of_no_server_is_refused_without_its_secret(url: str) -> None:
    """A wrong setting fails the start; a password over an open line is refused, and never repeated."""
    with pytest.raises(ValueError, match="the mail server's address is") as refused:
        Mailer(url)
    assert "secret" not in str(refused.value)


@contextmanager
def scripted(
    answers: tuple[bytes, ...], lines: list[bytes] | None = None, before: Callable[[int], object] = lambda _: None
) -> Iterator[str]:
    """Run a mail server that says these lines, one after each line or mail it hears; b"" is silence.

    ``lines`` gets what it hears, ``before`` is called with the number of each answer before it is given.
    """
    over = threading.Event()
    lines = [] if lines is None else lines

    def serve() -> None:
        connection, _ = listener.accept()
        with suppress(ConnectionError), connection, connection.makefile("rb") as heard:
            for number, answer in enumerate(answers):
                if not answer:
                    over.wait(60)
                    return
                before(number)
                connection.sendall(answer + b"\r\n")
                lines.append(heard.readline())
                while answer.startswith(b"354") and lines[-1] not in (b".\r\n", b""):
                    lines.append(heard.readline())

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"smtp://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            thread.join(60)
