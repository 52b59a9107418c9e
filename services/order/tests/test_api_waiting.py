"""Waiting over the API: a POST that may wait for the end, a stream that misses nothing, keys that name one order."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from uuid import uuid4

import psycopg
import pytest
from services.order.tests.shopfront import Got, Shop, Told

from order import api
from order.events import PaymentCharged, PaymentRefunded, PaymentSkipped, StockRejected, StockReleased, StockReserved
from quadrille.testing import lock_key, serving

KEYS, AT_ONCE = 1_000, int(os.environ.get("POSTS_AT_ONCE", "8"))
FOR_EVER = 3600.0


def placed(shop: Shop) -> str:
    return str(shop.place(f"k-{uuid4()}").body["order_id"])


def waiting(shop: Shop, key: str, seconds: int) -> Got:
    """Place the usual order and prefer to wait for its end."""
    return shop.ask("POST", "/v1/orders", shop.order, {"Idempotency-Key": key, "Prefer": f"wait={seconds}"})


def newest(shop: Shop) -> str:
    """Return the id of the one order there is, as soon as there is one."""
    deadline = time.monotonic() + 60
    while not (orders := shop.ask("GET", "/v1/orders").body["orders"]):
        assert time.monotonic() < deadline
    return str(orders[0]["order_id"])


def test_who_waits_sees_the_end(shop: Shop) -> None:
    """Prefer: wait=10: the answer comes when the order is final, 201 with the document as it is then."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(waiting, shop, "k-1", 10)
        order = newest(shop)
        assert not coming.done()
        shop.db.given(StockReserved(order))
        shop.db.given(PaymentCharged(order))
        got = coming.result(60)

    assert (got.status, got.body["status"], got.body["final"]) == (201, "CONFIRMED", True)
    assert got.headers["preference-applied"] == "wait=10"
    read = shop.ask("GET", got.headers["location"])
    assert (read.body, read.headers["etag"]) == (got.body, got.headers["etag"])


def test_who_waits_in_vain_sees_how_far_it_is(shop: Shop) -> None:
    """An order not final after the time preferred is 202, shown as it is by then."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(waiting, shop, "k-1", 4)
        shop.db.given(StockReserved(newest(shop)))
        got = coming.result(60)

    assert (got.status, got.body["status"], got.headers["etag"]) == (202, "INVENTORY_RESERVED", '"v3"')


def test_waiting_changes_the_snapshot_alone(shop: Shop) -> None:
    """The stored answer stays byte for byte, whether repeats wait or not; who waits is shown the present."""
    first = shop.place()
    shop.db.given(StockRejected(first.body["order_id"], ()), PaymentSkipped(first.body["order_id"]))
    waited, again = waiting(shop, "k-1", 5), shop.place()

    assert (waited.status, waited.body["status"]) == (201, "CANCELLED")
    assert waited.headers["idempotent-replayed"] == "true"
    assert (again.status, again.raw) == (202, first.raw)
    assert shop.written()[0] == 1


def test_who_waits_holds_up_nobody(shop: Shop) -> None:
    """More clients may wait than requests may be in flight: others are answered meanwhile."""
    with ThreadPoolExecutor(250) as pool:
        coming = [pool.submit(shop.insist, partial(waiting, shop, f"k-{n}", 2)) for n in range(250)]
        orders = shop.ask("GET", "/v1/orders?limit=1")
        assert orders.status == 200
        answers = Counter(one.result().status for one in coming)

    assert answers == {202: 250}


def test_a_stream_tells_it_all(shop: Shop) -> None:
    """A snapshot, every status passed through with its place in the history, and the final document; then it ends."""
    order = placed(shop)
    with shop.stream(order) as events:
        first = next(events)
        shop.db.given(StockReserved(order))
        reserved = next(events)
        shop.db.given(PaymentCharged(order))
        rest = list(events)

    assert (first.name, first.id, first.data["status"]) == ("snapshot", 1, "PENDING")
    assert (reserved.name, reserved.id, reserved.data["status"]) == ("status", 2, "INVENTORY_RESERVED")
    assert [(e.name, e.id, e.data["status"]) for e in rest] == [
        ("status", 3, "PAYMENT_CHARGED"),
        ("status", 4, "CONFIRMED"),
        ("end", 4, "CONFIRMED"),
    ]
    document = shop.ask("GET", f"/v1/orders/{order}").body
    assert rest[-1].data == document
    assert [reserved.data, *(e.data for e in rest[:-1])] == document["history"][1:]


def test_a_stream_goes_on_where_it_broke_off(shop: Shop) -> None:
    """Last-Event-ID, at any place of the history: exactly what came after it, and no snapshot."""
    order = placed(shop)
    shop.db.given(StockReserved(order), PaymentCharged(order))
    shop.cancel(order)
    shop.db.given(StockReleased(order), PaymentRefunded(order, "VOID", 2500))
    history = shop.ask("GET", f"/v1/orders/{order}").body["history"]

    for known in range(len(history) + 1):
        with shop.stream(order, known) as events:
            told = list(events)
        assert [e.data for e in told[:-1]] == history[known:]
        assert [e.name for e in told] == ["status"] * (len(history) - known) + ["end"]
    with shop.stream(order, len(history) + 1) as events:
        assert [e.name for e in events] == ["snapshot", "end"]


def test_no_client_misses_anything(shop: Shop) -> None:
    """Clients that break off and come back at random see, together, every status once and in its order."""
    order = placed(shop)
    sure = threading.Event()

    def client(seed: int) -> list[Told]:
        seen: list[Told] = []
        rng, last = random.Random(seed), 0  # noqa: S311 - repeatable
        while True:
            with shop.stream(order, last) as events:
                for event in events:
                    sure.set()
                    if event.name == "end":
                        return seen
                    seen.append(event)
                    last = event.id or 0
                    if rng.random() < 0.5:
                        break

    with ThreadPoolExecutor(10) as pool:
        clients = [pool.submit(client, seed) for seed in range(10)]
        assert sure.wait(60)
        for fact in (StockReserved(order), None, PaymentRefunded(order, "VOID", 1), StockReleased(order)):
            shop.db.given(fact) if fact else shop.cancel(order)
        history = shop.ask("GET", f"/v1/orders/{order}").body["history"]
        assert [[e.data for e in one.result(60)] for one in clients] == [history] * 10


def test_a_quiet_stream_is_kept_alive(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing happens a comment is sent now and then; after its time the client is asked to come back."""
    monkeypatch.setattr("quadrille.web.sse.KEEP_ALIVE_SECONDS", 0.05)
    with shop.stream(placed(shop)) as events:
        assert [next(events).name for _ in range(4)] == ["snapshot", "", "", ""]
    monkeypatch.setattr("quadrille.web.sse.STREAM_SECONDS", (0.2, 0.3))
    with shop.stream(placed(shop)) as events:
        names = [event.name for event in events]

    assert (names[0], names[-1]) == ("snapshot", "restart")
    assert set(names[1:-1]) <= {""}


def test_a_head_of_a_stream_ends(shop: Shop) -> None:
    """HEAD answers with the stream's headers at once, and nothing is left running."""
    got = shop.ask("HEAD", f"/v1/orders/{placed(shop)}/stream")

    assert (got.status, got.raw) == (200, b"")
    assert got.headers["content-type"].startswith("text/event-stream")


def test_fifty_streams_do_not_hold_the_end_up(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to end, an api tells fifty streams to come back and answers ten who wait, though all of them would stay."""
    monkeypatch.setattr("order.api.wait_of", lambda prefer: FOR_EVER if prefer else 0)
    for name, value in (("KEEP_ALIVE_SECONDS", FOR_EVER), ("STREAM_SECONDS", (FOR_EVER, FOR_EVER))):
        monkeypatch.setattr(f"quadrille.web.sse.{name}", value)
    order = placed(shop)
    with ExitStack() as server, ExitStack() as clients, ThreadPoolExecutor(10) as pool:
        url = server.enter_context(serving(api.make, shop.db.service, shop.db.connect))
        here = Shop(url, shop.db)
        streams = [clients.enter_context(here.stream(order)) for _ in range(50)]
        assert {next(events).name for events in streams} == {"snapshot"}
        coming = [pool.submit(waiting, here, f"w-{n}", 10) for n in range(10)]
        while shop.written()[0] < 11:
            assert not any(one.done() for one in coming)
        server.close()  # held up, it would cut the answers off at the end of its drain
        assert {tuple(event.name for event in events) for events in streams} == {("restart",)}
        assert {one.result(60).status for one in coming} == {202}

    with shop.stream(order, 1) as events:
        shop.cancel(order)
        assert next(events).data["status"] == "CANCELLING"


def test_every_key_names_one_order(shop: Shop) -> None:
    """1,000 keys, each posted 8 times at once (or POSTS_AT_ONCE): 1,000 orders, identical answers; other bodies 422."""
    keys = [f"key-{n}" for n in range(KEYS) for _ in range(AT_ONCE)]

    def insisting(key: str, **more: str) -> Got:
        """Post until it is taken or refused: a busy machine answers 503, and the same key may be sent again."""
        while (got := shop.place(key, **more)).status == 503:
            time.sleep(float(got.headers["retry-after"]))
        return got

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda key: (key, insisting(key)), keys))
        others = list(pool.map(lambda n: insisting(f"key-{n}", currency="CHF"), range(KEYS)))

    bodies: dict[str, set[bytes]] = {}
    for key, got in answers:
        assert got.status == 202
        bodies.setdefault(key, set()).add(got.raw)
    assert {len(found) for found in bodies.values()} == {1}
    assert len({body for found in bodies.values() for body in found}) == KEYS
    assert sum("idempotent-replayed" not in got.headers for _, got in answers) == KEYS
    ids = {key: got.body["order_id"] for key, got in answers}
    assert [(o.status, o.slug, o.body["order"]) for o in others] == [
        (422, "idempotency-key-reused", ids[f"key-{n}"]) for n in range(KEYS)
    ]
    assert shop.written() == (KEYS,) * 4


def test_a_key_still_being_committed(shop: Shop) -> None:
    """A key held by another commit for more than two seconds is 409, and stores nothing; free again, it places."""
    with psycopg.connect(shop.db.logins.app) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [lock_key("request:local POST /v1/orders k-1")])
        got = shop.place()
        assert (got.status, got.slug, got.body["retryable"]) == (409, "idempotency-key-in-use", True)
        assert got.headers["retry-after"] == "1"
        assert shop.written() == (0, 0, 0, 0)

    assert shop.place().status == 202
