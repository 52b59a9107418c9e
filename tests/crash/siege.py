"""A siege: processes armed with crash points under a stream of orders, brought back as a supervisor does; an audit."""

from __future__ import annotations

import itertools
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil

from quadrille_auditor import Report
from quadrille_cli.auditing import audited
from quadrille_cli.chaos.customers import ANSWER_SECONDS, Customers
from quadrille_cli.chaos.ends import counted, unended
from quadrille_cli.chaos.faults import KINDS, Arena
from quadrille_cli.client import Client
from quadrille_cli.demo_data import stock_up, write_addresses
from quadrille_cli.stack import Stack
from quadrille_cli.stack.processes import Process
from tests.crash.points import POINTS, armed

LOOKS = 1200
LOOK_SECONDS = 0.25
LOOKS_FOR_THE_END = 4 * LOOKS
"""A refund whose charge was inquired about in trouble is tried again after ten minutes at most."""
SOON = "3s"
"""The deadline of orders where a timer is to fire: most are confirmed by then, and their timer finds nothing to do."""
TIMERS = ("U1", "U2")
SELDOM = ("P6",)
"""Met only while the processor is in trouble, whose refunds take their time."""
SENDS_AGAIN = 40
"""So many mails a sender may have in hand when it ends or freezes, each of which may come once more: ten calls under
way, and those whose answers it has and has not committed. One that wakes after its deadline sends nothing itself."""
Round = Mapping[str, tuple[str, ...]]
"""Processes, each with the points it is armed with, one after the other: as it is brought back, the next one is set."""


def rounds(seed: int, times: int = 1, most: int = 1) -> Iterator[Round]:
    """Yield rounds in which every point is met in each of its processes, so often; ``most`` of one process a round.

    Timers come last, by themselves: theirs is a stream of orders that are given up soon.
    """
    rng = random.Random(seed)  # noqa: S311 - a repeatable order
    for timers in (False, True):
        points = [point for point in POINTS.values() if (point.id in TIMERS) == timers]
        wanted = [(process, point.id) for point in points for process in point.processes] * times
        rng.shuffle(wanted)
        while wanted:
            this: dict[str, tuple[str, ...]] = {}
            for process, point in list(wanted):
                if len(this.get(process, ())) < most:
                    this[process] = (*this.get(process, ()), point)
                    wanted.remove((process, point))
            yield this


def each_point_once(seed: int) -> list[Round]:
    """Return two rounds that meet every point but the seldom once, in whichever of its processes has least to do."""
    rng = random.Random(seed)  # noqa: S311 - as above
    lists: defaultdict[str, list[str]] = defaultdict(list)
    for point in sorted(POINTS.values(), key=lambda one: len(one.processes)):
        if point.id not in (*TIMERS, *SELDOM):
            places = rng.sample(point.processes, len(point.processes))
            lists[min(places, key=lambda one: len(lists[one]))].append(point.id)
    return [{name: tuple(points) for name, points in lists.items()}, {"order-worker": TIMERS}]


class Siege:
    """Rounds of armed processes on one stack; ``hits`` has every point that was met, as ``point process how``."""

    def __init__(self, arena: Arena, seed: int, rate: float = 15.0, say: Callable[[str], object] = print) -> None:
        self.stack, self.arena, self.seed, self.rate, self.say = arena.stack, arena, seed, rate, say
        self.hits: list[str] = []
        self.wrong: list[str] = []
        self.extra_mails = 0
        self._numbers = itertools.count(1)
        self._pause = threading.Event()
        stock_up(self.stack, {"SKU-TEA": 10_000_000, "SKU-NONE": 0})
        write_addresses(self.stack)

    def round(self, armament: Round, how: str, nth: int = 3) -> None:
        """Arm, order, wait until every point is met, bring all back, wait until every order has ended; then audit.

        ``nth`` is more than one, or a worker that dies again and again takes the first record it sees for poison.
        """
        number = next(self._numbers)
        told = "; ".join(f"{name} {' '.join(points)}" for name, points in armament.items())
        self.say(f"round {number}: {how}, {told}")
        log = self.stack.data / f"siege-{self.seed}-{number}.jsonl"
        customers = Customers(self.stack, self.seed * 1000 + number, self.rate, log)
        with self._armed(armament, how, nth) as traps, customers:
            self._until_met(traps, how, customers)
        self._settle(customers)
        self.extra_mails += SENDS_AGAIN * len(armament.get("notification-worker", ()))
        report = self.audit(log)
        self.wrong += [f"round {number}: {finding.document()}" for finding in report.findings]
        if report.code > 1:
            self.wrong.append(f"round {number}: not judged: {report.unread or report.moving}")

    def audit(self, log: Path) -> Report:
        """Judge the whole as it stands now."""
        return audited(self.stack, clients=log, wait=600.0, extra_mails=self.extra_mails, healed_at=datetime.now(UTC))

    @contextmanager
    def _armed(self, armament: Round, how: str, nth: int) -> Iterator[dict[str, Trapped]]:
        hurried = any(point in TIMERS for points in armament.values() for point in points)
        traps = {name: Trapped(self.stack, name, points, how, nth) for name, points in armament.items()}
        if hurried and "order-api" not in traps:
            traps["order-api"] = Trapped(self.stack, "order-api", (), how, nth)  # for its orders' deadline
        try:
            for trap in traps.values():
                trap.deadline = SOON if hurried and trap.name == "order-api" else ""
                trap.launch()
            yield {name: trap for name, trap in traps.items() if trap.point}
        finally:
            for trap in traps.values():
                trap.over()
            for trap in traps.values():
                trap.usual.start()

    def _until_met(self, traps: Mapping[str, Trapped], how: str, customers: Customers) -> None:
        waiting, looks = dict(traps), 0
        for trap in traps.values():
            self._provoke(trap)
        while waiting and looks < LOOKS:
            for name, trap in list(waiting.items()):
                if trap.met:
                    self.hits.append(f"{trap.point} {name} {how}")
                    looks = 0
                    if trap.replaced():
                        del waiting[name]
                    self._provoke(trap)
            looks += 1
            self._pause.wait(LOOK_SECONDS)
        self.wrong += [f"{trap.point} was not met in {name}" for name, trap in waiting.items()]
        if how == "stop":
            self._take_over(traps.values(), customers)

    def _provoke(self, trap: Trapped) -> None:
        """Bring about what does not come by itself: a scan, after a slot was dropped; a charge of unknown outcome."""
        if trap.point == "R8":
            with KINDS["slot dropped"].act(self.arena, f"postgres:{trap.name.partition('-')[0]}"):
                pass
        if trap.name == "payment-worker":
            with Client(self.stack.url("sandbox")) as outside:
                if trap.point == "P6":
                    outside.demand("PUT", "/chaos", {"errors": 0, "timeouts": 0.75, "seconds": 600})
                else:
                    outside.demand("DELETE", "/chaos")

    def _take_over(self, traps: Collection[Trapped], customers: Customers) -> None:
        """Wait until what was ordered so far has ended without the frozen; then let them go on, as zombies."""
        before = dict(customers.taken)
        self._until(lambda: not self._unended(before), f"{len(before)} orders end without the frozen")
        for trap in traps:
            trap.thaw()
        sent = customers.sent + int(self.rate)
        self._until(lambda: customers.sent >= sent, "more is ordered beside the zombies")

    def _unended(self, taken: Mapping[str, str]) -> list[str]:
        return [line for line in unended(self.arena, taken) if line.startswith("order ")]

    def _settle(self, customers: Customers) -> None:
        self._until(lambda: not unended(self.arena, customers.taken), "every order has ended", LOOKS_FOR_THE_END)
        self.wrong += [*customers.troubles, *unended(self.arena, customers.taken)[:5]]
        ends, strange = counted(self.arena, customers.taken)
        self.say(f"  {sum(ends.values())} orders: {', '.join(f'{n} {end}' for end, n in ends.most_common())}")
        self.wrong += [line for line in strange if not line.endswith("DEADLINE")]

    def _until(self, found: Callable[[], bool], what: str, looks: int = LOOKS) -> None:
        for _ in range(looks):
            if found():
                return
            self._pause.wait(LOOK_SECONDS)
        self.wrong.append(f"looked {looks} times in vain until {what}")


class Trapped:
    """A process of the stack that runs armed for a while, in place of the usual one."""

    def __init__(self, stack: Stack, name: str, points: tuple[str, ...], how: str, nth: int) -> None:
        self.name, self.how, self.deadline = name, how, ""
        self.usual = stack.process(name)
        self._left, self._nth = list(points), nth
        self._log = stack.data / f"trap-{name}.log"
        self._armed: Process | None = None
        self._frozen: list[Process] = []

    @property
    def point(self) -> str:
        """The point it is armed with now; empty if it is with none."""
        return self._left[0] if self._left else ""

    def launch(self) -> None:
        """Put the armed process in the usual one's place; a worker or relay on another ops port: two may be needed."""
        self._log.unlink(missing_ok=True)
        spec = self.usual.spec
        env = dict(spec.env) | ({"QUADRILLE_ORDER_DEADLINE": self.deadline} if self.deadline else {})
        if not self.name.endswith("-api"):
            env["QUADRILLE_OPS_BIND"] = "127.0.0.1:0"
        command = spec.command
        if self.point:
            nth = 1 if POINTS[self.point].once else self._nth
            line = armed(self.name, self.point, nth, self.how, self._log)
            command = lambda: line  # noqa: E731 - as a Spec has it
        self.usual.stop()
        self._armed = Process(replace(spec, command=command, env=env, ports={}, log=spec.log.with_suffix(".armed.log")))
        self._armed.launch()

    @property
    def met(self) -> bool:
        """Whether the point was met: it is written down, and the process has ended or stands."""
        if self._armed is None or not self._log.exists():
            return False
        if self.how == "kill":
            return not self._armed.running
        return self._armed.running and psutil.Process(self._armed.pid).status() == psutil.STATUS_STOPPED

    def replaced(self) -> bool:
        """Start the next armed one, else the usual one, beside a frozen one if it can; tell whether it is that.

        Nobody takes over from an api: it goes on when its customers have given up waiting for their answers.
        """
        del self._left[0]
        if self._armed is not None and self.how == "stop":
            if self.name.endswith("-api"):
                threading.Event().wait(ANSWER_SECONDS)
                self.over()
            else:
                self._frozen.append(self._armed)
        self.launch()
        return not self._left

    def thaw(self) -> None:
        """Let those that are frozen go on."""
        for process in self._frozen:
            process.thaw()

    def over(self) -> None:
        """End the armed one and those that were frozen, if they are there."""
        for process in (*self._frozen, *([self._armed] if self._armed is not None else ())):
            process.thaw()
            process.stop()
