"""What is asked over the ops port is read strictly, answered once, and refused with a problem that says what to do."""

from __future__ import annotations

import http.client
import ipaddress
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any, Literal

import psutil
import pytest

from order.problems import PROBLEMS
from quadrille.ops import server as ops
from quadrille.ops.routes import OpsRequest, OpsResponse
from quadrille.web import requests
from quadrille.web.documents import Document
from quadrille.web.problems import KINDS, refuse, register

register(*PROBLEMS)  # one of the routes refuses with a type of order's
WHY = {"reason": "a customer called"}
JSON = {"Content-Type": "application/json"}


class Wanted(Document):
    """What the test's write takes."""

    how: Literal["ONE", "OTHER"]
    often: int = 1


def read(asked: OpsRequest) -> OpsResponse:
    return OpsResponse(200, {"path": asked.path, "query": asked.query, "actor": asked.actor})


def write(asked: OpsRequest) -> OpsResponse:
    wanted, identity = asked.read(Wanted), asked.identity("order_id")
    return OpsResponse(
        202, {"id": str(identity), "how": wanted.how, "often": wanted.often, "by": asked.actor, "why": asked.reason}
    )


def fail(_: OpsRequest) -> OpsResponse:
    message = "token=hunter2"
    raise ConnectionError(message)


def frozen(_: OpsRequest) -> OpsResponse:
    refuse("order-frozen", "Retry the undo, or resolve it.", since="2026-11-21T09:19:03.120Z")


ROUTES = {
    ("GET", "/ops/orders/{order_id}?state&limit"): read,
    ("POST", "/ops/orders/{order_id}/act"): write,
    ("POST", "/ops/fail"): fail,
    ("POST", "/ops/frozen"): frozen,
}
ORDER = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"
ACT = f"/ops/orders/{ORDER}/act"


class Caller:
    """One connection to an ops port: what is refused leaves it fit for the next request, or closed."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.port = port
        self.line = http.client.HTTPConnection(host, port, timeout=60)

    def ask(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, Any, http.client.HTTPMessage]:
        """Return status, document and headers of one answer."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = JSON if data is not None else {}
        self.line.request(method, path, data, {**sent, **{k.replace("_", "-"): v for k, v in headers.items()}})
        answer = self.line.getresponse()
        raw = answer.read()
        return (
            answer.status,
            json.loads(raw) if raw and "json" in answer.headers["Content-Type"] else raw,
            answer.headers,
        )

    def problem(self, method: str, path: str, body: object = None, **headers: str) -> tuple[str, Any]:
        """Return the slug and document of a refusal, which has every member a problem must have."""
        status, document, told = self.ask(method, path, body, **headers)
        slug = document["type"].rpartition("/")[2]
        assert (status, document["status"]) == (KINDS[slug].status, KINDS[slug].status)
        assert {"title", "detail", "instance", "request_id", "trace_id", "retryable"} <= set(document)
        assert told["Content-Type"] == "application/problem+json"
        assert told["X-Request-Id"] == document["request_id"]
        return slug, document


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """An ops port with the test's routes."""
    with ops.serve("0.0.0.0:0", "payment", "worker", {}, routes=ROUTES) as server:
        yield server.server_port


@pytest.fixture
def caller(port: int) -> Iterator[Caller]:
    """A caller of it from this machine."""
    one = Caller(port)
    yield one
    one.line.close()


def test_a_route_is_told_path_query_body_caller_and_reason(caller: Caller) -> None:
    """Variables of the path, the parameters it names, the members it takes, `local`, and why: all reach the route."""
    status, document, told = caller.ask("GET", "/ops/orders/a%20b?limit=5", X_Request_Id="mine-1")
    assert (status, document) == (200, {"path": {"order_id": "a b"}, "query": {"limit": "5"}, "actor": "local"})
    assert told["X-Request-Id"] == "mine-1"
    assert len(told["X-Trace-Id"]) == 32

    status, document, _ = caller.ask("POST", ACT, {"how": "ONE", **WHY})
    assert (status, document) == (202, {"id": ORDER, "how": "ONE", "often": 1, "by": "local", "why": WHY["reason"]})


WRONG = [
    ("GET", "/ops/other", None, "not-found", ""),
    ("GET", f"/ops%2Forders/{ORDER}", None, "not-found", ""),
    ("GET", f"/ops/orders/{ORDER}/", None, "not-found", ""),
    ("GET", ACT, None, "method-not-allowed", ""),
    ("DELETE", ACT, None, "method-not-allowed", ""),
    ("POST", "/readyz", WHY, "method-not-allowed", ""),
    ("GET", f"/ops/orders/{ORDER}?state=a&other=b", None, "validation-failed", "query:other"),
    ("GET", f"/ops/orders/{ORDER}?state=a&state=b", None, "repeated-parameter", ""),
    ("POST", f"{ACT}?limit=1", {"how": "ONE", **WHY}, "validation-failed", "query:limit"),
    ("POST", ACT, b"{", "malformed-json", ""),
    ("POST", ACT, b'{"reason": "a", "reason": "b"}', "malformed-json", ""),
    ("POST", ACT, b"[" * 40, "malformed-json", ""),
    ("POST", ACT, b"\xff", "malformed-json", ""),
    ("POST", ACT, b"", "malformed-json", ""),
    ("POST", ACT, [1], "validation-failed", ""),
    ("POST", ACT, {"how": "ONE"}, "validation-failed", "/reason"),
    ("POST", ACT, {"how": "ONE", "reason": "  "}, "validation-failed", "/reason"),
    ("POST", ACT, {"how": "ONE", "reason": "a\x00b"}, "validation-failed", "/reason"),
    ("POST", ACT, {"how": "ONE", "reason": 1}, "validation-failed", "/reason"),
    ("POST", ACT, WHY, "validation-failed", "/how"),
    ("POST", ACT, {"how": "NONE", **WHY}, "validation-failed", "/how"),
    ("POST", ACT, {"how": "ONE", "often": "2", **WHY}, "validation-failed", "/often"),
    ("POST", ACT, {"how": "ONE", "actor": "root", **WHY}, "validation-failed", "/actor"),
    ("POST", "/ops/orders/4711/act", {"how": "ONE", **WHY}, "validation-failed", "path:order_id"),
    ("POST", ACT, b'{"how": "ONE", "reason": "' + b"x" * 70_000 + b'"}', "body-too-large", ""),
    ("POST", ACT, b"x" * 10_000_000, "body-too-large", ""),
    ("POST", "/ops/other", b"x" * 10_000_000, "not-found", ""),
    ("POST", "/ops/frozen", WHY, "order-frozen", ""),
    ("POST", "/ops/fail", WHY, "internal", ""),
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: f"{w[0]} {w[1][:20]} {str(w[2])[:24]}")
def test_what_is_asked_wrongly_is_refused(caller: Caller, wrong: tuple[str, str, object, str, str]) -> None:
    """Each wrong way of asking has its problem, pointing at its place; nothing of ours leaks, and the port goes on."""
    method, path, body, slug, hint = wrong
    found, document = caller.problem(method, path, body)
    assert found == slug
    assert hint in [error["pointer"] for error in document.get("errors", [{"pointer": ""}])]
    assert "hunter2" not in json.dumps(document)
    caller.line.close()
    assert caller.ask("GET", "/livez")[:2] == (200, {"alive": True})


def test_an_answer_never_depends_on_what_went_before_it(caller: Caller) -> None:
    """After a refusal whose body was not read, what is left of that body is no request."""
    smuggled = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", caller.port), timeout=60) as line:
        line.sendall(b"POST /ops/other HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(smuggled) + smuggled)
        line.shutdown(socket.SHUT_WR)
        assert _all(line).count(b"HTTP/1.1 ") == 1
    with socket.create_connection(("127.0.0.1", caller.port), timeout=60) as line:
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" % ACT.encode()
        line.sendall(head + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n" + smuggled)
        answer = _all(line)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"malformed-request" in answer


def test_other_media_types_and_web_pages_write_nothing(caller: Caller) -> None:
    """A form is 415; a browser, which names its Origin, is refused whatever it sends."""
    wanted = {"how": "ONE", **WHY}
    assert caller.problem("POST", ACT, wanted, Content_Type="text/plain")[0] == "unsupported-media-type"
    assert (
        caller.problem("POST", ACT, wanted, Content_Type="application/json; charset=latin-1")[0]
        == "unsupported-media-type"
    )
    assert caller.problem("POST", ACT, wanted, Origin="http://127.0.0.1:8101")[0] == "unauthorized"
    assert caller.ask("POST", ACT, wanted, Content_Type="application/json; charset=UTF-8")[0] == 202


def address_of_this_machine() -> str:
    """Return an address of this machine that is not its loopback; without one the test is skipped."""
    addresses = [a.address for own in psutil.net_if_addrs().values() for a in own if a.family is socket.AF_INET]
    found = next((a for a in addresses if not ipaddress.ip_address(a).is_loopback), None)
    return found or pytest.skip("this machine has no address but loopback")


def test_a_write_comes_from_this_machine(port: int) -> None:
    """Without keys a write from another address is refused; a read is not."""
    afar = Caller(port, address_of_this_machine())

    assert afar.problem("POST", ACT, {"how": "ONE", **WHY})[0] == "unauthorized"
    assert afar.ask("GET", "/livez")[0] == 200
    afar.line.close()


def test_a_body_that_does_not_come_is_not_waited_for(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a body is a time-out of its own, and holds up nobody else."""
    monkeypatch.setattr(requests, "BODY_SECONDS", 0.2)
    head = (
        b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{" % ACT.encode()
    )
    with socket.create_connection(("127.0.0.1", caller.port), timeout=60) as line:
        line.sendall(head)
        assert caller.ask("GET", "/livez")[0] == 200
        assert b"request-timeout" in _all(line)


def test_what_is_no_http_is_told_so(caller: Caller) -> None:
    """A method nobody knows, a line too long, headers without end: a problem each, and no trace of what was sent."""
    livez = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
    for sent, slug in (
        (b"BREW /livez HTTP/1.1\r\nHost: x\r\n\r\n", "malformed-request"),
        (b"hunter2\r\n\r\n", "malformed-request"),
        (b"GET /livez HTTP/2.0\r\n\r\n", "malformed-request"),
        (b"GET /livez HTTP/1.1\r\n\r\n", "malformed-request"),
        (livez + b"Host: y\r\n\r\n", "repeated-header"),
        (livez + b"Content-Type: a/b\r\nContent-Type: c/d\r\n\r\n", "repeated-header"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", "uri-too-long"),
        (livez + b"X: " + b"a" * 70_000 + b"\r\n\r\n", "headers-too-large"),
        (livez + b"X: a\r\n" * 200 + b"\r\n", "headers-too-large"),
    ):
        with socket.create_connection(("127.0.0.1", caller.port), timeout=60) as line:
            line.sendall(sent)
            head, _, body = _all(line).partition(b"\r\n\r\n")
        document = json.loads(body)
        assert document["type"].rpartition("/")[2] == slug
        assert f"x-request-id: {document['request_id']}".encode() in head.lower()
        assert b"hunter2" not in head + body


def test_a_body_in_chunks_is_read(caller: Caller) -> None:
    """A write whose length is not told beforehand is read as any, within the same bound."""
    body = json.dumps({"how": "ONE", **WHY}).encode()
    for sent, status in ((body, 202), (b" " * 70_000, 413)):
        caller.line.request("POST", ACT, iter((sent[:9], sent[9:])), JSON, encode_chunked=True)
        answer = caller.line.getresponse()
        assert (answer.status, bool(answer.read())) == (status, True)


def test_a_body_is_asked_for_once_it_is_wanted(caller: Caller) -> None:
    """With Expect: 100-continue a good write is asked for its body, one that is refused is told so first."""
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    body = json.dumps({"how": "ONE", **WHY}).encode()
    with socket.create_connection(("127.0.0.1", caller.port), timeout=60) as line:
        line.sendall(head % (ACT.encode(), len(body)))
        assert line.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.sendall(body)
        assert line.recv(65_536).startswith(b"HTTP/1.1 202 ")
    with socket.create_connection(("127.0.0.1", caller.port), timeout=60) as line:
        line.sendall(head % (ACT.encode(), 10_000_000))
        assert _all(line).startswith(b"HTTP/1.1 413 ")


def test_an_encoded_write_is_refused(caller: Caller) -> None:
    """What is compressed is not read as what it is not."""
    assert (
        caller.problem("POST", ACT, {"how": "ONE", **WHY}, Content_Encoding="gzip")[0] == "unsupported-content-encoding"
    )


def test_every_type_has_its_page_and_every_route_its_head(caller: Caller) -> None:
    """The type of a problem is an address that answers; HEAD is GET without the body."""
    _, document = caller.problem("GET", "/ops/other")
    path = document["type"].removeprefix(f"http://0.0.0.0:{caller.port}")
    assert b"Check the id and the path" in caller.ask("GET", path)[1]
    status, body, told = caller.ask("HEAD", "/livez")
    assert (status, body, told["Content-Length"]) == (200, b"", "15")


def test_many_at_once_are_each_answered(caller: Caller) -> None:
    """Sixteen callers writing at once get their own answers."""
    found: dict[int, int] = {}

    def one(number: int) -> None:
        mine = Caller(caller.port)
        found[number] = mine.ask("POST", ACT, {"how": "ONE", "often": number, **WHY})[1]["often"]
        mine.line.close()

    threads = [threading.Thread(target=one, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {n: n for n in range(16)}


def _all(line: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    found = b""
    try:
        while chunk := line.recv(65_536):
            found += chunk
    except ConnectionResetError:
        pass
    return found
