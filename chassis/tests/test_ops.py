"""The ops port tells the truth about a process, quickly, whatever its checks do."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
import time
from typing import Any

import pytest

from chassis import ops
from chassis.health import NotReadyError
from chassis.tests.workbench import wait_until


def ask(server: ops.Ops, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, json.loads(body) if response.headers["Content-Type"] == "application/json" else body


def refuse() -> None:
    message = "password=hunter2"
    raise ConnectionError(message)


def stopped() -> None:
    reason = "made anew"
    raise NotReadyError(reason)


def test_ready_when_every_check_returns() -> None:
    """Every check is named, timed and ok: 200."""
    with ops.serve("127.0.0.1:0", "order", "api", {"database": lambda: None, "schemas": lambda: True}) as server:
        status, found = ask(server, "/readyz")

    assert (status, found["ready"], list(found["checks"])) == (200, True, ["database", "schemas"])
    assert found["checks"]["database"]["ms"] >= 0


def test_not_ready_names_the_check_and_no_values() -> None:
    """One check that raises or says False is 503, with a reason: its text if that is ours, else the error's class."""
    checks = {"database": refuse, "assignment": lambda: False, "worker": stopped}
    with ops.serve("127.0.0.1:0", "order", "api", checks) as server:
        status, found = ask(server, "/readyz")

    assert status == 503
    assert found["checks"]["database"]["error"] == "ConnectionError"
    assert not found["checks"]["assignment"]["ok"]
    assert [found["checks"][name]["reason"] for name in checks] == ["ConnectionError", "not ready", "made anew"]
    assert "hunter2" not in json.dumps(found)


def test_health_tells_what_is_degraded() -> None:
    """pass; warn, still 200, for what the role can do without; fail, 503, for what it needs."""
    well = {"database": lambda: None}
    for checks, warns, wanted in (
        (well, {"relay": lambda: True}, (200, "pass")),
        (well, {"relay": stopped}, (200, "warn")),
        ({"database": stopped}, {"relay": lambda: True}, (503, "fail")),
    ):
        with ops.serve("127.0.0.1:0", "order", "api", checks, warns=warns) as server:
            status, found = ask(server, "/healthz")
            assert ask(server, "/readyz")[0] == status
        assert (status, found["status"]) == wanted
        assert set(found["checks"]) == {"database", "relay"}
        assert "made anew" in [check.get("reason") for check in found["checks"].values()] or status == 200


def test_a_check_that_hangs_is_not_ready_within_its_bound() -> None:
    """A hanging check is TimeoutError after two seconds, and the process stays alive meanwhile."""
    never = threading.Event()
    with ops.serve("127.0.0.1:0", "order", "worker", {"database": never.wait}) as server:
        began = time.monotonic()
        status, found = ask(server, "/readyz")
        took = time.monotonic() - began
        assert ask(server, "/livez") == (200, {"alive": True})
    never.set()

    assert (status, found["checks"]["database"]["error"]) == (503, "TimeoutError")
    assert found["checks"]["database"]["reason"] == "no answer within 2 s"
    assert took < 3


def test_started_stays_started() -> None:
    """Once everything was ready, /startupz stays 200 while /readyz follows the checks."""
    ready = [False]
    with ops.serve("127.0.0.1:0", "order", "relay", {"slot": lambda: ready[0]}) as server:
        assert ask(server, "/startupz")[0] == 503
        ready[0] = True
        assert ask(server, "/startupz")[0] == 200
        ready[0] = False
        assert (ask(server, "/startupz")[0], ask(server, "/readyz")[0]) == (200, 503)


def test_metrics_and_info() -> None:
    """/metrics speaks Prometheus, /info says who this is; other paths are 404."""
    with ops.serve("127.0.0.1:0", "order", "relay", {}, {"log_level": "info"}) as server:
        status, metrics = ask(server, "/metrics")
        info = ask(server, "/info")[1]
        assert ask(server, "/other")[0] == 404

    assert status == 200
    assert "# TYPE quadrille_spans_dropped_total counter" in metrics or "python_info" in metrics
    assert (info["service"], info["role"], info["settings"]) == ("order", "relay", {"log_level": "info"})


def test_a_caller_that_has_gone_is_no_news(capfd: pytest.CaptureFixture[str]) -> None:
    """A connection cut instead of closed leaves no word in the log, least of all a traceback with an address."""
    with ops.serve("127.0.0.1:0", "order", "api", {}) as server:
        before = threading.active_count()
        with socket.create_connection(("127.0.0.1", server.server_port)) as caller:
            wait_until(lambda: threading.active_count() > before)
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_until(lambda: threading.active_count() == before)

    assert capfd.readouterr().err == ""
