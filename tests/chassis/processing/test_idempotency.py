"""A command comes once under its idempotency key: a repeat gets the first one's answer, whatever happened between."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from quadrille.processing import batch, idempotency
from quadrille.processing.batch import process_batch
from quadrille.processing.envelope import Envelope, Failed, Handled, Outcome, Replayed
from quadrille.processing.idempotency import IdempotencyKey
from tests.chassis.support import sample_service
from tests.chassis.support.database import Database, envelope_of, once
from tests.chassis.support.sample_messages import FillShelf

KEPT = "SELECT key, fingerprint, subject, answer FROM idempotency_key ORDER BY key"


def fill(sku: str, available: int, key: IdempotencyKey) -> Envelope:
    return envelope_of(FillShelf(sku, available), request=key)


def answer(outcome: Outcome) -> str:
    assert isinstance(outcome, Handled | Replayed), outcome
    return outcome.kept.answer if outcome.kept else "nothing kept"


def test_a_repeat_gets_the_kept_answer(db: Database) -> None:
    """A later batch's command of the same key is not handled: its shelf stays, it gets the first answer."""
    db.commit(fill("rye", 5, once("k")))

    (again,) = db.commit(fill("oat", 7, once("k")))

    assert isinstance(again, Replayed)
    assert (again.kept.subject, again.kept.answer) == ("rye", "rye: 5")
    assert db.rows("SELECT sku FROM level") == [("rye",)]
    assert db.rows(KEPT) == [("k", "f", "rye", "rye: 5")]


def test_one_key_many_times_in_a_batch(db: Database) -> None:
    """The same key twenty times in one batch is done once; the others get its answer."""
    outcomes = db.commit(*(fill("rye", number, once("k")) for number in range(1, 21)))

    assert [type(outcome) for outcome in outcomes] == [Handled] + [Replayed] * 19
    assert {answer(outcome) for outcome in outcomes} == {"rye: 1"}
    assert db.one("SELECT available FROM level") == 1


def test_the_fingerprint_of_the_first_is_told(db: Database) -> None:
    """Whoever comes with another request under the key is given the first one's fingerprint, and can tell."""
    db.commit(fill("rye", 5, once("k", "first")))

    (again,) = db.commit(fill("rye", 6, once("k", "second")))

    assert isinstance(again, Replayed)
    assert again.kept.fingerprint == "first"
    assert db.one("SELECT available FROM level") == 5


def test_keys_are_a_callers_own_on_one_route(db: Database) -> None:
    """Another caller's key, or the same key on another route, is another one."""
    mine = once("k")
    others = [replace(mine, caller="somebody"), replace(mine, route="PUT /v1/other")]

    outcomes = db.commit(*(fill(str(number), 1, key) for number, key in enumerate([mine, *others])))

    assert [type(outcome) for outcome in outcomes] == [Handled] * 3


def test_a_refusal_burns_no_key(db: Database) -> None:
    """A command whose reply is no answer to keep leaves its key free, in the same batch and later."""
    refused, placed = db.commit(fill("rye", 0, once("k")), fill("rye", 5, once("k")))
    (again,) = db.commit(fill("rye", 9, once("k")))

    assert (answer(refused), answer(placed), answer(again)) == ("nothing kept", "rye: 5", "rye: 5")


@pytest.mark.parametrize("wrong", [13, -1])
def test_a_failure_burns_no_key(db: Database, wrong: int) -> None:
    """A command that fails, in its handler or in the database, leaves no answer behind; its neighbour's stands."""
    failed, other = db.commit(fill("rye", wrong, once("k")), fill("oat", 2, once("other")))

    assert isinstance(failed, Failed)
    assert answer(other) == "oat: 2"
    assert db.rows(KEPT) == [("other", "f", "oat", "oat: 2")]


def test_an_expired_key_is_used_anew(db: Database) -> None:
    """A key is new once its time is over, and from then on answers for the new command."""
    first = fill("rye", 5, once("k"))
    db.commit(first)

    for later, expected in ((47, "rye: 5"), (49, "oat: 7"), (96, "oat: 7")):
        (outcome,) = db.commit(replace(fill("oat", 7, once("k")), at=first.at + timedelta(hours=later)))
        assert answer(outcome) == expected
    assert db.rows(KEPT) == [("k", "f", "oat", "oat: 7")]


def test_the_answer_is_stored_with_the_command_or_not_at_all(db: Database) -> None:
    """What is rolled back with its transaction is neither done nor answered for."""
    with db.connect() as tx, tx.transaction(force_rollback=True):
        process_batch(tx, sample_service.service(), [fill("rye", 5, once("k"))])

    assert (db.rows(KEPT), db.rows("SELECT sku FROM level")) == ([], [])


def test_an_answer_that_is_not_kept_is_found(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: where the batch keeps no answer, the repeat is done again, and the tests above would tell."""
    monkeypatch.setattr(batch, "_answer_to_keep", lambda *_: None)
    db.commit(fill("rye", 5, once("k")))

    (again,) = db.commit(fill("rye", 6, once("k")))

    assert isinstance(again, Handled)
    assert db.one("SELECT available FROM level") == 6


def test_a_batch_without_keys_asks_nothing(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever uses no keys pays nothing for them: their table is not asked."""
    monkeypatch.setattr(idempotency, "READ", "SELECT 1/0")

    (outcome,) = db.commit(envelope_of(FillShelf("rye", 5)))

    assert isinstance(outcome, Handled)
