"""Every mail sent on this machine ends in the mailbox, is shown as it came, and bounces where nobody lives."""

from __future__ import annotations

import asyncio
import json
import re
import smtplib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from aiosmtpd.smtp import SMTP

from quadrille_sandbox.mailbox import Postman, smtp
from quadrille_sandbox.testing import Running, running

SENDER = "orders@quadrille.example"


def mail(order_id: str, subject: str = "Your order is confirmed", body: str = "Thank you.") -> bytes:
    lines = (
        f"From: Quadrille <{SENDER}>",
        "To: demo@customers.example",
        f"Subject: {subject}",
        f"Message-ID: <confirmed.{order_id}@quadrille.example>",
        f"X-Order-Id: {order_id}",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
        "",
        body,
    )
    return "\r\n".join(lines).encode() + b"\r\n"


def connected(sandbox: Running) -> smtplib.SMTP:
    host, _, port = sandbox.smtp.rpartition(":")
    return smtplib.SMTP(host, int(port), timeout=60)


@pytest.fixture
def post(sandbox: Running) -> Iterator[smtplib.SMTP]:
    with connected(sandbox) as connection:
        yield connection


def test_a_mail_is_found_by_its_order(sandbox: Running, post: smtplib.SMTP, order_id: str) -> None:
    """Sender, recipient, subject, headers and text are kept as they came."""
    post.sendmail(SENDER, ["demo@customers.example"], mail(order_id, body="Grüße\r\n.leading dot"))

    (found,) = sandbox.mails(order_id)
    assert (found["sender"], found["recipients"]) == (SENDER, ["demo@customers.example"])
    assert (found["subject"], found["message_id"]) == (
        "Your order is confirmed",
        f"<confirmed.{order_id}@quadrille.example>",
    )
    assert str(found["text"]).strip() == "Grüße\n.leading dot"
    assert ["X-Order-Id", order_id] in list(found["headers"] if isinstance(found["headers"], list) else ())


def test_a_mail_sent_twice_is_two_deliveries(sandbox: Running, post: smtplib.SMTP, order_id: str) -> None:
    """The mailbox hides no duplicate: both are there with one Message-ID."""
    for _ in range(2):
        post.sendmail(SENDER, ["demo@customers.example"], mail(order_id))

    found = sandbox.mails(order_id)
    assert len(found) == 2
    assert len({str(one["message_id"]) for one in found}) == 1


def test_an_address_where_nobody_lives_bounces(sandbox: Running, post: smtplib.SMTP, order_id: str) -> None:
    """Addresses in bounce.example get 550, nothing is kept, and the connection stays usable."""
    for address in ("cust@bounce.example", "CUST@Bounce.Example"):
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
            post.sendmail(SENDER, [address], mail(order_id))
        assert refused.value.recipients[address][0] == 550
    assert sandbox.mails(order_id) == []

    post.sendmail(SENDER, ["demo@customers.example"], mail(order_id))
    assert len(sandbox.mails(order_id)) == 1


def test_one_connection_carries_many_mails(sandbox: Running, post: smtplib.SMTP, order_id: str) -> None:
    """A sender that keeps its connection open is not cut off."""
    for _ in range(300):
        post.sendmail(SENDER, ["demo@customers.example"], mail(order_id))

    assert len(sandbox.mails(order_id)) == 300


def test_mails_survive_a_kill_and_are_paged(data: Path) -> None:
    """After SIGKILL all delivered mails are there, newest first, in pages that neither skip nor repeat."""
    with running(data) as sandbox:
        with connected(sandbox) as post:
            for n in range(25):
                post.sendmail(SENDER, ["demo@customers.example"], mail(f"o-{n}"))
        sandbox.process.kill()
        sandbox.process.wait(60)

    with running(data) as sandbox:
        seen, before = [], 0
        while before is not None:
            page = json.loads(sandbox.get(f"/mail?limit=10&before={before}")[1])
            seen += [one["order_id"] for one in page["mails"]]
            before = page["before"]
        assert seen == [f"o-{n}" for n in range(24, -1, -1)]


def test_a_mail_too_large_is_refused(sandbox: Running, post: smtplib.SMTP, order_id: str) -> None:
    """A mail above the limit is refused by name and not kept."""
    with pytest.raises(smtplib.SMTPSenderRefused):
        post.sendmail(SENDER, ["demo@customers.example"], mail(order_id, body="x" * 400_000))

    assert sandbox.mails(order_id) == []


def test_the_page_shows_mails_and_runs_nothing(sandbox: Running, post: smtplib.SMTP, order_id: str) -> None:
    """Markup in a mail is shown as text, and the page's policy lets no script run."""
    hostile = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'
    post.sendmail(SENDER, ["demo@customers.example"], mail(order_id, subject=hostile, body=hostile))

    for target in (f"/mail?order_id={order_id}", f"/mail?order_id={order_id}%22%3E%3Cscript%3Ex", "/mail"):
        status, page = sandbox.get(target, "text/html,*/*")
        assert status == 200
        assert not re.search(rb"<script|<img", page)
    assert b"&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_an_empty_answer_says_why(sandbox: Running, order_id: str) -> None:
    """An order without a mail is told so, in a page and in JSON."""
    assert sandbox.mails(order_id) == []
    assert b"No mail about this order" in sandbox.get(f"/mail?order_id={order_id}", "text/html")[1]


@pytest.mark.parametrize(
    "address",
    ["<a@b.example>", "<o'brien+x@shop.example>", "<a@b> SIZE=3", "a@b", '<"q r"@b>', "<a..b@c>", "<ü@b>", "<>"],
)
def test_an_address_is_read_as_the_library_reads_it(address: str) -> None:
    """The short way for plain ones, and the long way for all others, give the same."""

    async def both() -> tuple[object, object]:
        server = smtp(cast("Postman", None))
        return server._getaddr(address), SMTP._getaddr(server, address)  # noqa: SLF001 - what is overridden

    ours, theirs = asyncio.run(both())
    assert ours == theirs
