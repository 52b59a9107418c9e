"""The handler of the step's peers: reserve stock for one order, in one transaction over the service's own tables."""

from __future__ import annotations

import io
import json
import os
import urllib.request
from functools import cache
from typing import Any
from uuid import uuid4

import fastavro
import psycopg

ORDERS, GROUP = "order.events", "bench-step"
SEEN = "INSERT INTO inbox VALUES (%s) ON CONFLICT DO NOTHING"
HOLD = "INSERT INTO hold (order_id, skus, quantities, state) VALUES (%s, %s, %s, 'RESERVED')"
TAKE = """
UPDATE level SET available = available - %s, held = held + %s, version = version + 1
 WHERE sku = %s AND available >= %s"""
SAY = """
INSERT INTO outbox (id, aggregatetype, aggregateid, type, sequence, payload, causationid, traceparent)
VALUES (uuidv7(), 'inventory.events', %s, 'stock.reserved', 1, %s, %s, %s)"""


class ShortError(Exception):
    """There is too little: the step's orders are chosen so that there is not."""


@cache
def schema(number: int) -> Any:  # noqa: ANN401 - a parsed schema
    """Return the schema of an id, asked once."""
    with urllib.request.urlopen(f"{os.environ['REGISTRY_URL']}/schemas/ids/{number}") as answer:  # noqa: S310 - our own
        return fastavro.parse_schema(json.loads(json.load(answer)["schema"]))


@cache
def reserved() -> tuple[bytes, Any]:
    """Return the head and the schema of stock.reserved."""
    url = f"{os.environ['REGISTRY_URL']}/subjects/quadrille.inventory.StockReserved/versions/latest"
    with urllib.request.urlopen(url) as answer:  # noqa: S310 - our own
        found = json.load(answer)
    return b"\0" + int(found["id"]).to_bytes(4), fastavro.parse_schema(json.loads(found["schema"]))


async def reserve(db: psycopg.AsyncConnection, headers: dict[str, bytes], value: bytes) -> None:
    """Hold every line of an order that was placed, once."""
    if headers.get("ce_type") != b"order.placed":
        return
    placed: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), schema(int.from_bytes(value[1:5])), None)
    lines = [{"sku": line["sku"], "quantity": line["quantity"]} for line in placed["lines"]]
    event_id = headers["ce_id"].decode()
    head, written = reserved()
    payload = io.BytesIO()
    fastavro.schemaless_writer(payload, written, {"order_id": placed["order_id"], "lines": lines})
    async with db.transaction():
        if not (await db.execute(SEEN, [event_id])).rowcount:
            return
        for line in sorted(lines, key=lambda one: str(one["sku"])):
            n = line["quantity"]
            if not (await db.execute(TAKE, [n, n, line["sku"], n])).rowcount:
                raise ShortError(line["sku"])
        await db.execute(HOLD, [placed["order_id"], [one["sku"] for one in lines], [one["quantity"] for one in lines]])
        said = [placed["order_id"], head + payload.getvalue(), event_id, headers["traceparent"].decode()]
        await db.execute(SAY, said)


def name() -> str:
    """Return a client's name."""
    return f"bench-{uuid4()}"
