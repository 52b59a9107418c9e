"""The sandbox starts only where it may, understands only what it should, and stops at once."""

from __future__ import annotations

import http.client
import json
import signal
import smtplib
import socket
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from quadrille_sandbox.testing import Running, running, start

CHARGE = {"payment_token": "tok_ok", "amount_minor": 1, "currency": "EUR", "order_id": "o"}


def refused(data: Path, **settings: str) -> tuple[int, str]:
    with start(data, **settings) as process:
        _, said = process.communicate(timeout=90)
        return process.returncode, str(json.loads(said)["reason"])


def test_it_is_ready_when_it_listens(sandbox: Running) -> None:
    """Live and ready are told on the port that serves."""
    assert [sandbox.get(path)[0] for path in ("/livez", "/readyz", "/mail.css")] == [200, 200, 200]


def test_it_never_starts_in_production(data: Path) -> None:
    """A production profile is refused with exit code 2, and nothing is created."""
    code, why = refused(data, QUADRILLE_PROFILE="production")

    assert code == 2
    assert "QUADRILLE_PROFILE=production" in why
    assert not data.exists()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("QUADRILLE_SANDBOX_SETTLE_AFTR", "1h", "did you mean QUADRILLE_SANDBOX_SETTLE_AFTER?"),
        ("QUADRILLE_SANDBOX_SETTLE_AFTER", "soon", "wanted a number and s, m, h or d"),
        ("QUADRILLE_SANDBOX_BIND", "8010", "wanted host:port"),
        ("QUADRILLE_SMTP_BIND", "127.0.0.1:99999", "wanted host:port"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(data: Path, name: str, value: str, told: str) -> None:
    """Found, wanted and fix in one line, exit code 2."""
    code, why = refused(data, **{name: value})

    assert code == 2
    assert name in why
    assert told in why


def test_a_taken_port_or_directory_is_refused(data: Path, sandbox: Running, tmp_path: Path) -> None:
    """A busy port and a data directory in use are told with exit code 9."""
    assert refused(data, QUADRILLE_SANDBOX_BIND=sandbox.http)[0] == 9
    with running(tmp_path / "shared"):
        code, why = refused(tmp_path / "shared")
        assert (code, "in use" in why) == (9, True)


def test_a_stop_waits_for_nobody(data: Path) -> None:
    """SIGTERM ends it with idle, held and half-sent connections open, and a call that would take an hour; code 0."""
    with running(data) as sandbox, ExitStack() as clients:
        for n, token in enumerate(("tok_timeout_after_charge", "tok_timeout_before_charge", "tok_ok")):
            if token == "tok_ok":  # noqa: S105 - a test token
                sandbox.call("PUT", "/chaos", b'{"latency": 3600, "timeouts": 0, "seconds": 7200}')
            client = clients.enter_context(closing(http.client.HTTPConnection(sandbox.http)))
            body = json.dumps({**CHARGE, "payment_token": token})
            client.request("POST", "/v1/charges", body, {"Idempotency-Key": str(n)})
        half = clients.enter_context(socket.create_connection(tuple_of(sandbox.http)))
        half.sendall(b"POST /v1/charges HTTP/1.1\r\nContent-Le")
        clients.enter_context(closing(smtplib.SMTP(*tuple_of(sandbox.smtp)))).ehlo()
        sandbox.get("/livez")

        sandbox.process.send_signal(signal.SIGTERM)

        assert sandbox.process.wait(60) == 0


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b"", "k"),
        (b"{", "k"),
        (b"[]", "k"),
        (b"\xff\xfe", "k"),
        (b"[" * 50_000, "k"),
        (json.dumps({**CHARGE, "amount_minor": 0}).encode(), "k"),
        (json.dumps({**CHARGE, "amount_minor": -1}).encode(), "k"),
        (json.dumps({**CHARGE, "amount_minor": 2**53}).encode(), "k"),
        (json.dumps({**CHARGE, "amount_minor": 1.0}).encode(), "k"),
        (json.dumps({**CHARGE, "amount_minor": True}).encode(), "k"),
        (json.dumps({**CHARGE, "currency": "euro"}).encode(), "k"),
        (json.dumps({**CHARGE, "order_id": None}).encode(), "k"),
        (json.dumps({**CHARGE, "more": 1}).encode(), "k"),
        (json.dumps(CHARGE).encode(), ""),
        (json.dumps(CHARGE).encode(), "k" * 256),
    ],
)
def test_a_malformed_charge_is_told_what_is_wrong(sandbox: Running, body: bytes, key: str) -> None:
    """What is not understood is a 400 with a reason, and no money moves."""
    before = len(sandbox.ledger())

    status, answer = sandbox.call("POST", "/v1/charges", body, {"Idempotency-Key": key} if key else {})

    assert status == 400
    assert json.loads(answer)["detail"]
    assert len(sandbox.ledger()) == before


def test_unknown_pages_and_methods_are_told(sandbox: Running) -> None:
    """404 for what is not there, 405 for what is asked wrongly, 400 for a number that is none."""
    assert sandbox.get("/nothing")[0] == 404
    assert sandbox.call("POST", "/ledger")[0] == 405
    assert sandbox.call("DELETE", "/v1/charges/k")[0] == 405
    assert sandbox.get("/ledger?after=-1")[0] == 400
    assert sandbox.get("/mail?before=99999999999999999999")[0] == 400


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 tls", b"400"),
        (b"POST /v1/charges HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 100_000, b"413"),
        (b"GET /" + b"a" * 100_000, b"413"),
        (b"POST /v1/charges HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
    ],
)
def test_what_is_not_http_ends_the_connection(sandbox: Running, sent: bytes, status: bytes) -> None:
    """Garbage and bombs get one refusal and a closed connection, and others are served on."""
    with socket.create_connection(tuple_of(sandbox.http), timeout=60) as client:
        client.sendall(sent)
        assert client.recv(12).endswith(status)
        assert sandbox.get("/livez")[0] == 200


def test_requests_sent_at_once_are_answered_in_turn(sandbox: Running) -> None:
    """Three pipelined requests get three answers on one connection, in order."""
    with socket.create_connection(tuple_of(sandbox.http), timeout=60) as client:
        for path in ("/livez", "/nothing", "/readyz"):
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{closes(path)}\r\n".encode())
        with client.makefile("rb") as answers:
            found = answers.read()
    assert [part[:3] for part in found.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200"]


def closes(path: str) -> str:
    return "Connection: close\r\n" if path == "/readyz" else ""


def tuple_of(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
