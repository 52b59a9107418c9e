"""The command line's client: what it sends, what it makes of silence, and what it costs those who ask nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from quadrille_cli.client import Client, NoAnswerError, ProblemError

NOWHERE = "http://127.0.0.1:1"
GONE = b"HTTP/1.1 410 Gone\r\nContent-Type: application/problem+json\r\nContent-Length: 2\r\n\r\n{}"
ELSEWHERE = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /y\r\nContent-Length: 2\r\n\r\n{}"


@contextmanager
def answering(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server that gives every connection one answer and closes it; its address, and the first lines it was sent."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as consumer_loop:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = consumer_loop.accept()
                    with connection, suppress(OSError):
                        asked.append(connection.recv(65_536).partition(b"\r\n")[0])
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{consumer_loop.getsockname()[1]}", asked
        finally:
            consumer_loop.shutdown(socket.SHUT_RDWR)
            thread.join(60)


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell that sends every request to a proxy which is not there."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, NOWHERE)


def test_a_refusal_is_a_problem(proxied: None) -> None:
    """A status of 400 or more is raised with its document; the shell's proxy is not asked, a redirect not followed."""
    with answering(GONE) as (url, asked), Client(url) as client:
        with pytest.raises(ProblemError, match="POST /x: 410") as refused:
            client.demand("POST", "/x", {})
        assert (refused.value.problem, refused.value.reply.body) == ({}, {})
        assert asked == [b"POST /x HTTP/1.1"]
    with answering(ELSEWHERE) as (url, asked), Client(url) as client:
        assert client.ask("GET", "/x").status == 307
        assert asked == [b"GET /x HTTP/1.1"]


@pytest.mark.parametrize(
    ("answer", "why"), [(b"", "RemoteProtocolError"), (b"nonsense\r\n\r\n", "RemoteProtocolError")]
)
def test_what_got_no_answer_is_sent_once(answer: bytes, why: str) -> None:
    """A connection that breaks or talks nonsense after the request: it is named, and nothing is sent again."""
    with answering(answer) as (url, asked):
        with Client(url) as client, pytest.raises(NoAnswerError, match=why):
            client.ask("POST", "/x", {})
        assert asked == [b"POST /x HTTP/1.1"]


def test_why_nobody_answers_is_named() -> None:
    """A port nobody listens at, and one where nobody speaks, are told apart."""
    with Client(NOWHERE) as client, pytest.raises(NoAnswerError, match=r"^ConnectionRefusedError$"):
        client.ask("GET", "/")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, timeout=0.1) as client, pytest.raises(NoAnswerError, match=r"^TimeoutError$"):
            client.ask("GET", "/")


def test_a_help_page_does_without_httpx() -> None:
    """Every command is loaded without httpx, whose 50 ms help has no use for."""
    load = "import sys; from quadrille_cli import main; main._load_more('--help')\n"
    load += "sys.exit('httpx' in sys.modules)"

    assert subprocess.run([sys.executable, "-I", "-c", load], check=False).returncode == 0
