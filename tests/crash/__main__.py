"""``python -m tests.crash SEED TIMES``: every crash point of every process, so often by SIGKILL and by SIGSTOP.

``python -m tests.crash --recovery TIMES`` measures instead how long the next order takes to end after one process was
killed. A stack of its own; exit 1 when anything was wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from quadrille_cli.chaos import own
from quadrille_cli.chaos.faults import Arena
from tests import long_run
from tests.crash.points import POINTS
from tests.crash.recovery import measured
from tests.crash.siege import Siege, rounds


def main(arguments: list[str]) -> int:
    """Run what is asked for; print a line for each thing seen."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", default=1, help="repeats a run: which points in which round")
    parser.add_argument("times", type=int, nargs="?", default=1, help="how often each point is met in each process")
    parser.add_argument("--recovery", type=int, default=0, metavar="TIMES", help="measure recovery, so often a process")
    asked = parser.parse_args(arguments)
    home = long_run.home("siege")
    with own.arena(home, asked.seed) as arena:
        wrong = measured(arena, asked.recovery, print) if asked.recovery else _siege(arena, asked.seed, asked.times)
    if not wrong:
        own.removed(arena)
    return 1 if wrong else 0


def _siege(arena: Arena, seed: int, times: int) -> list[str]:
    siege = Siege(arena, seed)
    for how in ("kill", "stop"):
        for number, armament in enumerate(rounds(seed, times, most=8)):
            siege.round(armament, how, nth=2 + number % 3)
    for line in siege.wrong:
        sys.stdout.write(f"WRONG {line}\n")
    met = Counter(hit.partition(" ")[0] for hit in siege.hits)
    for point in POINTS.values():
        sys.stdout.write(f"{point.id:<4} {point.label:<22} met {met[point.id]:>4} times\n")
    sys.stdout.write(
        f"seed {seed}: {len(siege.hits)} hits of {len(met)} of {len(POINTS)} points, {len(siege.wrong)} wrong\n"
    )
    return siege.wrong


if __name__ == "__main__":
    long_run.run(main)
