"""The order service on its own database with its real API and ops ports, beside a console that watches it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg

from console.domain import Shown
from order import api, store
from order.domain import Orders
from order.events import StockReserved
from order.handlers import on
from order.main import PROGRAM
from order.settings import OrderSettings
from quadrille import AnyRecord
from quadrille.app import ProcessContext
from quadrille.ops import server
from quadrille.ops.audit_log import audit_routes
from quadrille.ops.consumers import consumers
from quadrille.ops.parked import ParkedRoutes
from quadrille.ops.replays import ReplayRoutes
from quadrille.processing.envelope import Envelope, OffsetRange, Record, Unreadable
from quadrille.replay.fence import Effects
from quadrille.replay.manager import Replays, Shadows
from quadrille.replay.parked_bulk import ParkedBulk
from quadrille.testing import Logins, OnPostgres, Spans, ops_serving, serving
from quadrille.testing.in_memory import PlainCodec
from tests.chassis.support.database import envelope_of
from tests.chassis.support.records import record_headers
from tests.console.stories import Teller, inputs

TOPIC = "inventory.events"
NOWHERE = {"database_url": "", "kafka_bootstrap": "none", "registry_url": "http://none"}
ORDER = {"customer_id": "cust_demo", "payment_token": "tok_ok", "currency": "EUR",
         "lines": [{"sku": "SKU-TEA", "quantity": 2, "unit_price_minor": 1250}]}  # fmt: skip
EMPTY = (
    "TRUNCATE orders, idempotency_key, outbox, stream, task, inbox, parked, position, operation, audit, consumer_pause"
)


@dataclass(slots=True)
class Floor:
    """Order with its database: what is placed there, what it cannot read, what came of it; and the console's ear."""

    db: OnPostgres[Orders]
    console: OnPostgres[Shown]
    url: str = ""
    ops: dict[str, str] = field(default_factory=dict)
    teller: Teller = field(default_factory=Teller)
    read: int = 0

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Return what the owner of order's database reads or changes."""
        with psycopg.connect(self.db.logins.owner) as tx:
            found = tx.execute(statement.encode(), values)
            return found.fetchall() if found.description else []

    def audit(self) -> list[tuple[str, str, str]]:
        """Return who did what for which reason, in order."""
        return [(a, b, c) for a, b, c in self.sql("SELECT actor, action, reason FROM audit ORDER BY number")]

    def place(self) -> str:
        """Place an order over the API."""
        made = httpx.post(f"{self.url}/v1/orders", json=ORDER, headers={"Idempotency-Key": str(uuid4())})
        assert made.status_code == 202, made.text
        return str(made.json()["order_id"])

    def parks(self, order: str, *, broken: bool = False) -> Envelope:
        """Let order park what inventory says of an order: its bytes are good, unless they are ``broken`` for ever."""
        one = envelope_of(StockReserved(order), origin=OffsetRange(TOPIC, 0, self.read, self.read + 1))
        assert one.record
        raw = b"junk" if broken else one.record.raw
        record = Record(raw, record_headers(one.id, one.type, sequence=1))
        self.db.takes([replace(one, body=Unreadable("the schema could not be read"), record=record)])
        self.read += 1
        return one

    def hears(self, *records: AnyRecord) -> None:
        """Let the console hear records."""
        self.console.takes(inputs(*records))

    def tells_of(self, parked: Sequence[Envelope]) -> None:
        """Let the console hear of orders and of what order has parked of them."""
        for one in parked:
            placed = self.teller.placed(one.key, timedelta(0))
            body = {"service": "order", "event_id": str(one.id), "error_class": "UNDECODABLE",
                    "error": "the schema could not be read", "behind": 0}  # fmt: skip
            words = "input.parked", "input.dead"
            told = [self.teller.says(one.key, word, timedelta(0), body, one.id, topic="ops.events") for word in words]
            self.hears(placed, *told)


@contextmanager
def order_floor(db: OnPostgres[Orders], console: OnPostgres[Shown], **told: Any) -> Iterator[Floor]:  # noqa: ANN401 - settings
    """Order's API, its api's ops port, and a worker's as far as a person asks it, over an emptied database."""
    floor = Floor(db, console)
    floor.sql(EMPTY)
    floor.sql("UPDATE intake SET state = 'OPEN'")
    floor.sql("INSERT INTO position VALUES (%s, 0, 0)", TOPIC)
    settings = OrderSettings.model_validate(NOWHERE | told)
    asked = ProcessContext(settings, db.service, db.connect, Spans.disabled())
    working = ProcessContext(settings, db.service, db.connect, Spans.disabled(), decoder=PlainCodec())
    bulk = ParkedBulk(working)
    routes = {
        **ReplayRoutes(Replays(working, Effects({})), Shadows(working), bulk).routes(),
        **ParkedRoutes(bulk).routes(), **consumers(working), **audit_routes(working),
    }  # fmt: skip
    with (
        serving(api.make, db.service, db.connect, **told) as floor.url,
        ops_serving(PROGRAM, asked) as port,
        bulk,
        server.serve("127.0.0.1:0", "order", "worker", {}, routes=routes, keys=working.keys) as worker,
    ):
        floor.ops = {"order-api": f"http://127.0.0.1:{port}", "order-worker": f"http://127.0.0.1:{worker.server_port}"}
        yield floor


def order_on(logins: Logins, folder: Path) -> OnPostgres[Orders]:
    """Return order over its database."""
    return OnPostgres(on, store, logins, folder)
