"""How a load run asks the order API: over http.client, a third of httpx's cost and half of urllib3's (ADR 2)."""

from __future__ import annotations

import json
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Any, Self
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 15.0


class NotAcceptedError(Exception):
    """A request was refused or not answered; the text is its status, or the name of what happened."""


class Sender:
    """Posts JSON to one base url over one connection; not for several threads at once."""

    def __init__(self, url: str) -> None:
        self._connection = HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def post(self, path: str, body: object = None, key: str = "") -> Any:  # noqa: ANN401 - a JSON document
        """Return what was answered; raises NotAcceptedError otherwise."""
        content = json.dumps(body) if key else None
        headers = {"Content-Type": "application/json", "Idempotency-Key": key} if key else {}
        try:
            status, raw = self._ask(path, content, headers)
        except (OSError, HTTPException) as lost:
            self._connection.close()
            raise NotAcceptedError(type(lost).__name__) from lost
        if status >= HTTPStatus.BAD_REQUEST:
            raise NotAcceptedError(str(status))
        return json.loads(raw)

    def _ask(self, path: str, content: str | None, headers: dict[str, str]) -> tuple[int, bytes]:
        """Make one request; a connection that the server closed meanwhile is opened anew, once."""
        for last in (False, True):
            try:
                self._connection.request("POST", path, content, headers)
                answer = self._connection.getresponse()
                return answer.status, answer.read()
            except ConnectionError:
                self._connection.close()
                if last:
                    raise
        raise AssertionError
