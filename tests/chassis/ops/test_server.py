"""The ops port tells the truth about a process, quickly, whatever its checks do."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
import time
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from quadrille.gateway.breaker import Breaker, Limits
from quadrille.observability import degraded
from quadrille.observability.readiness import NotReadyError
from quadrille.ops import server as ops
from quadrille.ops.routes import OpsRequest, OpsResponse
from quadrille.web import connections
from quadrille.web import server as web_server
from tests.chassis.support.database import wait_until
from tests.chassis.support.http_harness import drip, no_more_files


def ask(server: ops.OpsServer, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
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


def test_every_breaker_is_told_of() -> None:
    """/readyz shows each breaker by what it guards, open or not, with the calls under way; none makes it unready."""
    breaker = Breaker(Limits(window=1, at_once=4), (ConnectionError,), name="oven")
    with ops.serve("127.0.0.1:0", "order", "api", {"database": lambda: None}) as server:
        with breaker.call():
            assert ask(server, "/readyz")[1]["breakers"]["oven"] == {"state": "CLOSED", "calls": 1, "places": 4}
        with suppress(ConnectionError), breaker.call():
            raise ConnectionError
        status, found = ask(server, "/readyz")
        told = generate_latest().decode()

    assert (status, found["breakers"]["oven"]) == (200, {"state": "OPEN", "calls": 0, "places": 4})
    assert 'quadrille_dependency_breaker_state{dependency="oven"} 2.0' in told


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


def test_a_process_that_drains_is_not_ready() -> None:
    """Asked to end, it finishes what is under way: whoever sends it work is told not to, and why."""
    ending = threading.Event()
    with ops.serve("127.0.0.1:0", "order", "api", {"database": lambda: None}, draining=ending.is_set) as server:
        assert "draining" not in ask(server, "/readyz")[1]
        ending.set()
        status, found = ask(server, "/readyz")

    assert (status, found["ready"], found["draining"]) == (503, False, True)


def test_health_tells_what_is_degraded(monkeypatch: pytest.MonkeyPatch) -> None:
    """pass; warn, still 200, for what the role can do without; fail, 503, for what it needs."""
    monkeypatch.setattr(degraded, "_lost", {})  # what earlier tests of this process have lost
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
    """A check that hangs is not waited for: it is TimeoutError after two seconds, and the process stays alive."""
    never = threading.Event()
    with ops.serve("127.0.0.1:0", "order", "worker", {"database": never.wait}) as server:
        status, found = ask(server, "/readyz")
        assert ask(server, "/livez") == (200, {"alive": True})
    never.set()

    assert (status, found["checks"]["database"]["error"]) == (503, "TimeoutError")
    assert found["checks"]["database"]["reason"] == "no answer within 2 s"
    assert found["checks"]["database"]["ms"] == 2000


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


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEAD_SECONDS", "BODY_SECONDS", "KEEP_ALIVE_SECONDS"):
        monkeypatch.setattr(connections, name, 0.2)


@pytest.fixture(autouse=True)
def _looked_at_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "LOOK_SECONDS", 0.1)


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b"", []),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", [200]),
        (b"GET /live", [408]),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow", [408]),
        (b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{", [405]),
    ],
)
def test_who_says_nothing_more_is_closed(hasty: None, sent: bytes, answered: list[int]) -> None:
    """Nothing, half a head, half a body, nothing after an answer: each ends by its deadline, told where it can be."""
    with (
        ops.serve("127.0.0.1:0", "order", "api", {}) as server,
        socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as line,
    ):
        line.sendall(sent)
        told = b"".join(iter(lambda: line.recv(65_536), b""))
    assert [int(part[:3]) for part in told.split(b"HTTP/1.1 ")[1:]] == answered


def test_one_byte_a_time_does_not_move_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that comes byte by byte has as long as any."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1)
    with (
        ops.serve("127.0.0.1:0", "order", "api", {}) as server,
        socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as line,
    ):
        line.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        line.settimeout(0.01)
        assert drip(line, b"x").startswith(b"HTTP/1.1 408 ")


def test_health_answers_in_any_crowd() -> None:
    """Five times as many silent connections as there may be: the oldest go, and health answers each time."""
    with ops.serve("127.0.0.1:0", "order", "api", {}) as server, ExitStack() as silent:
        most = server.crowd.most
        lines = [silent.enter_context(socket.create_connection(("127.0.0.1", server.server_port))) for _ in range(most)]
        for _ in range(4 * most):
            lines.append(silent.enter_context(socket.create_connection(("127.0.0.1", server.server_port))))
            if len(lines) % most == 0:
                assert ask(server, "/livez") == (200, {"alive": True})
        assert lines[0].recv(1) == b""
        assert len(server.crowd) <= most
        assert 'quadrille_http_connections_closed_total{cause="crowded",port="ops"}' in ask(server, "/metrics")[1]


def test_health_answers_while_all_that_was_asked_hangs() -> None:
    """However many operators wait for an answer, and checks for theirs, the next probe has its own at once."""
    hanging, never = threading.Semaphore(0), threading.Event()

    def hang(_: OpsRequest) -> OpsResponse:
        hanging.release()
        never.wait(60)
        return OpsResponse(200, {})

    routes = {("GET", "/ops/hang"): hang}
    with ops.serve("127.0.0.1:0", "order", "api", {"a": lambda: True}, routes=routes) as server, ExitStack() as held:
        held.callback(never.set)
        for _ in range(server.crowd.most - 4):
            line = held.enter_context(socket.create_connection(("127.0.0.1", server.server_port), timeout=60))
            line.sendall(b"GET /ops/hang HTTP/1.1\r\nHost: x\r\n\r\n")
            assert hanging.acquire(timeout=60)
        assert ask(server, "/livez")[0] == 200
        assert ask(server, "/readyz")[0] == 200
        assert not never.is_set()


def test_without_a_file_to_open_health_answers() -> None:
    """At the limit of open files the silent go, and health answers; nobody asks again and again meanwhile."""
    with ops.serve("127.0.0.1:0", "order", "api", {}) as server, ExitStack() as held:
        silent = held.enter_context(socket.create_connection(("127.0.0.1", server.server_port), timeout=30))
        wait_until(lambda: len(server.crowd) == 1)
        waiting = held.enter_context(socket.socket())
        with no_more_files():
            waiting.connect(("127.0.0.1", server.server_port))
            waiting.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            waiting.settimeout(30)
            used = time.process_time()
            assert waiting.recv(15) == b"HTTP/1.1 200 OK"
            assert time.process_time() - used < 5
        assert silent.recv(1) == b""


def test_a_port_that_is_taken_is_named_with_its_way_out() -> None:
    """Who cannot have its ops port says which, why, and what to set; and ends."""
    with (
        ops.serve("127.0.0.1:0", "order", "api", {}) as first,
        capture_logs() as told,
        pytest.raises(SystemExit),
        ops.serve(f"127.0.0.1:{first.server_port}", "order", "worker", {}),
    ):
        pass
    ((event, reason),) = [(one["event"], one["reason"]) for one in told]
    assert event == "refused to run"
    assert reason == f"found 127.0.0.1:{first.server_port}: Address already in use; free it or set OPS_BIND"


def test_a_stop_lets_what_is_under_way_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has asked something when the process is to end gets the answer; nobody new is let in meanwhile."""
    monkeypatch.setattr(ops, "DRAIN_SECONDS", 60)
    begun, go = threading.Event(), threading.Event()
    found: list[tuple[int, Any]] = []

    def slow(_: OpsRequest) -> OpsResponse:
        begun.set()
        go.wait(60)
        return OpsResponse(200, {"done": True})

    def let_go() -> None:
        wait_until(lambda: closed(one.server_port))
        go.set()

    with ops.serve("127.0.0.1:0", "order", "api", {}, routes={("GET", "/ops/slow"): slow}) as one:
        asking = threading.Thread(target=lambda: found.append(ask(one, "/ops/slow")))
        asking.start()
        assert begun.wait(60)
        letting_go = threading.Thread(target=let_go)
        letting_go.start()
    for thread in asking, letting_go:
        thread.join(60)
    assert found == [(200, {"done": True})]


def closed(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_what_hangs_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody could wait for is given up when the process is to end, and whoever asked sees the end."""
    monkeypatch.setattr(ops, "DRAIN_SECONDS", 0)
    hangs, never, ended = threading.Event(), threading.Event(), threading.Event()

    def hang(_: OpsRequest) -> OpsResponse:
        hangs.set()
        never.wait(20)
        ended.set()
        return OpsResponse(200, {})

    with (
        ops.serve("127.0.0.1:0", "order", "api", {}, routes={("GET", "/ops/hang"): hang}) as one,
        socket.create_connection(("127.0.0.1", one.server_port), timeout=60) as line,
    ):
        line.sendall(b"GET /ops/hang HTTP/1.1\r\nHost: x\r\n\r\n")
        assert hangs.wait(60)
    assert not ended.is_set()
    never.set()


def test_keep_alive_is_announced() -> None:
    """An answer says how long its connection is kept, longer than usual pools do."""
    with ops.serve("127.0.0.1:0", "order", "api", {}) as server:
        line = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        for _ in range(2):
            line.request("GET", "/livez")
            answer = line.getresponse()
            assert (answer.read(), answer.headers["Keep-Alive"]) == (b'{"alive": true}', "timeout=75")
        line.close()


def test_a_caller_that_has_gone_is_no_news(capfd: pytest.CaptureFixture[str]) -> None:
    """A connection cut instead of closed leaves no word in the log, least of all a traceback with an address."""
    with ops.serve("127.0.0.1:0", "order", "api", {}) as server:
        with socket.create_connection(("127.0.0.1", server.server_port)) as caller:
            wait_until(lambda: len(server.crowd) == 1)
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_until(lambda: len(server.crowd) == 0)

    assert capfd.readouterr().err == ""
