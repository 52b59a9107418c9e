"""Relays that die, come twice or lose their slot while orders run: every event arrives, none has a second effect."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest

from quadrille_cli.stack.processes import Process, tail
from tests.conftest import away

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quadrille_cli.stack import Stack
    from tests.conftest import Shop

TEA = [("SKU-TEA", 1)]
RELAY = "inventory-relay"
RESERVED = "SELECT 1 FROM outbox WHERE aggregateid = %s AND type = 'stock.reserved'"
DROP = b"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
SENDERS = b"SELECT pid FROM pg_stat_activity WHERE backend_type = 'walsender'"
RECOVERIES = "SELECT count(*) FROM relay_recovery"


@contextmanager
def twin(stack: Stack, name: str) -> Iterator[Process]:
    """A second process of a role beside the first; it is ready when it stands by."""
    like = stack.process(name).spec
    log = like.log.with_suffix(".twin.log")
    env = {**like.env, "QUADRILLE_OPS_BIND": "127.0.0.1:0"}
    other = Process(
        replace(like, env=env, log=log, ports={}, ready=lambda: any("relay.standby" in line for line in tail(log)))
    )
    try:
        other.start()
        yield other
    finally:
        other.stop()


def asked(stack: Stack, statement: bytes) -> list[tuple[object, ...]]:
    """What inventory's server answers its superuser."""
    with psycopg.connect(stack.database_url("inventory", "postgres")) as db:
        return db.execute(statement).fetchall()


def confirmed(shop: Shop) -> str:
    """An order that went all the way, with every event of inventory on its topic in the order it was said."""
    order = shop.submit(TEA)
    assert shop.ended(order)["status"] == "CONFIRMED"
    whole(shop, order)
    return order


def whole(shop: Shop, order: str) -> None:
    """See to it that an order's events of inventory first came in sequence without a gap, and no other came."""
    mine = [record for record in shop.records(order) if record.topic == "inventory.events"]
    first = {record.header("ce_id"): (record.header("ce_sequence"), record.type) for record in reversed(mine)}
    assert list(reversed(first.values())) == [("1", "stock.reserved"), ("2", "stock.committed")]
    assert [entry["kind"] for entry in shop.captures(order)] == ["CAPTURE"]


@pytest.mark.proves("F18")
def test_one_of_two_relays_works_and_the_other_takes_over(shop: Shop, stack: Stack) -> None:
    """F18: the slot admits one; it dies and the other goes on; back, it waits until that one goes in turn."""
    with twin(stack, RELAY) as other:
        confirmed(shop)
        (working,) = asked(stack, SENDERS)
        stack.process(RELAY).kill()
        confirmed(shop)
        stack.process(RELAY).start()
        confirmed(shop)
        (instead,) = asked(stack, SENDERS)
        assert (other.running, working != instead) == (True, True)
    confirmed(shop)


@pytest.mark.proves("F19")
def test_a_lost_slot_costs_no_fact(shop: Shop, stack: Stack) -> None:
    """F19: what the slot kept is gone; what is not proven is read from the outbox: none missing, none counted twice."""
    earlier, recoveries = confirmed(shop), shop.sql("inventory", RECOVERIES)[0][0]
    shop.until(lambda: shop.mails(earlier), "the mail has gone")
    before = shop.effects(earlier)
    with away(stack, RELAY):
        asked(stack, DROP)
        order = shop.submit(TEA)
        shop.until(lambda: shop.sql("inventory", RESERVED, order), "the goods are held")
        assert "stock.reserved" not in [record.type for record in shop.records(order)]
    assert shop.ended(order)["status"] == "CONFIRMED"
    whole(shop, order)
    assert shop.sql("inventory", RECOVERIES) == [(recoveries + 1,)]
    assert len([r for r in shop.records(earlier) if r.type == "stock.reserved"]) <= 2  # once, where it was proven
    shop.until(shop.all_read, "all is read")
    assert {**shop.effects(earlier), "stock": None} == {**before, "stock": None}
