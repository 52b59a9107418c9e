"""Sieges: ended or frozen at any crash point, under load, a process loses nothing (reliability.md, section 4).

Each point but one, which wants trouble outside, once by SIGKILL here;
``python -m tests.crash SEED TIMES`` meets each so often by both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.crash.points import POINTS
from tests.crash.siege import SELDOM, Siege, short
from tests.crash.test_points import SEED

if TYPE_CHECKING:
    from quadrille_cli.chaos.faults import Arena


@pytest.mark.timeout(3600)  # of looks, not of seconds: a machine that has other things to do takes longer for them
def test_killed_at_any_point_a_process_loses_and_doubles_nothing(arena: Arena) -> None:
    """Every labelled point but the seldom is met by SIGKILL under load; all orders end, the auditor finds nothing."""
    siege = Siege(arena, SEED)
    for armament in short(SEED, most=5):
        siege.round(armament, "kill")
    assert siege.wrong == []
    assert {hit.partition(" ")[0] for hit in siege.hits} == set(POINTS) - {*SELDOM}
