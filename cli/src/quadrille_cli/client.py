"""A client of our own APIs over httpx: JSON both ways, problems as exceptions, and no proxy of the shell's.

httpx is imported when a client is made: the help pages, which load every command, do without it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self

from quadrille_cli import credentials, explain

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


class NoAnswerError(OSError):
    """Nothing answered, or not in HTTP; the text is the name of what happened, such as ConnectionRefusedError."""


class ProblemError(Exception):
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
    """Talks to one base url; ``timeout`` in seconds is for connecting and for each wait for bytes."""

    def __init__(self, url: str, timeout: float = TIMEOUT_SECONDS) -> None:
        import httpx  # noqa: PLC0415 - 50 ms that only a request spends

        tls = url.startswith("https:")  # certificates take 80 ms to load, and only TLS needs them
        self._url = url.rstrip("/")
        self._http = httpx.Client(base_url=url, timeout=timeout, trust_env=False, verify=tls)
        self._lost = httpx.RequestError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(self, method: str, path: str, body: object = None, headers: Headers | None = None) -> Reply:
        """Return whatever the API answers; nothing is sent twice, and bytes go as they are.

        Raises NoAnswerError when nothing answers.
        """
        key = credentials.shown_to(self._url)
        explain.tell(method, f"{self._url}{path}", body, dict(headers or {}), keyed=bool(key))
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        kind = {} if content is None else {"Content-Type": "application/json"}
        kind |= {"Authorization": f"Bearer {key}"} if key else {}
        sent = [(name.encode(), value.encode("latin-1")) for name, value in {**kind, **(headers or {})}.items()]
        try:
            answer = self._http.request(method, path, content=content, headers=sent)
        except self._lost as lost:
            raise NoAnswerError(_cause(lost)) from lost
        return Reply(answer.status_code, dict(answer.headers), answer.content)

    def follow(self, path: str, headers: Headers) -> Iterator[tuple[str, str, str]]:
        """Yield the server-sent events of a stream, each its name, id and data, until it ends.

        Raises NoAnswerError when nothing answers or it breaks off, ProblemError when it is refused.
        """
        method, key = "GET", credentials.shown_to(self._url)
        explain.tell(method, f"{self._url}{path}", None, dict(headers), keyed=bool(key))
        sent = {**headers, **({"Authorization": f"Bearer {key}"} if key else {})}
        try:
            with self._http.stream(method, path, headers=sent) as answer:
                if answer.status_code >= HTTPStatus.BAD_REQUEST:
                    raise ProblemError(method, path, Reply(answer.status_code, dict(answer.headers), answer.read()))
                yield from _events(answer.iter_lines())
        except self._lost as lost:
            raise NoAnswerError(_cause(lost)) from lost

    def demand(self, method: str, path: str, body: object = None, headers: Headers | None = None) -> Reply:
        """Return the answer of a request that must succeed; raises ProblemError otherwise."""
        reply = self.ask(method, path, body, headers)
        if reply.status >= HTTPStatus.BAD_REQUEST:
            raise ProblemError(method, path, reply)
        return reply


def _events(lines: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Yield what a text/event-stream says; a comment says nothing."""
    told: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            told[name] = value.removeprefix(" ")
        elif "event" in told or "data" in told:
            yield told.get("event", "message"), told.get("id", ""), told.get("data", "")
            told = {}


def _cause(lost: BaseException) -> str:
    """Return the name of what the operating system said, below what the library made of it."""
    while (deeper := lost.__cause__ or lost.__context__) is not None:
        lost = deeper
    return type(lost).__name__
