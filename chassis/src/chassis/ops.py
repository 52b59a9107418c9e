"""The ops port of every role: is it alive, ready, started; what does it count, what is it. A small threaded server."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeAlias

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from chassis.logs import release

Check: TypeAlias = Callable[[], object]
CHECK_SECONDS = 2.0


class Ops(ThreadingHTTPServer):
    """Answers /livez, /readyz, /startupz, /metrics and /info.

    A check is ready when it returns, not ready when it returns False, raises, or takes longer than two seconds.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], info: Mapping[str, object], checks: Mapping[str, Check]) -> None:
        super().__init__(address, _Handler)
        self.info = {"started_at": _now(), "pid": os.getpid(), "python": platform.python_version(), **info}
        self.checks = checks
        self.started = False

    def ready(self) -> tuple[bool, dict[str, object]]:
        """Run every check, all at once, and tell what each found and how long it took."""
        results: dict[str, object] = {}
        threads = [threading.Thread(target=_run, args=(*c, results), daemon=True) for c in self.checks.items()]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + CHECK_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        late = {"ok": False, "error": "TimeoutError", "ms": CHECK_SECONDS * 1000}
        found = {name: results.get(name, late) for name in self.checks}
        ok = all(isinstance(result, dict) and result["ok"] for result in found.values())
        self.started = self.started or ok
        return ok, {"ready": ok, "checks": found}


@contextmanager
def serve(
    bind: str, service: str, role: str, checks: Mapping[str, Check], settings: Mapping[str, object] | None = None
) -> Iterator[Ops]:
    """Serve the ops port ``host:port`` while the block runs; port 0 takes a free one, see ``server_port``."""
    host, _, port = bind.rpartition(":")
    info = {"service": service, "role": role, "release": release(), "settings": settings or {}}
    server = Ops((host.strip("[]"), int(port)), info, checks)
    thread = threading.Thread(target=server.serve_forever, name="ops", daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Ops
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        routes = {
            "/livez": self._live,
            "/readyz": self._ready,
            "/startupz": self._started,
            "/metrics": self._metrics,
            "/info": self._info,
        }
        routes.get(self.path.partition("?")[0], self._unknown)()

    def log_message(self, *_: object) -> None:
        """Say nothing: a probe every second is no news."""

    def _live(self) -> None:
        self._json(HTTPStatus.OK, {"alive": True})

    def _ready(self) -> None:
        ok, found = self.server.ready()
        self._json(HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE, found)

    def _started(self) -> None:
        started = self.server.started or self.server.ready()[0]
        self._json(HTTPStatus.OK if started else HTTPStatus.SERVICE_UNAVAILABLE, {"started": started})

    def _metrics(self) -> None:
        self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest())

    def _info(self) -> None:
        self._json(HTTPStatus.OK, self.server.info)

    def _unknown(self) -> None:
        self._json(HTTPStatus.NOT_FOUND, {"title": "Not found", "status": 404})

    def _json(self, status: HTTPStatus, document: Mapping[str, object]) -> None:
        self._answer(status, "application/json", json.dumps(document, default=str).encode())

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)


def _run(name: str, check: Check, results: dict[str, object]) -> None:
    began = time.monotonic()
    try:
        ok, error = check() is not False, None
    except Exception as raised:  # noqa: BLE001 - whatever a check raises is its answer: not ready, and why by class
        ok, error = False, type(raised).__name__
    milliseconds = round((time.monotonic() - began) * 1000, 1)
    results[name] = {"ok": ok, "ms": milliseconds} if ok else {"ok": ok, "error": error, "ms": milliseconds}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
