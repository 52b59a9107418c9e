"""One row that is refused holds up its own key: all others flow, and a person's word lets those behind it go on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from uuid import UUID

import pytest

from quadrille.ids import uuid7
from quadrille.observability.readiness import NotReadyError
from quadrille.ops.relay_actions import RelayActions
from quadrille.ops.routes import OpsRequest
from quadrille.relay.held import MOST, HeldRows
from quadrille.relay.relay import Relay
from quadrille.testing.relay import Ground
from quadrille.web.problems import Problem
from quadrille_cli.stack import Stack

numbers = itertools.count(1)
HELD = "SELECT count(*)::text FROM relay_held WHERE state = 'HELD'"
LARGE = 3_000


@pytest.fixture
def ground(parts_of_the_stack: Callable[..., Stack], monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    """An outbox whose topic takes records of 2,000 bytes."""
    monkeypatch.setattr("quadrille.relay.relay.REBUILD_SECONDS", 0.5)
    stack = parts_of_the_stack("kafka", "postgres:inventory")
    made = Ground(f"held{next(numbers)}", lambda role: stack.database_url("inventory", role), stack.kafka_bootstrap)
    made.make()
    made.limit("2000")
    yield made
    made.close()


def say(ground: Ground, key: str, *numbers: int, large: int = 0) -> None:
    with ground.connect() as app:
        for n in numbers:
            ground.say(app, key, n, size=LARGE if n == large else 300)


def held(ground: Ground, key: str, number: int) -> str:
    """Have one row of a key held, with one before it and two behind it; return its id."""
    before = int(str(ground.one(HELD)[0]))
    say(ground, key, number - 1, number, number + 1, number + 2, large=number)
    ground.until(lambda: ground.one(HELD) == (str(before + 1),))
    (row,) = ground.one("SELECT id::text FROM outbox WHERE aggregateid = %s AND sequence = %s", key, number)
    return str(row)


def keys(ground: Ground, wanted: int) -> dict[str, list[int]]:
    """Return each key's numbers as they first came, once so many records are there."""
    found: dict[str, list[int]] = {}
    for row in dict.fromkeys(ground.published(wanted, 60)):
        found.setdefault(row.key, []).append(row.sequence)
    return found


def reason(relay: Relay) -> str:
    try:
        relay.ready()
    except NotReadyError as why:
        return str(why)
    return ""


def bury(ground: Ground, relay: Relay, row: str) -> dict[str, object]:
    """Ask the relay's ops port to bury a row."""
    routes = RelayActions(ground.plan.service, ground.plan.dsn, relay).routes()
    asked = OpsRequest({}, body={"id": row}, actor="mia", reason="told by phone")
    return dict(routes["POST", "/ops/relay/bury"](asked).document)


def test_other_keys_flow_while_a_row_is_refused(ground: Ground) -> None:
    """What is behind it of its key waits, all else is published and stored; it is named by id, key, size."""
    with ground.relaying() as relay:
        row = held(ground, "a", 2)
        assert f"refused: row {row} of {ground.topic}, key a, {LARGE} bytes: " in reason(relay)
        say(ground, "b", 1, 2, 3)
        say(ground, "a", 5)
        assert keys(ground, 4) == {"a": [1], "b": [1, 2, 3]}
        ground.stored()  # the position passes it: nothing pins the log
        ground.limit("1048588")
        ground.judge()
        ground.until(lambda: reason(relay) == "")
        assert ground.one("SELECT count(*) FROM relay_held") == (0,)
        say(ground, "a", 6)
        ground.judge()


def test_a_buried_row_lets_those_behind_it_go_on(ground: Ground) -> None:
    """By a person's word, in the audit, told to all; the row itself is never published, and stays where it was."""
    with ground.relaying() as relay:
        row = held(ground, "a", 2)
        say(ground, "b", 1)
        told = bury(ground, relay, row)
        assert {name: told[name] for name in ("key", "size", "sequence")} == {"key": "a", "size": LARGE, "sequence": 2}
        assert keys(ground, 4) == {"a": [1, 3, 4], "b": [1]}
        ground.until(lambda: reason(relay) == "")
        say(ground, "a", 5)
        assert keys(ground, 5)["a"] == [1, 3, 4, 5]
        kind, detail, key = ground.one("SELECT kind, detail, key FROM relay_notice WHERE kind = 'BURIED'")
        assert (kind, key) == ("BURIED", "a")
        assert all(word in str(detail) for word in (row, "key a", f"{LARGE} bytes", "mia", "told by phone"))
        assert ground.one("SELECT actor, action, subject, reason FROM audit") == (
            "mia", "relay.bury", row, "told by phone",
        )  # fmt: skip
        for refused, slug in ((row, "operation-refused"), (str(uuid7()), "not-found")):
            with pytest.raises(Problem) as problem:
                bury(ground, relay, refused)
            assert problem.value.kind.slug == slug
    assert ground.one("SELECT count(*) FROM outbox WHERE id = %s", UUID(row)) == (1,)


def test_a_second_row_of_the_key_is_held_in_its_turn(ground: Ground) -> None:
    """Buried, the first makes way to the next that is refused; each needs its own word."""
    with ground.relaying() as relay:
        first = held(ground, "a", 2)
        say(ground, "a", 5, 6, large=5)
        bury(ground, relay, first)
        ground.until(lambda: ", key a, " in reason(relay) and first not in reason(relay))
        assert keys(ground, 3) == {"a": [1, 3, 4]}
        (second,) = ground.one("SELECT id::text FROM relay_held WHERE state = 'HELD'")
        bury(ground, relay, str(second))
        assert keys(ground, 4) == {"a": [1, 3, 4, 6]}


@pytest.mark.parametrize("slot", [True, False])
def test_what_is_held_outlives_the_relay_and_its_slot(ground: Ground, slot: bool) -> None:  # noqa: FBT001
    """Another relay goes on behind it, by the log or by a scan, and holds what was held; then all follow in order."""
    with ground.relaying():
        held(ground, "a", 2)
        ground.stored()
    if not slot:
        ground.one("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
    say(ground, "a", 5)
    say(ground, "b", 1)
    with ground.relaying():
        assert keys(ground, 2) == {"a": [1], "b": [1]}
        ground.limit("1048588")
        ground.judge()


def test_a_relay_that_forgets_what_is_held_lets_it_be_overtaken(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: without the look at what is held the tests above would see what is behind it come first."""
    with ground.relaying():
        held(ground, "a", 2)
        ground.stored()
        monkeypatch.setattr(HeldRows, "holds", lambda *_: False)
        say(ground, "a", 5)
        ground.until(lambda: 5 in keys(ground, 2).get("a", []))
        assert keys(ground, 2)["a"] != [1]


def test_where_many_keys_are_refused_everything_waits(ground: Ground) -> None:
    """Then it is no row's fault: after as many as are held at most, what is behind the next waits for it too."""
    with ground.relaying() as relay:
        for n in range(MOST):
            held(ground, f"k{n}", 2)
        say(ground, "next", 1, large=1)
        ground.until(lambda: ", key next, " in reason(relay))
        say(ground, "b", 1)
        assert "b" not in keys(ground, MOST)
        assert ground.one(HELD) == (str(MOST),)
        ground.limit("1048588")
        ground.judge()
        ground.until(lambda: reason(relay) == "")


def test_nothing_overtakes_the_first_record_of_a_partition(ground: Ground) -> None:
    """A broker takes any number from a producer it does not know: what is behind a refused first one is not sent."""
    ground.limit("1048588")
    with ground.relaying():
        pass
    ground.limit("2000")
    for n in range(MOST + 1):
        say(ground, f"f{n}", *range(1, 31), large=1)
    with ground.relaying() as relay:
        ground.until(lambda: ground.one(HELD) == (str(MOST),))
        ground.until(lambda: f", key f{MOST}, " in reason(relay))
        assert ground.published() == []
        ground.limit("1048588")
        ground.judge()


def test_no_day_of_the_outbox_goes_while_a_row_of_it_is_held(ground: Ground) -> None:
    """What is behind it lies only there: with all else proven, the day is not, until a person has spoken."""
    published = "SELECT outbox_published((now() AT TIME ZONE 'UTC')::date)"
    passed = "SELECT pg_logical_emit_message(false, 'noise', repeat('x', 100000))"
    with ground.relaying() as relay:
        row = held(ground, "a", 2)
        ground.one("UPDATE outbox SET occurred_at = occurred_at - interval '1 h' RETURNING true")
        assert ground.one(published) == (False,)
        ground.one(passed)
        ground.stored()
        assert ground.one(published) == (False,)
        bury(ground, relay, row)
        ground.until(lambda: ground.one("SELECT state FROM relay_held") == ("BURIED",))
        ground.one(published)
        ground.one(passed)
        ground.stored()
        assert ground.one(published) == (True,)
