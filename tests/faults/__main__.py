"""``python -m tests.faults SEED PAIRS``: pairs of faults on a whole stack; exit 1 when anything was wrong."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from quadrille_auditor import lines as report_lines
from quadrille_cli.auditing import audited
from quadrille_cli.demo_data import stock_up
from quadrille_cli.stack import EVERYTHING, Stack
from quadrille_cli.testing import PATIENT
from tests import long_run
from tests.conftest import opened
from tests.faults.customers import Customers
from tests.faults.drill import Drill
from tests.faults.faults import every, pairs

EXTRA_MAILS = 1000
"""Mails sent twice are not what this looks for: any sender may have been killed any number of times."""
SETTINGS = {"ORDER_DEADLINE": "2h", **PATIENT}


def main(arguments: list[str]) -> int:
    """Run a seed's pairs, or one of them; print a line for each thing seen."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("seed", type=int, help="repeats a run: which faults, in which order, how far apart")
    parser.add_argument("pairs", type=int, help="how many pairs; 0 is every pair of the twelve single faults")
    parser.add_argument("--only", type=int, nargs="+", metavar="PAIR", help="run these of them alone")
    asked = parser.parse_args(arguments)
    drawn = pairs(asked.seed, asked.pairs) if asked.pairs else every(asked.seed)
    wanted = [pair for pair in drawn if pair.number in (asked.only or [pair.number])]
    with _stack() as stack:
        shop = opened(stack)
        stock_up(stack, {"SKU-TEA": 1_000_000, "SKU-NONE": 0})
        customers = Customers(stack, asked.seed)
        drill = Drill(shop, customers, long_run.say)
        with customers:
            for pair in wanted:
                drill.run(pair)
        drill.reckon()
        drill.found += _audited(stack)
        for wrong in drill.found:
            long_run.say(f"WRONG {wrong}")
        if not drill.found:
            stack.stop()
            stack.wipe()
            stack.data.parent.rmdir()
            return 0
    long_run.say(
        f"again: python -m tests.faults {asked.seed} {asked.pairs} [--only PAIR ...]; all data is left in {stack.data}"
    )
    return 1


def _audited(stack: Stack) -> list[str]:
    """Return what the auditor finds, or why it cannot judge."""
    report = audited(stack, wait=600.0, extra_mails=EXTRA_MAILS, healed_at=datetime.now(UTC))
    for line in report_lines(report):
        long_run.say(line)
    return [*(str(finding.document()) for finding in report.findings), *report.unread, *report.moving]


@contextmanager
def _stack() -> Iterator[Stack]:
    home = long_run.home("faults")
    long_run.say(f"starting a stack in {home}")
    with Stack(home / "stack", parts=EVERYTHING, scattered=True, settings=SETTINGS) as stack:
        yield stack


if __name__ == "__main__":
    long_run.run(main)
