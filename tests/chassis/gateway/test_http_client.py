"""A call outside ends in an answer, or in knowing whether it may have been carried out."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from io import BufferedReader

import pytest

from quadrille.gateway.breaker import CircuitOpenError, Limits, State
from quadrille.gateway.http_client import HttpClient, NoResponseError

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
SICK = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


class Server:
    """A server that answers each request, by its number from 0, as the test tells it; None closes the connection.

    With a ``drip`` the answer comes a byte at a time, so many seconds apart.
    """

    def __init__(self, answer: Callable[[int], bytes | None], drip: float = 0) -> None:
        self._drip, self._ended = drip, threading.Event()
        self._answer = answer
        self._consumer_loop = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.requests: list[bytes] = []
        self.connections = 0
        self.url = f"http://127.0.0.1:{self._consumer_loop.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and end every connection."""
        self._ended.set()
        self._consumer_loop.shutdown(socket.SHUT_RDWR)
        self._consumer_loop.close()
        self.drop_all()
        self._thread.join(60)

    def drop_all(self) -> None:
        """Close the open connections, as a server does with idle ones."""
        for connection in self._open:
            with closing(connection), suppress(OSError):  # the client may have been first
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def _accept(self) -> None:
        threads = []
        while True:
            try:
                connection, _ = self._consumer_loop.accept()
            except OSError:
                break
            self.connections += 1
            self._open.append(connection)
            threads.append(threading.Thread(target=self._serve, args=(connection,)))
            threads[-1].start()
        for thread in threads:
            thread.join(60)

    def _serve(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as sent:
            while request := _request(sent):
                self.requests.append(request)
                answer = self._answer(len(self.requests) - 1)
                if answer is None:
                    connection.shutdown(socket.SHUT_RDWR)
                    return
                for piece in range(len(answer)) if self._drip else ():
                    if self._ended.wait(self._drip):
                        return
                    with suppress(OSError):
                        connection.sendall(answer[piece : piece + 1])
                connection.sendall(b"" if self._drip else answer)


def _request(sent: BufferedReader) -> bytes:
    """Read one request whole and return its first line, nothing when the client has gone."""
    with suppress(OSError):
        if first := sent.readline():
            head = http.client.parse_headers(sent)
            sent.read(int(head.get("Content-Length", 0)))
            return first
    return b""


@contextmanager
def serving(answer: Callable[[int], bytes | None], drip: float = 0) -> Iterator[Server]:
    with closing(Server(answer, drip)) as server:
        yield server


def test_a_connection_is_kept_open() -> None:
    """A hundred calls one after the other use one connection."""
    with serving(lambda _: OK) as server, closing(HttpClient(server.url, 2)) as peer:
        assert [peer.call("GET", "/x", {}) for _ in range(100)] == [(200, b"{}")] * 100
        assert server.connections == 1


def test_calls_at_once_have_a_connection_each() -> None:
    """Ten callers share nothing but the bulkhead."""
    together = threading.Barrier(10)

    def answer(number: int) -> bytes:
        if number < 10:
            together.wait(60)
        return OK

    with serving(answer) as server, closing(HttpClient(server.url, 5)) as peer, ThreadPoolExecutor(10) as callers:
        for _ in range(2):
            assert list(callers.map(lambda _: peer.call("GET", "/x", {}), range(10))) == [(200, b"{}")] * 10
        assert server.connections == 10


def test_an_idle_connection_that_was_closed_is_not_used() -> None:
    """A server that closes idle connections, or was restarted, costs no call its answer."""
    with serving(lambda _: OK) as server, closing(HttpClient(server.url, 2)) as peer:
        for _ in range(3):
            assert peer.call("GET", "/x", {}) == (200, b"{}")
            server.drop_all()
        assert server.connections == 3


def test_what_was_never_sent_is_told() -> None:
    """Nobody listens: the call was not sent."""
    with serving(lambda _: OK) as server:
        url = server.url
    with pytest.raises(NoResponseError) as nobody:
        HttpClient(url, 2).call("POST", "/x", {}, b"{}")
    assert not nobody.value.sent


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 200 OK\r\nContent-Le", b"not http at all\r\n\r\n", b""])
def test_a_lost_answer_is_no_answer(answer: bytes | None) -> None:
    """A connection that breaks, stays silent or talks nonsense after the request: it may have been carried out."""
    with serving(lambda _: answer) as server, closing(HttpClient(server.url, 0.2)) as peer:
        with pytest.raises(NoResponseError) as lost:
            peer.call("POST", "/x", {}, b"{}")
        assert lost.value.sent
        assert len(server.requests) == 1


@pytest.mark.parametrize("dripping", ["headers", "body"])
def test_an_answer_that_drips_is_no_answer(dripping: str) -> None:
    """The time-out is for the answer as a whole: a byte now and then does not keep a caller waiting."""
    first = b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n" + (b"\r\n" if dripping == "body" else b"")
    with serving(lambda _: first + b"x" * 999_999, 0.005) as server, closing(HttpClient(server.url, 0.4)) as peer:
        with pytest.raises(NoResponseError) as lost:  # or it would drip for an hour and a half
            peer.call("POST", "/x", {}, b"{}")
        assert lost.value.sent


def test_an_endless_answer_is_cut() -> None:
    """Only the beginning of a long answer is read, and its connection is not used again."""
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000
    with serving(lambda _: long) as server, closing(HttpClient(server.url, 2)) as peer:
        assert len(peer.call("GET", "/x", {})[1]) == 65536
        peer.call("GET", "/x", {})
        assert server.connections == 2


@pytest.mark.proves("F3")
@pytest.mark.parametrize("answer", [SICK, None])
def test_a_sick_peer_is_left_alone(answer: bytes | None) -> None:
    """Twenty 503 or lost answers open the breaker: the next call is refused and the server hears nothing."""
    changes: list[State] = []
    with serving(lambda _: answer) as server, closing(HttpClient(server.url, 2, Limits(), changes.append)) as peer:
        for _ in range(20):
            with suppress(NoResponseError):
                assert peer.call("GET", "/x", {})[0] == 503
        with pytest.raises(CircuitOpenError):
            peer.call("GET", "/x", {})
        assert len(server.requests) == 20
        assert changes == [State.OPEN]


def test_a_refusal_is_not_sickness() -> None:
    """4xx are answers: a hundred of them leave the breaker closed."""
    no = b"HTTP/1.1 422 Unprocessable\r\nContent-Length: 0\r\n\r\n"
    with serving(lambda _: no) as server, closing(HttpClient(server.url, 2)) as peer:
        assert {peer.call("GET", "/x", {})[0] for _ in range(100)} == {422}
        assert peer.breaker.state is State.CLOSED


@pytest.mark.parametrize("url", ["127.0.0.1:8010", "ftp://127.0.0.1", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """A wrong address fails the start, not the first charge."""
    with pytest.raises(ValueError, match="no http or https address"):
        HttpClient(url, 1)
