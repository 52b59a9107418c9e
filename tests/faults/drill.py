"""Pairs of faults under a stream of orders, one pair after the other; what does not heal by itself is told and mended.

Time is counted in looks at every role's /readyz, a moment apart: a slow machine has as many as a fast one.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress

import psycopg

from quadrille_cli.chaos.faults import ROLES
from quadrille_cli.chaos.readiness import Sample, look
from quadrille_cli.client import ProblemError
from quadrille_cli.services import SERVICES
from quadrille_cli.stack import diagnostics
from tests.conftest import Shop
from tests.faults.customers import Customers
from tests.faults.faults import Pair
from tests.faults.readiness import lies
from tests.faults.reckoning import Books, waiting

PAUSE_SECONDS = 0.5
HOLD_LOOKS = 80
HEAL_LOOKS = 480
TELL_LOOKS = 30
GONE = (OSError, psycopg.OperationalError, ProblemError)


class Drill:
    """One run; ``found`` holds what was wrong, ``say`` gets a line of progress at a time."""

    def __init__(
        self, shop: Shop, customers: Customers, say: Callable[[str], object], looks: tuple[int, int] | None = None
    ) -> None:
        self.shop, self.stack, self.customers, self.say = shop, shop.stack, customers, say
        self.hold_looks, self.heal_looks = looks or (HOLD_LOOKS, HEAL_LOOKS)
        self.found: list[str] = []
        self._books = Books(shop)
        self._pause = threading.Event()

    def run(self, pair: Pair) -> list[str]:
        """Inject a pair, watch, heal it, and see everything go on; return what was wrong."""
        self.say(f"pair {pair.number} (seed {self.customers.seed}): {pair}")
        untold = self._fault(pair)
        untold += self._recovered(f"pair-{pair.number}")
        self.found += [f"pair {pair.number}: {wrong}" for wrong in untold]
        for wrong in untold:
            self.say(f"  WRONG {wrong}")
        return untold

    def _fault(self, pair: Pair) -> list[str]:
        hurt = {pair.first.target, pair.second.target}
        left = list(pair.healing)
        pair.first.inject(self.stack)
        try:
            self._looks(pair.gap, hurt)
            pair.second.inject(self.stack)
            samples = self._watched(pair)
            left.pop(0).heal(self.stack)
            self._looks(pair.rest, hurt)
        finally:  # an interrupted run leaves nothing frozen behind
            for fault in left:
                fault.heal(self.stack)
        wrong = lies((pair.first, pair.second), samples)
        self.say(f"  looked {len(samples)} times; not ready: {_not_ready(samples[-1]) or 'nobody'}")
        return wrong

    def _watched(self, pair: Pair) -> list[Sample]:
        """Look until everybody has told the truth and the absent have been missed, or often enough."""
        faults = (pair.first, pair.second)
        samples: list[Sample] = []
        while len(samples) < self.hold_looks:
            samples.append(look(self.stack, {fault.target for fault in faults}))
            true = len(samples) >= pair.hold and not lies(faults, samples)
            if true and all(fault.told(self.stack) for fault in faults):
                break
            self._pause.wait(PAUSE_SECONDS)
        return samples

    def _looks(self, many: int, but: Collection[str]) -> None:
        for _ in range(many):
            look(self.stack, but)
            self._pause.wait(PAUSE_SECONDS)

    def _recovered(self, name: str) -> list[str]:
        """Wait until every process is ready again and every order accepted so far at its end; tell what is not."""
        kinds, wrong = dict(self.customers.taken), list[str]()
        for looks in range(self.heal_looks):
            wrong = [*self._not_back(), *self._unended(kinds)]
            if not wrong:
                self.say(f"  all ready again and {len(kinds)} orders at their ends after {looks + 1} looks")
                return []
            if looks % TELL_LOOKS == TELL_LOOKS - 1:
                self.say(f"  after {looks + 1} looks: {'; '.join(_short(wrong, 3))}")
            self._pause.wait(PAUSE_SECONDS)
        file = self.stack.data / f"evidence-{self.customers.seed}-{name}.txt"
        file.write_text(diagnostics.of(self.stack), encoding="utf-8")
        self._start_anew()
        return [*_short(wrong), f"so it was after {self.heal_looks} looks; see {file}"]

    def _not_back(self) -> Iterator[str]:
        for name, process in self.stack.processes.items():
            if name != "aot-training" and not process.running:
                yield f"{name} has ended: {' / '.join(process.log_tail(1))}"
        for role, answer in look(self.stack).items():
            if not answer.ready:
                yield f"{role} is not ready: {answer.why}"

    def _unended(self, kinds: dict[str, str]) -> list[str]:
        try:
            left = waiting(self.shop, kinds)
        except GONE as gone:
            return [f"the orders cannot be read: {gone}"]
        return [f"{len(left)} of {len(kinds)} orders do not end, such as {left[0]}"] if left else []

    def left(self) -> list[str]:
        """Return what is not as it was before: a process, a role's readiness, an order that has no end yet."""
        return [*self._not_back(), *self._unended(dict(self.customers.taken))]

    def _start_anew(self) -> None:
        """Start our processes anew, so that the pairs to come are judged by themselves."""
        for name, process in self.stack.processes.items():
            if name in ROLES:
                process.kill()
        for process in self.stack.processes.values():
            process.start()

    def reckon(self) -> list[str]:
        """Once the customers have gone: wait until all is read, then hold everything against what was ordered."""
        wrong = list(self.customers.troubles)
        for _ in range(self.heal_looks):
            with suppress(*GONE):
                if not waiting(self.shop, self.customers.taken) and self.shop.all_read():
                    break
            self._pause.wait(PAUSE_SECONDS)
        else:
            wrong.append(f"not all is read after {self.heal_looks} looks")
        wrong += self._unended(self.customers.taken)
        wrong += _short(self._books.wrong(self.customers.taken, self.customers.keys))
        for line in wrong:
            self.say(f"WRONG at the end: {line}")
        self.found += wrong
        facts = sum(int(self.shop.sql(service, "SELECT count(*) FROM outbox")[0][0]) for service in SERVICES)
        self.say(f"{len(self.customers.taken)} orders accepted, {facts} facts in the outboxes, {len(self.found)} wrong")
        return wrong


def _not_ready(sample: Sample) -> str:
    """Return who was not ready, by the reason given."""
    told = defaultdict(list)
    for role, answer in sample.items():
        if not answer.ready:
            told[answer.why].append(role)
    return "; ".join(f"{', '.join(roles)} ({why})" for why, roles in told.items())


def _short(lines: list[str], most: int = 12) -> list[str]:
    return [*lines[:most], *([f"and {len(lines) - most} more"] if len(lines) > most else [])]
