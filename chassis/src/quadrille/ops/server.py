"""The ops port of every role: is it alive, ready, started; what does it count; what may an operator ask.

Served by a thread of its own, so that no crowd on the API and no check that hangs keeps it from answering; it has a
share of the process's files, and for one connection more the one that has been silent longest goes. Without a key a
write is taken from this machine alone, never from a browser; its caller is ``local``. Where keys are wanted, so is a
read; probes and metrics are for everybody.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from quadrille import file_limits
from quadrille.gateway import breaker
from quadrille.keys import Keyring
from quadrille.observability import degraded
from quadrille.observability.logs import release
from quadrille.observability.trace_context import new_trace
from quadrille.ops.checks import Check, run_all
from quadrille.ops.routes import Endpoint, OpsRoutes, json_response, routes_of
from quadrille.values import rfc3339
from quadrille.web import problems
from quadrille.web.authentication import CALL, authenticate
from quadrille.web.connection_limits import Crowd
from quadrille.web.connections import Connection, expel
from quadrille.web.middleware import HEADERS_MAX, RequestIdentity, answer_once, check_head, request_id_of, respond
from quadrille.web.problems import KINDS, Problem, refuse
from quadrille.web.requests import answer_failure, answer_refusal, check_query
from quadrille.web.server import Server, listen

DRAIN_SECONDS = 2  # what an operator asked for ends, a check has its bound; a supervisor grants no more than five
HEADERS_MOST = 100  # in number


class OpsServer:
    """Answers /livez, /readyz, /healthz, /startupz, /metrics, /info, the routes it is given and the pages of /problems.

    A check is ready when it returns, not ready when it returns False, raises, or takes longer than two seconds.
    ``warns`` are checks of what may be degraded without the role being of no use: /healthz tells of them.
    """

    def __init__(
        self, address: tuple[str, int], info: Mapping[str, object], checks: Mapping[str, Check], routes: OpsRoutes,
        keys: Keyring | None,
    ) -> None:  # fmt: skip
        sockets = listen(*address, "OPS_BIND")
        self.server_port: int = sockets[0].getsockname()[1]
        self.base = f"http://{address[0]}:{self.server_port}"
        self.info = {
            "started_at": rfc3339(datetime.now(UTC)),
            "pid": os.getpid(),
            "python": platform.python_version(),
            **info,
        }
        self.checks, self.started = checks, False
        self.warns: Mapping[str, Check] = {}
        self.draining: Callable[[], bool] = lambda: False
        self.crowd = Crowd[Connection]("ops", file_limits.shares().ops, expel)
        app = Starlette(
            routes=[*self._own(), *routes_of(routes, keys)],
            exception_handlers={HTTPException: answer_refusal, Exception: answer_failure},
        )
        app.router.redirect_slashes = False
        self.server = Server(OpsMiddleware(app, self.base, keys), self.crowd, lambda: sockets, DRAIN_SECONDS)

    def _own(self) -> Iterator[Route]:
        """Yield the routes every process has."""
        probes: dict[str, Endpoint] = {
            "/livez": self._alive, "/readyz": self._ready, "/healthz": self._health, "/startupz": self._started,
            "/info": self._info,
        }  # fmt: skip
        for path, probe in probes.items():
            yield Route(path, _without_query(probe), methods=["GET"])
        yield Route("/metrics", _metrics, methods=["GET"])
        yield Route("/problems/{slug}", self._problem, methods=["GET"])

    async def ready(self) -> tuple[bool, dict[str, object]]:
        """Run every check, all at once, and tell what each found, why it is not ready and how long it took."""
        ok, found = await run_all(self.checks)
        self.started = self.started or ok
        beside = {"degraded": degraded.shown(), "breakers": breaker.shown()}
        if self.draining():  # what is under way ends; nobody is to come any more
            return False, {"ready": False, "draining": True, "checks": found, **beside}
        return ok, {"ready": ok, "checks": found, **beside}

    async def _alive(self, _: Request) -> Response:
        return json_response(200, {"alive": True})

    async def _health(self, _: Request) -> Response:
        """Tell what is degraded, in the words of the draft for application/health+json: pass, warn, fail."""
        ok, found = await run_all({**self.warns, **self.checks})
        failed = {name for name, result in found.items() if not result["ok"]}
        lost = degraded.shown()
        status = "fail" if failed & self.checks.keys() else "pass" if ok and not lost else "warn"
        return json_response(503 if status == "fail" else 200, {"status": status, "checks": found, "degraded": lost})

    async def _ready(self, _: Request) -> Response:
        ok, found = await self.ready()
        return json_response(200 if ok else 503, found)

    async def _started(self, _: Request) -> Response:
        started = self.started or (await self.ready())[0]
        return json_response(200 if started else 503, {"started": started})

    async def _info(self, _: Request) -> Response:
        return json_response(200, {**self.info, "degraded": degraded.shown()})

    async def _problem(self, request: Request) -> Response:
        slug = request.path_params["slug"]
        if slug not in KINDS:
            refuse("not-found")
        return Response(problems.page(self.base, slug), media_type="text/html", headers={"Cache-Control": "no-store"})


@contextmanager
def serve(  # noqa: PLR0913 - one of each thing a role tells about itself
    bind: str, service: str, role: str, checks: Mapping[str, Check],
    settings: Mapping[str, object] | None = None, *, routes: OpsRoutes | None = None,
    warns: Mapping[str, Check] | None = None, draining: Callable[[], bool] = lambda: False,
    keys: Keyring | None = None,
) -> Iterator[OpsServer]:  # fmt: skip
    """Serve the ops port ``host:port`` while the block runs; port 0 takes a free one, see ``server_port``.

    ``keys`` are those that let in from another machine; whether their file can be read is told in /healthz.
    """
    host, _, port = bind.rpartition(":")
    info = {"service": service, "role": role, "release": release(), "settings": settings or {}}
    ops = OpsServer((host.strip("[]"), int(port)), info, checks, routes or {}, keys)
    ops.warns = {**(warns or {}), **({"keys": keys.check} if keys else {})}
    ops.draining = draining
    with ops.server.runner() as runner:
        thread = threading.Thread(target=runner.run, args=(ops.server.run_until_ended(),), name="ops", daemon=True)
        thread.start()
        try:
            yield ops
        finally:
            runner.get_loop().call_soon_threadsafe(ops.server.end)
            thread.join()


class OpsMiddleware:
    """Every request has an id, a trace of its own and one answer; no span and no count: a probe a second is no news."""

    def __init__(self, app: Starlette, base: str, keys: Keyring | None) -> None:
        self.app, self.base, self.keys = app, base, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass on what is none (the lifespan)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        call = RequestIdentity(request_id_of(scope), new_trace(), self.base)
        await answer_once(self._answer, {**scope, CALL: call}, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if len(scope["headers"]) > HEADERS_MOST:
                refuse("headers-too-large", limit=HEADERS_MAX)
            check_head(scope)
            call: RequestIdentity = scope[CALL]
            call.principal, call.quota = authenticate(scope, self.keys)
        except Problem as problem:
            problem.headers = {**(problem.headers or {}), "Connection": "close"}
            await respond(scope, problem)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


async def _metrics(_: Request) -> Response:
    return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"})


def _without_query(probe: Endpoint) -> Endpoint:
    """Return a probe that refuses parameters: none of ours takes any."""

    async def checked(request: Request) -> Response:
        check_query(request, frozenset())
        return await probe(request)

    return checked
