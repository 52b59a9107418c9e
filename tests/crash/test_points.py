"""The labelled crash points are those of the page, and a seed's rounds meet every one of them."""

from __future__ import annotations

import re
from pathlib import Path

from quadrille_cli.services import SERVICES
from tests.crash.points import POINTS
from tests.crash.siege import SELDOM, each_point_once, rounds


def test_every_point_of_the_table_is_there() -> None:
    """The points are those of docs/reliability.md, by number and label; 62 with the services they are in."""
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text("utf-8")
    table = dict(re.findall(r"^\| ([ORWPNU]\d+) \| `([\w.]+)`", page, re.MULTILINE))
    there = {point.id: point.label for point in POINTS.values()}
    assert table == there
    assert sum(len(point.processes) for point in POINTS.values()) == 62 + 8 * (len(SERVICES) - 1)


def test_rounds_meet_every_point_in_every_process_so_often() -> None:
    """A seed's rounds are the same again; of one process so many points a round. Short ones meet each point once."""
    found = list(rounds(3, times=2, most=4))
    assert found == list(rounds(3, times=2, most=4))
    met = sorted((process, point) for one in found for process, points in one.items() for point in points)
    assert met == sorted([(process, point.id) for point in POINTS.values() for process in point.processes] * 2)
    assert max(len(points) for one in found for points in one.values()) == 4
    short = [point for one in each_point_once(3) for points in one.values() for point in points]
    assert sorted(short) == sorted({*POINTS} - {*SELDOM})
