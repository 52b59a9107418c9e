"""A real api process with few files: silent connections beyond its limit stop neither orders nor health."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from services.order.tests.shopfront import ORDER

from order import store
from order.domain import Orders
from order.handlers import on
from quadrille import HandlerRegistry
from quadrille.service import Store
from quadrille.testing import OnPostgres, schema_ids
from quadrille_cli.client import Client, NoAnswerError
from tests.chassis.support.database import wait_until
from tests.chassis.support.http_harness import free_port

FILES = 256


@pytest.fixture(scope="module")
def db(on_postgres: Callable[[HandlerRegistry[Orders], Store[Orders]], OnPostgres[Orders]]) -> OnPostgres[Orders]:
    return on_postgres(on, store)


@contextmanager
def few_files(db: OnPostgres[Orders], folder: Path) -> Iterator[tuple[int, int, psutil.Process]]:
    """Run the api in a process that may open few files, half of them until it asks for all; its two ports, and it."""
    schema_ids(folder / "schemas", "order")
    api, ops = free_port(), free_port()
    settings = {
        "DATABASE_URL": db.logins.app, "KAFKA_BOOTSTRAP": "127.0.0.1:1", "REGISTRY_URL": "http://127.0.0.1:1",
        "API_BIND": f"127.0.0.1:{api}", "OPS_BIND": f"127.0.0.1:{ops}", "SCHEMA_CACHE": str(folder / "schemas"),
    }  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "order", "api"],
            env={**os.environ, **{f"QUADRILLE_{name}": value for name, value in settings.items()}},
            cwd=folder, stderr=log,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FILES // 2, FILES)),  # noqa: PLW1509 - no threads of ours fork
        )  # fmt: skip
        try:
            wait_until(lambda: asked(ops, "GET", "/readyz")[0] == 200)
            yield api, ops, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(30)


def asked(port: int, method: str, path: str, body: object = None, key: str = "") -> tuple[int, Any]:
    """Return status and document; 0 while nobody listens."""
    try:
        with Client(f"http://127.0.0.1:{port}", timeout=30) as line:
            reply = line.ask(method, path, body, {"Idempotency-Key": key} if key else {})
    except NoAnswerError as nobody:
        if str(nobody) != "ConnectionRefusedError":
            raise
        return 0, None
    return reply.status, reply.body if reply.headers["content-type"] == "application/json" else reply.raw.decode()


def test_more_silent_connections_than_files(db: OnPostgres[Orders], tmp_path: Path) -> None:
    """Beyond the limit of files on both ports at once: orders are placed, health answers, and the log says why."""
    with few_files(db, tmp_path) as (api, ops, process), ExitStack() as silent:
        assert process.rlimit(psutil.RLIMIT_NOFILE) == (FILES, FILES)
        for number in range(FILES + 100):
            silent.enter_context(socket.create_connection(("127.0.0.1", api), timeout=30))
            if number % 4 == 0:
                silent.enter_context(socket.create_connection(("127.0.0.1", ops), timeout=30))
            if number % 50 == 0:
                status, order = asked(api, "POST", "/v1/orders", ORDER, f"crowd-{number}")
                assert status == 202
                assert asked(api, "GET", f"/v1/orders/{order['order_id']}")[0] == 200
                assert asked(ops, "GET", "/livez") == (200, {"alive": True})
                assert asked(ops, "GET", "/readyz")[0] == 200
        assert process.num_fds() < FILES
        metrics = asked(ops, "GET", "/metrics")[1]
        for port in ("api", "ops"):
            assert f'quadrille_http_connections_closed_total{{cause="crowded",port="{port}"}}' in metrics
    log = (tmp_path / "log").read_text()
    told = [line for line in map(json.loads, log.splitlines()) if line["event"] == "connections closed"]
    assert {line["cause"] for line in told} == {"crowded"}
    assert "Traceback" not in log


def test_the_least_of_files(db: OnPostgres[Orders], tmp_path: Path) -> None:
    """When no file is left for anything, the port that health is asked on still answers once the silent have gone."""
    with few_files(db, tmp_path) as (api, ops, process), ExitStack() as silent:
        lines = [silent.enter_context(socket.create_connection(("127.0.0.1", api), timeout=30)) for _ in range(40)]
        wait_until(lambda: 'connections{port="api"} 40.0' in asked(ops, "GET", "/metrics")[1])
        process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds() - 20, FILES))
        before = process.cpu_times()
        assert asked(ops, "GET", "/livez")[0] == 200
        lines[-1].sendall(b"GET /problems HTTP/1.1\r\nHost: x\r\n\r\n")
        assert lines[-1].recv(15) == b"HTTP/1.1 200 OK"
        used = process.cpu_times()
        assert used.user + used.system - before.user - before.system < 5
