"""A small client of our own APIs: one open connection, JSON both ways, problems as exceptions."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

Headers = Mapping[str, str]
TIMEOUT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its status, headers in lower case, and body as it came."""

    status: int
    headers: Headers
    raw: bytes

    @property
    def body(self) -> Any:  # noqa: ANN401 - a JSON document
        """The body as a JSON document."""
        return json.loads(self.raw)


class Refused(Exception):  # noqa: N818 - the name says what is the case
    """The API answered with a problem (RFC 9457); ``reply`` has it whole."""

    def __init__(self, method: str, path: str, reply: Reply) -> None:
        self.reply = reply
        super().__init__(f"{method} {path}: {reply.status} {reply.raw[:500].decode('utf-8', 'replace')}")

    @property
    def problem(self) -> Mapping[str, Any]:
        """The problem document; empty when the answer was none."""
        told = self.reply.headers.get("content-type", "") == "application/problem+json"
        found: Mapping[str, Any] = self.reply.body if told else {}
        return found

    @property
    def slug(self) -> str:
        """The last part of the problem's type, such as ``not-found``; empty when the answer was none."""
        return str(self.problem.get("type", "")).rpartition("/")[2]


class Client:
    """Talks to one base url over one connection; not for several threads at once."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: object = None, headers: Headers | None = None) -> Reply:
        """Return whatever the API answers; a connection the server closed meanwhile is opened anew, once.

        Raises OSError or http.client.HTTPException when nothing answers.
        """
        data = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if data else {}
        for last in (False, True):
            try:
                self._connection.request(method, path, data, {**sent, **(headers or {})})
                answer = self._connection.getresponse()
                return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
            except (ConnectionError, http.client.RemoteDisconnected):
                self._connection.close()
                if last:
                    raise
        raise AssertionError

    def demand(self, method: str, path: str, body: object = None, headers: Headers | None = None) -> Reply:
        """Return the answer of a request that must succeed; raises Refused otherwise."""
        reply = self.ask(method, path, body, headers)
        if reply.status >= http.client.BAD_REQUEST:
            raise Refused(method, path, reply)
        return reply
