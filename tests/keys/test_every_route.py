"""Every route of every service, with every scope: the one it needs lets in, no other does, and none is open."""

from __future__ import annotations

import http.client
import importlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi.routing import APIRoute

from quadrille import keys
from quadrille.app import Program, api_routes, worker_routes
from quadrille.consumer.worker import Worker, WorkerRole
from quadrille.context import ProcessContext
from quadrille.keys import ADMIN
from quadrille.observability.tracing import Spans
from quadrille.ops import server
from quadrille.ops.routes import READ, scope_of
from quadrille.settings import settings_of
from quadrille.testing import Logins, OnPostgres, serving
from quadrille.web.openapi import SCOPE
from quadrille_cli.services import PROGRAMS, SCOPES
from quadrille_cli.testing import Start

ID = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"
VARIABLE = re.compile(r"\{(\w+)\}")
REFUSED = (401, 403)
BROKEN = 500
PAGE = Path(__file__).parents[2] / "docs" / "keys.md"


@dataclass(frozen=True, slots=True)
class Place:
    """A route: where it is, and the scope it needs."""

    method: str
    path: str
    scope: str

    @property
    def row(self) -> str:
        """The route as the handbook lists it."""
        return f"`{self.method} {self.path}`"


@dataclass(frozen=True, slots=True)
class Face:
    """What a service shows: the base of its API and of its ops port, the routes of each, a key for each scope."""

    name: str
    api: str
    ops: str
    routes: tuple[Place, ...]
    actions: tuple[Place, ...]
    keys: Mapping[str, str]


def ask(base: str, place: Place, key: str | None) -> tuple[int, dict[str, Any]]:
    """Return the status of an answer and, of a refusal, its document; a stream is not waited for."""
    line = http.client.HTTPConnection(urlsplit(base).netloc, timeout=60)
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    body = None if place.method == "GET" else b"{}"
    if body:
        headers["Content-Type"] = "application/json"
    line.request(place.method, VARIABLE.sub(ID, place.path), body, headers)
    answer = line.getresponse()
    told = json.loads(answer.read()) if answer.status in REFUSED else {}
    line.close()
    return answer.status, told


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A file with one key for each scope."""
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    minted = {scope: keys.mint(scope.replace(":", "."), [scope], None) for scope in SCOPES}
    file.write_text(keys.document_of([kept for _, kept in minted.values()]))
    return file, {scope: str(token) for scope, (token, _) in minted.items()}


@pytest.fixture(scope="module", params=PROGRAMS)
def face(
    request: pytest.FixtureRequest,
    parts_of_the_stack: Start,
    keyed: tuple[Path, dict[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Face]:
    """A service with keys, over its real database."""
    name, (file, tokens) = request.param, keyed
    stack = parts_of_the_stack(*(f"postgres:{program}" for program in PROGRAMS))
    program: Program[Any] = importlib.import_module(f"{name}.main").PROGRAM
    module, _, make = program.api.partition(":")
    api = importlib.import_module(module)
    logins = Logins(stack.database_url(name, "owner"), stack.database_url(name, "app"))
    told: dict[str, Any] = {"auth": "keys", "keys_file": file, "rate_per_key": 100_000}
    with ExitStack() as open_now:
        db = OnPostgres(program.on, program.store, logins, tmp_path_factory.mktemp("schemas"))
        open_now.callback(db.close)
        url = open_now.enter_context(serving(getattr(api, make), db.service, db.connect, **told))
        nowhere = {"database_url": logins.app, "kafka_bootstrap": "127.0.0.1:1", "registry_url": "http://none"}
        settings = settings_of(name).model_validate(nowhere | told)
        context = ProcessContext(settings, db.service, db.connect, Spans.disabled())
        workers, managers = worker_routes(program, context, WorkerRole(lambda: Worker(context)))
        open_now.enter_context(managers)
        routes = {**api_routes(program, context), **workers}
        ops = server.serve("127.0.0.1:0", name, "all", {}, routes=routes, keys=context.keys)
        port = open_now.enter_context(ops).server_port
        yield Face(name, url, f"http://127.0.0.1:{port}", _routes(api.routes.router.routes), _actions(routes), tokens)


def test_every_scope_is_known_to_the_command(face: Face) -> None:
    """What `quadrille keys new` may give is what some route needs; a route needs nothing that cannot be given."""
    assert {place.scope for place in (*face.routes, *face.actions)} <= set(SCOPES)


def test_every_route_lets_in_its_scope_alone(face: Face) -> None:
    """Without a key 401, with another scope 403 and the one that is missing, with its own or `admin` an answer."""
    wrong = []
    for base, places in ((face.api, face.routes), (face.ops, face.actions)):
        assert places
        for place in places:
            if base == face.api and ask(base, place, None)[0] != 401:
                wrong.append((place, "open"))
            for scope, key in face.keys.items():
                status, told = ask(base, place, key)
                lets_in = status not in REFUSED and status != BROKEN  # 503 tells that somebody else is away
                if scope in (place.scope, ADMIN):
                    right = lets_in
                else:
                    right = (status, told.get("required_scope")) == (403, place.scope)
                if not right:
                    wrong.append((place, f"{scope}: {status}"))
    assert wrong == []


def test_the_handbook_lists_every_route_with_its_scope(face: Face) -> None:
    """docs/keys.md says of each route what it needs, and of each action of operators."""
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    told = {line.split("|")[1].strip().strip("`"): line.split("|")[2] for line in rows}
    writes = [one for one in face.actions if one.method != "GET"]
    assert {one.scope for one in face.actions if one.method == "GET"} <= {READ}
    for places, begins in ((face.routes, f"{face.name} "), (writes, "`")):
        for place in places:
            listed = [scope for scope, cell in told.items() if any(
                part.strip().startswith(begins) and place.row in part for part in cell.split(";"))]  # fmt: skip
            assert listed == [place.scope], f"{face.name}: {place.row}"


def _routes(found: Any) -> tuple[Place, ...]:  # noqa: ANN401 - the framework's routes
    return tuple(
        Place(method, route.path, (route.openapi_extra or {})[SCOPE])
        for route in found
        if isinstance(route, APIRoute)
        for method in sorted(route.methods or ())
    )


def _actions(found: Mapping[tuple[str, str], Any]) -> tuple[Place, ...]:
    return tuple(
        Place(method, path.partition("?")[0], scope_of(method, route)) for (method, path), route in found.items()
    )
