"""What is refused holds up what is behind it, says which row it is while it lasts, and has an exit that works."""

from __future__ import annotations

import itertools
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from quadrille.observability.progress import Patience
from quadrille.observability.readiness import NotReadyError
from quadrille.relay.relay import Relay
from quadrille.testing.relay import Ground
from quadrille_cli.stack import Stack

numbers = itertools.count(1)
MENDED = "UPDATE relay_progress SET rescan = 'a row was mended' RETURNING true"
POISON = {
    "a-time-without-an-end": ("occurred_at = 'infinity'", "its headers cannot be written"),
    "a-year-of-five-digits": ("occurred_at = '20000-01-01'", "its headers cannot be written"),
    "a-topic-of-others": ("aggregatetype = 'order.events'", "order.events is not this relay's to write"),
    "a-key-too-large": ("aggregateid = repeat('k', 1000000)", "Message size too large"),
    "a-type-too-large": ("type = repeat('t', 1000000)", "Message size too large"),
}


@pytest.fixture
def ground(parts_of_the_stack: Callable[..., Stack], monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    monkeypatch.setattr("quadrille.relay.relay.REBUILD_SECONDS", 0.5)
    stack = parts_of_the_stack("kafka", "postgres:inventory")
    made = Ground(f"refused{next(numbers)}", lambda role: stack.database_url("inventory", role), stack.kafka_bootstrap)
    made.make()
    yield made
    made.close()


def reason(relay: Relay) -> str:
    """Return why the relay is not ready, as /readyz tells it."""
    try:
        relay.ready()
    except NotReadyError as why:
        return str(why)
    return ""


def say(ground: Ground, *numbers: int, key: str = "a") -> None:
    with ground.connect() as app:
        for n in numbers:
            ground.say(app, key, n)


def stays(relay: Relay, wanted: str) -> None:
    """See to it that a reason is told through three more tries, whenever it is asked for."""
    seen, told = tries(), set[str]()
    while tries() < seen + 3:
        told.add(reason(relay))
    assert {wanted in one for one in told} == {True}, told


def tries() -> float:
    """Return how often a delivery has failed."""
    return REGISTRY.get_sample_value("quadrille_relay_delivery_failures_total") or 0.0


def poison(ground: Ground, wrong: str) -> str:
    """Say an event with one column that is wrong; return its id."""
    columns = {
        "id": "uuidv7()",
        "aggregatetype": f"'{ground.topic}'",
        "aggregateid": "'a'",
        "type": "'stock.reserved'",
        "sequence": "2",
        "payload": "'x'",
        "causationid": "uuidv7()",
        "traceparent": "''",
        "occurred_at": "now()",
    }
    name, _, value = wrong.partition(" = ")
    columns[name] = value
    insert = f"INSERT INTO outbox ({', '.join(columns)}) VALUES ({', '.join(columns.values())}) RETURNING id::text"  # noqa: S608 - ours
    with ground.connect() as app:
        row = app.execute(insert.encode()).fetchone()
    return str(row and row[0])


def test_a_record_too_large_is_named_while_it_lasts(ground: Ground) -> None:
    """The broker takes less than the table allows: id, key, topic and size are told, try after try; then all flows."""
    with ground.relaying() as relay:
        say(ground, 1)
        ground.until(lambda: ground.arrived() == 1)
        ground.limit("2000")
        with ground.connect() as app:
            for n in range(2, 30):
                ground.say(app, "a", n, size=3_000 if n == 17 else 300)
        (row,) = ground.one("SELECT id::text FROM outbox WHERE sequence = 17")
        wanted = f"refused: row {row} of {ground.topic}, key a, 3000 bytes"
        ground.until(lambda: wanted in reason(relay))
        assert "Message size too large" in reason(relay)
        ground.until(lambda: len({row.id for row in ground.published(16)}) == 16)
        stays(relay, wanted)
        assert {row.sequence for row in ground.published()} == set(range(1, 17))
        ground.limit("1048588")
        ground.judge()
        ground.until(lambda: not reason(relay))


@pytest.mark.parametrize("what", sorted(POISON))
def test_a_row_that_cannot_be_sent_is_named_and_mended_in_the_table(ground: Ground, what: str) -> None:
    """What was said before it arrives; taken out, or mended, and the outbox read again, what is behind it does too."""
    wrong, why = POISON[what]
    with ground.relaying() as relay:
        say(ground, 1)
        ground.until(lambda: ground.arrived() == 1)
        row = poison(ground, wrong)
        say(ground, 1, 2, key="b")
        ground.until(lambda: f"row {row}" in reason(relay) and why in reason(relay))
        stays(relay, f"row {row}")
        ground.one("DELETE FROM outbox WHERE id = %s::uuid RETURNING true", row)
        ground.one(MENDED)
        ground.until(lambda: not reason(relay))
        ground.judge()
    assert ground.one("SELECT cause FROM relay_recovery ORDER BY at DESC LIMIT 1") == ("asked for: a row was mended",)


def written(section: str) -> list[str]:
    """Return the SQL that a section of the page for people gives."""
    page = Path("docs/troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"```sql\n(.*?)```", page.partition(f"### {section}\n")[2].partition("\n### ")[0], re.DOTALL)


def test_the_way_out_that_is_written_works(ground: Ground) -> None:
    """As the owner, word for word: the row is looked at, mended, and arrives with all that waited behind it."""
    look, mend = written("A row that is refused")
    with ground.relaying() as relay:
        row = poison(ground, "aggregatetype = 'order.events'")
        say(ground, 1, key="b")
        ground.until(lambda: f"row {row} of order.events, key a, 1 bytes" in reason(relay))
        with ground.connect("owner") as owner:
            assert owner.execute(look.replace("0199…", row).encode()).fetchone()
            owner.execute(mend.replace("0199…", row).replace("order.events", ground.topic).encode())
        ground.until(lambda: not reason(relay))
        assert {(one.key, one.sequence) for one in ground.published(2)} == {("a", 2), ("b", 1)}


def test_what_was_published_is_sent_once_more_when_asked(ground: Ground) -> None:
    """The statement that is written has the relay send all that hearers still take."""
    (again,) = written("Events to be sent once more")
    with ground.relaying():
        say(ground, 1, 2, 3)
        ground.until(lambda: ground.arrived() == 3)
        with ground.connect("owner") as owner:
            owner.execute(again.encode())
        say(ground, 4)
        ground.until(lambda: ground.one("SELECT count(*) FROM relay_recovery") == (1,))
        ground.until(lambda: ground.arrived() >= 7)
    assert ground.one("SELECT cause FROM relay_recovery") == ("asked for: Kafka lost a disk",)


@contextmanager
def refusing(ground: Ground) -> Iterator[None]:
    """A broker that takes no record of the topic for a while."""
    ground.limit("10")
    yield
    ground.limit("1048588")


@contextmanager
def silent(ground: Ground) -> Iterator[None]:
    """A server that sends nothing of its log for a while, and answers everything else."""
    (sender,) = ground.one("SELECT active_pid FROM pg_replication_slots")
    assert isinstance(sender, int)
    os.kill(sender, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(sender, signal.SIGCONT)


@pytest.mark.parametrize("fault", [refusing, silent])
def test_rows_of_which_none_is_delivered_are_a_stall(
    ground: Ground, fault: Callable[[Ground], AbstractContextManager[None]]
) -> None:
    """After its time it is told to all, once, with its end; the relay is not ready, and takes new sessions."""
    with ground.relaying(Relay(replace(ground.plan, patience=Patience(1, 1)))) as relay:
        say(ground, 1)
        ground.until(lambda: ground.arrived() == 1)
        with fault(ground):
            say(ground, 2)
            ground.until(lambda: noticed(ground) == ["STALLED"])
            assert reason(relay)
            ground.until(lambda: relay.state == "waiting")
        ground.until(lambda: noticed(ground) == ["STALLED", "RESUMED"])
        ground.judge()
        ground.until(lambda: reason(relay) == "")


def noticed(ground: Ground) -> list[str]:
    """Return what is to be told to the others."""
    (kinds,) = ground.one("SELECT coalesce(array_agg(kind ORDER BY at), '{}') FROM relay_notice")
    assert isinstance(kinds, list)
    return kinds
