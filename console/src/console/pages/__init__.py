"""The pages: Jinja2 with autoescape, readable without a script; every file they load is in this folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import Response

from console.sessions import Session
from console.verdict import ago, lasted
from quadrille import rfc3339

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",  # with no-referrer a form of ours would come without its origin
    "Cache-Control": "no-store",
}
KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
DIGITS = dict.fromkeys(("JPY", "KRW", "CLP", "VND", "ISK", "XAF", "XOF", "XPF"), 0) | dict.fromkeys(("BHD", "KWD"), 3)
HEX_WIDTH = 16


@dataclass(frozen=True, slots=True)
class Page:
    """A page before it is known who reads it: its template, its status, what it shows."""

    name: str
    status: int
    values: Mapping[str, object]

    def shown(self, session: Session | None, place: str, *, sandbox: bool, keyed: bool) -> Response:
        """Return it for whoever reads it, at a place to come back to; buttons are for those who are logged in.

        ``keyed`` tells that only those may read, and that an API key logs in.
        """
        values = {"session": session, "place": place, "sandbox": sandbox, "keyed": keyed, **self.values}
        text = environment().get_template(self.name).render(values)
        return Response(text, self.status, HEADERS, "text/html; charset=utf-8")


def page(name: str, status: int = 200, **values: object) -> Page:
    """Return a page."""
    return Page(name, status, values)


def asset(name: str) -> Response | None:
    """Return a file that pages load; None for one that is not there."""
    kind = KINDS.get(name[name.rfind(".") :])
    file = files(__name__) / "static" / name
    if kind is None or "/" in name or not file.is_file():
        return None
    return Response(file.read_bytes(), 200, HEADERS | {"Cache-Control": "public, max-age=300"}, kind)


@cache
def environment() -> Environment:
    """Return the templates with their filters."""
    made = Environment(
        loader=PackageLoader("console.pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {
        "short": short, "money": money, "clock": clock, "stamp": stamp, "since": since, "span": span, "pretty": pretty,
        "hexdump": hexdump,
    }  # fmt: skip
    return made


def short(value: str) -> str:
    """Return the end of an id, by which it is told on a screen and found again."""
    return f"…{value[-4:]}"


def money(order: Mapping[str, Any]) -> str:
    """Return an amount with its currency."""
    if order["amount_minor"] is None:
        return "–"
    digits = DIGITS.get(order["currency"], 2)
    return f"{order['amount_minor'] / 10**digits:,.{digits}f} {order['currency'] or ''}"


def clock(at: datetime | None) -> str:
    """Return a time of day, in UTC."""
    return "–" if at is None else f"{at.astimezone(UTC):%H:%M:%S}"


def stamp(at: datetime | None) -> str:
    """Return a time as machines read it."""
    return "" if at is None else rfc3339(at)


def since(at: datetime | None, now: datetime | None = None) -> str:
    """Return how long ago something was."""
    if at is None:
        return "–"
    return ago(max(0.0, ((now or datetime.now(UTC)) - at).total_seconds() // 1))


def span(ms: int | None) -> str:
    """Return milliseconds in words."""
    return "–" if ms is None else lasted(ms)


def pretty(value: object) -> str:
    """Return a value as JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def hexdump(raw: bytes, most: int = 4096) -> str:
    """Return bytes as hex and text beside it, the first of them if there are many."""
    lines = []
    for at in range(0, min(len(raw), most), HEX_WIDTH):
        part = raw[at : at + HEX_WIDTH]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in part)  # noqa: PLR2004 - what is printable
        lines.append(f"{at:06x}  {part.hex(' '):<47}  {shown}")
    if len(raw) > most:
        lines.append(f"… {len(raw) - most} bytes more")
    return "\n".join(lines)
