"""``python -m tests.audit SEED RUNS``: so many loads without any fault, the auditor after each; exit 1 on any alarm.

An auditor that cries wolf is turned off: what it finds where nothing was broken is its own fault, or the product's.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from quadrille_auditor import lines as report_lines
from quadrille_cli.auditing import audited
from quadrille_cli.loadtest.arrivals import ARRIVALS
from quadrille_cli.loadtest.client_log import ClientLog
from quadrille_cli.loadtest.run import Plan, measure
from quadrille_cli.stack import EVERYTHING, Stack
from quadrille_cli.testing import PATIENT
from tests import long_run

KINDS = ("ok", "declined", "out_of_stock", "cancel")
ORDERS, RATES = (100, 400), (20.0, 60.0)
"""A load draws from these."""
WAIT_SECONDS = 300.0
LOG = "clients.jsonl"


def main(arguments: list[str]) -> int:
    """Run a seed's loads one after another on one stack, and tell of each what the auditor found."""
    parser = argparse.ArgumentParser(prog="python -m tests.audit", description=__doc__)
    parser.add_argument("seed", type=int, help="repeats the runs: how many orders, of which kinds, arriving how")
    parser.add_argument("runs", type=int, help="how many loads, each with an audit of all there is by then")
    asked = parser.parse_args(arguments)
    alarms = 0
    with _stack() as stack:
        for number in range(1, asked.runs + 1):
            alarms += _run(stack, drawn(asked.seed + number), f"run {number} of {asked.runs}")
        long_run.say(f"{asked.runs} clean runs, {alarms} alarms")
        if not alarms:
            stack.stop()
            stack.wipe()
            (stack.data.parent / LOG).unlink(missing_ok=True)
            stack.data.parent.rmdir()
            return 0
    long_run.say(f"again: python -m tests.audit {asked.seed} {asked.runs}; all data is left in {stack.data}")
    return 1


def drawn(seed: int) -> Plan:
    """Return a seed's load: how many orders how fast, arriving how, which share of each kind."""
    rng = random.Random(seed)  # noqa: S311 - a repeatable load
    mix: Mapping[str, float] = {kind: rng.uniform(0.05, 1.0) for kind in KINDS}
    total = sum(mix.values())
    shares = {kind: share / total for kind, share in mix.items()}
    return Plan(rng.randint(*ORDERS), rng.uniform(*RATES), shares, seed, rng.choice(sorted(ARRIVALS)))


def _run(stack: Stack, plan: Plan, name: str) -> int:
    """Load the stack, audit it, and return how many alarms there were: findings, and invariants not judged."""
    log = stack.data.parent / LOG
    with ClientLog(log, stack.url("order")) as kept:
        run = measure(stack, plan, log=kept)
    report = audited(stack, clients=log, wait=WAIT_SECONDS)
    unjudged = report.code and not report.findings
    load = f"seed {plan.seed}, {plan.orders} orders {plan.arrivals}, {len(run.ends)} ended"
    found = f"{len(report.findings)} findings" + (", not all judged" if unjudged else "")
    long_run.say(f"{name}: {load}; {report.orders['at_rest']:,} at rest audited, {found}")
    if report.code:
        long_run.say("\n".join(report_lines(report)))
    return len(report.findings) or bool(unjudged)


@contextmanager
def _stack() -> Iterator[Stack]:
    """A stack of its own, beside any other; ended as its runs are, wiped only by who says so."""
    home = long_run.home("audit")
    parts = EVERYTHING - {"console", "postgres:console"}
    with Stack(home / "data", parts=parts, scattered=True, settings=PATIENT) as stack:
        yield stack


if __name__ == "__main__":
    long_run.run(main)
