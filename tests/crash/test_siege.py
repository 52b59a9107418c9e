"""Sieges: ended or frozen at a crash point, under load, a process loses nothing (reliability.md, section 4).

Each point but the seldom once by SIGKILL here, and one of each kind of process by SIGSTOP;
``python -m tests.crash SEED TIMES`` meets each so often in each of its processes by both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.crash.points import POINTS
from tests.crash.siege import SELDOM, Siege, each_point_once

if TYPE_CHECKING:
    from quadrille_cli.chaos.faults import Arena

SEED = 14
FROZEN = {
    "order-api": ("O5",),
    "inventory-relay": ("R5",),
    "order-worker": ("W5",),
    "inventory-worker": ("W7",),
    "payment-worker": ("P3",),
    "notification-worker": ("N2",),
}
"""Where a zombie could do harm: it has sent, and has not written down; it has written down, and has not said so."""


@pytest.mark.timeout(3600)  # of looks, not of seconds: a machine that has other things to do takes longer for them
def test_killed_at_any_point_a_process_loses_and_doubles_nothing(arena: Arena) -> None:
    """Every labelled point but the seldom is met by SIGKILL under load; all orders end, the auditor finds nothing."""
    siege = Siege(arena, SEED)
    for armament in each_point_once(SEED):
        siege.round(armament, "kill")
    assert siege.wrong == []
    assert sorted(hit.partition(" ")[0] for hit in siege.hits) == sorted({*POINTS} - {*SELDOM})


@pytest.mark.timeout(3600)
def test_frozen_at_a_point_others_take_over_and_the_zombie_does_nothing_twice(arena: Arena) -> None:
    """One of each kind stands still at its worst moment: orders end without it, and beside it once it is awake."""
    siege = Siege(arena, SEED + 1)
    siege.round(FROZEN, "stop")
    assert siege.wrong == []
    assert sorted(siege.hits) == sorted(f"{point} {name} stop" for name, (point,) in FROZEN.items())
