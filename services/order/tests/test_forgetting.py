"""Idempotency keys are kept for as long as they count, and go then, without anybody waiting."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest
from services.order.tests.shopfront import Shop

from chassis import upkeep
from chassis.settings import Settings
from order.main import PROGRAM

KEYS = "SELECT key FROM request ORDER BY key"
AGE = "UPDATE request SET at = at - %s WHERE key = ANY(%s)"
HOLD = "SELECT FROM request WHERE key = 'held' FOR UPDATE"
SETTINGS = Settings.model_validate({"database_url": "", "kafka_bootstrap": "none", "registry_url": "http://none"})


def forget(shop: Shop) -> None:
    """Do the part of a worker's upkeep that is order's."""
    with shop.db.connect() as tx:
        PROGRAM.upkeep(SETTINGS).clear(tx)


def keys(shop: Shop) -> list[str]:
    with psycopg.connect(shop.db.logins.owner) as tx:
        return [str(key) for (key,) in tx.execute(KEYS)]


def age(shop: Shop, hours: float, *of: str) -> None:
    with psycopg.connect(shop.db.logins.owner) as tx:
        tx.execute(AGE, [timedelta(hours=hours), list(of)])


def test_keys_go_when_their_time_is_over(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are; one that still counts stays, and one that went makes a new order (failure F5)."""
    monkeypatch.setattr(upkeep, "AT_ONCE", 2)
    first = {key: shop.place(key).body["order_id"] for key in ("a", "b", "c", "young", "edge")}
    age(shop, 50, "a", "b", "c")
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
    age(shop, 50, "held", "other")
    with psycopg.connect(shop.db.logins.app) as tx:
        tx.execute(HOLD)
        forget(shop)
        assert keys(shop) == ["held"]

    forget(shop)
    assert keys(shop) == []
