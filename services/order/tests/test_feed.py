"""The feed of all a caller's orders: no change is skipped, whoever commits last; pages, live, and after a restart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import httpx
import psycopg
import pytest
from services.order.tests.shopfront import Got, Shop

from order import api, store
from order.events import PaymentCharged, PlaceOrder, StockRejected, StockReserved
from quadrille import BEGINNING, FeedPlace, Message, rfc3339
from quadrille.service import Tx, milliseconds
from quadrille.testing import process_batch, serving, uuid7
from quadrille.web import write_place

AGE = "UPDATE order_change SET at = at - interval '30 days' WHERE order_id = %s"
PLACE_OF_ITS_OWN = "greatest(pg_current_xact_id(), pg_snapshot_xmax(pg_current_snapshot()))"


def placed(shop: Shop) -> str:
    return str(shop.place(f"k-{uuid4()}").body["order_id"])


def page(shop: Shop, after: str = "", limit: int = 200) -> Got:
    return shop.ask("GET", f"/v1/events?limit={limit}" + (f"&after={after}" if after else ""))


def told(got: Got) -> list[tuple[str, int, str]]:
    """Return what a page tells: order, sequence, status."""
    assert got.status == 200, got
    return [(one["order_id"], one["sequence"], one["status"]) for one in got.body["events"]]


def handle(tx: Tx, shop: Shop, *messages: Message) -> None:
    """Handle messages in the transaction that is open."""
    process_batch(tx, shop.db.service, shop.db.inputs(messages))


def test_every_change_is_told_in_its_order(shop: Shop) -> None:
    """All statuses of all one's orders, also those passed through at once; oldest first, as the histories have them."""
    one, other = placed(shop), placed(shop)
    shop.db.given(StockReserved(one), StockRejected(other, ()))
    shop.db.given(PaymentCharged(one))
    shop.cancel(one)
    got = page(shop)

    histories = {order: shop.ask("GET", f"/v1/orders/{order}").body["history"] for order in (one, other)}
    for order, history in histories.items():
        assert [e["status"] for e in got.body["events"] if e["order_id"] == order] == [h["status"] for h in history]
    event = next(e for e in got.body["events"] if e["status"] == "CONFIRMED")
    wanted = next(h for h in histories[one] if h["status"] == "CONFIRMED")
    assert {name: event[name] for name in wanted} == wanted
    assert (event["type"], event["final"], event["phase"]) == ("order.confirmed", True, "SUCCEEDED")
    assert [e["cursor"] for e in got.body["events"]][-1] == got.body["next"]
    assert not got.body["has_more"]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_pages_of_any_size_tell_the_same(shop: Shop, limit: int) -> None:
    """A cursor may stand between two changes of one transaction; the end's cursor goes on with what comes later."""
    orders = [placed(shop) for _ in range(3)]
    shop.db.given(*(StockReserved(order) for order in orders))
    shop.db.given(*(PaymentCharged(order) for order in orders))
    whole, found, cursor, more = told(page(shop)), [], "", True
    while more:
        got = page(shop, cursor, limit)
        found += told(got)
        cursor, more = got.body["next"], got.body["has_more"]

    assert found == whole
    assert len(whole) == 12
    assert told(page(shop, cursor)) == []
    assert page(shop, cursor).body["next"] == cursor
    shop.cancel(orders[0])
    assert told(page(shop, cursor)) == [(orders[0], 5, "CANCELLING")]


def read_while_one_commits_late(shop: Shop) -> tuple[list[str], list[str]]:
    """Return which of two orders are told, a page after the other: the first to begin commits after the first page."""
    late, soon = placed(shop), placed(shop)
    cursor = page(shop).body["next"]
    with shop.db.connect() as tx:
        with tx.transaction():
            handle(tx, shop, StockReserved(late))
            shop.db.given(StockReserved(soon))
            first = page(shop, cursor)
        second = page(shop, first.body["next"])
    names = {late: "late", soon: "soon"}
    return tuple([names[order] for order, *_ in told(got)] for got in (first, second))  # type: ignore[return-value]  # two


def test_who_commits_late_is_not_skipped(shop: Shop) -> None:
    """What could still be overtaken is not told yet; once nothing can come before it, both are, in their order."""
    assert read_while_one_commits_late(shop) == ([], ["late", "soon"])


def test_the_naive_cursor_skips(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: told as soon as it is seen, the later one moves the cursor past the earlier, which is never told."""
    naive = store.NEXT_CHANGES.replace("c.place < pg_snapshot_xmin(pg_current_snapshot())", "true")
    assert naive != store.NEXT_CHANGES
    monkeypatch.setattr(store, "NEXT_CHANGES", naive)

    assert read_while_one_commits_late(shop) == (["soon"], [])


def changed_by_who_began_first(shop: Shop) -> list[str]:
    """Return an order's statuses as told, when its last change is by a transaction that began before another's."""
    order = placed(shop)
    with shop.db.connect() as tx, tx.transaction():
        tx.execute("SELECT pg_current_xact_id()")
        shop.db.given(StockReserved(order))
        handle(tx, shop, PaymentCharged(order))
    return [status for _, _, status in told(page(shop))]


def test_an_order_is_told_in_its_own_sequence(shop: Shop) -> None:
    """A transaction's number says when it began, not when it had the order: the place does not go back for it."""
    assert changed_by_who_began_first(shop) == ["PENDING", "INVENTORY_RESERVED", "PAYMENT_CHARGED", "CONFIRMED"]


def test_a_transactions_number_alone_is_no_place(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: by the number alone, what came last is told before what it followed."""
    naive = store.SET_ORDERS.replace(PLACE_OF_ITS_OWN, "pg_current_xact_id()")
    assert naive != store.SET_ORDERS
    monkeypatch.setattr(store, "SET_ORDERS", naive)

    assert changed_by_who_began_first(shop) == ["PENDING", "PAYMENT_CHARGED", "CONFIRMED", "INVENTORY_RESERVED"]


def test_nobody_sees_anothers(shop: Shop, place: PlaceOrder) -> None:
    """The feed, its stream and its cursors are the caller's own."""
    shop.db.given(replace(place, caller="other", order_id=str(uuid7())))
    mine = placed(shop)
    with live(shop, page(shop, limit=1).body["next"]) as events:
        assert next(events)[0] == "begin"
        shop.db.given(StockReserved(mine))
        assert json.loads(next(events)[2])["order_id"] == mine

    assert told(page(shop)) == [(mine, 1, "PENDING"), (mine, 2, "INVENTORY_RESERVED")]
    assert page(shop, write_place(BEGINNING, "local")).status == 200
    assert page(shop, write_place(BEGINNING, "other")).slug == "invalid-cursor"


@pytest.mark.parametrize("cursor", ["A", "AAAA", "x" * 48, "-" * 200])
def test_a_damaged_cursor_is_refused(shop: Shop, cursor: str) -> None:
    """A cursor that is none is 400, for pages and for the stream."""
    assert (page(shop, cursor).status, page(shop, cursor).slug) == (400, "invalid-cursor")
    stream = shop.ask("GET", f"/v1/events/stream?after={cursor}")
    assert (stream.status, stream.slug) == (400, "invalid-cursor")


def forget(shop: Shop, *orders: str) -> None:
    """Let changes of these be old, and a worker's retention come by, after days that were lived."""
    with psycopg.connect(shop.db.logins.owner, autocommit=True) as tx:
        now = milliseconds(tx.execute("SELECT now()").fetchall()[0][0])
        for day in range(3):
            tx.execute("INSERT INTO inbox VALUES (%s)", [uuid7(now - day * 86_400_000)])
        for order in orders:
            tx.execute(AGE, [order])
    with shop.db.connect() as tx:
        while store.forget_changes(tx, timedelta(days=7)):
            pass


def test_what_is_gone_is_said_to_be(shop: Shop) -> None:
    """A cursor some of whose followers are gone is 410 with the oldest kept; who has read them all goes on."""
    old = placed(shop)
    before = page(shop, limit=1).body["next"]
    shop.db.given(StockReserved(old))
    behind = page(shop).body["next"]
    forget(shop, old)
    assert told(page(shop)) == []
    assert page(shop, before).slug == "past-retention"
    new = placed(shop)

    gone = page(shop, before)
    assert (gone.status, gone.slug, gone.body["code"]) == (410, "past-retention", "past-retention")
    with psycopg.connect(shop.db.logins.owner) as tx:
        ((oldest,),) = tx.execute("SELECT at FROM order_change").fetchall()
    assert gone.body["oldest_at"] == rfc3339(oldest)
    assert shop.ask("GET", "/v1/events/stream", None, {"Last-Event-ID": before}).slug == "past-retention"
    assert told(page(shop, behind)) == told(page(shop)) == [(new, 1, "PENDING")]


def test_a_cursor_of_what_was_undone_is_past_retention(shop: Shop) -> None:
    """After a restore to an earlier moment a cursor may be ahead of all there is: 410, and not silence for ever."""
    order = placed(shop)
    ahead = page(shop, write_place(FeedPlace.behind(2**40), "local"))

    assert (ahead.status, ahead.slug) == (410, "past-retention")
    assert told(page(shop)) == [(order, 1, "PENDING")]


def test_a_clock_that_jumps_forgets_nothing(shop: Shop) -> None:
    """A change that is a month old by the clock alone stays until days were lived since."""
    order = placed(shop)
    with psycopg.connect(shop.db.logins.owner, autocommit=True) as tx:
        tx.execute(AGE, [order])
    with shop.db.connect() as tx:
        assert store.forget_changes(tx, timedelta(days=7)) == 0
    assert told(page(shop)) == [(order, 1, "PENDING")]


@contextmanager
def live(shop: Shop, last: str = "") -> Iterator[Iterator[tuple[str, str, str]]]:
    """Open the feed's stream; its events come as name, id and data, comments too, until the server ends it."""
    known = {"Last-Event-ID": last} if last else {}
    with httpx.stream("GET", f"{shop.url}/v1/events/stream", headers=known, timeout=60, trust_env=False) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield _events(answer.iter_lines())


def _events(lines: Iterator[str]) -> Iterator[tuple[str, str, str]]:
    found: dict[str, str] = {}
    for text in lines:
        if text:
            name, _, value = text.partition(": ")
            found[name] = value
        elif found:
            yield found.get("event", ""), found.get("id", ""), found.get("data", "")
            found = {}


def test_the_stream_goes_on_over_a_restart(shop: Shop) -> None:
    """Live from now on; at its end it says restart; the last id goes on in another process, no change twice or lost."""
    placed(shop)
    seen: list[tuple[str, int]] = []
    with ExitStack() as server, ExitStack() as client:
        here = Shop(server.enter_context(serving(api.make, shop.db.service, shop.db.connect)), shop.db)
        events = client.enter_context(live(here))
        assert next(events)[0] == "begin"
        order = placed(shop)
        name, last, data = next(events)
        seen.append((name, json.loads(data)["sequence"]))
        server.close()
        assert [event[0] for event in events] == ["restart"]
    shop.db.given(StockReserved(order))
    with live(shop, last) as events:
        assert next(events)[:2] == ("begin", last)
        shop.db.given(PaymentCharged(order))
        for _ in range(3):
            name, last, data = next(events)
            seen.append((name, json.loads(data)["sequence"]))

    assert seen == [("change", n) for n in (1, 2, 3, 4)]
    assert page(shop).body["next"] == last


def test_a_stream_waits_for_who_commits_late(shop: Shop) -> None:
    """Live too, what began first comes first."""
    late, soon = placed(shop), placed(shop)
    with live(shop) as events, shop.db.connect() as tx:
        assert next(events)[0] == "begin"
        with tx.transaction():
            handle(tx, shop, StockReserved(late))
            shop.db.given(StockReserved(soon))
        told = [json.loads(next(events)[2])["order_id"] for _ in range(2)]

    assert told == [late, soon]


def test_a_quiet_stream_is_kept_alive(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing happens a comment is sent now and then; after its time the client is asked to come back."""
    monkeypatch.setattr("quadrille.web.sse.KEEP_ALIVE_SECONDS", 0.05)
    with live(shop) as events:
        assert [next(events)[0] for _ in range(4)] == ["begin", "", "", ""]
    monkeypatch.setattr("quadrille.web.sse.STREAM_SECONDS", (0.2, 0.3))
    with live(shop) as events:
        names = [event[0] for event in events]
    assert (names[0], names[-1], set(names[1:-1])) == ("begin", "restart", {""})


def test_the_feed_costs_the_order_one_row_and_no_statement(shop: Shop) -> None:
    """A page is read by the key alone, whatever other callers have; nothing is sorted beyond the page."""
    orders = [placed(shop) for _ in range(30)]
    shop.db.given(*(StockReserved(order) for order in orders))
    with psycopg.connect(shop.db.logins.owner) as tx:
        tx.execute("SET enable_seqscan = off")
        sql = "EXPLAIN (COSTS off) " + store.NEXT_CHANGES.replace("CAST(:xid AS text)", "'0'").replace(
            "CAST(:key AS uuid)", f"'{orders[0]}'::uuid"
        ).replace(":caller", "'local'").replace(":number", "0").replace(":limit", "50")
        plan = "\n".join(row[0] for row in tx.execute(sql.encode()))

    assert "order_change_pkey" in plan
    assert "Index Cond: ((caller = 'local'::text) AND (ROW(place, order_id, upto) >" in plan
