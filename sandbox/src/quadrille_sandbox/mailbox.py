"""The mailbox: every mail a server on this machine sends ends here, and nothing leaves."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from email.policy import default

from aiosmtpd.smtp import SMTP, Envelope, Session

from quadrille_sandbox.chaos import Chaos
from quadrille_sandbox.journal import Journal, Record
from quadrille_sandbox.ledger import rfc3339

BOUNCING = "bounce.example"  # addresses of this domain do not exist
ORDER_HEADER = "X-Order-Id"
SIZE_LIMIT = 256 * 1024
IDLE_SECONDS = 300.0
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
PLAIN = re.compile(rf"<({_ATOM}(?:\.{_ATOM})*@{_ATOM}(?:\.{_ATOM})*)>")
"""An address as RFC 5321 writes nearly all: dot-atoms on both sides, and nothing after it."""


@dataclass(frozen=True, slots=True)
class Mail:
    """One delivery: a mail sent twice is two of them with one Message-ID."""

    number: int
    at: str
    order_id: str
    sender: str
    recipients: tuple[str, ...]
    subject: str
    message_id: str
    headers: tuple[tuple[str, str], ...]
    text: str

    def document(self) -> Record:
        """Return the mail as JSON shows it."""
        return {name: getattr(self, name) for name in self.__slots__}


class Mailbox:
    """All mails, on disk; memory holds only where each one is."""

    def __init__(self, journal: Journal, clock: Callable[[], float]) -> None:
        """Replay the journal; ``clock`` returns Unix seconds."""
        self._journal = journal
        self._clock = clock
        self._places: list[int] = []
        self._of_order: dict[str, list[int]] = {}
        for offset, record in journal.replay():
            self._index(offset, str(record["order_id"]))

    def deliver(self, sender: str, recipients: list[str], content: bytes) -> None:
        """Keep a mail; raises OSError when the disk is full."""
        order_id = _order_id(content)
        record = {"at": rfc3339(self._clock()), "order_id": order_id, "sender": sender, "recipients": recipients}
        self._index(self._journal.append({**record, "raw": content.decode("latin-1")}), order_id)

    def __len__(self) -> int:
        """Return how many mails were delivered."""
        return len(self._places)

    def newest(self, limit: int, before: int = 0) -> Iterator[Mail]:
        """Yield mails, newest first, from the one numbered ``before - 1`` on (0: from the newest)."""
        newest = min(before - 1, len(self._places)) if before else len(self._places)
        for number in range(newest, max(newest - limit, 0), -1):
            yield self._mail(number)

    def of_order(self, order_id: str) -> Iterator[Mail]:
        """Yield the mails about one order, newest first."""
        for number in reversed(self._of_order.get(order_id, ())):
            yield self._mail(number)

    def _index(self, offset: int, order_id: str) -> None:
        self._places.append(offset)
        if order_id:
            self._of_order.setdefault(order_id, []).append(len(self._places))

    def _mail(self, number: int) -> Mail:
        record = self._journal.read(self._places[number - 1])
        message = message_from_bytes(str(record["raw"]).encode("latin-1"), policy=default)
        recipients = record["recipients"]
        return Mail(
            number=number,
            at=str(record["at"]),
            order_id=str(record["order_id"]),
            sender=str(record["sender"]),
            recipients=tuple(map(str, recipients)) if isinstance(recipients, list) else (),
            subject=str(message.get("Subject", "")),
            message_id=str(message.get("Message-ID", "")).strip(),
            headers=tuple((name, str(value)) for name, value in message.items()),
            text=_text(message),
        )


class Postman:
    """What the SMTP server asks at each step of a delivery."""

    def __init__(self, mailbox: Mailbox, chaos: Chaos) -> None:
        self._mailbox = mailbox
        self._chaos = chaos

    async def handle_RCPT(  # noqa: N802 -- the name is aiosmtpd's
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Refuse who does not exist."""
        del server, session, options
        if address.rpartition("@")[2].lower() == BOUNCING:
            return "550 5.1.1 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 -- as above
        """Keep the mail before it is called delivered."""
        del server, session
        if self._chaos.mail():
            return "451 4.3.2 not now; send it again later"
        content = envelope.original_content
        try:
            self._mailbox.deliver(envelope.mail_from or "", envelope.rcpt_tos, content or b"")
        except OSError:
            return "452 4.3.1 the mailbox is full; send it again later"
        return "250 2.0.0 delivered"


class _Smtp(SMTP):
    """aiosmtpd's server, which parses every address by the grammar of a header: a short way for plain ones."""

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        plain = PLAIN.fullmatch(arg)
        return (plain[1], "") if plain else super()._getaddr(arg)


def smtp(postman: Postman) -> SMTP:
    """Return the server's side of one SMTP connection; it may carry any number of mails."""
    return _Smtp(
        postman, hostname="sandbox", ident="quadrille-sandbox", data_size_limit=SIZE_LIMIT, timeout=IDLE_SECONDS
    )


def _order_id(content: bytes) -> str:
    wanted = ORDER_HEADER.lower().encode() + b":"
    for line in content.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        if line.lower().startswith(wanted):
            return line[len(wanted) :].strip().decode("latin-1")
    return ""


def _text(message: Message) -> str:
    for part in message.walk():
        if part.get_content_type() == "text/plain":
            content = part.get_payload(decode=True)
            written = content.decode(part.get_content_charset("utf-8"), "replace") if isinstance(content, bytes) else ""
            return written.replace("\r\n", "\n")
    return ""
