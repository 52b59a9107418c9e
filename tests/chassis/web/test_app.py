"""The edges of every API: what is not declared is refused, by one shape of problem, and every answer can be traced."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Annotated, Any

import pytest
import structlog
from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from quadrille.keys import Keyring
from quadrille.observability.trace_context import new_trace
from quadrille.observability.tracing import Spans
from quadrille.web import app, requests
from quadrille.web.openapi import Answer
from quadrille.web.problems import KINDS, refuse
from tests.chassis.support.http_harness import Client, Got, served
from tests.chassis.support.otlp_receiver import Sink, attributes

BASE = "http://shop.example"
routes = app.Routes("orders:read", "orders:write")


class Line(BaseModel):
    """A line of a parcel."""

    model_config = ConfigDict(extra="forbid", strict=True)
    sku: str
    quantity: int = Field(ge=1, le=10)


class Parcel(BaseModel):
    """A parcel."""

    model_config = ConfigDict(extra="forbid", strict=True)
    lines: list[Line]


EXAMPLE = {"lines": [{"sku": "SKU-TEA", "quantity": 2}]}


@routes.on(
    "POST", "/v1/parcels", scope="orders:write", problems=("idempotency-key-missing",),
    answers=[Answer(202, "Taken.", Parcel, EXAMPLE, {"Location": "Where it is."})],
)  # fmt: skip
async def take(parcel: Parcel, key: Annotated[str, Header(alias="Idempotency-Key", min_length=1)]) -> Response:
    """Take a parcel."""
    return JSONResponse(parcel.model_dump(), 202, {"Location": f"/v1/parcels/{key}"})


@routes.on(
    "POST", "/v1/parcels/{number}/return", scope="orders:write", problems=(),
    answers=[Answer(200, "Taken back.", Parcel, EXAMPLE)],
)  # fmt: skip
async def give_back(number: int, prefer: Annotated[str | None, Header()] = None) -> Response:
    """Take a parcel back."""
    return JSONResponse({"number": number, "prefer": prefer})


@routes.on(
    "GET", "/v1/parcels/{number}", scope="orders:read", problems=("not-found",),
    answers=[Answer(200, "A parcel.", Parcel, EXAMPLE)],
)  # fmt: skip
def show(number: Annotated[int, Field(ge=1)], limit: Annotated[int, Query(ge=1)] = 1) -> Response:
    """Show a parcel."""
    if number == 13:
        message = "card 4242 4242"
        raise ValueError(message)
    if number > 99:
        refuse("not-found")
    return JSONResponse({"lines": [], "number": number, "limit": limit})


def app_of(chosen: app.Routes, spans: Spans | None = None, keys: Keyring | None = None) -> Any:  # noqa: ANN401 - an ASGI app
    api: AbstractAsyncContextManager[object] = nullcontext()
    return app.make_app("parcels", chosen, api, spans or Spans.disabled(), BASE, keys=keys)


@pytest.fixture(scope="module", autouse=True)
def _plain_logs() -> Iterator[None]:
    structlog.configure(processors=[structlog.processors.JSONRenderer(default=str)])
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def api() -> Iterator[Client]:
    with served(app_of(routes)) as client:
        yield client


KEY = {"Idempotency-Key": "k"}


def problem(got: Got, slug: str) -> dict[str, Any]:
    """Return the document, once it is proven to be this problem, whole."""
    document: dict[str, Any] = got.json()
    assert document["type"] == f"{BASE}/problems/{slug}", document
    assert (document["status"], document["title"]) == (got.status, KINDS[slug].title)
    assert (document["request_id"], document["trace_id"]) == (got.headers["x-request-id"], got.headers["x-trace-id"])
    assert document["retryable"] is KINDS[slug].retryable
    assert document["code"] == slug
    assert document["detail"]
    assert document["instance"].startswith("/")
    assert got.headers["content-type"] == "application/problem+json"
    assert got.status == KINDS[slug].status
    return document


def test_a_declared_request_is_answered(api: Client) -> None:
    """A good request gets its answer, with the ids of request and trace."""
    got = api.ask("POST", "/v1/parcels", EXAMPLE, KEY | {"X-Request-Id": "mine-1"})

    assert (got.status, got.json(), got.headers["location"]) == (202, EXAMPLE, "/v1/parcels/k")
    assert got.headers["x-request-id"] == "mine-1"
    assert len(got.headers["x-trace-id"]) == 32


def test_a_strange_request_id_is_replaced(api: Client) -> None:
    """An id that is not visible ASCII, or too long, is not echoed."""
    for strange in ("x" * 129, "a b"):
        got = api.ask("GET", "/v1/parcels/1", headers={"X-Request-Id": strange})
        assert got.headers["x-request-id"] != strange


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"lines": [], "lines": []}',
        b'{"lines": NaN}',
        b'{"lines": ["\\ud800"]}',
        b"[" * 17 + b"]" * 17,
        b"\xff",
    ],
)
def test_malformed_json(api: Client, body: bytes) -> None:
    """Whatever is not strict JSON is 400 malformed-json, with a position where there is one."""
    assert "position" in problem(api.ask("POST", "/v1/parcels", body, KEY), "malformed-json")


def test_validation_points_to_the_place(api: Client) -> None:
    """Each error has a JSON pointer, a code and a message; unknown members are errors."""
    body = {"lines": [{"sku": 1, "quantity": 0, "odd": 1}], "a/b": 1}
    errors = problem(api.ask("POST", "/v1/parcels", body, KEY), "validation-failed")["errors"]

    assert {(e["pointer"], e["code"]) for e in errors} == {
        ("/lines/0/sku", "string_type"),
        ("/lines/0/quantity", "greater_than_equal"),
        ("/lines/0/odd", "extra_forbidden"),
        ("/a~1b", "extra_forbidden"),
    }


def test_unknown_and_invalid_parameters(api: Client) -> None:
    """A query parameter the route does not declare is refused, and so is an invalid one, by name."""
    for path, pointer in (("?odd=1", "query:odd"), ("?limit=0", "query:limit")):
        errors = problem(api.ask("GET", f"/v1/parcels/1{path}"), "validation-failed")["errors"]
        assert [e["pointer"] for e in errors] == [pointer]
    assert problem(api.ask("GET", "/v1/parcels/0"), "validation-failed")["errors"][0]["pointer"] == "path:number"


def test_a_missing_key(api: Client) -> None:
    """Without an Idempotency-Key: 400, whatever else is wrong."""
    problem(api.ask("POST", "/v1/parcels", {"odd": 1}), "idempotency-key-missing")


def test_a_body_beyond_64_kib(api: Client) -> None:
    """65,536 bytes pass; one more is 413, declared or chunked."""
    exact = json.dumps(EXAMPLE).encode().ljust(65_536)
    assert api.ask("POST", "/v1/parcels", exact, KEY).status == 202
    assert problem(api.ask("POST", "/v1/parcels", exact + b" ", KEY), "body-too-large")["limit"] == 65_536

    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    head = b"POST /v1/parcels HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nContent-Type: application/json\r\n"
    answer = api.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 3 + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"/problems/body-too-large" in answer


def test_a_body_that_does_not_arrive(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that trickles is 408 after its time."""
    monkeypatch.setattr(requests, "BODY_SECONDS", 0.05)
    head = b"POST /v1/parcels HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", api.port), timeout=60) as connection:
        connection.sendall(head + b"Content-Length: 100\r\n\r\n{")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 408 ")


def lines_of(
    api: Client, *lines: bytes, body: bytes = json.dumps(EXAMPLE).encode(), path: bytes = b"/v1/parcels"
) -> Got:
    """Send a POST with exactly these header lines beside Host and the length."""
    head = [b"POST %s HTTP/1.1" % path, b"Host: x", b"Content-Length: %d" % len(body), *lines]
    answer = api.raw(b"\r\n".join(head) + b"\r\n\r\n" + body)
    first, _, found = answer.partition(b"\r\n\r\n")
    status, *told = first.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in told)}
    return Got(int(status.split()[1]), headers, found)


JSON, ONCE = b"Content-Type: application/json", b"Idempotency-Key: k"


@pytest.mark.parametrize(
    ("lines", "header"),
    [
        ((JSON, ONCE, b"idempotency-key: other"), "Idempotency-Key"),
        ((JSON, b"CONTENT-TYPE: text/plain", ONCE), "Content-Type"),
        ((JSON, ONCE, b"Authorization: Bearer a", b"Authorization: Bearer b"), "Authorization"),
        ((JSON, ONCE, b"Last-Event-ID: 1", b"Last-Event-ID: 2"), "Last-Event-Id"),
        ((JSON, ONCE, b"Host: x"), "Host"),
    ],
)
def test_two_values_of_one(api: Client, lines: tuple[bytes, ...], header: str) -> None:
    """A header of one value that comes with two different ones is 400 and is named: nobody guesses which was meant."""
    assert problem(lines_of(api, *lines), "repeated-header")["header"] == header


def test_one_value_twice(api: Client) -> None:
    """The same value on two lines is that value; blanks around it are none of it."""
    assert lines_of(api, JSON, JSON, ONCE, b"Idempotency-Key:  k  ").headers["location"] == "/v1/parcels/k"


def test_a_list_on_several_lines(api: Client) -> None:
    """A header that is a list is read whole, in the order of its lines."""
    got = lines_of(
        api,
        b"Prefer: respond-async",
        b"Accept: a/b",
        b"prefer: wait=5",
        b"Accept: */*",
        body=b"",
        path=b"/v1/parcels/1/return",
    )
    assert got.json()["prefer"] == "respond-async, wait=5"


@pytest.mark.parametrize("query", ["limit=1&limit=2", "limit=1&limit=1", "limit=1&%6Cimit=1", "limit=&limit="])
def test_a_parameter_twice(api: Client, query: str) -> None:
    """A query parameter that comes twice is 400, whatever its values, and is named."""
    assert problem(api.ask("GET", f"/v1/parcels/1?{query}"), "repeated-parameter")["parameter"] == "limit"


def test_a_query_that_is_no_text(api: Client) -> None:
    """What is not UTF-8 once decoded is refused, not read as something else."""
    errors = problem(api.ask("GET", "/v1/parcels/1?limit=%ff"), "validation-failed")["errors"]
    assert [error["code"] for error in errors] == ["string_unicode"]


@pytest.mark.parametrize("coding", [b"Content-Encoding: gzip", b"Content-Encoding: identity\r\nContent-Encoding: br"])
def test_an_encoded_body(api: Client, coding: bytes) -> None:
    """A body that is compressed is 415 and says what is read; identity is as good as nothing."""
    got = lines_of(api, JSON, ONCE, coding)
    assert problem(got, "unsupported-content-encoding")["accepted"] == ["identity"]
    assert got.headers["accept-encoding"] == "identity"
    assert lines_of(api, JSON, ONCE, b"Content-Encoding: Identity").status == 202


@pytest.mark.parametrize(
    ("lines", "body", "slug"),
    [
        ((JSON,), b'{"reason": "late"}', "validation-failed"),
        ((JSON,), b"[]", "validation-failed"),
        ((JSON,), b"null", "validation-failed"),
        ((JSON,), b"{", "malformed-json"),
        ((JSON,), b" ", "malformed-json"),
        ((b"Content-Type: application/x-www-form-urlencoded",), b"reason=late", "unsupported-media-type"),
        ((), b"{}", "unsupported-media-type"),
        ((JSON, b"Content-Encoding: gzip"), b"{}", "unsupported-content-encoding"),
        ((JSON,), b" " * 65_537, "body-too-large"),
    ],
)
def test_a_body_where_none_is_wanted(api: Client, lines: tuple[bytes, ...], body: bytes, slug: str) -> None:
    """A route that takes no body refuses one that says something: it would be ignored."""
    problem(lines_of(api, *lines, body=body, path=b"/v1/parcels/1/return"), slug)


def test_nothing_where_nothing_is_wanted(api: Client) -> None:
    """No body, an empty one of any type, and an empty object are nothing."""
    for lines, body in (((), b""), ((b"Content-Type: text/plain",), b""), ((JSON,), b"{}"), ((JSON,), b" { }\n")):
        assert lines_of(api, *lines, body=body, path=b"/v1/parcels/1/return").status == 200


def test_another_media_type(api: Client) -> None:
    """Anything but JSON in UTF-8 is 415 and says what is accepted."""
    for kind in ("text/plain", "application/xml", "application/json; charset=latin-1", ""):
        got = api.ask("POST", "/v1/parcels", b"{}", KEY | {"Content-Type": kind})
        assert problem(got, "unsupported-media-type")["accepted"] == ["application/json"]
    assert (
        api.ask("POST", "/v1/parcels", EXAMPLE, KEY | {"Content-Type": "application/json; charset=UTF-8"}).status == 202
    )


def test_unknown_paths_and_methods(api: Client) -> None:
    """An unknown path is 404; a path that exists under another method is 405 with all its methods."""
    problem(api.ask("GET", "/v1/nothing"), "not-found")
    problem(api.ask("GET", "/v1/parcels/100"), "not-found")
    problem(api.ask("GET", "/v1/parcels/1/"), "not-found")
    got = api.ask("DELETE", "/v1/parcels/1")
    assert (problem(got, "method-not-allowed")["allow"], got.headers["allow"]) == (["GET", "HEAD"], "GET, HEAD")
    assert api.ask("GET", "/v1/parcels").headers["allow"] == "POST"


def test_head_is_get_without_a_body(api: Client) -> None:
    """HEAD answers as GET does, headers and all, and no body."""
    got = api.ask("HEAD", "/v1/parcels/1")

    assert (got.status, got.body) == (200, b"")
    assert int(got.headers["content-length"]) > 0


def test_a_bug_is_500_without_values(api: Client) -> None:
    """An exception in an endpoint is a problem that shows nothing of it."""
    got = api.ask("GET", "/v1/parcels/13")

    problem(got, "internal")
    assert b"4242" not in got.body


def test_headers_are_bounded(api: Client) -> None:
    """More than 16 KiB of headers are 431."""
    assert (
        problem(api.ask("GET", "/v1/parcels/1", headers={"X-Long": "x" * 17_000}), "headers-too-large")["limit"]
        == 16_384
    )


def test_every_request_is_a_trace_of_its_own() -> None:
    """A request's span is a root with method, route and status; a caller's traceparent becomes a link, not a parent."""
    outside, two = new_trace(), b"traceparent: %s\r\n" % new_trace().traceparent.encode() * 2
    with Sink() as sink:
        spans = Spans("order", "api", [sink.url])
        with served(app_of(routes, spans)) as client:
            got = client.ask("GET", "/v1/parcels/7", headers={"traceparent": outside.traceparent})
            client.raw(b"GET /v1/parcels/7 HTTP/1.1\r\nHost: x\r\n%s\r\n" % two)
            client.ask("GET", "/v1/parcels/13")
        spans.stop()
        good, twice, bad = sink.wait_for(3)
        sink.shutdown()

    assert (good.name, good.trace_id.hex(), good.parent_span_id) == (
        "GET /v1/parcels/{number}",
        got.headers["x-trace-id"],
        b"",
    )
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in good.links] == [(outside.trace_id, outside.span_id)]
    found = attributes(good)
    assert (found["http.route"], found["http.response.status_code"]) == ("/v1/parcels/{number}", 200)
    assert list(twice.links) == [], "of two parents neither is one"
    assert bad.status.message == "ValueError"
    assert outside.trace_id != got.headers["x-trace-id"]


def test_a_request_is_one_span_once_the_sdk_is_installed() -> None:
    """Frameworks that make spans by themselves once the SDK is installed stay silent: ours are what a request has."""
    outside = new_trace()
    with Sink() as sink:
        program = f"""
from quadrille.observability.tracing import Spans
from tests.chassis.support.http_harness import served
from tests.chassis.web.test_app import app_of, routes
spans = Spans("order", "api", ["{sink.url}"]).install()
with served(app_of(routes, spans)) as client:
    client.ask("GET", "/v1/parcels/7", headers={{"traceparent": "{outside.traceparent}"}})
spans.stop(60)
"""
        subprocess.run([sys.executable, "-c", program], check=True)
        spans = sink.wait_for(1)
        sink.shutdown()
    assert [span.name for span in spans] == ["GET /v1/parcels/{number}"]
    assert spans[0].trace_id.hex() != outside.trace_id


def test_the_description_tells_every_answer(api: Client) -> None:
    """OpenAPI 3.1 names scope, answers, headers, and an example for every problem of a route."""
    document = api.ask("GET", "/openapi.json").json()
    post = document["paths"]["/v1/parcels"]["post"]

    assert document["openapi"].startswith("3.1")
    assert post["x-required-scope"] == "orders:write"
    assert sorted(post["responses"]) == [
        "202", "400", "408", "413", "414", "415", "422", "431", "500", "503",
    ]  # fmt: skip
    assert post["responses"]["202"]["content"]["application/json"]["example"] == EXAMPLE
    assert set(post["responses"]["202"]["headers"]) == {"Location", "X-Request-Id", "X-Trace-Id"}
    assert set(post["responses"]["400"]["content"]["application/problem+json"]["examples"]) == {
        "idempotency-key-missing", "malformed-json", "malformed-request", "repeated-header", "repeated-parameter",
    }  # fmt: skip
    assert "HTTPValidationError" not in json.dumps(document)


def test_the_pages_load_from_here_alone(api: Client) -> None:
    """/docs and every problem's page come with their assets, none from another host."""
    page = api.ask("GET", "/docs")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert b"http" not in page.body.replace(b"</title>", b"")
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "docs.js", "page.css"):
        assert api.ask("GET", f"/docs/assets/{asset}").status == 200
    for slug in KINDS:
        got = api.ask("GET", f"/problems/{slug}")
        assert (got.status, KINDS[slug].remedy[:10].encode() in got.body) == (200, True)
    assert all(f"/problems/{slug}".encode() in api.ask("GET", "/problems").body for slug in KINDS)
    problem(api.ask("GET", "/problems/odd"), "not-found")
    problem(api.ask("GET", "/docs/assets/LICENSE"), "not-found")


def test_a_route_without_a_scope_fails_the_start() -> None:
    """Deny by default: no scope, or one that does not exist, and nothing is served."""
    bare = app.Routes("orders:read", "orders:write")
    bare.router = APIRouter()
    bare.router.add_api_route("/v1/open", lambda: None)
    with pytest.raises(TypeError, match="/v1/open declares no scope"):
        app_of(bare)
    with pytest.raises(TypeError, match="orders:steal is no scope"):
        app.Routes().on("GET", "/x", scope="orders:steal", answers=[], problems=[])


def test_a_crowd_is_shed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound in flight, a request is 503 overloaded with Retry-After."""
    monkeypatch.setattr("quadrille.web.middleware.IN_FLIGHT_MAX", 0)
    with served(app_of(routes)) as client:
        got = client.ask("GET", "/v1/parcels/1")

    assert problem(got, "overloaded")["cause"] == "POOL_EXHAUSTED"
    assert got.headers["retry-after"] == "1"


def test_a_type_is_a_page(api: Client) -> None:
    """A problem's page is where its type says, under the base clients use."""
    slug = problem(api.ask("GET", "/v1/nothing"), "not-found")["type"].removeprefix(BASE)
    assert api.ask("GET", slug).status == 200
