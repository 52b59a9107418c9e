"""The Confluent-compatible interface of a schema registry; the guarantee: no answer is ever guessed from a silence."""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from chassis.schemas import Schema
from chassis.words import Infrastructure

MAX_ANSWER = 1_000_000
TIMEOUT_S = 5.0

T = TypeVar("T")


class RegistryUnavailable(Infrastructure):
    """The registry does not answer, or not usefully: infrastructure, no fault of a record."""


class Registry:
    """The Confluent-compatible HTTP interface of a schema registry; one connection a call, safe between threads.

    Args:
        url: base of the interface, without a trailing slash: ``http://127.0.0.1:8081/apis/ccompat/v7``.
        timeout: seconds for connecting and for each read.
    """

    def __init__(self, url: str, timeout: float = TIMEOUT_S) -> None:
        self._where = urlsplit(url.rstrip("/"))
        self._timeout = timeout

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Return status and parsed JSON of one call; raises RegistryUnavailable for silence, 5xx and non-JSON."""
        kind = HTTPSConnection if self._where.scheme == "https" else HTTPConnection
        connection = kind(self._where.hostname or "", self._where.port, timeout=self._timeout)
        sent = None if body is None else json.dumps(body)
        try:
            headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"} if sent else {}
            connection.request(method, self._where.path + path, sent, headers)
            answer = connection.getresponse()
            raw = answer.read(MAX_ANSWER + 1)
            parsed = json.loads(raw) if raw and len(raw) <= MAX_ANSWER else None
        except (OSError, HTTPException, ValueError, RecursionError) as failed:
            message = f"registry: {type(failed).__name__}"
            raise RegistryUnavailable(message) from failed
        finally:
            connection.close()
        if answer.status >= 500:  # noqa: PLR2004 - HTTP
            message = f"registry answered {answer.status}"
            raise RegistryUnavailable(message)
        return answer.status, parsed

    def id_of(self, schema: Schema) -> int | None:
        """Return the id under which exactly this schema is registered, or None."""
        status, found = self.ask("POST", f"/subjects/{quote(schema.name)}", {"schema": schema.text})
        return _member(status, found, "id", int)

    def text_of(self, number: int) -> str | None:
        """Return the text registered under an id, or None."""
        status, found = self.ask("GET", f"/schemas/ids/{number}")
        return _member(status, found, "schema", str)


def _member(status: int, found: object, name: str, kind: type[T]) -> T | None:
    if status == 404:  # noqa: PLR2004 - HTTP
        return None
    value = found.get(name) if isinstance(found, dict) else None
    if status != 200 or not isinstance(value, kind):  # noqa: PLR2004 - HTTP
        message = f"registry answered {status} without {name}"
        raise RegistryUnavailable(message)
    return value
