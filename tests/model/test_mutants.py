"""The searches have teeth: each of these faults is found, with the shortest story that leads to it."""

from __future__ import annotations

from typing import Any, TypeAlias

import pytest

from tests.model.mutants import BARE, MUTANTS, PLANTED, Mutant
from tests.model.running import Task, run_all

SLIPS = ("NameError", "AttributeError", "TypeError")  # a line that does not even run is no fault of the rules
Reports: TypeAlias = "dict[str, dict[str, Any]]"


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """What the searches found in each mutant."""
    home = tmp_path_factory.mktemp("mutants")
    there = [mutant for mutant in MUTANTS if mutant.applies]
    tasks = {m.name: Task(m.search, changed=m.planted_in(home / str(n))) for n, m in enumerate(there)}
    tasks |= {name: Task(BARE, planted=name) for name in PLANTED}
    return dict(zip(tasks, run_all(tasks.values()), strict=True))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_of_one_line_is_found(reports: Reports, mutant: Mutant) -> None:
    """The line is still there to be changed, and the changed rules break a law."""
    assert mutant.applies, f"{mutant.file} no longer has, once: {mutant.line}"
    found = reports[mutant.name]["broken"]
    assert _is_a_story(found), f"{mutant.name}: not found by the search “{mutant.search}”"


@pytest.mark.proves("L1", "L10")
@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_fault_is_found(reports: Reports, planted: str) -> None:
    """A hold that expires by itself and an effect without an intent break a law."""
    assert _is_a_story(reports[planted]["broken"])


def _is_a_story(found: str) -> bool:
    first, *_, last = found.split("\n") if found else ["", ""]
    return first.startswith("1. ") and last.startswith("=> ") and not any(f"raised {slip}" in last for slip in SLIPS)
