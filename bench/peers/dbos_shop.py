"""The saga's paths as one durable workflow on DBOS and one Postgres: a neighbour with other guarantees.

One program orchestrates; there are no events for others and no database a service. What is checkpointed is what a step
has returned, so a card is charged once because of its key, as with us.
"""

from __future__ import annotations

import os
import smtplib
from email.message import EmailMessage
from typing import Annotated, Any
from uuid import uuid4

import httpx
import sqlalchemy as sa
import uvicorn
from dbos import DBOS, DBOSConfig, SetWorkflowID, SQLAlchemyDatasource
from fastapi import FastAPI, Header
from pydantic import BaseModel, Field

URL = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1)
TABLES = """
CREATE TABLE IF NOT EXISTS shop_order (
  id text PRIMARY KEY, status text NOT NULL, amount_minor bigint NOT NULL, lines jsonb NOT NULL, ended_at timestamptz);
CREATE TABLE IF NOT EXISTS stock (
  sku text PRIMARY KEY, available bigint NOT NULL, held bigint NOT NULL, committed bigint NOT NULL);
INSERT INTO stock VALUES ('SKU-TEA', 1000000, 0, 0), ('SKU-NONE', 0, 0, 0) ON CONFLICT DO NOTHING"""
MOVE = {
    "available": "UPDATE stock SET held = held - :n, available = available + :n WHERE sku = :sku",
    "committed": "UPDATE stock SET held = held - :n, committed = committed + :n WHERE sku = :sku",
}
PROCESSOR = httpx.Client(base_url=os.environ["PROCESSOR_URL"], timeout=5)
config: DBOSConfig = {"name": "shop", "system_database_url": URL, "log_level": "WARNING"}
app = FastAPI()
DBOS(config=config)
database = SQLAlchemyDatasource.create(URL)


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


def say(text: str, **values: object) -> sa.CursorResult[Any]:
    """Run a statement in the step's transaction."""
    return database.sql_session().execute(sa.text(text), values)  # type: ignore[no-any-return] # not installed here


@database.transaction(isolation_level="READ COMMITTED")
def reserve(order_id: str, amount: int, lines: list[dict[str, Any]]) -> bool:
    """Keep the order and hold every line, or none."""
    say("INSERT INTO shop_order VALUES (:id, 'PENDING', :n, '[]', NULL)", id=order_id, n=amount)
    take = "UPDATE stock SET available = available - :n, held = held + :n WHERE sku = :sku AND available >= :n"
    savepoint = database.sql_session().begin_nested()
    for line in sorted(lines, key=lambda one: str(one["sku"])):
        if not say(take, n=line["quantity"], sku=line["sku"]).rowcount:
            savepoint.rollback()
            return False
    return True


@DBOS.step()
def charge(order_id: str, token: str, amount: int, currency: str) -> bool:
    """Charge the card, once for its key."""
    body = {"payment_token": token, "amount_minor": amount, "currency": currency, "order_id": order_id}
    answer = PROCESSOR.post("/v1/charges", json=body, headers={"Idempotency-Key": f"dbos-{order_id}"})
    return bool(answer.raise_for_status().json()["status"] == "charged")


@database.transaction(isolation_level="READ COMMITTED")
def end(order_id: str, status: str) -> None:
    """Decide an order."""
    say("UPDATE shop_order SET status = :s, ended_at = clock_timestamp() WHERE id = :id", s=status, id=order_id)


@database.transaction(isolation_level="READ COMMITTED")
def move(lines: list[dict[str, Any]], to: str) -> None:
    """Take what is held for good, or give it back."""
    for line in sorted(lines, key=lambda one: str(one["sku"])):
        say(MOVE[to], n=line["quantity"], sku=line["sku"])


@DBOS.step()
def tell(order_id: str, kind: str) -> None:
    """Write to the customer."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = (
        "orders@quadrille.example",
        "demo@shop.example",
        f"Your order was {kind}",
    )
    mail["Message-ID"] = f"<{order_id}.{kind}@quadrille.example>"
    mail.set_content(f"Order {order_id} was {kind}.")
    host, port = os.environ["SMTP"].split(":")
    with smtplib.SMTP(host, int(port), timeout=5) as server:
        server.send_message(mail)


@DBOS.workflow()
def fulfil(order_id: str, order: dict[str, Any]) -> str:
    """Take an order through the saga's paths."""
    amount = sum(line["quantity"] * line["unit_price_minor"] for line in order["lines"])
    if not reserve(order_id, amount, order["lines"]):
        end(order_id, "CANCELLED OUT_OF_STOCK")
        tell(order_id, "CANCELLED")
        return "CANCELLED"
    if not charge(order_id, order["payment_token"], amount, order["currency"]):
        move(order["lines"], "available")
        end(order_id, "CANCELLED PAYMENT_DECLINED")
        tell(order_id, "CANCELLED")
        return "CANCELLED"
    end(order_id, "CONFIRMED")
    move(order["lines"], "committed")
    tell(order_id, "CONFIRMED")
    return "CONFIRMED"


@app.post("/v1/orders", status_code=202)
def place(new: NewOrder, idempotency_key: Annotated[str, Header()]) -> dict[str, str]:
    """Start the workflow of an order; it is durable when this answers."""
    del idempotency_key  # a workflow's id would be it: here orders have ids of their own
    order_id = str(uuid4())
    with SetWorkflowID(order_id):
        DBOS.start_workflow(fulfil, order_id, new.model_dump())
    return {"order_id": order_id, "status": "PENDING"}


def main() -> None:
    """Serve."""
    with sa.create_engine(URL).begin() as db:
        for statement in TABLES.split(";"):
            db.execute(sa.text(statement))
    DBOS.launch()
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
