"""How a load run asks the order API: over a pool of urllib3's, whose requests cost half of httpx's (ADR 2)."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any, Self

import urllib3

TIMEOUT_SECONDS = 15.0


class NotAcceptedError(Exception):
    """A request was refused or not answered; the text is its status, or the name of what happened."""


class Sender:
    """Posts JSON to one base url from as many threads as it has connections; nothing is sent twice."""

    def __init__(self, url: str, connections: int) -> None:
        self._pool = urllib3.connection_from_url(url, maxsize=connections, timeout=TIMEOUT_SECONDS, retries=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def post(self, path: str, body: object = None, key: str = "") -> Any:  # noqa: ANN401 - a JSON document
        """Return what was answered; raises NotAcceptedError otherwise."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": key} if key else {}
        try:
            reply = self._pool.request("POST", path, body=json.dumps(body) if key else None, headers=headers)
        except urllib3.exceptions.HTTPError as lost:
            raise NotAcceptedError(type(lost).__name__) from lost
        if reply.status >= HTTPStatus.BAD_REQUEST:
            raise NotAcceptedError(str(reply.status))
        return reply.json()
