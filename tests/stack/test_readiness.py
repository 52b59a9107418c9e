"""Each role is ready when it has what it needs, and says why while it has not; what it says to do then works."""

from __future__ import annotations

import contextlib
import re
import time
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from quadrille.kafka.config import client_settings
from quadrille.kafka.topics import Topics
from quadrille_cli.client import Client
from quadrille_cli.demo_data import order_of
from quadrille_cli.main import app
from quadrille_cli.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PARTS = {"kafka", "registry", "topics", "schemas", "postgres:order", "postgres:inventory", "order", "inventory"}
PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
RESEND, FORGET = (
    next(sql for sql in re.findall(r"```sql\n(.+?)```", PAGE.read_text("utf-8"), re.DOTALL) if words in sql)
    for words in ("proven_xid = NULL", "AND partition = 3")
)


@pytest.fixture(scope="module")
def half(parts_of_the_stack: Callable[..., Stack]) -> Stack:
    """Order and inventory with all they stand on."""
    return parts_of_the_stack(*PARTS)


def why(stack: Stack, name: str) -> dict[str, str]:
    """Return why a process is not ready, by check; nothing when it is ready."""
    with Client(f"http://127.0.0.1:{stack.ports[name]}") as ops:
        answer = ops.ask("GET", "/readyz")
    checks: dict[str, Any] = answer.body["checks"]
    found = {check: str(told["reason"]) for check, told in checks.items() if not told["ok"]}
    assert (answer.status == 200) is (not found)
    return found


def health(stack: Stack, name: str) -> str:
    """Return what degrades a process that is ready, by its relay's check."""
    with Client(f"http://127.0.0.1:{stack.ports[name]}") as ops:
        found = ops.demand("GET", "/healthz").body
    assert found["status"] == ("pass" if found["checks"]["relay"]["ok"] else "warn"), found
    return str(found["checks"]["relay"].get("reason", ""))


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)


def sql(stack: Stack, service: str, statements: str) -> list[tuple[Any, ...]]:
    """Run SQL in a service's database as superuser."""
    with psycopg.connect(stack.database_url(service, "postgres"), autocommit=True) as tx:
        found = tx.execute(statements.encode())
        return found.fetchall() if found.description else []


@contextlib.contextmanager
def read_only(stack: Stack, service: str) -> Iterator[None]:
    """Let a server refuse writes while the block lasts."""
    sql(stack, service, "ALTER SYSTEM SET default_transaction_read_only = on")
    sql(stack, service, "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        with psycopg.connect(stack.database_url(service, "postgres"), autocommit=True) as tx:
            tx.execute("SET default_transaction_read_only = off")
            tx.execute("ALTER SYSTEM RESET default_transaction_read_only")
            tx.execute("SELECT pg_reload_conf()")


def test_api_and_worker_on_a_read_only_server_are_not_ready(half: Stack) -> None:
    """Every write would be refused: both say so, and are ready again as soon as the server takes writes."""
    with read_only(half, "inventory"):
        for name in ("inventory-api", "inventory-worker"):
            until(partial(_read_only_told, half, name), f"{name} says it")
    for name in ("inventory-api", "inventory-worker"):
        until(partial(_ready, half, name), f"{name} is ready again")


def test_a_worker_without_kafka_is_not_ready_and_an_api_is(half: Stack) -> None:
    """A worker needs Kafka and says so while it is away, in `quadrille status` too; an api takes orders without it."""
    broker = half.process("kafka")
    broker.kill()
    try:
        until(lambda: "Kafka: " in why(half, "order-worker").get("kafka", ""), "the worker says it")
        assert why(half, "order-api") == {}
        until(lambda: "the relay has published nothing" in health(half, "order-api"), "the api's health is degraded")
        shown = CliRunner().invoke(app, ["status", "--data", str(half.data), "--sample", "0"])
        assert "not ready: order-worker: kafka: Kafka: " in shown.output
        assert shown.exit_code == 1
    finally:
        broker.start()
    for name in ("order-worker", "inventory-worker"):
        until(partial(_ready, half, name), f"{name} is ready again")


def test_what_retention_took_is_sent_again_as_the_page_says(half: Stack) -> None:
    """Retention overtakes a stopped worker: it says so while it lasts; the page's two steps, and nothing was lost."""
    worker = half.process("inventory-worker")
    worker.stop()
    orders = [_placed(half) for _ in range(3)]
    until(lambda: _lying(half) >= _said(half), "the orders lie on the topic")
    cut = [TopicPartition("order.events", partition, -1) for partition in range(12)]
    admin = AdminClient(client_settings(half.kafka_bootstrap))
    for done in admin.delete_records(cut).values():
        done.result(10)
    worker.launch()
    until(lambda: "retention overtook this worker" in _reason(half), "the worker says it")
    assert re.search(r"order\.events\[\d+\] holds \d+ to \d+, the position is \d+", _reason(half))

    said = _said(half)
    sql(half, "order", RESEND)
    until(lambda: _lying(half) >= said, "the relay has sent its outbox again")
    for partition in range(12):
        sql(half, "inventory", FORGET.replace("partition = 3", f"partition = {partition}"))

    until(lambda: not why(half, "inventory-worker"), "the worker is ready again")
    for order in orders:
        until(partial(_rejected, half, order), f"inventory has answered {order}")


def _placed(stack: Stack) -> str:
    with Client(stack.url("order")) as api:
        headers = {"Idempotency-Key": f"test-{uuid.uuid4()}"}
        return str(api.demand("POST", "/v1/orders", order_of([("SKU-NONE", 1)]), headers).body["order_id"])


def _reason(stack: Stack) -> str:
    with contextlib.suppress(OSError):
        return why(stack, "inventory-worker").get("worker", "")
    return ""


def _ready(stack: Stack, name: str) -> bool:
    return not why(stack, name)


def _read_only_told(stack: Stack, name: str) -> bool:
    return "takes no writes" in why(stack, name).get("database", "")


def _lying(stack: Stack) -> int:
    """Return how many records lie on order.events."""
    topics = Topics(stack.kafka_bootstrap)
    return sum(high - low for low, high in topics.watermarks(topics.places("order.events")).values())


def _said(stack: Stack) -> int:
    """Return how many events order has in its outbox for its topic."""
    return int(sql(stack, "order", "SELECT count(*) FROM outbox WHERE aggregatetype = 'order.events'")[0][0])


def _rejected(stack: Stack, order: str) -> bool:
    said = f"SELECT 1 FROM outbox WHERE aggregateid = '{order}' AND type = 'stock.rejected'"  # noqa: S608 - an id of ours
    return bool(sql(stack, "inventory", said))
