"""Keys on an API: who shows none is nobody, who lacks the scope is told which, who asks too often when to come back."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.routing import Route
from starlette.types import ASGIApp

from quadrille import keys
from quadrille.keys import Keyring
from quadrille.observability import logs
from quadrille.observability.tracing import Spans
from quadrille.settings import Secret
from quadrille.web import EVENTS, OPEN, app, events, needs
from quadrille.web.openapi import Answer
from tests.chassis.support.http_harness import Client, Got, served
from tests.chassis.support.key_files import Watch, write
from tests.chassis.support.otlp_receiver import Sink

BASE = "http://shop.example"
END = b"0\r\n\r\n"
routes = app.Routes("parcels:read", "parcels:write")


class Parcel(BaseModel):
    """A parcel."""

    owner: str


def of(request: Request) -> Response:
    """Tell whose request it is."""
    return JSONResponse({"owner": app.call_of(request).caller})


@routes.on("GET", "/v1/parcels", scope="parcels:read", problems=(), answers=[Answer(200, "Yours.", Parcel)])
def show(request: Request) -> Response:
    """Show a parcel."""
    return of(request)


@routes.on("POST", "/v1/parcels", scope="parcels:write", problems=(), answers=[Answer(200, "Taken.", Parcel)])
def take(request: Request) -> Response:
    """Take a parcel."""
    return of(request)


@routes.on("GET", "/v1/fault", scope="parcels:read", problems=(), answers=[Answer(200, "Never.", Parcel)])
def fault(request: Request) -> Response:
    """Raise what nobody foresaw, with the request at hand."""
    message = f"with {len(request.headers)} headers"
    raise ValueError(message)


@routes.on("GET", "/v1/news", scope="parcels:read", problems=(), answers=[Answer(200, "News.", media_type=EVENTS)])
def follow(request: Request) -> Response:
    """Tell news without end."""

    async def news() -> AsyncIterator[bytes]:
        while True:
            yield b": news\n\n"
            await asyncio.sleep(0.001)

    return events(app.call_of(request), news())


@needs("parcels:read")
async def label(request: Request) -> Response:
    """Show a page."""
    return of(request)


@needs(OPEN)
async def poster(_: Request) -> Response:
    """Show a page for everybody."""
    return Response("welcome")


def app_of(ring: Keyring | None, spans: Spans | None = None, *pages: Route) -> ASGIApp:
    """Return the API."""
    api: AbstractAsyncContextManager[object] = nullcontext()
    shown = [Route("/label", label), Route("/poster", poster), *pages]
    return app.make_app("parcels", routes, api, spans or Spans.disabled(), BASE, keys=ring, pages=shown)


@dataclass(frozen=True, slots=True)
class Gate:
    """An API with keys, and three of them: one may read, one may do all, one of the reader's owner may write."""

    client: Client
    ring: Keyring
    reader: Secret
    root: Secret
    writer: Secret

    def ask(self, method: str, path: str, key: str | None = None) -> Got:
        """Ask, with a key if one is given."""
        return self.client.ask(method, path, headers={} if key is None else {"Authorization": f"Bearer {key}"})


def ring_of(file: Path, rate: int) -> tuple[Keyring, list[Secret]]:
    """Return a ring, and the texts of its keys."""
    minted = [
        keys.mint("acme", ["parcels:read"], timedelta(days=1)),
        keys.mint("root", ["admin"], None),
        keys.mint("acme", ["parcels:write"], None),
    ]
    file.write_text(keys.document_of([kept for _, kept in minted]))
    return Keyring(file, rate), [token for token, _ in minted]


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """An API with keys."""
    ring, texts = ring_of(tmp_path / "keys.json", 1_000_000)
    with served(app_of(ring)) as client:
        yield Gate(client, ring, *texts)


def problem(got: Got, status: int, slug: str) -> dict[str, object]:
    """Return the problem, once it is proven to be this one."""
    document: dict[str, object] = got.json()
    assert (got.status, document["type"]) == (status, f"{BASE}/problems/{slug}"), document
    return document


def test_who_shows_no_key_is_nobody(gate: Gate) -> None:
    """Every route refuses with 401, and says how a key is shown; the pages that tell this are for everybody."""
    for method in ("GET", "POST", "HEAD"):
        got = gate.ask(method, "/v1/parcels")
        assert got.status == 401
        assert got.headers["www-authenticate"] == 'Bearer realm="quadrille"'
    assert "Authorization: Bearer" in str(problem(gate.ask("GET", "/v1/parcels"), 401, "unauthorized")["detail"])
    assert gate.ask("GET", "/label").status == 401
    for path in ("/openapi.json", "/docs", "/problems/unauthorized", "/poster"):
        assert gate.ask("GET", path).status == 200


def test_what_is_no_key_is_refused_everywhere(gate: Gate) -> None:
    """A wrong key, another scheme, an empty one: 401 with invalid_token, on an open page too."""
    wrong = gate.reader[:-1] + ("0" if gate.reader[-1] != "0" else "1")
    for header in (f"Bearer {wrong}", "Bearer", "Basic dXNlcjpwYXNz", f"Token {gate.reader}", str(gate.reader)):
        for path in ("/v1/parcels", "/docs"):
            got = gate.client.ask("GET", path, headers={"Authorization": header})
            problem(got, 401, "unauthorized")
            assert 'error="invalid_token"' in got.headers["www-authenticate"]
    lines = "".join(f"Authorization: Bearer {key}\r\n" for key in (gate.reader, gate.root))
    assert b" 400 " in gate.client.raw(f"GET /v1/parcels HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())[:20]


def test_a_key_is_its_owner_and_may_what_its_scopes_say(gate: Gate) -> None:
    """Two keys of an owner are one caller; each may what it was given, and 403 names the scope that is missing."""
    assert gate.ask("GET", "/v1/parcels", gate.reader).json() == {"owner": "acme"}
    assert gate.ask("POST", "/v1/parcels", gate.writer).json() == {"owner": "acme"}
    assert gate.ask("GET", "/label", gate.root).json() == {"owner": "root"}
    assert gate.client.ask("GET", "/label", headers={"authorization": f"bearer  {gate.root}"}).status == 200
    for method, path, key, scope in (
        ("POST", "/v1/parcels", gate.reader, "parcels:write"),
        ("GET", "/v1/parcels", gate.writer, "parcels:read"),
        ("GET", "/label", gate.writer, "parcels:read"),
    ):
        got = gate.ask(method, path, key)
        assert problem(got, 403, "insufficient-scope")["required_scope"] == scope
        assert f'scope="{scope}"' in got.headers["www-authenticate"]


def test_too_many_requests_are_told_when_to_come_back(tmp_path: Path) -> None:
    """A spent quota is 429 with what it is and when there is more; another key goes on, and so does who shows none."""
    ring, (reader, root, _) = ring_of(tmp_path / "keys.json", 1)
    with served(app_of(ring)) as client:
        gate = Gate(client, ring, reader, root, root)
        first = gate.ask("GET", "/v1/parcels", reader)
        assert (first.status, first.headers["ratelimit"]) == (200, '"key";r=0;t=1')
        got = next(got for got in iter(lambda: gate.ask("GET", "/v1/parcels", reader), None) if got.status != 200)
        assert problem(got, 429, "rate-limited")["retry_after"] == 1
        assert (got.headers["retry-after"], got.headers["ratelimit-policy"]) == ("1", '"key";q=1;w=1')
        assert got.headers["ratelimit"] == '"key";r=0;t=1'
        assert gate.ask("GET", "/v1/parcels", root).status == 200
        assert gate.ask("GET", "/docs").status == 200


def test_without_keys_the_caller_is_local(tmp_path: Path) -> None:
    """With AUTH=off whoever comes is `local`, whatever he shows, without a quota."""
    del tmp_path
    with served(app_of(None)) as client:
        for headers in ({}, {"Authorization": "Bearer whatever"}):
            got = client.ask("POST", "/v1/parcels", headers=headers)
            assert (got.status, got.json()) == (200, {"owner": "local"})
            assert "ratelimit" not in got.headers


def test_the_description_asks_for_a_key_where_one_is_wanted(gate: Gate) -> None:
    """With keys each operation names its scope, so that /docs asks for a key; without, none does."""
    document = gate.ask("GET", "/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert document["paths"]["/v1/parcels"]["post"]["security"] == [{"key": ["parcels:write"]}]
    assert {"401", "403", "429"} <= set(document["paths"]["/v1/parcels"]["get"]["responses"])
    with served(app_of(None)) as client:
        assert "securitySchemes" not in client.ask("GET", "/openapi.json").json()["components"]


def test_a_page_without_a_scope_is_not_served(tmp_path: Path) -> None:
    """A page that says nothing of who may see it fails the start, as a route does."""
    ring, _ = ring_of(tmp_path / "keys.json", 50)

    async def bare(_: Request) -> Response:
        return Response()

    with pytest.raises(TypeError, match="/bare declares no scope"):
        app_of(ring, None, Route("/bare", bare))


def test_a_key_is_in_no_log_and_no_span(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Refused, answered or failing with a bug: neither the key nor its hash is in any line, span or answer."""
    ring, texts = ring_of(tmp_path / "keys.json", 1_000_000)
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    logs.configure("parcels", "api", "debug")
    try:
        with Sink() as sink:
            spans = Spans("parcels", "api", (sink.url,), 1.0).install()
            with served(app_of(ring, spans)) as client:
                gate = Gate(client, ring, *texts)
                answers = [
                    gate.ask(method, path, key)
                    for method, path in (("GET", "/v1/parcels"), ("POST", "/v1/parcels"), ("GET", "/v1/fault"))
                    for key in (*texts, texts[0][:-1] + "x")
                ]
            spans.stop()
            sink.wait_for(12)
            sink.shutdown()
            told = str(sink.requests)
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        structlog.reset_defaults()
    lines = "".join(capfd.readouterr())
    assert "request failed" in lines
    assert "/v1/fault" in told
    for text in texts:
        for part in (text, text.rpartition("_")[2][:16]):
            assert part not in lines
            assert part not in told
            assert all(part not in str(one) for one in answers)


def test_a_stream_ends_when_its_key_does(tmp_path: Path) -> None:
    """Whoever follows something is let go when the key he came with is revoked; whoever has another goes on."""
    file, watch = tmp_path / "keys.json", Watch()
    (gone, one), (good, two) = (keys.mint("acme", ["parcels:read"], None) for _ in range(2))
    write(file, one, two)
    with (
        served(app_of(Keyring(file, 50, watch))) as client,
        socket.create_connection(("127.0.0.1", client.port), timeout=60) as ending,
        socket.create_connection(("127.0.0.1", client.port), timeout=60) as staying,
    ):
        for line, key in ((ending, gone), (staying, good)):
            line.sendall(f"GET /v1/news HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
            assert line.recv(1024).startswith(b"HTTP/1.1 200")
        write(file, one.model_copy(update={"revoked": datetime.now(UTC) - timedelta(seconds=1)}), two)
        watch.pass_by(keys.LOOK_SECONDS)
        assert _read_to(ending, END).endswith(END)
        for _ in range(100):
            assert staying.recv(65_536)


def _read_to(line: socket.socket, end: bytes) -> bytes:
    """Read until these bytes came last, or nothing comes any more."""
    found = b""
    while not found.endswith(end) and (more := line.recv(65_536)):
        found = (found + more)[-100:]
    return found
