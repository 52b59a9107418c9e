"""Crash points (reliability.md, section 4): ended or frozen at any of them, under load, a process loses nothing.

Each point but one, which wants trouble outside, once by SIGKILL here, and some by SIGSTOP;
``python -m tests.crash SEED TIMES`` meets each so often by both.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quadrille_cli.services import SERVICES
from tests.crash.points import POINTS
from tests.crash.siege import SELDOM, Siege, rounds, short

if TYPE_CHECKING:
    from quadrille_cli.chaos.faults import Arena

SEED = 14
NOT_MET = {"U3", "U4"}
"""A redrive and a partition that is dropped: neither comes under a stream of orders."""
STOPS = {"order-api": ("O4",), "inventory-worker": ("W6",), "payment-worker": ("P3",), "notification-relay": ("R5",)}


@pytest.mark.timeout(3600)  # of looks, not of seconds: a machine that has other things to do takes longer for them
def test_killed_at_any_point_a_process_loses_and_doubles_nothing(arena: Arena) -> None:
    """Every labelled point but the seldom is met by SIGKILL under load; all orders end, the auditor finds nothing."""
    siege = Siege(arena, SEED)
    for armament in short(SEED, most=5):
        siege.round(armament, "kill")
    assert siege.wrong == []
    assert {hit.partition(" ")[0] for hit in siege.hits} == set(POINTS) - {*SELDOM}


@pytest.mark.timeout(3600)
def test_frozen_at_a_point_a_process_is_taken_over_from_and_does_no_harm_when_it_wakes(arena: Arena) -> None:
    """SIGSTOP at the point, its place taken, then SIGCONT: what the zombie does has no effect, says the auditor."""
    siege = Siege(arena, SEED + 1)
    siege.round(STOPS, "stop")
    assert siege.wrong == []
    assert sorted(siege.hits) == sorted(f"{point} {name} stop" for name, (point,) in STOPS.items())


def test_every_point_of_the_table_is_there() -> None:
    """The points are those of docs/reliability.md, by number and label; 61 with the services they are in."""
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text("utf-8")
    table = dict(re.findall(r"^\| ([ORWPNU]\d+) \| `([\w.]+)`", page, re.MULTILINE))
    there = {point.id: point.label for point in POINTS.values()}
    assert {name: label for name, label in table.items() if name not in NOT_MET} == there
    assert sum(len(point.processes) for point in POINTS.values()) == 61 + 8 * (len(SERVICES) - 1)


def test_rounds_meet_every_point_in_every_process_so_often() -> None:
    """A seed's rounds are the same again; of one process so many points a round. Short ones meet each point once."""
    found = list(rounds(3, times=2, most=4))
    assert found == list(rounds(3, times=2, most=4))
    met = sorted((process, point) for one in found for process, points in one.items() for point in points)
    assert met == sorted([(process, point.id) for point in POINTS.values() for process in point.processes] * 2)
    assert max(len(points) for one in found for points in one.values()) == 4
    once = [point for one in short(SEED, most=5) for points in one.values() for point in points]
    assert sorted(once) == sorted({*POINTS} - {*SELDOM})
