"""A sandbox process for tests, on ports of its own; the tests of the services start it too."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from quadrille_sandbox.journal import Record

STOPS_WITHIN = 10.0


@dataclass(frozen=True, slots=True)
class Running:
    """A sandbox that listens."""

    process: subprocess.Popen[str]
    http: str  # host:port
    smtp: str

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    def get(self, target: str, accept: str = "application/json") -> tuple[int, bytes]:
        """Return status and body of a GET."""
        return self.call("GET", target, headers={"Accept": accept})

    def post(self, target: str, key: str, body: Record) -> tuple[int, Record]:
        """Return status and document of a POST with an idempotency key."""
        status, content = self.call("POST", target, json.dumps(body).encode(), {"Idempotency-Key": key})
        return status, json.loads(content)

    def call(
        self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None, timeout: float = 10
    ) -> tuple[int, bytes]:
        """Return status and body of one call over a connection of its own."""
        with closing(http.client.HTTPConnection(self.http, timeout=timeout)) as connection:
            connection.request(method, target, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def ledger(self, order_id: str = "") -> list[Record]:
        """Return the lines of the processor's ledger."""
        _, content = self.get(f"/ledger?order_id={order_id}")
        return [json.loads(line) for line in content.splitlines()]

    def mails(self, order_id: str) -> list[Record]:
        """Return the mails about an order, newest first."""
        _, content = self.get(f"/mail?order_id={order_id}")
        found: list[Record] = json.loads(content)["mails"]
        return found


def start(data: Path, **settings: str) -> subprocess.Popen[str]:
    """Start a sandbox process on free ports; ``settings`` are environment variables."""
    ports = {"QUADRILLE_SANDBOX_BIND": "127.0.0.1:0", "QUADRILLE_SMTP_BIND": "127.0.0.1:0"}
    environment = {**os.environ, **ports, "QUADRILLE_SANDBOX_DATA": str(data), **settings}
    return subprocess.Popen(
        [sys.executable, "-m", "quadrille_sandbox"], env=environment, stderr=subprocess.PIPE, text=True
    )


@contextmanager
def running(data: Path, **settings: str) -> Iterator[Running]:
    """Run a sandbox on free ports until the block ends; raises RuntimeError with its last words if it refuses."""
    with start(data, **settings) as process:
        try:
            said = json.loads(process.stderr.readline() if process.stderr else "")
            if said["event"] != "listening":
                raise RuntimeError(said)
            yield Running(process, said["http"], said["smtp"])
        finally:
            process.terminate()
            process.wait(STOPS_WITHIN)
