"""The step on FastStream: one message, one transaction, acknowledged after it."""

from __future__ import annotations

import asyncio
import os

import psycopg
import uvloop
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker
from faststream.kafka.annotations import KafkaMessage

from bench.peers.reserve import GROUP, ORDERS, reserve

broker = KafkaBroker(os.environ.get("KAFKA_BOOTSTRAP", ""), logger=None)
app = FastStream(broker, logger=None)
connections: list[psycopg.AsyncConnection] = []


@app.on_startup
async def connect() -> None:
    """Open the session that every message uses."""
    connections.append(await psycopg.AsyncConnection.connect(os.environ["DATABASE_URL"], autocommit=True))


@broker.subscriber(ORDERS, group_id=GROUP, auto_offset_reset="earliest", ack_policy=AckPolicy.NACK_ON_ERROR)
async def on_order(message: KafkaMessage) -> None:
    """Reserve what an order asks for."""
    raw = message.raw_message
    assert not isinstance(raw, tuple)
    await reserve(connections[0], dict(raw.headers), raw.value or b"")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(app.run())
