"""Customers who order at a steady rate whatever happens: each asks under its key until it is answered for good.

What was sent, and what was answered, is written down as an auditor reads it (docs/audit.md, "What clients saw").
"""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any, Self

from quadrille_cli.client import Client, NoAnswerError
from quadrille_cli.demo_data import block, order_of
from quadrille_cli.stack import Stack

TEA = [("SKU-TEA", 1)]
AGAIN = (409, 429, 503)
"""Answers after which the same request is sent again: somebody else holds its key, or nothing was done."""
PAUSE_SECONDS = 0.5
ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of order, how often of so many it comes, and the ends it may come to."""

    body: Mapping[str, Any]
    ends: tuple[str, ...]
    often: int = 1
    cancel: bool = False


SCENARIOS = {
    "plain": Scenario(order_of(TEA), ("CONFIRMED",), often=10),
    "declined": Scenario(order_of(TEA, "tok_declined_funds"), ("CANCELLED PAYMENT_DECLINED",), often=2),
    "out of stock": Scenario(order_of([*TEA, ("SKU-NONE", 1)]), ("CANCELLED OUT_OF_STOCK",), often=2),
    "cancelled": Scenario(order_of(TEA), ("CANCELLED CUSTOMER",), often=3, cancel=True),
    "blocked": Scenario(order_of(TEA, customer="cust_blocked"), ("CANCELLED CONFIRMATION_REJECTED",)),
    "mail bounces": Scenario(order_of(TEA, customer="cust_bounce"), ("CONFIRMED",)),
    "answer lost": Scenario(order_of(TEA, "tok_timeout_after_charge"), ("CONFIRMED",)),
}


@dataclass(slots=True)
class Customers:
    """Threads that place orders when they are due; as a context manager they begin with the block and end with it."""

    stack: Stack
    seed: int
    rate: float
    log: Path
    count: int | None = None
    """So many orders, then no more; as long as the block lasts where it is None."""
    threads: int = 24
    taken: dict[str, str] = field(default_factory=dict)
    """The kind of every order accepted and, where that is wished, cancelled."""
    answers: Counter[str] = field(default_factory=Counter)
    troubles: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _running: list[threading.Thread] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _sent: int = 0
    _began: float = 0.0
    _file: IO[str] | None = None

    def __enter__(self) -> Self:
        """Begin to order; one of them is not wanted in the shop."""
        block(self.stack, "cust_blocked")
        self._file = self.log.open("w", encoding="utf-8")
        self._began = time.monotonic()
        self._running = [threading.Thread(target=self._order, name=f"customer-{n}") for n in range(self.threads)]
        for thread in self._running:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Order no more; what is being asked for is asked for to its end, a while at most."""
        self._stop.set()
        self.join()
        if self._file is not None:
            self._file.close()

    def join(self) -> None:
        """Wait until all have ordered what they were to order."""
        for thread in self._running:
            thread.join()

    @property
    def sent(self) -> int:
        """How many orders have been begun."""
        return self._sent

    def _next(self) -> int | None:
        with self._lock:
            if self._stop.is_set() or (self.count is not None and self._sent >= self.count):
                return None
            self._sent += 1
            return self._sent - 1

    def _order(self) -> None:
        while (number := self._next()) is not None:
            if (wait := self._began + number / self.rate - time.monotonic()) > 0:
                self._stop.wait(wait)
            rng = random.Random(f"{self.seed}/{number}")  # noqa: S311 - a repeatable mix
            (kind,) = rng.choices(list(SCENARIOS), [one.often for one in SCENARIOS.values()])
            self._place(kind, f"chaos-{uuid.uuid4()}")

    def _place(self, kind: str, key: str) -> None:
        scenario = SCENARIOS[kind]
        placed = self._demand("/v1/orders", scenario.body, key)
        if placed is None:
            return
        order = str(placed["order_id"])
        if not scenario.cancel or self._demand(f"/v1/orders/{order}/cancel") is not None:
            self.taken[order] = kind

    def _demand(self, path: str, body: object = None, key: str = "") -> Any:  # noqa: ANN401 - a JSON document
        """Ask until it is answered; what is refused for good, or never answered, is a trouble."""
        last = ""
        for _ in range(600):
            try:
                with Client(self.stack.url("order"), ANSWER_SECONDS) as api:
                    reply = api.ask("POST", path, body, {"Idempotency-Key": key} if key else None)
            except NoAnswerError as gone:
                last = str(gone)
                self._note(key, "unknown", last)
            else:
                if reply.status < HTTPStatus.BAD_REQUEST:
                    self._note(key, "accepted", str(reply.status), str(reply.body["order_id"]))
                    return reply.body
                last = f"{reply.status} {reply.raw[:300].decode('utf-8', 'replace')}"
                self._note(key, "refused", str(reply.status))
                if reply.status not in AGAIN:
                    break
            threading.Event().wait(PAUSE_SECONDS)
        self.troubles.append(f"POST {path}: {last}")
        return None

    def _note(self, key: str, outcome: str, why: str, order: str = "") -> None:
        with self._lock:
            self.answers[f"{outcome} {why}"] += 1
            if key and self._file is not None:
                line = {"client": "chaos", "key": key, "order_id": order, "outcome": outcome}
                self._file.write(json.dumps(line) + "\n")
