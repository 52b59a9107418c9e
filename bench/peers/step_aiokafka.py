"""The step on aiokafka: one message, one transaction, one commit of its offset."""

from __future__ import annotations

import asyncio
import os

import psycopg
import uvloop
from aiokafka import AIOKafkaConsumer

from bench.peers.reserve import GROUP, ORDERS, reserve


async def main() -> None:
    """Consume until ended."""
    consumer = AIOKafkaConsumer(
        ORDERS,
        bootstrap_servers=os.environ["KAFKA_BOOTSTRAP"],
        group_id=GROUP,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        async with await psycopg.AsyncConnection.connect(os.environ["DATABASE_URL"], autocommit=True) as db:
            async for message in consumer:
                await reserve(db, dict(message.headers), message.value or b"")
                await consumer.commit()
    finally:
        await consumer.stop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
