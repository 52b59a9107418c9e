"""The mailbox as a page: readable without a script, every value escaped."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from jinja2 import DictLoader, Environment, StrictUndefined, Template

from quadrille_sandbox.http_server import Reply
from quadrille_sandbox.mailbox import Mail

_HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
)


def asset(name: str, kind: str) -> Reply:
    """Return a file of this folder."""
    return Reply(200, (files(__name__) / name).read_bytes(), kind, (("X-Content-Type-Options", "nosniff"),))


def mail_page(mails: Sequence[Mail], order_id: str, total: int, *, filtered: bool) -> Reply:
    """Return the page with these mails, newest first."""
    older = mails[-1].number if mails and not filtered and mails[-1].number > 1 else None
    page = _page().render(mails=mails, order_id=order_id, total=total, older=older)
    return Reply(200, page.encode(), "text/html; charset=utf-8", _HEADERS)


@cache
def _page() -> Template:
    source = (files(__name__) / "mail.html").read_text("utf-8")
    loader = DictLoader({"mail": source})
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True).get_template("mail")
