"""The load generator is an open loop: what is due is sent, whatever became of the rest, and each answer is counted."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import pairwise
from statistics import mean
from xml.etree import ElementTree as ET

import pytest

from quadrille_cli.loadtest.arrivals import ARRIVALS
from quadrille_cli.loadtest.curve import CLOSE, Objective, drawing, search
from quadrille_cli.loadtest.observer import End
from quadrille_cli.loadtest.run import Plan, Run, Sent
from quadrille_cli.loadtest.sender import Posted, Spent, Task, send

PATIENCE_SECONDS = 60
ID = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"
BODY = f'{{"order_id":"{ID}"}}'.encode()
ACCEPTED = b"HTTP/1.1 202 Accepted\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)
GONE = b"HTTP/1.1 410 Gone\r\nContent-Length: 2\r\n\r\n{}"
Answer = Callable[[socket.socket, bytes], bytes]


@contextmanager
def serving(answer: Answer) -> Iterator[tuple[str, list[bytes]]]:
    """A server of one thread a connection; its address and what it was asked, a request each."""
    asked: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while request := connection.recv(65_536):
                asked.append(request)
                if not (reply := answer(connection, request)):
                    return
                connection.sendall(reply)

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=talk, args=[listener.accept()[0]], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked


def sent(url: str, orders: int = 1, *, cancels: bool = False) -> tuple[list[Posted], Spent]:
    """What became of orders that are all due at once."""
    news: list[Posted] = []
    task = Task(url, "load", [0.0] * orders, [0] * orders, ["{}"], [0] if cancels else [])
    spent = send(task, news.append)
    return news, spent


def test_each_request_shows_the_key() -> None:
    """An order and its cancellation come with the key of the run, one header each."""
    news: list[Posted] = []
    with serving(lambda *_: ACCEPTED) as (url, asked):
        send(Task(url, "load", [0.0], [0], ["{}"], [0], api_key="qk_x"), news.append)
    assert [one.count(b"\r\nAuthorization: Bearer qk_x\r\n") for one in asked] == [1, 1]
    assert [(one.order_id, one.refusal) for one in news] == [(ID, "")]


def test_nobody_waits_for_anothers_answer() -> None:
    """A server that answers nobody until all have asked: a closed loop would stand still here."""
    orders, everybody = 100, threading.Barrier(100)

    def answer(_: socket.socket, __: bytes) -> bytes:
        everybody.wait(PATIENCE_SECONDS)
        return ACCEPTED

    with serving(answer) as (url, asked):
        news, spent = sent(url, orders)

    assert spent.in_flight == orders
    assert {one.number for one in news if one.order_id == ID and not one.refusal} == set(range(orders))
    keys = [line for request in asked for line in request.split(b"\r\n") if line.startswith(b"Idempotency-Key")]
    assert len(set(keys)) == orders, "each order has a key of its own"
    assert all(one.answered > one.due for one in news)


@pytest.mark.parametrize(
    ("reply", "why", "times"), [(GONE, "410", 1), (b"nonsense\r\n\r\n", "not HTTP", 1), (b"", "closed", 2)]
)
def test_requests_are_counted_by_what_became_of_them(reply: bytes, why: str, times: int) -> None:
    """Refused by status; what ended without an answer is sent once more, under its key: it may be our connection's."""
    with serving(lambda _, __: reply) as (url, asked):
        [one], _ = sent(url)
    assert (one.order_id, one.refusal, len(asked)) == ("", why, times)
    assert len(set(asked)) == 1


def test_where_nobody_listens_it_says_so() -> None:
    """The name of what happened is what is counted."""
    [one], _ = sent("http://127.0.0.1:1")
    assert (one.order_id, one.refusal) == ("", "ConnectionRefusedError")


def test_an_order_is_cancelled_once_it_is_accepted() -> None:
    """Its id is known and its acceptance timed, whatever the cancelling is answered."""
    with serving(lambda _, request: GONE if b"/cancel " in request else ACCEPTED) as (url, asked):
        [one], _ = sent(url, cancels=True)
    assert (one.order_id, one.refusal) == (ID, "cancel: 410")
    assert asked[1].startswith(f"POST /v1/orders/{ID}/cancel HTTP/1.1\r\n".encode())


@pytest.mark.parametrize("name", ARRIVALS)
def test_a_schedule_has_its_rate_and_is_repeated_by_its_seed(name: str) -> None:
    """Ten thousand arrivals at 200 a second take 50 seconds, in order, the same each time."""
    due, again = (list(ARRIVALS[name](10_000, 200.0, random.Random(7))) for _ in range(2))  # noqa: S311 - to repeat
    assert due == again
    assert due == sorted(due)
    assert due[-1] == pytest.approx(50, rel=0.05)
    gaps = [later - earlier for earlier, later in pairwise(due)]
    assert mean(gaps) == pytest.approx(1 / 200, rel=0.05)
    if name == "ramp":  # a quarter of them come in the first half
        assert sum(at < 25 for at in due) == pytest.approx(2_500, rel=0.01)


def run_of(plan: Plan, capacity: float) -> Run:
    """A run on a stack that takes so many orders a second and no more."""
    run = Run(plan, datetime.now(UTC), spent={"api": plan.orders * 0.001})
    for number in range(plan.orders):
        due = number / plan.rate
        run.sent[str(number)] = Sent("ok", due, due + 0.01)
        run.ends[str(number)] = End("CONFIRMED", max(due, number / capacity) + 0.02)
    return run


def test_the_knee_is_found_from_below() -> None:
    """Rates grow until one misses the objective, then close in on where it broke."""
    points = list(search(lambda plan: run_of(plan, 300.0), Plan(1, 50.0, {"ok": 1.0}), 20.0, Objective(0.99, 2.0)))

    best, worst = max(p.rate for p in points if not p.missed), min(p.rate for p in points if p.missed)
    assert best < worst < best * CLOSE
    assert best <= 300 / 0.9 < worst * CLOSE
    assert {bool(p.missed) for p in points if p.rate > best} == {True}
    drawn = drawing(points)
    circles = ET.fromstring(drawn).iter("{http://www.w3.org/2000/svg}circle")  # noqa: S314 - ours
    assert Counter(one.get("fill") == "#fff" for one in circles)[True] == 3 * sum(bool(p.missed) for p in points)


def test_a_stack_that_is_too_slow_at_once_is_tried_once() -> None:
    """There is no knee below the first rate: a lower one is for the asker to try."""
    [point] = search(lambda plan: run_of(plan, 10.0), Plan(1, 50.0, {"ok": 1.0}), 20.0, Objective())
    assert "p99 of confirmed orders is" in point.missed


def test_an_order_that_did_not_end_makes_a_rate_invalid() -> None:
    """Lost is named before slow."""

    def losing(plan: Plan) -> Run:
        run = run_of(plan, 300.0)
        del run.ends["3"]
        return run

    [point] = search(losing, Plan(1, 50.0, {"ok": 1.0}), 20.0, Objective())
    assert point.missed == "1 orders (ok) never ended"


def test_a_run_that_sent_nothing_is_no_success() -> None:
    """A sender that ended at once leaves no order, none refused, none late: that is said, and no rate is met by it."""
    run = Run(Plan(5, 50.0, {"ok": 1.0}), datetime.now(UTC))
    assert run.wrong() == ["5 orders were not sent: the sender ended early"]
    assert Objective().missed(run) == run.wrong()[0]


def test_orders_are_spread_evenly_over_so_many_goods() -> None:
    """Each good is asked for as often as any other; what is out of stock stays so, and kinds are as they were."""
    one, many = (Plan(600, 50.0, {"ok": 0.5, "cancel": 0.3, "out_of_stock": 0.2}, skus=n) for n in (1, 3))
    task, kinds = many.task("http://127.0.0.1:1")
    goods = Counter(json.loads(task.bodies[number])["lines"][0]["sku"] for number in task.kinds)

    assert kinds == one.task("http://127.0.0.1:1")[1]
    assert goods.pop("SKU-NONE") == kinds.count("out_of_stock")
    assert set(goods) == {"SKU-TEA", "SKU-TEA-2", "SKU-TEA-3"} == set(many.goods())
    assert min(goods.values()) > 0.8 * max(goods.values())
    cancelled = [kind for kind, number in zip(kinds, task.kinds, strict=True) if number in task.cancels]
    assert cancelled == ["cancel"] * kinds.count("cancel")
