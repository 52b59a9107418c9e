"""The promises of commit are seen to break: each of these faults, one line each, turns a test of theirs red."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import psycopg
import pytest

import quadrille.processing.batch as committing
from quadrille.db import sqlstate
from quadrille.processing import unit_of_work
from quadrille.processing.unit_of_work import FencedError
from tests.chassis.consumer import test_parking
from tests.chassis.db import test_sqlstate
from tests.chassis.processing import test_batch, test_races
from tests.chassis.support.database import Database

LOCKS = "tx.execute(LOCK_KEYS, [sorted({lock_key(key) for key in keys})])"
PAST = "past = _past(tx, inputs, keys)"


@dataclass(frozen=True, slots=True)
class Plant:
    """One changed line, or two with `` ... `` between them, and the promise that is to notice it."""

    module: ModuleType
    name: str
    old: str
    new: str
    promise: Callable[[Database], None]


PLANTS = {
    "positions move without compare-and-set": Plant(
        unit_of_work, "MOVE_POSITIONS", "(p.topic, p.partition, p.next_offset) = (n.topic, n.partition, n.since)",
        "(p.topic, p.partition) = (n.topic, n.partition) AND n.since IS NOT NULL",
        test_races.test_two_processes_on_one_partition_have_each_effect_once,
    ),
    "ids seen are read before the key locks": Plant(
        unit_of_work, "begin", f"{LOCKS} ... {PAST}", f"{PAST}; {LOCKS} ... pass",
        test_races.test_the_same_event_by_four_at_once_has_one_effect,
    ),
    "no key is locked": Plant(
        unit_of_work, "LOCK_KEYS", "count(pg_advisory_xact_lock(k))", "count(k)",
        test_races.test_facts_of_one_order_are_numbered_without_gap,
    ),
    "the sequence is read before the key locks": Plant(
        unit_of_work, "begin", f"{LOCKS} ... {PAST}", f"{PAST}; {LOCKS} ... pass",
        test_races.test_facts_of_one_order_are_numbered_without_gap,
    ),
    "the inbox is written after the transaction": Plant(
        committing, "_process", "unit_of_work.end(tx, list(zip(inputs, outcomes, strict=True)),",
        "late = [i.id for i, o in zip(inputs, outcomes) if isinstance(o, Handled)]\n"
        "        unit_of_work.end(tx, [(replace(i, body=Command()), o) for i, o in zip(inputs, outcomes)],",
        test_races.test_the_same_event_by_four_at_once_has_one_effect,
    ),
    "later facts pass a parked one": Plant(
        unit_of_work, "BatchState.admits", "return not lane or lane[0] == envelope.id", "return True or lane",
        test_parking.test_what_follows_a_parked_fact_of_its_order_waits_behind_it,
    ),
    "a parked input of a halved batch leaves its position": Plant(
        committing, "_process_single", "unit_of_work.begin(tx, [envelope])",
        "unit_of_work.begin(tx, [replace(envelope, origin=None)])",
        test_batch.test_what_the_database_refuses_is_found_by_halving,
    ),
    "a halved batch forgets its second half": Plant(
        committing, "process_batch", "inputs[half:]", "inputs[half + 1 :]",
        test_batch.test_what_the_database_refuses_is_found_by_halving,
    ),
    "nothing is rewound": Plant(
        committing, "_dispatch", "table.rewind(place)", "table.mark()",
        test_batch.test_a_handler_that_raises_is_rewound_and_its_order_alone_waits,
    ),
    "an outage is blamed on the input": Plant(
        committing, "is_outage", "isinstance(trouble, OUTAGE)", "isinstance(trouble, FencedError)",
        test_batch.test_a_missing_column_parks_nothing,
    ),
    "the database's state is blamed on the input": Plant(
        sqlstate, "blames_input", "error.sqlstate[:2] in INPUT_CLASSES", "error.sqlstate[:2] in (*INPUT_CLASSES, '42')",
        test_batch.test_a_missing_column_parks_nothing,
    ),
    "no day is made by who finds none": Plant(
        committing, "_placed", "if not sqlstate", "if sqlstate",
        test_sqlstate.test_a_batch_makes_the_day_that_is_missing,
    ),
    "an id in a lane is parked again": Plant(
        unit_of_work, "BatchState.knows",
        "waiting = envelope.id in self.lanes.get(envelope.lane, ())", "waiting = envelope.redriven",
        test_parking.test_a_parked_record_that_comes_again_is_seen,
    ),
    "a redriven head leaves its lane in memory": Plant(
        committing, "_done", "history.lanes[envelope.lane].remove(envelope.id)", "pass",
        test_parking.test_a_line_is_redriven_in_one_batch,
    ),
}  # fmt: skip


def sow(plant: Plant, patch: pytest.MonkeyPatch) -> None:
    """Change the line: of a constant, or of a function's or method's source, compiled anew in its module."""
    owner_name, _, name = plant.name.rpartition(".")
    owner = getattr(plant.module, owner_name) if owner_name else plant.module
    there = getattr(owner, name)
    source = there if isinstance(there, str) else inspect.cleandoc("\n" + inspect.getsource(there))
    changed = source
    for old, new in zip(plant.old.split(" ... "), plant.new.split(" ... "), strict=True):
        assert source.count(old) == 1, f"{old!r} is not in {plant.name}: the plant has rotted"
        head, _, tail = changed.rpartition(old)
        changed = head + new + tail
    if not isinstance(there, str):
        scope = dict(vars(plant.module))
        exec(compile(changed, plant.name, "exec"), scope)  # noqa: S102 - that is the plant
        changed = scope[name]
    patch.setattr(owner, name, changed)


@pytest.mark.parametrize("fault", PLANTS)
def test_a_planted_fault_turns_its_promise_red(db: Database, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """With one line changed, the test that promises the contrary fails."""
    sow(PLANTS[fault], monkeypatch)

    with pytest.raises((AssertionError, FencedError, psycopg.Error, KeyError, pytest.fail.Exception)):
        PLANTS[fault].promise(db)
