"""Long lives under a moving clock: days, windows, retries and deadlines, over the real handlers, inbox and gateways.

``QUADRILLE_LIVES`` is how many lives each seed lives: a hundred in ``make test``, thousands when there is time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import payment.gateway
from quadrille.messages import Timer
from tests.model.machine import LIVES, Machine
from tests.model.machine_house import ROUNDS, House, Scene
from tests.model.machine_mutants import LIVES as MUTANTS_LIVES
from tests.model.machine_mutants import MUTANTS, SEED
from tests.model.machine_outside import FINE
from tests.model.mutants import Mutant
from tests.model.running import Task, run_all

SEEDS = ("1", "2")  # one that once failed stays
Reports: TypeAlias = "dict[str, dict[str, Any]]"
pytestmark = pytest.mark.timeout(60 + 10 * int(LIVES))


def looked_after_for_a_week(state: Machine) -> None:
    """A timer's time was its id's, which has whole milliseconds: the next look came before it was due, for ever."""
    state.begin(stock=2, troubled="", far="reserved")
    state.cancel(pick=0, operator=False)
    state.rewind(pick=0)
    state.jump(timedelta(days=8))
    state.fire()
    state.fire()


def resolved_by_halves(state: Machine) -> None:
    """A person had ended what inventory owed, and the refund was to be tried again in a quarter of an hour."""
    state.begin(stock=2, troubled="sealed", far="undone")
    state.hammer(pick=0)
    state.operate(pick=0, service="inventory", gives_up=True)


def without_inventory(house: House, wanted: timedelta) -> None:
    """Let inventory be away for so long, while orders come in and all others go on."""
    ends = house.now + wanted
    while house.now < ends:
        house.place(f"key {len(house.orders)}")
        while places := [place for place in house.unread() if place[0] != "inventory"]:
            house.deliver(places[0])
        for room, row in house.due(Timer):
            room.fire(row)
        house.jump(timedelta(seconds=30))
    for _ in range(ROUNDS):  # it is back
        house.go(FINE)


STORIES = (looked_after_for_a_week, resolved_by_halves)  # what once broke a law, as Hypothesis told it


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """What the lives of each seed came to, and those with a fault planted."""
    home = tmp_path_factory.mktemp("mutants")
    tasks = {seed: _lives(seed, LIVES) for seed in SEEDS}
    for number, mutant in enumerate(mutant for mutant in MUTANTS if mutant.applies):
        changed = mutant.planted_in(home / str(number))
        tasks[mutant.name] = _lives(SEED, MUTANTS_LIVES, "first", changed=changed)
    return dict(zip(tasks, run_all(tasks.values()), strict=True))


@pytest.mark.proves("late.same-id", "late.below-floor", "late.charge-waits", "L7", "L10", "L11", "F9")
@pytest.mark.parametrize("seed", SEEDS)
def test_no_life_breaks_a_law(reports: Reports, seed: str) -> None:
    """Whatever happens, in whatever order and however late: the laws hold after every step, and every life ends."""
    assert reports[seed]["broken"] == "", reports[seed]["broken"]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_of_a_clock_is_found(reports: Reports, mutant: Mutant) -> None:
    """The line is still there to be changed, and some life under the changed clock breaks a law."""
    assert mutant.applies, f"{mutant.file} no longer has, once: {mutant.line}"
    told = reports[mutant.name]["broken"]
    assert "state.begin(" in told, f"{mutant.name}: not found in {MUTANTS_LIVES} lives"
    assert told.splitlines()[-1].startswith("=> Broken: "), told


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_what_once_broke_a_law_does_not(story: Callable[[Machine], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A story that was told of a broken law is lived again, to its end."""
    monkeypatch.setattr(payment.gateway, "FAST_TRIES", (0.0,) * 4)
    state = Machine()
    story(state)
    state.laws_hold()
    state.teardown()


@pytest.mark.proves("F12")
@pytest.mark.parametrize(("minutes", "lost"), [(10, False), (20, True)])
def test_inventory_is_away_under_load(monkeypatch: pytest.MonkeyPatch, minutes: int, *, lost: bool) -> None:
    """By default ten minutes without inventory cost no order; so many that the deadline passes cost the oldest."""
    monkeypatch.setattr(payment.gateway, "FAST_TRIES", (0.0,) * 4)
    house = House(Scene(stock=100))

    without_inventory(house, timedelta(minutes=minutes))

    ends = Counter((house.row(name).status, house.row(name).reason) for name in house.orders)
    assert len(house.orders) == 2 * minutes
    assert set(ends) == {("CONFIRMED", None), *([("CANCELLED", "DEADLINE")] if lost else [])}


def _lives(seed: str, lives: str, *story: str, changed: Path | None = None) -> Task:
    return Task(seed, changed=changed, module="tests.model.machine", more=(lives, *story))
