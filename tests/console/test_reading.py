"""What the console keeps of records, and what it says of orders: over its real database."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import sqlalchemy as sa

from console import reads
from console.domain import Keeping, Shown
from console.reading import plain
from quadrille.ids import uuid7
from quadrille.observability.readiness import NotReadyError
from quadrille.processing.envelope import Duplicate, Envelope, Handled
from quadrille.testing import OnPostgres
from tests.console.conftest import console_served
from tests.console.stories import Teller, a_day, inputs


@contextmanager
def reading(console: OnPostgres[Shown]) -> Iterator[sa.Connection]:
    """A connection as the API has it."""
    engine = sa.create_engine("postgresql+psycopg://", creator=console.connect)
    with engine.connect() as db:
        yield db
    engine.dispose()


def standing(console: OnPostgres[Shown]) -> list[dict[str, Any]]:
    """Every order as it stands, without what is of the moment."""
    with reading(console) as db:
        found = reads.rows(db, "SELECT * FROM order_view ORDER BY order_id")
    return [{name: value for name, value in row.items() if name != "changed_at"} for row in found]


def test_an_order_stands_as_its_events_say(console: OnPostgres[Shown]) -> None:
    """Confirmed and undone orders have their end and how long it took; the others whom they wait for and why."""
    teller = Teller()
    outcomes = console.takes(inputs(*a_day(teller)))
    assert all(isinstance(one, Handled) for one in outcomes)

    told = {(row["status"], row["reason"], row["waits_for"], row["attention"]) for row in standing(console)}
    assert told == {
        ("CONFIRMED", None, None, None),
        ("CANCELLED", "OUT_OF_STOCK", None, None),
        ("COMPENSATION_FAILED", "CUSTOMER", "a person", "UNDO_FAILED"),
        ("PAYMENT_CHARGED", None, "order", "PARKED"),
        ("INVENTORY_RESERVED", None, "payment", None),
    }
    [parked] = [row for row in standing(console) if row["attention"] == "PARKED"]
    assert "header ce_id is missing" in parked["because"]
    assert {row["took_ms"] for row in standing(console) if row["status"] == "CONFIRMED"} == {300}


def test_the_order_in_which_topics_are_read_changes_nothing(console: OnPostgres[Shown]) -> None:
    """Whatever the interleaving of topics and batches, every order stands the same; a repeat does nothing."""
    teller = Teller()
    told = a_day(teller)
    console.takes(inputs(*told))
    wanted = standing(console)
    for table in ("event", "order_view", "failure"):
        console.tx.execute(f"DELETE FROM {table}".encode())  # noqa: S608 - ours
    lanes: dict[str, list[Any]] = {}
    for record in told:
        lanes.setdefault(record.topic, []).append(record)
    pick = random.Random(7)  # noqa: S311 - a shuffle
    mixed = []
    while lanes:
        topic = pick.choice(sorted(lanes))
        mixed.append(lanes[topic].pop(0))
        if not lanes[topic]:
            del lanes[topic]
    again = [store_as_new(one) for one in inputs(*mixed)]
    for at in range(0, len(again), 9):
        console.takes(again[at : at + 9])

    assert standing(console) == wanted
    assert {type(one) for one in console.takes(again)} == {Duplicate}
    assert standing(console) == wanted


def store_as_new(envelope: Envelope) -> Envelope:
    """The same record for an inbox that has seen it: under another input id, as after a rebuilt database."""
    return replace(envelope, id=uuid7())


def test_every_record_is_kept_unreadable_ones_with_their_bytes(console: OnPostgres[Shown]) -> None:
    """A record that nobody can read is found by its place, with reason and bytes; hostile bytes are text."""
    teller = Teller()
    order = teller.order(timedelta(0))
    bad = teller.unreadable(order, b"<script>\0\xff" * 10, "no schema id in front", timedelta(0))
    console.takes(inputs(bad))

    with reading(console) as db:
        [hit] = reads.found(db, f"payment.events[5]@{bad.offset}")
        row = reads.event(db, str(bad.id))
    assert hit["link"] == f"/events/{bad.id}"
    assert row is not None
    assert (row["fault"], bytes(row["raw"]), row["body"]) == ("no schema id in front", bad.raw, None)
    assert row["headers"] == [["x-why", "0xff003c623e"]]


def test_what_is_past_its_time_is_let_go(console: OnPostgres[Shown]) -> None:
    """More than is kept goes with whatever comes next, the oldest first; nobody needs a clock for it."""
    teller = Teller()
    console.takes(inputs(*a_day(teller)))
    console.service = replace(console.service, rules=Keeping(events=10))
    console.takes(inputs(*teller.waiting(timedelta(seconds=1))))

    with reading(console) as db:
        [count] = reads.rows(db, "SELECT count(*) AS n FROM event")
    assert count["n"] <= 12


def test_secrets_and_values_no_json_has_are_told_otherwise() -> None:
    """A payment token is masked, bytes are hex, what is not finite is a word; JSON takes it all."""
    body = {"payment_token": "tok_ok", "raw": b"\xff", "rate": float("nan"), "name": "a\0b", "rows": ({"x": 1},)}

    assert plain(body) == {"payment_token": "***", "raw": "ff", "rate": "nan", "name": "a\ufffdb", "rows": [{"x": 1}]}
    json.dumps(plain(body), allow_nan=False)


def test_anything_finds_what_it_names(console: OnPostgres[Shown]) -> None:
    """The end of an id, a whole id, a customer, a SKU, a trace: each leads to the order."""
    teller = Teller()
    told = list(teller.confirmed(timedelta(seconds=2), "cust_4711"))
    console.takes(inputs(*told))
    order = told[0].key

    with reading(console) as db:
        for asked in (order, order[-4:], order.upper()[-6:], "cust_4711", "SKU-TEA", told[0].trace_id):
            assert f"/orders/{order}" in {hit["link"] for hit in reads.found(db, asked)}, asked
        assert reads.found(db, "nothing-of-this-name") == []


def test_a_record_read_twice_is_kept_once(console: OnPostgres[Shown]) -> None:
    """A message that is read twice in one batch is kept once."""
    teller = Teller()
    [first, *_] = teller.confirmed(timedelta(seconds=2))
    outcomes = console.takes(inputs(first, first))
    assert [type(one) for one in outcomes] == [Handled, Duplicate]


def test_what_is_not_read_to_the_end_is_not_called_so(console: OnPostgres[Shown]) -> None:
    """While the console reads what came before, its first screen says how much is left; then that it is at the end."""
    left = ["it has 4,711 records still to read"]

    def behind() -> None:
        if left:
            raise NotReadyError(left[0])

    with console_served(console, {}, warns={"behind": behind}) as here:
        text = httpx.get(here.address).text
        assert "what is shown may be old: behind: it has 4,711 records still to read" in text
        assert "read to the end" not in text
    left.clear()
    with console_served(console, {}, warns={"behind": behind}) as here:
        assert "read to the end" in httpx.get(here.address).text
