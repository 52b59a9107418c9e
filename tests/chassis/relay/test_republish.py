"""What a person has a relay send once more: the same records, in order, and no more than was asked for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest

from quadrille.ops.relay_actions import RelayActions
from quadrille.ops.routes import OpsRequest, OpsResponse
from quadrille.relay.relay import Relay
from quadrille.testing.relay import Ground
from quadrille_cli.stack import Stack

numbers = itertools.count(1)


@pytest.fixture
def ground(parts_of_the_stack: Callable[..., Stack]) -> Iterator[Ground]:
    stack = parts_of_the_stack("kafka", "postgres:inventory")
    made = Ground(f"again{next(numbers)}", lambda role: stack.database_url("inventory", role), stack.kafka_bootstrap)
    made.make()
    yield made
    made.close()


def say(ground: Ground, *numbers: int, key: str = "a") -> None:
    with ground.connect() as app:
        for n in numbers:
            ground.say(app, key, n)


def ask(ground: Ground, relay: Relay, **body: object) -> OpsResponse:
    routes = RelayActions(ground.plan.service, ground.plan.dsn, relay).routes()
    return routes["POST", "/ops/relay/republish"](OpsRequest({}, body=body, actor="mia", reason="away too long"))


def done(ground: Ground, relay: Relay, answer: OpsResponse) -> int:
    """Wait until it was done; return how many rows were sent."""
    routes = RelayActions(ground.plan.service, ground.plan.dsn, relay).routes()
    told = routes["GET", "/ops/relay/republish/{id}"]
    asked = OpsRequest({"id": str(answer.document["id"])})
    ground.until(lambda: bool(told(asked).document["done"]))
    return int(str(told(asked).document["rows"]))


def test_all_since_a_time_is_sent_once_more_in_order(ground: Ground) -> None:
    """Same ids, each key in sequence, nothing of before; it is told to all, and in the audit by whom and why."""
    with ground.relaying() as relay:
        say(ground, 1, 2)
        ground.stored()
        since = ground.one("SELECT clock_timestamp()::text")
        say(ground, 3, 4, 5)
        say(ground, 1, 2, key="b")
        ground.stored()
        at = datetime.fromisoformat(str(since[0])).isoformat()
        assert done(ground, relay, ask(ground, relay, since=at)) == 5
        copies = {(row.key, row.sequence): count for row, count in ground.copies().items()}
        twice = {("a", 3), ("a", 4), ("a", 5), ("b", 1), ("b", 2)}
        assert copies == {("a", 1): 1, ("a", 2): 1, **dict.fromkeys(twice, 2)}
        assert [row.sequence for row in ground.published() if row.key == "a"] == [1, 2, 3, 4, 5, 3, 4, 5]
        say(ground, 6)
        assert ground.judge() == 5
    cause, rows = ground.one("SELECT cause, rows FROM relay_recovery")
    assert (str(cause).startswith("republish: since "), "by mia: away too long" in str(cause), rows) == (True, True, 5)
    assert ground.one("SELECT actor, action, reason FROM audit") == ("mia", "relay.republish", "away too long")


def test_all_of_one_key_is_sent_once_more(ground: Ground) -> None:
    """Of the others nothing; a key that the outbox does not know is nothing to do."""
    with ground.relaying() as relay:
        say(ground, 1, 2)
        say(ground, 1, key="b")
        ground.stored()
        assert done(ground, relay, ask(ground, relay, order_id="a")) == 2
        assert {(row.key, count) for row, count in ground.copies().items()} == {("a", 2), ("b", 1)}
        nothing = ask(ground, relay, order_id="nobody's")
        assert (nothing.status, nothing.document["id"], nothing.document["rows"]) == (200, None, 0)


def test_it_is_done_by_whichever_relay_works(ground: Ground) -> None:
    """Asked while none runs it is done by the next; rows that are new meanwhile come once, and in order."""
    with ground.relaying():
        say(ground, 1, 2)
        ground.stored()
    idle = Relay(ground.plan)
    answer = ask(ground, idle, since="2020-01-01T00:00:00Z")
    say(ground, 3, 4)
    with ground.relaying() as relay:
        assert done(ground, relay, answer) == 4
        ground.judge()


def test_it_takes_rows_in_bounded_steps(ground: Ground) -> None:
    """A backlog is never held whole: so many rows are asked of the database at a time, however many there are."""
    with ground.connect() as app:
        app.execute(
            "INSERT INTO outbox SELECT uuidv7(), %s, (n %% 50)::text, 'stock.reserved', n / 50 + 1,"
            " decode(repeat('00', 300), 'hex'), uuidv7(), '' FROM generate_series(0, 4999) n",
            [ground.topic],
        )
    with ground.relaying() as relay:
        ground.until(lambda: ground.arrived() == 5_000)
        assert done(ground, relay, ask(ground, relay, since="2020-01-01T00:00:00Z")) == 5_000
        assert ground.judge() == 5_000
