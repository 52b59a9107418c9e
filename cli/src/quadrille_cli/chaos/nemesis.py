"""Nemesis: strikes a stack under load by a schedule, heals all it has done, waits until all is over, and has it judged.

Whatever ends a run, every process it touched goes on afterwards: ``Ctrl-C`` too heals first.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg

from quadrille_cli.auditing import audited
from quadrille_cli.chaos import ends, faults
from quadrille_cli.chaos.customers import Customers
from quadrille_cli.chaos.readiness import Truth, Watch, look
from quadrille_cli.demo_data import stock_up, write_addresses
from quadrille_cli.stack.servers import aot

if TYPE_CHECKING:
    from quadrille_auditor import Report
    from quadrille_cli.chaos.faults import Arena, Fault
    from quadrille_cli.chaos.schedule import Strike

LOOK_SECONDS = 0.5
SENDERS = ("notification-worker", "postgres:notification", "sandbox", "smtp", "kafka")
MAILS_AT_ONCE = 10
"""So many answers of a mail server may be lost by one fault."""
PATIENCE_LOOKS = 1200
Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the fault log: what was done, and when it began and ended, in seconds since the run began."""

    number: int
    fault: Fault
    began: float
    ended: float
    trouble: str = ""

    def document(self) -> dict[str, Any]:
        """Return it as JSON shows it."""
        return {
            "number": self.number, "kind": self.fault.kind, "target": self.fault.target,
            "began": round(self.began, 1), "ended": round(self.ended, 1), "trouble": self.trouble or None,
        }  # fmt: skip


@dataclass(slots=True)
class Result:
    """What a run did and what came of it."""

    seed: int
    rate: float
    planned: int
    log: list[Entry] = field(default_factory=list)
    fallen: list[str] = field(default_factory=list)
    """Processes that ended without having been struck, with their last words."""
    orders: int = 0
    sent: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    troubles: list[str] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    strange: list[str] = field(default_factory=list)
    truth: Truth = field(default_factory=Truth)
    seconds: float = 0.0
    healed_seconds: float | None = None
    """From the last heal until every order had ended; None when they did not."""
    waiting: list[str] = field(default_factory=list)
    report: Report | None = None
    interrupted: bool = False

    @property
    def kinds(self) -> Counter[str]:
        """How often each kind of fault came."""
        return Counter(entry.fault.kind for entry in self.log)

    @property
    def overlapping(self) -> int:
        """How many faults began while another one lasted."""
        return sum(any(o.began < e.began < o.ended for o in self.log if o is not e) for e in self.log)

    def wrong(self) -> Iterator[str]:
        """Yield what was wrong but for the audit's findings, a line each."""
        yield from (f"a client was refused: {line}" for line in self.troubles)
        yield from (f"{line}" for line in self.strange)
        yield from (f"did not end: {line}" for line in self.waiting)
        yield from (f"ended by itself: {line}" for line in self.fallen)
        yield from self.truth.lies
        yield from (f"fault {e.number}, {e.fault}: {e.trouble}" for e in self.log if e.trouble)

    @property
    def code(self) -> int:
        """0 clean, 1 something was wrong, 8 not judged."""
        if any(self.wrong()) or (self.report is not None and self.report.findings):
            return 1
        return 8 if self.report is None else self.report.code

    def document(self) -> dict[str, Any]:
        """Return it as JSON shows it."""
        return {
            "code": self.code, "seed": self.seed, "rate": self.rate, "seconds": round(self.seconds, 1),
            "interrupted": self.interrupted, "orders": {"sent": self.sent, "accepted": self.orders, **self.ends},
            "answers": dict(self.answers),
            "faults": {"planned": self.planned, "done": len(self.log), "overlapping": self.overlapping,
                       "kinds": dict(sorted(self.kinds.items()))},
            "healed_seconds": self.healed_seconds, "readiness": {"looks": self.truth.looks, "lies": self.truth.lies},
            "wrong": list(self.wrong()), "log": [entry.document() for entry in self.log],
            "audit": None if self.report is None else self.report.document(),
        }  # fmt: skip


class Nemesis:
    """One run over an arena."""

    def __init__(self, arena: Arena, strikes: Sequence[Strike], customers: Customers, say: Say) -> None:
        self.arena, self.stack, self.customers, self.say = arena, arena.stack, customers, say
        self.strikes = strikes
        self.result = Result(customers.seed, customers.rate, len(strikes))
        self._lasting: set[Fault] = set()
        self._free = threading.Condition()
        self._began = 0.0

    def run(self) -> Result:
        """Strike, heal, wait, judge; ``KeyboardInterrupt`` heals and returns what there is, without a judgement."""
        stock_up(self.stack, {"SKU-TEA": 10_000_000, "SKU-NONE": 0})
        write_addresses(self.stack)
        self._began = time.monotonic()
        result, healed = self.result, self._began
        try:
            with Watch(self.stack, self._lasting) as result.truth, self.customers:
                self._strike()
                if self.customers.count is not None:
                    self.customers.join()
            healed = time.monotonic()
            self._settle(healed)
            result.report = self._judge()
        except KeyboardInterrupt:
            result.interrupted = True
        finally:
            self.arena.stop.set()
            self._mend()
            result.seconds = time.monotonic() - self._began
            result.orders, result.sent = len(self.customers.taken), self.customers.sent
            result.answers, result.troubles = self.customers.answers, list(self.customers.troubles)
        return result

    def _strike(self) -> None:
        lanes = {strike.lane for strike in self.strikes}
        threads = [threading.Thread(target=self._lane, args=(lane,), name=f"lane-{lane}") for lane in lanes]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                self._revive()
                self.arena.stop.wait(LOOK_SECONDS)
        finally:
            self.arena.stop.set()
            for thread in threads:
                thread.join()
            self.arena.stop.clear()

    def _lane(self, lane: int) -> None:
        for strike in (one for one in self.strikes if one.lane == lane):
            if self.arena.stop.wait(strike.rest):
                return
            self._one(strike)

    def _one(self, strike: Strike) -> None:
        fault = strike.fault
        with self._free:
            while any(fault.part == other.part for other in self._lasting):
                self._free.wait(LOOK_SECONDS)
            self._lasting.add(fault)
        began, trouble = time.monotonic() - self._began, ""
        try:
            with fault.on(self.arena):
                self.say(f"{began:7.1f}  {strike.number:>4}  {fault}")
                self.arena.stop.wait(strike.hold)
                while strike.told and self.result.truth.untold(fault) and not self.arena.stop.wait(LOOK_SECONDS):
                    pass
        except (OSError, psycopg.Error, RuntimeError) as failed:  # a fault that could not be brought about is told
            trouble = f"{type(failed).__name__} {' '.join(str(failed).split())[:300]}"
        finally:
            with self._free:
                self._lasting.discard(fault)
                self._free.notify_all()
        ended = time.monotonic() - self._began
        self.result.log.append(Entry(strike.number, fault, began, ended, trouble))

    def _revive(self) -> None:
        """Start again, as a supervisor would, what has ended without having been struck, and note it."""
        for name, process in list(self.stack.processes.items()):
            with self._free:
                struck = any(fault.target == name for fault in self._lasting)
                if struck or process.running or name == aot.NAME:
                    continue
                self.result.fallen.append(f"{name}: {' / '.join(process.log_tail(2))}")
                process.launch()

    def _settle(self, healed: float) -> None:
        """Wait until everybody is ready and every order at its end; by looks, not by a clock."""
        self.say(f"healed after {healed - self._began:.0f} s; waiting until every order has ended")
        wrong = ["nothing was looked at"]
        for _ in range(PATIENCE_LOOKS):
            self._revive()
            unended = ends.unended(self.arena, dict(self.customers.taken))
            if not unended and self.result.healed_seconds is None:
                self.result.healed_seconds = round(time.monotonic() - healed, 1)
            wrong = [*unended, *self._unready()]
            if not wrong:
                break
            threading.Event().wait(LOOK_SECONDS)
        self.result.waiting = wrong
        with suppress(psycopg.Error):
            self.result.ends, self.result.strange = ends.counted(self.arena, self.customers.taken)

    def _unready(self) -> list[str]:
        return [f"{role} is not ready: {answer.why}" for role, answer in look(self.stack).items() if not answer.ready]

    def _judge(self) -> Report:
        self.say("auditing")
        mails = sum(MAILS_AT_ONCE for entry in self.result.log if entry.fault.target in SENDERS)
        return audited(
            self.stack, clients=self.customers.log, logs=self.stack.logs, wait=600.0,
            extra_mails=mails, healed_at=datetime.now(UTC),
        )  # fmt: skip

    def _mend(self) -> None:
        """Let every process go on, whatever was done to it; twice does no harm."""
        for proxy in self.arena.proxies.values():
            proxy.heal()
        for name, process in self.stack.processes.items():
            faults.signalled(self.stack, name, signal.SIGCONT)
            if not process.running and name != aot.NAME:
                process.launch()
