"""The order API over its database, and a client of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg

from order.domain import Orders
from quadrille.testing import OnPostgres
from quadrille_cli.client import Client

ORDER: dict[str, Any] = {
    "customer_id": "cust_demo",
    "payment_token": "tok_ok",
    "currency": "EUR",
    "lines": [{"sku": "SKU-TEA", "quantity": 2, "unit_price_minor": 1250}],
}
LINE = ORDER["lines"][0]
WRITTEN = "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM idempotency_key), (SELECT count(*) FROM outbox), (SELECT count(*) FROM task)"  # noqa: E501 - one question


@dataclass(frozen=True, slots=True)
class Got:
    """An answer as it came."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:  # noqa: ANN401 - any JSON
        """The document."""
        return json.loads(self.raw)

    @property
    def slug(self) -> str:
        """The type of the problem this is."""
        assert self.headers["content-type"] == "application/problem+json", self
        return str(self.body["type"].rpartition("/")[2])


class Shop:
    """The order API over its database, asked as a client does; ``order`` is what is usually ordered."""

    order = ORDER

    def __init__(self, url: str, db: OnPostgres[Orders]) -> None:
        self.url, self.db = url, db

    def ask(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Got:
        """Send one request on a connection of its own; bytes go as they are."""
        with Client(self.url, timeout=60) as api:
            reply = api.ask(method, path, body, headers)
        return Got(reply.status, reply.headers, reply.raw)

    def place(self, key: str = "k-1", **changed: object) -> Got:
        """Place the usual order, changed."""
        return self.ask("POST", "/v1/orders", ORDER | changed, {"Idempotency-Key": key})

    def insist(self, ask: Callable[[], Got]) -> Got:
        """Ask again for as long as the answer is that too many ask at once, as that answer says to."""
        while (got := ask()).status == 503 and got.body.get("cause") == "POOL_EXHAUSTED":
            continue
        return got

    def written(self) -> tuple[int, ...]:
        """Return how many orders, requests, events and timers there are."""
        with psycopg.connect(self.db.logins.owner) as tx:
            return tuple(tx.execute(WRITTEN).fetchone() or ())

    def cancel(self, order_id: str, headers: Mapping[str, str] | None = None) -> Got:
        """Ask to cancel an order."""
        return self.ask("POST", f"/v1/orders/{order_id}/cancel", None, headers)

    def emitted(self, order_id: str) -> list[str]:
        """Return the types of the events told of an order, in sequence."""
        return [kind for kind, _ in self.db.published(order_id)]

    @contextmanager
    def stream(self, order_id: str, last: int | None = None) -> Iterator[Iterator[Told]]:
        """Open an order's stream; its events come as they are told, comments too, until the server ends it."""
        known = {} if last is None else {"Last-Event-ID": str(last)}
        url = f"{self.url}/v1/orders/{order_id}/stream"
        with httpx.stream("GET", url, headers=known, timeout=60, trust_env=False) as answer:
            assert answer.status_code == 200, answer.read()
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            yield _events(answer.iter_lines())


@dataclass(frozen=True, slots=True)
class Told:
    """An event of a stream; a comment has no name."""

    name: str
    id: int | None
    data: Any


def _events(lines: Iterator[str]) -> Iterator[Told]:
    found: dict[str, str] = {}
    for text in lines:
        if text:
            name, _, value = text.partition(": ")
            found[name] = value
        elif found:
            place = int(found["id"]) if "id" in found else None
            yield Told(found.get("event", ""), place, json.loads(found.get("data", "null")))
            found = {}
