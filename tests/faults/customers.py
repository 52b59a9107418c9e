"""Customers who order at a steady pace whatever happens: each order is asked for under its key until it is taken."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Self

from quadrille_cli.chaos import customers as scenarios
from quadrille_cli.chaos.customers import AGAIN, PAUSE_SECONDS, TEA, Scenario
from quadrille_cli.client import Client, NoAnswerError
from quadrille_cli.demo_data import block, order_of
from quadrille_cli.stack import Stack

SCENARIOS = {
    **scenarios.SCENARIOS,
    "refund refused": Scenario(
        order_of(TEA, "tok_refund_fails_business"),
        ("CANCELLED CUSTOMER", "COMPENSATION_FAILED CUSTOMER"),
        cancel=True,
    ),
}


@dataclass(slots=True)
class Customers:
    """A few customers; as a context manager they order while the block runs, and finish what they have begun."""

    stack: Stack
    seed: int
    many: int = 2
    taken: dict[str, str] = field(default_factory=dict)
    """The kind of every order that was accepted and, where that is wished, cancelled."""
    keys: int = 0
    troubles: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        """Begin to order; one of them is not wanted in the shop."""
        block(self.stack, "cust_blocked")
        self._threads = [threading.Thread(target=self._order, args=(n,)) for n in range(self.many)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Order no more; what is being asked for is asked for to its end, a while at most."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _order(self, who: int) -> None:
        rng = random.Random(f"{self.seed}/{who}")  # noqa: S311 - a repeatable mix
        while not self._stop.wait(PAUSE_SECONDS):
            (kind,) = rng.choices(list(SCENARIOS), [scenario.often for scenario in SCENARIOS.values()])
            with self._lock:
                self.keys += 1
            self._place(kind, f"faults-{uuid.uuid4()}")

    def _place(self, kind: str, key: str) -> None:
        scenario = SCENARIOS[kind]
        placed = self._demand("/v1/orders", scenario.body, {"Idempotency-Key": key})
        if placed is None:
            return
        order = str(placed["order_id"])
        if not scenario.cancel or self._demand(f"/v1/orders/{order}/cancel") is not None:
            self.taken[order] = kind

    def _demand(self, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Any:  # noqa: ANN401 - a JSON document
        """Ask until it is answered; what is refused for good, or never answered, is a trouble."""
        last = ""
        for _ in range(600):
            try:
                with Client(self.stack.url("order")) as api:
                    reply = api.ask("POST", path, body, headers)
            except NoAnswerError as gone:
                last = str(gone)
            else:
                if reply.status < HTTPStatus.BAD_REQUEST:
                    return reply.body
                last = f"{reply.status} {reply.raw[:300].decode('utf-8', 'replace')}"
                if reply.status not in AGAIN:
                    break
            threading.Event().wait(PAUSE_SECONDS)
        self.troubles.append(f"POST {path}: {last}")
        return None
