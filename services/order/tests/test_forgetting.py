"""Idempotency keys are kept for as long as they count, and go then, without anybody waiting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from services.order.tests.shopfront import Shop

from order.settings import OrderSettings
from quadrille.app import ProcessContext
from quadrille.service import milliseconds
from quadrille.testing import Spans, uuid7

KEYS = "SELECT key FROM idempotency_key ORDER BY key"
AGE = "UPDATE idempotency_key SET at = at - %s WHERE key = ANY(%s)"
HOLD = "SELECT FROM idempotency_key WHERE key = 'held' FOR UPDATE"
SETTINGS = OrderSettings.model_validate({"database_url": "", "kafka_bootstrap": "none", "registry_url": "http://none"})


def forget(shop: Shop) -> None:
    """Do a worker's retention."""
    with shop.db.connect() as tx:
        ProcessContext(SETTINGS, shop.db.service, shop.db.connect, Spans.disabled()).retention.clear(tx)


def keys(shop: Shop) -> list[str]:
    with psycopg.connect(shop.db.logins.owner) as tx:
        return [str(key) for (key,) in tx.execute(KEYS)]


def age(shop: Shop, hours: float, *of: str) -> None:
    with psycopg.connect(shop.db.logins.owner) as tx:
        tx.execute(AGE, [timedelta(hours=hours), list(of)])


def live_on(shop: Shop, days: int = 3) -> None:
    """Let something have been handled on each of so many days up to today."""
    with psycopg.connect(shop.db.logins.owner) as tx:
        for day in range(days):
            tx.execute("INSERT INTO inbox VALUES (%s)", [uuid7(milliseconds(datetime.now(UTC) - timedelta(days=day)))])


def test_a_clock_that_jumps_ahead_forgets_no_key(shop: Shop) -> None:
    """A key is three weeks old by the clock alone: until days were lived since, it stays, and so does its order."""
    for key in ("a", "b"):
        shop.place(key)
    age(shop, 500, "a", "b")
    forget(shop)
    assert keys(shop) == ["a", "b"]
    live_on(shop, 2)
    forget(shop)
    assert keys(shop) == ["a", "b"]
    live_on(shop)
    forget(shop)
    assert keys(shop) == []


def test_keys_go_when_their_time_is_over(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are; one that still counts stays, and one that went makes a new order (failure R13)."""
    monkeypatch.setattr("quadrille.db.retention.AT_ONCE", 2)
    first = {key: shop.place(key).body["order_id"] for key in ("a", "b", "c", "young", "edge")}
    age(shop, 75, "a", "b", "c")
    live_on(shop)
    age(shop, 47, "young")
    age(shop, 48.5, "edge")

    forget(shop)

    assert keys(shop) == ["edge", "young"]
    assert shop.place("young").body["order_id"] == first["young"]
    assert shop.place("a").body["order_id"] != first["a"]
    assert shop.place("edge").body["order_id"] != first["edge"]


def test_a_key_in_use_stays(shop: Shop) -> None:
    """One that somebody holds at this moment is not waited for; the next time it goes."""
    for key in ("held", "other"):
        shop.place(key)
    age(shop, 75, "held", "other")
    live_on(shop)
    with psycopg.connect(shop.db.logins.app) as tx:
        tx.execute(HOLD)
        forget(shop)
        assert keys(shop) == ["held"]

    forget(shop)
    assert keys(shop) == []
