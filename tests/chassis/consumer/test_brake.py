"""A broken handler pauses its consumer at the fifth order in a row: nothing is skipped, and it goes on where it was."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from quadrille.consumer import brake
from quadrille.consumer.brake import Brake
from quadrille.observability.readiness import NotReadyError
from quadrille.ops import server as ops
from quadrille.ops.consumers import consumers
from quadrille.processing.causes import Cause
from quadrille.processing.envelope import Envelope, Handled, Outcome, Parked
from tests.chassis.support.database import Database, envelope_of, wait_until
from tests.chassis.support.kafka_harness import Kitchen, running
from tests.chassis.support.sample_messages import BreadOrdered, Mode, OrderDropped
from tests.chassis.support.sample_service import Rules

REPAIRED = Rules(frozenset(Mode), patient=True)
PAUSED = "SELECT cause FROM consumer_pause"
INBOX = "SELECT count(*) FROM inbox"
NEWS = """
SELECT type FROM outbox WHERE type LIKE 'progress.%'
   AND convert_from(substr(payload, 6), 'UTF8') LIKE '%"role":"consumer"%'
 ORDER BY ctid"""


def failed(key: str, exception: str = "Unlucky") -> tuple[Envelope, Outcome]:
    """Return an order's input that was parked by an exception."""
    return envelope_of(BreadOrdered(key)), Parked("HANDLER", "", Cause("f", exception))


def fine(key: str) -> tuple[Envelope, Outcome]:
    """Return an order's input that was handled."""
    return envelope_of(BreadOrdered(key)), Handled()


def noted(*batch: tuple[Envelope, Outcome]) -> tuple[int | None, str]:
    """Return where a batch is cut, and why the consumer pauses."""
    made, inputs, outcomes = Brake(), [one for one, _ in batch], [outcome for _, outcome in batch]
    return made.judge(inputs, outcomes), made.note(inputs, outcomes)


def test_five_orders_in_a_row_by_one_exception_are_enough() -> None:
    """The sixth of a batch is not committed; the cause names exception and type."""
    cut, cause = noted(*(failed(f"o-{n}") for n in range(9)))

    assert cut == 5
    assert cause == "5 sagas in a row were parked by Unlucky while handling bread.ordered"


@pytest.mark.parametrize(
    "batch",
    [
        [failed("o-1")] * 9,
        [*(failed(f"o-{n}") for n in range(4)), fine("o-5"), *(failed(f"o-{n}") for n in range(6, 10))],
        [failed(f"o-{n}", "Unlucky" if n % 2 else "KeyError") for n in range(9)],
        [(envelope_of(BreadOrdered(f"o-{n}")), Parked("UNDECODABLE", "", Cause("f"))) for n in range(9)],
        [(envelope_of(OrderDropped(f"o-{n}")), Handled()) for n in range(9)],
    ],
    ids=["one order", "one is handled between", "two exceptions", "unreadable", "all well"],
)
def test_anything_else_pauses_nothing(batch: list[tuple[Envelope, Outcome]]) -> None:
    """One order's own trouble, or trouble of several kinds, parks those orders alone."""
    assert noted(*batch) == (None, "")


def test_what_is_handled_of_other_types_saves_nobody() -> None:
    """A type whose every order fails is seen among a hundred others that go well."""
    mixed = [one for n in range(5) for one in (failed(f"o-{n}"), (envelope_of(OrderDropped(f"p-{n}")), Handled()))]
    assert noted(*mixed)[1] != ""


@contextmanager
def asking(kitchen: Kitchen) -> Iterator[object]:
    """Give a way to ask the ops port of the kitchen."""
    with ops.serve("127.0.0.1:0", "pantry", "worker", {}, routes=consumers(kitchen.context())) as server:

        def ask(verb: str) -> dict[str, object]:
            line = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
            line.request(
                "POST", f"/ops/consumers/{verb}", b'{"reason": "a test"}', {"Content-Type": "application/json"}
            )
            document: dict[str, object] = json.loads(line.getresponse().read())
            line.close()
            return document

        yield ask


def test_a_broken_handler_parks_five_and_rests_until_it_is_mended(kitchen: Kitchen, db: Database) -> None:
    """Of twenty orders five are parked; the others wait on their topic, are told of, and go through once mended."""
    db.fill(rye=1000)
    kitchen.start_here()
    for n in range(20):
        kitchen.tell(BreadOrdered(f"o-{n}", mode=Mode.UNLUCKY), partition=0)
    kitchen.flush()

    worker = kitchen.worker()
    with running(worker):
        wait_until(lambda: db.one(PAUSED), "it is paused")
        wait_until(lambda: "paused" in worker.consumer_loop.waits, "the loop says so")
        with pytest.raises(NotReadyError, match="5 sagas in a row were parked by Unlucky"):
            worker.consumer_loop.ready()
        assert db.one("SELECT count(DISTINCT line) FROM parked") == 5

    with running(kitchen.worker(kitchen.service(rules=REPAIRED))):
        wait_until(lambda: db.one("SELECT count(*) FROM hold") == 5, "the parked go through at the start")
        assert db.one(PAUSED) is not None
        with db.connect() as tx:
            assert brake.resume(tx, kitchen.service()) is not None
        wait_until(lambda: db.one("SELECT count(*) FROM hold") == 20, "the others go through")

    assert (db.parked(), db.rows(PAUSED)) == ([], [])
    assert db.rows(NEWS) == [("progress.stalled",), ("progress.resumed",)]
    assert db.one(INBOX) == 20


def test_another_release_goes_on_by_itself(kitchen: Kitchen, db: Database) -> None:
    """What another release paused by itself is lifted at a start; a person's pause is not, nor one of this release."""
    service = kitchen.service()
    with db.connect() as tx:
        assert brake.pause(tx, service, "5 sagas in a row")
        assert not brake.pause(tx, service, "again")
        assert brake.resume_of_old(tx, service) is None
        db.rows("UPDATE consumer_pause SET release = '0.0.9'")
        assert brake.resume_of_old(tx, service) is not None
        brake.pause(tx, service, "by ann: a move", "ann")
        db.rows("UPDATE consumer_pause SET release = '0.0.9'")
        assert brake.resume_of_old(tx, service) is None
    assert db.rows(PAUSED) == [("by ann: a move",)]


def test_a_person_pauses_and_resumes(kitchen: Kitchen, db: Database) -> None:
    """Both are told and kept in the audit; while it rests nothing is handled, afterwards everything is."""
    db.rows("TRUNCATE audit")
    kitchen.start_here()
    worker = kitchen.worker()
    with running(worker), asking(kitchen) as ask:
        assert callable(ask)
        wait_until(lambda: worker.consumer_loop.joined)
        assert ask("pause")["changed"] is True
        assert ask("pause")["changed"] is False
        wait_until(lambda: "by local: a test" in worker.consumer_loop.waits, "it rests")
        kitchen.tell(OrderDropped("o-1"))
        kitchen.flush()
        assert db.one(INBOX) == 0
        assert ask("resume")["changed"] is True
        wait_until(lambda: db.one(INBOX) == 1, "it goes on")
    actions = [action for (action,) in db.rows("SELECT action FROM audit ORDER BY number")]
    assert actions == ["consumers.pause", "consumers.pause", "consumers.resume"]
