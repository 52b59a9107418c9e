"""A person at the console's pages without a script: links, forms as pages have them, a cookie."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from tests.console.conftest import Console


class FormReader(HTMLParser):
    """Reads what a page's form to an action holds, as a browser would send it."""

    def __init__(self, action: str) -> None:
        super().__init__()
        self.action, self.fields = action, {"": ""}
        self.fields.clear()
        self.found = self._inside = False
        self._select = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a form's own fields."""
        told = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._inside = told.get("action") == self.action
            self.found = self.found or self._inside
        if not self._inside:
            return
        if tag == "input" and (told.get("type") != "checkbox" or "checked" in told):
            self.fields[told["name"]] = told.get("value", "")
        if tag == "select":
            self._select = told["name"]
        if tag == "option" and self._select and self._select not in self.fields:
            self.fields[self._select] = told["value"]


class Desk:
    """One person with a browser of their own, logged in by a link."""

    def __init__(self, console: Console, *, logged_in: bool = True) -> None:
        self.console = console
        origin = {"Origin": console.address}
        none_kept = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.Client(base_url=console.address, headers=origin, timeout=60, limits=none_kept)
        if logged_in:
            self.log_in(console.link())

    def log_in(self, link: str) -> httpx.Response:
        """Follow a link and press its button."""
        page = self.http.get(link)
        [token] = parse_qs(urlsplit(link).query)["t"]
        assert form(page.text, "/login") == {"t": token}
        return self.http.post("/login", data={"t": token})

    def asks(self, action: str, **given: object) -> httpx.Response:
        """Open the page that asks before an action."""
        query = {name: str(value) for name, value in given.items()}
        return self.http.get(f"/ask/{action}", params=query)

    def does(self, action: str, page: httpx.Response, **filled: str) -> httpx.Response:
        """Fill a page's form and send it: the page that follows."""
        fields = form(page.text, f"/do/{action}") | filled
        return self.http.post(f"/do/{action}", data=fields, follow_redirects=True)

    def act(self, action: str, filled: dict[str, str] | None = None, **given: object) -> str:
        """Ask and do: what the page says came of it."""
        page = self.asks(action, **given)
        assert page.status_code == 200, page.text
        return said(self.does(action, page, **({"reason": "a test"} | (filled or {}))))


def form(text: str, action: str) -> dict[str, str]:
    """Return the fields of a page's form."""
    reader = FormReader(action)
    reader.feed(text)
    assert reader.found, f"no form to {action}: {text}"
    return reader.fields


class SaidReader(HTMLParser):
    """Reads what a page says came of a button."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.level = ""
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin where the page says it."""
        kind: Any = dict(attrs).get("class") or ""
        if tag == "section" and kind.startswith("said "):
            self._inside, self.level = True, kind.split()[1]

    def handle_endtag(self, tag: str) -> None:
        """End where the page has said it."""
        self._inside = self._inside and tag != "section"

    def handle_data(self, data: str) -> None:
        """Keep the words."""
        if self._inside:
            self.parts.append(data)


def said(page: httpx.Response) -> str:
    """Return level and words of what a page says came of a button."""
    assert page.status_code == 200, page.text
    reader = SaidReader()
    reader.feed(page.text)
    assert reader.level, page.text
    return f"{reader.level}: {' '.join(' '.join(reader.parts).split())}"
