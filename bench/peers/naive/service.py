"""A service of the naive build: `service.py order api` is the web process, `service.py NAME worker` the other.

Sync endpoints, an ORM session and a transaction for every event, an outbox polled with SKIP LOCKED, Confluent's
serializers, an offset committed for every message (``ASYNC_COMMITS=1``: without waiting for it). Settings are
environment variables, for it stands on the same parts as what it is measured against.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any
from uuid import uuid4

import uvicorn
from confluent_kafka import Consumer, Message, Producer
from confluent_kafka.schema_registry import SchemaRegistryClient, record_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy import create_engine, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from bench.peers.naive.handlers import HANDLERS, HEARS
from bench.peers.naive.tables import Base, InboxEvent, Order, OutboxEvent, emit

KAFKA = os.environ.get("KAFKA_BOOTSTRAP", "")
POLL_SECONDS = 0.05
BATCH = 100
stopping = threading.Event()


@cache
def sessions() -> sessionmaker[Session]:
    """Return what makes sessions on this service's database."""
    url = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1)
    engine = create_engine(url, pool_size=10, max_overflow=10)
    with engine.begin() as db:  # API and worker start at once, and both would make the tables
        db.execute(text("SELECT pg_advisory_xact_lock(1)"))
        Base.metadata.create_all(db)
    return sessionmaker(engine)


# --- the web process


class Line(BaseModel):
    """A position of an order."""

    sku: str = Field(min_length=1, max_length=64)
    quantity: int = Field(ge=1)
    unit_price_minor: int = Field(ge=0)


class NewOrder(BaseModel):
    """What a client asks for."""

    customer_id: str = Field(min_length=1)
    payment_token: str = Field(min_length=1)
    currency: str = Field(pattern="^[A-Z]{3}$")
    lines: list[Line] = Field(min_length=1, max_length=100)


app = FastAPI()


@app.post("/v1/orders", status_code=202)
def place(new: NewOrder, idempotency_key: Annotated[str, Header()]) -> dict[str, str]:
    """Take an order in, once for each key."""
    with sessions()() as session:
        order = Order(
            id=str(uuid4()),
            key=idempotency_key,
            customer_id=new.customer_id,
            lines=[line.model_dump() for line in new.lines],
            amount_minor=sum(line.quantity * line.unit_price_minor for line in new.lines),
            currency=new.currency,
            status="PENDING",
        )
        session.add(order)
        emit(
            session,
            "order.events",
            "order.placed",
            order.id,
            customer_id=order.customer_id,
            lines=order.lines,
            amount_minor=order.amount_minor,
            currency=order.currency,
            payment_token=new.payment_token,
            deadline_at=int((datetime.now(UTC).timestamp() + 900) * 1000),
        )
        answer = {"order_id": order.id, "status": "PENDING"}
        try:
            session.commit()
        except IntegrityError:
            session.rollback()
            before = session.scalars(select(Order).where(Order.key == idempotency_key)).one()
            return {"order_id": before.id, "status": before.status}
    return answer


@app.get("/v1/orders/{order_id}")
def read(order_id: str) -> dict[str, Any]:
    """Tell how an order stands."""
    with sessions()() as session:
        order = session.get(Order, order_id)
        if order is None:
            raise HTTPException(404)
        return {"order_id": order.id, "status": order.status, "reason": order.reason}


# --- the worker process: one thread consumes, one publishes


def main() -> None:
    """Be one process of a service."""
    name, role = sys.argv[1:]
    sessions()
    if role == "api":
        uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning", access_log=False)
        return
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    for work in (consume, publish):
        threading.Thread(target=_ending, args=(work, name), name=work.__name__).start()


def _ending(work: Callable[[str], None], name: str) -> None:
    try:
        work(name)
    except Exception:  # noqa: BLE001 - a worker that lost one of its loops is none
        traceback.print_exc()
        os._exit(1)


def registry() -> SchemaRegistryClient:
    """Return the registry the whole shop uses."""
    return SchemaRegistryClient({"url": os.environ["REGISTRY_URL"]})


def consume(name: str) -> None:
    """Handle one message after the other: a transaction each, then its offset."""
    settings = {
        "bootstrap.servers": KAFKA,
        "group.id": f"naive-{name}",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    }
    consumer, read_avro = Consumer(settings), AvroDeserializer(registry())
    consumer.subscribe(HEARS[name])
    waits = os.environ.get("ASYNC_COMMITS") != "1"
    while not stopping.is_set():
        message = consumer.poll(1.0)
        if message is None or message.error():
            continue
        handle(name, message, read_avro)
        if waits:
            consumer.commit(message=message, asynchronous=False)
        else:
            consumer.commit(message=message)
    consumer.close()


def handle(name: str, message: Message, read_avro: AvroDeserializer) -> None:
    """Handle a message that was not handled before, if this service hears its type."""
    found = dict(message.headers() or ())
    headers = {key: value.decode() for key, value in found.items() if isinstance(value, bytes)}
    handler = HANDLERS[name].get(headers["ce_type"])
    if handler is None:
        return
    body = read_avro(message.value(), SerializationContext(message.topic() or "", MessageField.VALUE))
    with sessions()() as session:
        if session.get(InboxEvent, headers["ce_id"]) is not None:
            return
        session.add(InboxEvent(id=headers["ce_id"]))
        handler(session, body)  # type: ignore[arg-type] # a record
        session.commit()


@cache
def writer(kind: str) -> AvroSerializer:
    """Return the serializer of an event's type, over its published schema."""
    subject = f"quadrille.{os.environ['SERVICE']}.{''.join(map(str.title, kind.replace('.', '_').split('_')))}"
    found = registry().get_latest_version(subject)
    rules = {
        "auto.register.schemas": False,
        "use.latest.version": True,
        "subject.name.strategy": record_subject_name_strategy,
    }
    return AvroSerializer(registry(), found.schema.schema_str, conf=rules)  # type: ignore[no-any-return] # its stubs


def publish(_: str) -> None:
    """Poll the outbox: rows locked, sent, deleted."""
    producer = Producer({"bootstrap.servers": KAFKA, "enable.idempotence": True, "acks": "all"})
    while not stopping.is_set():
        with sessions()() as session:
            wanted = select(OutboxEvent).order_by(OutboxEvent.number).limit(BATCH)
            events = session.scalars(wanted.with_for_update(skip_locked=True)).all()
            for event in events:
                context = SerializationContext(event.topic, MessageField.VALUE)
                headers = {"ce_id": event.id, "ce_type": event.type, "ce_time": event.created_at.isoformat()}
                value = writer(event.type)(event.body, context)
                producer.produce(event.topic, value, event.order_id, headers=list(headers.items()))
            if events:
                producer.flush()
            for event in events:
                session.delete(event)
            session.commit()
        if not events:
            time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
