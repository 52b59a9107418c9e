"""What the tests of webhooks stand on: order's API over its database, endpoints outside, and workers that tell them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest

from order import api, gateway, store
from order.domain import Orders
from order.events import PaymentCharged, StockReserved
from order.handlers import on
from quadrille.context import ProcessContext
from quadrille.observability.tracing import Spans
from quadrille.processing.telemetry import Telemetry
from quadrille.tasks.scheduler import SchedulerPorts, TaskScheduler
from quadrille.testing import Logins, OnPostgres, serving
from quadrille_cli.client import Client, Reply
from quadrille_cli.testing import Start

EMPTY = ("orders", "order_change", "order_change_gone", "webhook", "idempotency_key", "outbox", "stream", "task")
ORDER: dict[str, Any] = {
    "customer_id": "cust_demo", "payment_token": "tok_ok", "currency": "EUR",
    "lines": [{"sku": "SKU-TEA", "quantity": 2, "unit_price_minor": 1250}],
}  # fmt: skip


class Endpoint:
    """A client's endpoint: what it was sent, and how it answers; it waits at a door that a test may shut."""

    def __init__(self) -> None:
        self.got: list[tuple[Mapping[str, str], bytes]] = []
        self.answers: list[int] = []
        self.location = "http://169.254.169.254/latest/meta-data"
        self.door = threading.Event()
        self.door.set()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                endpoint.door.wait(60)
                self.send_response(endpoint.answers.pop(0) if endpoint.answers else 204)
                self.send_header("Location", endpoint.location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self.server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}/hook?shop=1"

    def told(self) -> list[tuple[str, str]]:
        """Order and type of all it was sent."""
        documents = [json.loads(body) for _, body in self.got]
        return [(one["data"].get("order_id", ""), one["type"]) for one in documents]


@contextmanager
def an_endpoint() -> Iterator[Endpoint]:
    """An endpoint that listens while the block lasts."""
    made = Endpoint()
    serving = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.02})
    serving.start()
    try:
        yield made
    finally:
        made.door.set()
        made.server.shutdown()
        made.server.server_close()
        serving.join()


def verified(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Tell whether a delivery is ours by this secret, read off the Standard Webhooks specification alone."""
    key = base64.b64decode(secret.split("whsec_", 1)[1], validate=True)
    content = headers["webhook-id"].encode() + b"." + headers["webhook-timestamp"].encode() + b"." + body
    wanted = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    given = [one.split(",", 1) for one in headers["webhook-signature"].split(" ")]
    return any(version == "v1" and hmac.compare_digest(signature, wanted) for version, signature in given)


class Shop:
    """Order's API over its database, and what happens to its orders."""

    def __init__(self, url: str, db: OnPostgres[Orders]) -> None:
        self.url, self.db = url, db

    def ask(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Send one request."""
        with Client(self.url, timeout=60) as client:
            return client.ask(method, path, body, headers)

    def add(self, url: str, *types: str) -> tuple[str, str]:
        """Add an endpoint; return its id and its secret."""
        reply = self.ask("POST", "/v1/webhooks", {"url": url, **({"types": types} if types else {})})
        assert reply.status == 201, reply
        return reply.body["webhook_id"], reply.body["secret"]

    def look(self, webhook_id: str) -> dict[str, Any]:
        """Return an endpoint as it stands."""
        reply = self.ask("GET", f"/v1/webhooks/{webhook_id}")
        assert reply.status == 200, reply
        found: dict[str, Any] = reply.body
        return found

    def place(self, key: str) -> str:
        """Place the usual order."""
        return str(self.ask("POST", "/v1/orders", ORDER, {"Idempotency-Key": key}).body["order_id"])

    def confirm(self, *keys: str) -> list[str]:
        """Place orders and let them be confirmed."""
        orders = [self.place(key) for key in keys]
        for order in orders:
            self.db.given(StockReserved(order), PaymentCharged(order))
        return orders


@contextmanager
def worker(shop: Shop, seconds: float = 10.0, *, loopback: bool = True) -> Iterator[TaskScheduler]:
    """Let a worker tell endpoints while the block lasts."""
    tellings = store.Tellings(shop.db.connect)
    endpoints = gateway.Endpoints(tellings, loopback=loopback, seconds=seconds)
    scheduler = TaskScheduler(
        shop.db.service, shop.db.connect, Telemetry(Spans.disabled()), SchedulerPorts(endpoints, lambda: False)
    )
    stop = threading.Event()
    working = threading.Thread(target=scheduler.run, args=(stop,))
    working.start()
    try:
        yield scheduler
    finally:
        stop.set()
        scheduler.wake()
        working.join()
        tellings.close()


@pytest.fixture(scope="session")
def db(parts_of_the_stack: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnPostgres[Orders]]:
    stack = parts_of_the_stack("postgres:order")
    logins = Logins(stack.database_url("order", "owner"), stack.database_url("order", "app"))
    made = OnPostgres(on, store, logins, Path(tmp_path_factory.mktemp("schemas")))
    made.service = replace(made.service, outside=gateway.outside)
    yield made
    made.close()


@pytest.fixture(scope="session")
def address(db: OnPostgres[Orders]) -> Iterator[str]:
    def made(context: ProcessContext) -> Any:  # noqa: ANN401 - an ASGI app
        settings = context.settings.model_copy(update={"webhook_loopback": True})
        return api.make(replace(context, settings=settings))

    with serving(made, db.service, db.connect) as url:
        yield url


@pytest.fixture
def shop(address: str, db: OnPostgres[Orders], monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The shop, emptied; a worker that finds nothing looks again soon."""
    monkeypatch.setattr("quadrille.tasks.scheduler.WAIT_SECONDS", 0.05)
    with psycopg.connect(db.logins.owner, autocommit=True) as tx:
        tx.execute(f"TRUNCATE {', '.join(EMPTY)}".encode())
    return Shop(address, db)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with an_endpoint() as made:
        yield made
