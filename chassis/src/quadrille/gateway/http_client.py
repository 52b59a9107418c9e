"""Calls to an HTTP system outside; the guarantee: what was never sent and what was never answered are told apart.

Connections are kept open, one per call under way, and every call goes through a bulkhead and a breaker. Nothing is sent
twice here: repeating is the caller's, who has the key. http.client and not a library above it, for the time-out must
bound the whole answer, and a call costs half of urllib3's and a quarter of httpx's (docs/adr/0002-dependencies.md).
"""

from __future__ import annotations

import http.client
import io
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from quadrille.gateway.breaker import Breaker, Limits, State
from quadrille.observability.tracing import ClientSpan, Value

ANSWER_LIMIT = 64 * 1024  # bytes; of a longer answer only the beginning is read
_TROUBLE = (OSError, http.client.HTTPException)


class _Bounded(io.RawIOBase):
    """A socket's bytes, all of which must come within its time-out: one that drips is one that stalls."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket, self._bytes = connection, connection.makefile("rb", buffering=0)
        self._until = time.monotonic() + (connection.gettimeout() or 0.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:  # noqa: ANN401 - whatever a buffered reader hands over
        self._socket.settimeout(max(0.001, self._until - time.monotonic()))
        return self._bytes.readinto(buffer)

    def close(self) -> None:
        self._bytes.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """An answer that comes as a whole within the time-out, or not at all."""

    def __init__(self, sock: socket.socket, *given: Any, **named: Any) -> None:  # noqa: ANN401 - as http.client calls it
        super().__init__(sock, *given, **named)
        self.fp.close()
        self.fp = io.BufferedReader(_Bounded(sock))


class NoResponseError(Exception):
    """One call got no answer; ``sent`` says whether the other side may have carried it out, ``address`` who it is."""

    def __init__(self, why: str, *, sent: bool, address: str = "") -> None:
        super().__init__(why)
        self.sent, self.address = sent, address


class HttpClient:
    """One HTTP system outside; any thread may call it.

    ``url`` is its base, ``timeout`` in seconds is for connecting, and for the whole of an answer. Time-outs, broken
    connections and 5xx count for the breaker, whose changes ``changed`` is told; ``name`` is how operators see it.
    """

    def __init__(
        self,
        url: str,
        timeout: float,
        limits: Limits | None = None,
        changed: Callable[[State], None] = lambda _: None,
        name: str = "",
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            message = f"{url} is no http or https address"
            raise ValueError(message)
        self._open = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        port = parts.port or (443 if parts.scheme == "https" else 80)
        self._host, self._base, self._timeout = parts.netloc, parts.path.rstrip("/"), timeout
        self._url = f"{parts.scheme}://{parts.hostname}:{port}{self._base}"  # without a login
        self.address = f"{parts.hostname}:{port}"
        self._named: dict[str, Value] = {"server.address": parts.hostname or "", "server.port": port}
        self._idle: deque[http.client.HTTPConnection] = deque()
        self.breaker = Breaker(limits or Limits(), (NoResponseError,), changed=changed, name=name)

    def call(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> tuple[int, bytes]:
        """Make one call and return status and content.

        Raises NoResponseError when no answer came, and CircuitOpenError when the call was not made at all.
        """
        with self.breaker.call() as call, self._span(method, path) as span:
            connection = self._connected()
            try:
                connection.request(method, self._base + path, body, span.carried(headers))
                answer = connection.getresponse()
                content = answer.read(ANSWER_LIMIT)
            except _TROUBLE as lost:
                connection.close()
                why = f"no answer: {type(lost).__name__}"
                raise NoResponseError(why, sent=True, address=self.address) from lost
            span.answered(answer.status)
            call.failed = answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR
            if answer.isclosed() and not answer.will_close:
                self._idle.append(connection)
            else:
                answer.close()
                connection.close()
            return answer.status, content

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def _span(self, method: str, path: str) -> ClientSpan:
        return ClientSpan(method, {**self._named, "http.request.method": method, "url.full": self._url + path})

    def _connected(self) -> http.client.HTTPConnection:
        """Return an idle connection that is still alive, the last used first, else a new one."""
        with suppress(IndexError):
            while True:
                if still_open((idle := self._idle.pop()).sock):
                    idle.sock.settimeout(self._timeout)
                    return idle
                idle.close()
        connection = self._open(self._host, timeout=self._timeout)
        connection.response_class = _Answer
        try:
            connection.connect()
        except OSError as unreachable:
            connection.close()
            why = f"not reached: {type(unreachable).__name__}"
            raise NoResponseError(why, sent=False, address=self.address) from unreachable
        return connection


def still_open(idle: socket.socket) -> bool:
    """Tell whether the other side has left an idle connection open: one that can be read has been closed."""
    ready = select.poll()
    ready.register(idle, select.POLLIN)
    return not ready.poll(0)
