"""The mail server as notification sees it: one mail per order and kind, and no header but ours."""

from __future__ import annotations

import base64
import math
import re
import smtplib
import time
from collections import deque
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

from notification.events import MailFailed, MailSent, SendMail, SendMailDropped
from notification.handlers import when_mail
from quadrille.gateway import (
    FOR_A_DAY,
    Breaker,
    CircuitOpenError,
    ClientSpan,
    Gateway,
    Limits,
    TransientError,
    still_open,
)

DOMAIN = "quadrille.example"
SENDER = f"orders@{DOMAIN}"
GIVEN_UP = "no mail server took it within 24 h"
BOUNCES = frozenset((550, 551, 552, 553, 554, 556))  # RFC 5321, 4.2.3: about this mail, not about us
CLOSES = 421  # RFC 5321, 4.2.3: the service is not available
TAKEN = frozenset((250, 251, 252))
TROUBLE = (OSError, smtplib.SMTPException)
CONNECT_SECONDS = 3.0  # for each of connecting, greeting and introducing ourselves
outside = Gateway("notification")
_ADDRESS = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,188}[A-Za-z0-9])?", re.ASCII)
_PLAIN = re.compile(r"[ -~]{1,900}")  # visible ASCII; SMTP allows lines of 998
_ENHANCED = re.compile(rb"[245]\.\d{1,3}\.\d{1,3}(?=\s|$)")


class UnsafeHeaderError(Exception):
    """A header would carry what it must not; the text is a fixed phrase."""


class BouncedError(Exception):
    """The mail server refuses this mail for good; the text is made of its codes, never of its words."""

    def __init__(self, code: int, said: bytes) -> None:
        enhanced = _ENHANCED.match(said)
        super().__init__(f"refused by the mail server: {code}{' ' + enhanced[0].decode() if enhanced else ''}")


class ServerAwayError(TransientError):
    """No mail server answered, or it is closing: it is sick, whichever mail it is given."""


class _Timely(smtplib.SMTP):
    """A connection that sends nothing after the deadline of its delivery.

    A process that was frozen for longer may have lost the lease, and another has sent this mail meanwhile.
    """

    deadline = math.inf

    def send(self, s: Any) -> None:  # noqa: ANN401 - smtplib's own: text or any buffer
        """Send bytes, a command or a mail; raises TimeoutError when it is too late to be sure of the lease."""
        if time.monotonic() >= self.deadline:
            message = "too late to send this mail"
            raise TimeoutError(message)
        super().send(s)


class _TimelySsl(_Timely, smtplib.SMTP_SSL):
    """The same over TLS."""


class Mailer:
    """The mail server over connections kept open; any thread may use it.

    ``url`` is smtp:// or smtps:// with host, port and perhaps user and password (smtps only); ``timeout`` in seconds
    bounds a whole delivery, so that it ends before the intent's lease does. Deliveries go through a bulkhead and a
    breaker: what a server says of one mail is no failure of the server, that it is away or closes is.
    """

    def __init__(self, url: str, timeout: float = 10.0, limits: Limits | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("smtp", "smtps") or not parts.hostname or (parts.username and parts.scheme == "smtp"):
            message = "the mail server's address is smtp://host:port or smtps://user:password@host:port"
            raise ValueError(message)
        self._open = _TimelySsl if parts.scheme == "smtps" else _Timely
        self._address = parts.hostname, parts.port or (465 if parts.scheme == "smtps" else 25)
        self._login = unquote(parts.username or ""), unquote(parts.password or "")
        self._timeout = timeout
        self._named: dict[str, str | int] = {
            "network.protocol.name": "smtp", "server.address": self._address[0], "server.port": self._address[1],
        }  # fmt: skip
        self._idle: deque[_Timely] = deque()
        self.breaker = Breaker(limits or Limits(), (ServerAwayError,), name="mail server")

    def deliver(self, recipient: str, content: bytes) -> None:
        """Hand a mail over; raises BouncedError for a refusal for good, TransientError for everything else."""
        try:
            with self.breaker.call(), ClientSpan("smtp", self._named):
                self._deliver(recipient, content, time.monotonic() + self._timeout)
        except CircuitOpenError as refused:
            host, port = self._address
            raise TransientError(str(refused), address=f"{host}:{port}") from refused

    def _deliver(self, recipient: str, content: bytes, deadline: float) -> None:
        try:
            server = self._connected()
        except TROUBLE as down:
            raise self._unknown(down) from down
        try:
            _hand_over(server, recipient, content, deadline)
        except BouncedError:
            self._forget(server)
            raise
        except TROUBLE as trouble:
            server.close()
            raise self._unknown(trouble) from trouble
        self._idle.append(server)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def _connected(self) -> _Timely:
        """Return an idle connection that is still alive, the last used first, else a new one."""
        with suppress(IndexError):
            while True:
                idle = self._idle.pop()
                if idle.sock and still_open(idle.sock):
                    return idle
                idle.close()
        host, port = self._address
        server = self._open(host, port, local_hostname="[127.0.0.1]", timeout=CONNECT_SECONDS)
        try:
            server.ehlo_or_helo_if_needed()
            if self._login[0]:
                server.login(*self._login)
        except TROUBLE:
            server.close()
            raise
        return server

    def _unknown(self, trouble: Exception) -> TransientError:
        host, port = self._address
        told = ServerAwayError if _is_away(trouble) else TransientError
        return told(f"no mail server: {type(trouble).__name__}", address=f"{host}:{port}")

    def _forget(self, server: _Timely) -> None:
        """Keep the connection of a refused mail, if the server lets go of the mail."""
        try:
            server.rset()
        except TROUBLE:
            server.close()
        else:
            self._idle.append(server)


@outside.executes(
    SendMail,
    precondition=when_mail,
    retry=FOR_A_DAY,
    exhausted=lambda intent: MailFailed(intent.order_id, intent.kind, GIVEN_UP),
    cancelled=lambda mail: SendMailDropped(mail.order_id, mail.kind, mail.customer_id, mail.subject, mail.text),
)
def send_mail(intent: SendMail, mailer: Mailer) -> MailSent | MailFailed:
    """Send one mail with a Message-ID of its order and kind; raises TransientError if no server answered for good."""
    try:
        mailer.deliver(intent.address, compose(intent, time.time()))
    except (UnsafeHeaderError, BouncedError) as refused:
        return MailFailed(intent.order_id, intent.kind, str(refused))
    return MailSent(intent.order_id, intent.kind)


def compose(intent: SendMail, now: float) -> bytes:
    """Return the mail as it goes over the wire; ``now`` is in Unix seconds; raises UnsafeHeaderError.

    Written by hand: EmailMessage takes 70 times as long and rewrites what it parses (docs/adr/0002-dependencies.md).
    """
    if not _ADDRESS.fullmatch(intent.address):
        message = "the address is not one mail can be sent to"
        raise UnsafeHeaderError(message)
    encoding, body = _body(intent.text)
    headers = {
        "From": f"Quadrille <{SENDER}>",
        "To": intent.address,
        "Subject": intent.subject,
        "Date": formatdate(now),
        "Message-ID": f"<{intent.kind}.{intent.order_id}@{DOMAIN}>",
        "X-Order-Id": intent.order_id,
        "Auto-Submitted": "auto-generated",
        "MIME-Version": "1.0",
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Transfer-Encoding": encoding,
    }
    return "".join(f"{name}: {safe(value)}\r\n" for name, value in headers.items()).encode("ascii") + b"\r\n" + body


def safe(value: str) -> str:
    """Return a header's value unchanged; raises UnsafeHeaderError unless it is short, visible ASCII.

    The beginning of an encoded word (RFC 2047) is refused too: a mail program would make more of it than is seen.
    """
    if not _PLAIN.fullmatch(value) or "=?" in value:
        message = "a header is too long or carries a character that may end it"
        raise UnsafeHeaderError(message)
    return value


def _body(text: str) -> tuple[str, bytes]:
    lines = text.splitlines() or [""]
    if all(not line or _PLAIN.fullmatch(line) for line in lines):
        return "7bit", "".join(f"{line}\r\n" for line in lines).encode("ascii")
    return "base64", base64.encodebytes(text.encode("utf-8", "replace")).replace(b"\n", b"\r\n")


def _is_away(trouble: Exception) -> bool:
    """Tell whether there is no server, or one that is closing; any other answer is about the mail or about us."""
    if isinstance(trouble, smtplib.SMTPResponseException) and not isinstance(trouble, smtplib.SMTPConnectError):
        return trouble.smtp_code == CLOSES
    return True


def _hand_over(server: _Timely, recipient: str, content: bytes, deadline: float) -> None:
    """Say MAIL, RCPT and DATA, and the mail, nothing after the deadline; raises BouncedError, or smtplib's errors."""
    server.deadline = deadline
    for step in (partial(server.mail, SENDER), partial(server.rcpt, recipient), partial(server.data, content)):
        if server.sock:
            server.sock.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            code, said = step()
        except smtplib.SMTPDataError as refused:
            code, said = refused.smtp_code, b""
        if code in BOUNCES and step.func != server.mail:  # a refused sender is our mistake, not this mail's end
            raise BouncedError(code, said)
        if code not in TAKEN:
            raise smtplib.SMTPResponseException(code, "")
