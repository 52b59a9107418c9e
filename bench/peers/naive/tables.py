"""Tables of the naive build, one database a service: an outbox and an inbox each, and what the service knows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import JSON, BigInteger, DateTime, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


def _now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """What all share."""


class OutboxEvent(Base):
    """An event that is to be published."""

    __tablename__ = "outbox_event"
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(Text, default=lambda: str(uuid4()))
    topic: Mapped[str] = mapped_column(Text)
    type: Mapped[str] = mapped_column(Text)
    order_id: Mapped[str] = mapped_column(Text)
    body: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)


class InboxEvent(Base):
    """An event that was handled."""

    __tablename__ = "inbox_event"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    handled_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)


class Order(Base):
    """An order: PENDING, CONFIRMED, CANCELLING or CANCELLED; what is still to be undone."""

    __tablename__ = "shop_order"
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    key: Mapped[str] = mapped_column(Text, unique=True)
    customer_id: Mapped[str] = mapped_column(Text)
    lines: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text)
    stock: Mapped[str] = mapped_column(Text, default="PENDING")
    payment: Mapped[str] = mapped_column(Text, default="PENDING")
    reason: Mapped[str | None] = mapped_column(Text)
    placed_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)


class Stock(Base):
    """What there is of a SKU."""

    __tablename__ = "stock"
    sku: Mapped[str] = mapped_column(Text, primary_key=True)
    available: Mapped[int] = mapped_column(BigInteger)
    held: Mapped[int] = mapped_column(BigInteger, default=0)
    committed: Mapped[int] = mapped_column(BigInteger, default=0)


class Hold(Base):
    """What is held for an order."""

    __tablename__ = "hold"
    order_id: Mapped[str] = mapped_column(Text, primary_key=True)
    lines: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(Text)


class Payment(Base):
    """What is known of an order's money."""

    __tablename__ = "payment"
    order_id: Mapped[str] = mapped_column(Text, primary_key=True)
    amount_minor: Mapped[int | None] = mapped_column(BigInteger)
    currency: Mapped[str | None] = mapped_column(Text)
    token: Mapped[str | None] = mapped_column(Text)
    permitted: Mapped[bool] = mapped_column(default=False)
    state: Mapped[str] = mapped_column(Text, default="OPEN")
    reference: Mapped[str | None] = mapped_column(Text)


class Mail(Base):
    """A mail that was sent."""

    __tablename__ = "mail"
    order_id: Mapped[str] = mapped_column(Text, primary_key=True)
    kind: Mapped[str] = mapped_column(Text)


def emit(session: Session, topic: str, kind: str, order_id: str, /, **body: object) -> None:
    """Say that something happened, in the transaction that made it so."""
    session.add(OutboxEvent(topic=topic, type=kind, order_id=order_id, body={"order_id": order_id, **body}))
