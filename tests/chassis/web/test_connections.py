"""Connections of an API: none is held for nothing, none is let in beyond the bound, and every refusal arrives."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from prometheus_client import REGISTRY

from quadrille import file_limits
from quadrille.web import app, connections
from quadrille.web.app import call_of
from quadrille.web.openapi import Answer
from tests.chassis.support.database import wait_until
from tests.chassis.support.http_harness import Client, drip, no_more_files, served
from tests.chassis.web.test_app import EXAMPLE, app_of, routes

BODY = json.dumps(EXAMPLE).encode()
POST = b"POST /v1/parcels HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nContent-Type: application/json\r\n"
GET = b"GET /v1/parcels/1 HTTP/1.1\r\nHost: x\r\n\r\n"
SHORT = ("HEAD_SECONDS", "BODY_SECONDS", "KEEP_ALIVE_SECONDS", "READ_SECONDS", "LINGER_SECONDS")
MANY = app.Routes("orders:read")
MANY.router.routes += routes.router.routes


@MANY.on("GET", "/v1/stream", scope="orders:read", problems=(), answers=[Answer(200, "Bytes without end.")])
async def stream(request: Request) -> Response:
    """Send bytes without end."""
    call = call_of(request)

    async def lines() -> AsyncIterator[bytes]:
        with call.resting():
            while True:
                yield b"x" * 65_536
                await asyncio.sleep(0)

    return StreamingResponse(lines())


@pytest.fixture(autouse=True)
def _looked_at_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quadrille.web.server.LOOK_SECONDS", 0.1)


@pytest.fixture(scope="module")
def api() -> Iterator[Client]:
    with served(app_of(MANY)) as client:
        yield client


@pytest.fixture
def hasty(api: Client, monkeypatch: pytest.MonkeyPatch) -> Client:
    """The API with every deadline over at once."""
    for name in SHORT:
        monkeypatch.setattr(connections, name, 0)
    return api


@contextmanager
def connected(client: Client, data: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as connection:
        connection.sendall(data)
        yield connection


def rest(connection: socket.socket) -> bytes:
    """Return what comes until the server closes; a reset is told as what it is."""
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def answers(data: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """Return the answers that bytes are: status, headers, body."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(headers.get("content-length", 0))
        found.append((int(first.split()[1]), headers, data[:size]))
        data = data[size:]
    return found


def refused(data: bytes) -> tuple[int, str, dict[str, Any]]:
    """Return status, slug and document of the only answer there is, once it is a whole problem."""
    ((status, headers, body),) = answers(data)
    document = json.loads(body)
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert document["request_id"] == headers["x-request-id"]
    assert document["trace_id"] == headers["x-trace-id"]
    assert document["instance"].startswith("/")
    return status, document["type"].rpartition("/")[2], document


def closed(port: str, cause: str) -> float:
    return REGISTRY.get_sample_value("quadrille_http_connections_closed_total", {"port": port, "cause": cause}) or 0


def there(port: str = "api") -> float:
    return REGISTRY.get_sample_value("quadrille_http_connections", {"port": port}) or 0


def test_who_says_nothing_is_closed(hasty: Client) -> None:
    """A connection without a byte, and one that is not used after its answer, are closed without a word."""
    before = closed("api", "silent"), closed("api", "idle")
    with connected(hasty) as silent:
        assert rest(silent) == b""
    with connected(hasty, GET) as used:
        ((status, _, _),) = answers(rest(used))
    assert status == 200
    assert (closed("api", "silent"), closed("api", "idle")) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize("sent", [b"G", b"GET /v1/parcels/1 HTTP/1.1\r\nHost: x\r\nX-Slow:", b"\r\n\r\nGET"])
def test_a_head_that_does_not_end_is_refused(hasty: Client, sent: bytes) -> None:
    """Whatever of a head has come when its time is over: 408, and the connection ends."""
    with connected(hasty, sent) as slow:
        assert refused(rest(slow))[:2] == (408, "request-timeout")


def test_one_byte_a_time_does_not_move_the_deadline(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that comes byte by byte has as long as any: what has come in time does not buy more time."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 2)
    with connected(api, b"GET /v1/parcels/1 HTTP/1.1\r\nHost: x\r\nX-Slow: ") as slow:
        slow.settimeout(0.01)
        answer = drip(slow, b"x")
    assert refused(answer)[:2] == (408, "request-timeout")


@pytest.mark.parametrize("length", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("path", [b"/v1/parcels", b"/v1/parcels/7/return", b"/v1/nowhere"])
def test_a_body_that_does_not_end_is_closed(hasty: Client, path: bytes, length: bytes) -> None:
    """A body that stops: 408 where it is read, and the connection ends however the request was answered."""
    head = POST.replace(b"/v1/parcels", path)
    with connected(hasty, head + length + b"\r\n\r\n") as slow:
        ((status, _, body),) = answers(rest(slow))
    assert (status, b"request-timeout" in body) in ((408, True), (404, False))


def test_who_reads_nothing_is_cut(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream whose client does not read is ended, and its place is free again."""
    monkeypatch.setattr(connections, "READ_SECONDS", 0)
    before = closed("api", "unread")
    with connected(api, GET.replace(b"/v1/parcels/1", b"/v1/stream")):
        wait_until(lambda: closed("api", "unread") > before)


def test_a_large_answer_nobody_reads_is_cut(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for answers that were written whole."""
    monkeypatch.setattr(connections, "READ_SECONDS", 0)
    before = closed("api", "unread")
    with connected(api, GET.replace(b"/v1/parcels/1", b"/docs/assets/swagger-ui-bundle.js") * 20):
        wait_until(lambda: closed("api", "unread") > before)


def test_keep_alive_is_announced(api: Client) -> None:
    """An answer says how long its connection is kept, longer than usual pools do; one that closes says that."""
    got = api.ask("GET", "/v1/parcels/1")
    assert got.headers["keep-alive"] == "timeout=75"
    with connected(api, GET.replace(b"Host: x", b"Host: x\r\nConnection: close")) as last:
        ((_, headers, _),) = answers(rest(last))
    assert ("keep-alive" in headers, headers["connection"]) == (False, "close")


def test_a_crowd_closes_who_was_silent_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the connection that has been silent longest goes; who comes is answered."""
    monkeypatch.setattr(file_limits, "shares", lambda: file_limits.Shares(20, 8))
    before = closed("api", "crowded")
    with served(app_of(MANY)) as client, ExitStack() as open_ones:
        oldest, *others = (open_ones.enter_context(connected(client)) for _ in range(60))
        assert rest(oldest) == b""
        assert client.ask("GET", "/v1/parcels/1").status == 200
        assert closed("api", "crowded") >= before + 40
        others[-1].sendall(GET)
        assert others[-1].recv(15) == b"HTTP/1.1 200 OK"


def test_who_is_answered_is_not_closed_for_a_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    """While every connection is being answered, one more is refused at once instead."""
    monkeypatch.setattr(file_limits, "shares", lambda: file_limits.Shares(24, 8))
    with served(app_of(MANY)) as client, ExitStack() as open_ones:
        reading = GET.replace(b"/v1/parcels/1", b"/v1/stream")
        streams = []
        for _ in range(24):
            streams.append(open_ones.enter_context(connected(client, reading)))
            assert streams[-1].recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
        before = closed("api", "refused")
        with connected(client) as late:
            assert rest(late) == b""
        assert closed("api", "refused") == before + 1
        assert all(streams[0].recv(65_536) for _ in range(100)), "the answer goes on"


def test_without_a_file_to_open_nobody_burns_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit of open files the silent go, asking is paced, and the next client is answered."""
    with served(app_of(MANY)) as client, ExitStack() as open_ones:
        before, count = closed("api", "no file left"), there()
        silent = [open_ones.enter_context(connected(client)) for _ in range(8)]
        wait_until(lambda: there() >= count + 8)
        waiting = socket.socket()
        open_ones.callback(waiting.close)
        with no_more_files():
            waiting.connect(("127.0.0.1", client.port))
            waiting.sendall(GET)
            used = time.process_time()
            wait_until(lambda: closed("api", "no file left") > before)
            assert waiting.recv(15) == b"HTTP/1.1 200 OK"
            assert time.process_time() - used < 5, "it asked again and again"
        assert rest(silent[0]) == b""


@pytest.mark.parametrize("path", ["/v1/parcels", "/v1/parcels/7/return", "/v1/nowhere"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_refusal_of_ten_megabytes_arrives(api: Client, path: str, *, chunked: bool) -> None:
    """Who sends the whole body before reading gets the refusal, not a reset."""
    size, head = 10 << 20, POST.replace(b"/v1/parcels", path.encode())
    sent = b"%x\r\n%s\r\n0\r\n\r\n" % (size, b" " * size) if chunked else b" " * size
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    with connected(api, head + length + b"\r\n\r\n" + sent) as large:
        ((status, headers, body),) = answers(large.recv(65_536))
        if status == 413:
            assert headers["connection"] == "close"
            assert rest(large) == b""
    assert (status, json.loads(body)["limit"] if status == 413 else 0) in ((413, 65_536), (404, 0))


def test_reading_away_is_bounded(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what was refused only so much is read, whether the connection is kept or not."""
    monkeypatch.setattr(connections, "LINGER_BYTES", 1 << 20)
    before = closed("api", "unread body")
    for path in (b"/v1/parcels", b"/v1/nowhere"):
        head = POST.replace(b"/v1/parcels", path) + b"Content-Length: %d\r\n\r\n" % (1 << 40)
        with connected(api, head) as endless, pytest.raises((ConnectionResetError, BrokenPipeError)):
            endless.sendall(b" " * (64 << 20))
    assert closed("api", "unread body") >= before + 2, "and one that an earlier test has left unread"


@pytest.mark.parametrize(
    ("path", "length", "expected"),
    [(b"/v1/parcels", 10 << 20, 413), (b"/v1/nowhere", 5, 404), (b"/v1/parcels", len(BODY), 202)],
)
def test_who_asks_first_is_told_first(api: Client, path: bytes, length: int, expected: int) -> None:
    """With Expect: 100-continue a body that is refused is never asked for, and the connection ends; a good one is."""
    head = POST.replace(b"/v1/parcels", path) + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % length
    with connected(api, head) as asking:
        first = asking.recv(65_536)
        if expected == 202:
            assert first == b"HTTP/1.1 100 Continue\r\n\r\n"
            asking.sendall(BODY)
            first = asking.recv(65_536)
        else:
            assert answers(first)[0][1]["connection"] == "close"
            assert rest(asking) == b""
    assert first.startswith(b"HTTP/1.1 %d " % expected)


URL_70K = b"GET /v1/parcels/1?limit=" + b"1" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
PARSED = [
    ("a target of 70 kB", URL_70K, 414, "uri-too-long"),
    ("a target of 17 kB", URL_70K.replace(b"1" * 70_000, b"1" * 17_000), 414, "uri-too-long"),
    ("a target without end", URL_70K[:300_000].partition(b" HTTP")[0] + b"1" * 600_000, 414, "uri-too-long"),
    ("a header without end", GET[:-2] + b"X: " + b"x" * 600_000, 431, "headers-too-large"),
    ("headers without end", GET[:-2] + b"X: x\r\n" * 200_000, 431, "headers-too-large"),
    ("no Host", b"GET / HTTP/1.1\r\n\r\n", 400, "malformed-request"),
    ("two Hosts", GET[:-2] + b"Host: y\r\n\r\n", 400, "repeated-header"),
    ("one Host twice", GET[:-2] + b"Host: x\r\n\r\n", 400, "repeated-header"),
    ("no such Host", GET.replace(b"Host: x", b"Host: x/y"), 400, "malformed-request"),
    ("a bad method", GET.replace(b"GET", b"BREW"), 400, "malformed-request"),
    ("a method in lower case", GET.replace(b"GET", b"get"), 400, "malformed-request"),
    ("a bad version", GET.replace(b"1.1", b"3.0"), 400, "malformed-request"),
    ("another protocol", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "malformed-request"),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed-request"),
    ("a folded header", GET[:-2] + b"X: a\r\n b\r\n\r\n", 400, "malformed-request"),
    ("a NUL", GET[:-2] + b"X: a\x00b\r\n\r\n", 400, "malformed-request"),
    ("a NUL in the target", GET.replace(b"/1", b"/\x00"), 400, "malformed-request"),
    ("a blank before the colon", GET[:-2] + b"X : a\r\n\r\n", 400, "malformed-request"),
    ("an authority as target", b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed-request"),
    ("two lengths", POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx", 400, "malformed-request"),
    ("length and chunks", POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "malformed-request"),
    ("a length that is none", POST + b"Content-Length: one\r\n\r\n", 400, "malformed-request"),
    ("a bad chunk", POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n", 400, "malformed-request"),
    ("a coding nobody reads", POST + b"Transfer-Encoding: gzip\r\n\r\nabc", 415, "unsupported-content-encoding"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "status", "slug"), [one[1:] for one in PARSED], ids=[one[0] for one in PARSED])
def test_what_cannot_be_read_is_a_problem(api: Client, data: bytes, status: int, slug: str) -> None:
    """Whatever the parser refuses is a problem document with the ids of request and trace, and the connection ends."""
    with connected(api) as sending:
        sending.sendall(data)
        head = b"".join(iter(lambda: sending.recv(65_536), b""))
    ((found, headers, body),) = answers(head)
    document = json.loads(body)
    assert (found, document["type"].rpartition("/")[2]) == (status, slug), document
    assert document["request_id"] == headers["x-request-id"]


def test_what_is_known_of_a_bad_request_is_told(api: Client) -> None:
    """The id a client gave and the path it asked for are in the refusal, as far as they were read."""
    sent = GET[:-2] + b"X-Request-Id: mine-1\r\nY: a\r\nX : a\r\n\r\n"
    with connected(api, sent) as sending:
        _, _, document = refused(rest(sending))
    assert (document["request_id"], document["instance"]) == ("mine-1", "/v1/parcels/1")


def test_answers_keep_their_order(api: Client) -> None:
    """Requests sent at once are answered one after the other; a bad one after the good ones before it, none after."""
    with connected(
        api, GET + POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY + GET + b"BREW\r\n" + GET
    ) as at_once:
        assert [status for status, _, _ in answers(rest(at_once))] == [200, 202, 200, 400]


def test_a_half_closed_connection_is_answered(api: Client) -> None:
    """Who has said all and closes its side still gets every answer; then the connection ends."""
    with connected(api, GET + GET) as half:
        half.shutdown(socket.SHUT_WR)
        assert [status for status, _, _ in answers(rest(half))] == [200, 200]


def test_an_old_client_is_answered(api: Client) -> None:
    """HTTP/1.0 without a Host is answered, and the connection ends."""
    with connected(api, b"GET /v1/parcels/1 HTTP/1.0\r\n\r\n") as old:
        ((status, headers, _),) = answers(rest(old))
    assert (status, headers["connection"]) == (200, "close")


@pytest.mark.parametrize(
    "target", [b"http://x/v1/parcels/1?limit=3", b"/v1/parcels/1?limit=3", b"/v1/parcels/1?limit=3#a"]
)
def test_a_target_names_a_path(api: Client, target: bytes) -> None:
    """A target with scheme and host is as good as one without."""
    with connected(api, GET.replace(b"/v1/parcels/1", target)) as asking:
        ((status, _, body),) = answers(asking.recv(65_536))
    assert (status, json.loads(body)["limit"]) == (200, 3)


@pytest.mark.parametrize(
    "target",
    [b"http://x", b"*", b"/v1/parcels/7%2Freturn", b"/v1/parcels%2f1", b"/v1//parcels/1", b"/v1/../v1/parcels/1"],
)
def test_another_spelling_is_another_path(api: Client, target: bytes) -> None:
    """No spelling of a path leads to what another path names: an escaped slash least of all."""
    with connected(api, POST.replace(b"/v1/parcels", target) + b"Content-Length: 0\r\n\r\n") as asking:
        ((status, _, _),) = answers(asking.recv(65_536))
    assert status == 404


def test_a_trailer_is_no_header(api: Client) -> None:
    """What comes after the chunks of a body cannot stand in for a header."""
    head = POST.replace(b"Idempotency-Key: k\r\n", b"") + b"Transfer-Encoding: chunked\r\n\r\n"
    chunks = b"%x\r\n%s\r\n0\r\nIdempotency-Key: k\r\nHost: y\r\n\r\n" % (len(BODY), BODY)
    with connected(api, head + chunks + GET) as asking:
        asking.shutdown(socket.SHUT_WR)
        found = answers(rest(asking))
    assert [status for status, _, _ in found] == [400, 200]
    assert b"idempotency-key-missing" in found[0][2]


@pytest.mark.parametrize(
    "length",
    [
        b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY,
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY),
    ],
)
@pytest.mark.parametrize("apart", [False, True])
def test_who_would_rather_speak_http_2_is_answered(api: Client, length: bytes, *, apart: bool) -> None:
    """An offer to upgrade, as Java's client makes it on every connection, changes nothing: the body is read."""
    offer = (
        POST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
    )
    head, _, body = length.partition(b"\r\n\r\n")
    with connected(api, offer + head + b"\r\n\r\n") as java:
        if apart:
            wait_until(lambda: there() > 0)
        java.sendall(body + GET)
        java.shutdown(socket.SHUT_WR)
        assert [status for status, _, _ in answers(rest(java))] == [202, 200]


def test_options_and_head(api: Client) -> None:
    """OPTIONS says what there is; HEAD of a refusal has no body."""
    got = api.ask("OPTIONS", "/v1/parcels")
    assert (got.status, got.headers["allow"]) == (405, "POST")
    with connected(api, GET.replace(b"GET", b"HEAD").replace(b"Host: x\r\n", b"")) as asking:
        head, _, body = rest(asking).partition(b"\r\n\r\n")
    assert (head.split(b"\r\n")[0], body) == (b"HTTP/1.1 400 Bad Request", b"")


def test_the_limit_of_files_is_raised_and_shared() -> None:
    """A process takes what its limit allows; its ports' shares leave room for all else, however low it is."""
    for most in (64, 256, 1024, 20_000, file_limits.UNLIMITED):
        shares = file_limits.shares(most)
        assert sum(shares) <= most - min(file_limits.ROOM, most // 4)
        assert (shares.api >= 8, shares.ops >= 4) == (True, True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard // 2, hard))
    try:
        assert file_limits.take_all() == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
