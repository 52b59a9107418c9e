"""A load run: orders sent from an open loop, every end waited for, and what all of it took and cost.

Latency counts from the moment an order was meant to be sent, so a slow answer does not hide those behind it. CPU is the
kernel's count of every process of the stack, the instrument's own kept apart.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException

from quadrille_cli.credentials import shown_to
from quadrille_cli.demo_data import order_of, stock_up, write_addresses
from quadrille_cli.loadtest.arrivals import ARRIVALS
from quadrille_cli.loadtest.client_log import ClientLog
from quadrille_cli.loadtest.observer import End, Observer
from quadrille_cli.loadtest.sender import Posted, Spent, Task, send
from quadrille_cli.stack import Stack
from quadrille_cli.stack.usage import cpu_by_group

STALLED_SECONDS = 30.0
GOOD = "SKU-TEA"
KINDS: dict[str, tuple[str, str, str]] = {  # token, SKU, expected end
    "ok": ("tok_ok", GOOD, "CONFIRMED"),
    "declined": ("tok_declined_funds", GOOD, "CANCELLED PAYMENT_DECLINED"),
    "out_of_stock": ("tok_ok", "SKU-NONE", "CANCELLED OUT_OF_STOCK"),
    "cancel": ("tok_ok", GOOD, "CANCELLED CUSTOMER"),  # as soon as it is accepted
}
BATCHES = re.compile(r"^quadrille_batch_inputs_(sum|count) ([\d.e+]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sent:
    """An order that was accepted: its kind, when it was meant to be sent and when its 202 came, monotonic seconds."""

    kind: str
    due: float
    accepted: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a load run sends: so many orders at a rate, of a mix of kinds, arriving as ``arrivals`` names.

    Those whose good is in stock are spread evenly over ``skus`` goods.
    """

    orders: int
    rate: float
    mix: Mapping[str, float]
    seed: int = 1
    arrivals: str = "steady"
    skus: int = 1

    def goods(self) -> list[str]:
        """Return the goods that are in stock."""
        return [GOOD, *(f"{GOOD}-{number}" for number in range(2, self.skus + 1))]

    def task(self, url: str) -> tuple[Task, list[str]]:
        """Return the sender's task, and the kind of every order; the same for the same seed."""
        rng, kinds = random.Random(self.seed), list(self.mix)  # noqa: S311 - a repeatable load
        drawn = rng.choices(range(len(kinds)), list(self.mix.values()), k=self.orders)
        due = list(ARRIVALS[self.arrivals](self.orders, self.rate, rng))
        chosen = [number * self.skus + place % self.skus for place, number in enumerate(drawn)]
        bodies = [json.dumps(body) for kind in kinds for body in self._bodies(*KINDS[kind][:2])]
        cancels = [number for number in range(len(bodies)) if kinds[number // self.skus] == "cancel"]
        task = Task(url, f"load-{uuid.uuid4()}", due, chosen, bodies, cancels, shown_to(url))
        return task, [kinds[number] for number in drawn]

    def _bodies(self, token: str, sku: str) -> Iterator[dict[str, object]]:
        for good in self.goods():
            body = order_of([(sku, 1)], token)
            yield body | {"lines": [line | {"sku": good if sku == GOOD else sku} for line in body["lines"]]}


@dataclass(slots=True)
class Run:
    """A load run and what became of it.

    ``spent`` is CPU seconds by group, ``observer`` the instrument's own beside the sender's; ``batches`` are inputs and
    commits by process.
    """

    plan: Plan
    since: datetime
    sent: dict[str, Sent] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    ends: dict[str, End] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    batches: dict[str, tuple[float, float]] = field(default_factory=dict)
    sender: Spent = field(default_factory=lambda: Spent(0.0, 0))
    observer: float = 0.0
    took: float = 0.0

    def note(self, kinds: Sequence[str], one: Posted) -> None:
        """Note what the sender was answered; ``kinds`` are those of the plan's orders."""
        if one.refusal:
            self.refused[one.refusal] += 1
        if one.order_id:
            self.sent[one.order_id] = Sent(kinds[one.number], one.due, one.answered)

    def over(self, order: str) -> bool:
        """Tell whether an order has ended; one that is cancelled may be confirmed on its way."""
        end = self.ends.get(order)
        return end is not None and not (self.sent[order].kind == "cancel" and end.state == "CONFIRMED")

    @property
    def rate(self) -> float:
        """Orders accepted a second, from when the first was due to the last 202."""
        accepted = list(self.sent.values())
        if not accepted:
            return 0.0
        return len(accepted) / max(0.001, max(s.accepted for s in accepted) - min(s.due for s in accepted))

    def ended_rate(self) -> float:
        """Orders that ended a second, from when the first was due to the last end."""
        ends = [self.ends[order].at for order in self.sent if order in self.ends]
        return len(ends) / max(0.001, max(ends) - min(s.due for s in self.sent.values())) if ends else 0.0

    def posts(self) -> list[float]:
        """Return how long each 202 took, in seconds."""
        return [s.accepted - s.due for s in self.sent.values()]

    def took_to(self, state: str) -> list[float]:
        """Return how long each order took that ended so, in seconds."""
        return [
            self.ends[order].at - s.due
            for order, s in self.sent.items()
            if order in self.ends and self.ends[order].state == state
        ]

    def cost(self) -> dict[str, float]:
        """Return what an order cost, in CPU milliseconds by group, the instrument not among them."""
        return {name: seconds * 1000 / max(1, len(self.sent)) for name, seconds in self.spent.items()}

    def wrong(self) -> list[str]:
        """Return what did not go as it should: not sent, refused, never ended, ended otherwise; a line each."""
        found = [f"{n} posts refused: {why}" for why, n in self.refused.items()]
        answered = len(self.sent) + sum(n for why, n in self.refused.items() if not why.startswith("cancel: "))
        if unsent := self.plan.orders - answered:
            found.append(f"{unsent} orders were not sent: the sender ended early")
        lost = Counter(s.kind for order, s in self.sent.items() if not self.over(order))
        found += [f"{n} orders ({kind}) never ended" for kind, n in lost.items()]
        strange = Counter(
            (s.kind, self.ends[order].state)
            for order, s in self.sent.items()
            if order in self.ends and self.ends[order].state != KINDS[s.kind][2]
        )
        return found + [f"{n} orders ({kind}) ended {state}" for (kind, state), n in strange.items()]


def measure(
    stack: Stack, plan: Plan, show: Callable[[Run], None] = lambda _: None, log: ClientLog | None = None
) -> Run:
    """Send a plan's orders, wait for every end, and return what was measured; ``show`` is called as it goes on.

    ``log`` is where each request is written down with its answer.
    """
    stock_up(stack, dict.fromkeys(plan.goods(), plan.orders * 10 + 1000) | {"SKU-NONE": 0})
    write_addresses(stack)
    run = Run(plan, datetime.now(UTC))
    task, kinds = plan.task(stack.url("order"))

    def take(one: Posted) -> None:
        run.note(kinds, one)
        if log:
            log.note(task.key, one)

    def sending() -> None:
        run.sender = send(task, take)

    with Observer(stack) as observer:
        run.ends = observer.ends
        spent, batches, own = cpu_by_group(stack), batches_of(stack), time.process_time()
        began, sender = time.monotonic(), threading.Thread(target=sending, name="sending")
        sender.start()
        _wait(run, observer, sender, show)
        sender.join()
        run.took = time.monotonic() - began
        run.observer = time.process_time() - own
        run.spent = {name: seconds - spent.get(name, 0.0) for name, seconds in cpu_by_group(stack).items()}
        later = batches_of(stack)
    run.batches = {name: (later[name][0] - before[0], later[name][1] - before[1]) for name, before in batches.items()}
    return run


def _wait(run: Run, observer: Observer, sender: threading.Thread, show: Callable[[Run], None]) -> None:
    quiet = time.monotonic()
    while sender.is_alive() or any(not run.over(order) for order in list(run.sent)):
        if observer.wait(0.2):
            quiet = time.monotonic()
        elif not sender.is_alive() and time.monotonic() - quiet > STALLED_SECONDS:
            break
        time.sleep(0.2)
        show(run)


def batches_of(stack: Stack) -> dict[str, tuple[float, float]]:
    """Return how many inputs and commits each worker and API has had so far, by process."""
    found = {}
    for name, process in stack.processes.items():
        if name.endswith(("-worker", "order-api")) and process.running:
            with suppress(OSError, HTTPException):
                told = {what: float(number) for what, number in BATCHES.findall(_metrics(stack.ports[name]))}
                found[name] = told.get("sum", 0.0), told.get("count", 0.0)
    return found


def _metrics(port: int) -> str:
    asked = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        asked.request("GET", "/metrics")
        return asked.getresponse().read().decode()
    finally:
        asked.close()
