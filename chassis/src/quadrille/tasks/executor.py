"""Executor: calls of the outside, in a pool; every one ends in a result, or in a rescheduled task, whatever it raises.

No transaction is open here (law L10); how long a lease may still be trusted is judged by our monotonic clock alone.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import structlog

from quadrille.ids import event_id, id_time
from quadrille.intents import OLD, IntentPolicy, TransientError
from quadrille.messages import Result, key_of, to_json
from quadrille.observability.tracing import inside
from quadrille.processing.compensation import step_of
from quadrille.processing.envelope import Envelope, LeasedIntent, Record
from quadrille.processing.telemetry import Observer
from quadrille.service import Service
from quadrille.tasks.failures import failure_of
from quadrille.tasks.leases import Rescheduled

CALLS = 10  # the bulkhead: calls outside at one time
WAITING = 40  # intents in hand, calls under way included
LEAST_LEFT = 19.0  # seconds of lease that an inquiry and all fast tries of one call may take
log = structlog.get_logger()


class IntentExecutor:
    """The intents in this process's hand; ``back`` gets what became of each, from any thread."""

    def __init__(
        self, service: Service[Any], watcher: Observer, client: object, back: Callable[[Envelope | Rescheduled], None]
    ) -> None:
        self.service = service
        self.watcher = watcher
        self.client = client
        self.back = back
        self._pool = ThreadPoolExecutor(CALLS, thread_name_prefix="outside")
        self._in_hand: dict[tuple[UUID, int], LeasedIntent] = {}
        self._lock = threading.Lock()
        self.closed = False
        self.clock: Callable[[], datetime] = lambda: datetime.now(UTC)
        self._rng = random.Random()  # noqa: S311 - jitter

    def room(self) -> int:
        """Return how many more intents may be leased."""
        return 0 if self.closed else max(0, WAITING - len(self._in_hand))

    def take(self, entries: Iterable[LeasedIntent]) -> None:
        """Carry out intents leased to this process; after the end they are given back."""
        with self._lock:
            for entry in entries:
                if self.closed:
                    self.give_back([entry])
                else:
                    self._in_hand[entry.id, entry.attempts] = entry
                    self._pool.submit(self._carry_out, entry)

    def give_back(self, entries: Iterable[LeasedIntent]) -> None:
        """Let somebody else have them at once."""
        for entry in entries:
            self.back(Rescheduled(entry.id, entry.attempts))

    def end(self) -> None:
        """Wait for the calls under way; what nobody has begun is given back."""
        with self._lock:
            self.closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.give_back(self._in_hand.values())

    def policy(self, entry: LeasedIntent) -> IntentPolicy:
        """Return how an intent is carried out."""
        return self.service.outside.policies[type(entry.intent)]

    def cancel(self, entry: LeasedIntent) -> None:
        """Answer an intent that is not to be carried out any more."""
        if dropped := self.policy(entry).cancelled:
            self.back(self._input(entry, dropped(entry.intent)))
        else:
            log.error("no answer says that this intent was dropped", event_type=entry.intent.type)
            self.retry(entry, TypeError(entry.intent.type))

    def retry(self, entry: LeasedIntent, trouble: Exception, began: float = math.inf) -> None:
        """Reschedule the intent by its retry policy; when that is exhausted, so is the intent, if it may be."""
        policy = self.policy(entry)
        if policy.exhausted and policy.retry.is_exhausted(entry.attempts, self._age(entry)):
            self.back(self._input(entry, policy.exhausted(entry.intent)))
            return
        wait = policy.retry.delay(entry.attempts) * self._rng.uniform(0.5, 1.5)
        error_class = "TRANSIENT" if isinstance(trouble, TransientError) else "HANDLER"
        tells = entry if self.service.on.compensated_step(type(entry.intent)) else None
        told = Rescheduled(entry.id, entry.attempts, wait, untried=False, began=began, tells=tells)
        self.back(replace(told, error_class=error_class, error=type(trouble).__name__, failure=failure_of(trouble)))

    def _carry_out(self, entry: LeasedIntent) -> None:
        """Call the outside with no transaction open; runs in the pool."""
        began, began_at = time.time_ns(), time.monotonic()
        try:
            if entry.expires - time.monotonic() < LEAST_LEFT:
                self.give_back([entry])  # too late to be sure of the lease
                return
            with inside(entry.inside):
                answer = self._ask(entry)
            self.watcher.called(entry, began)
            self.back(self._input(entry, answer))
        except TransientError as unknown:
            self.watcher.called(entry, began, unknown)
            self.retry(entry, unknown, began_at)
        except Exception as bug:
            log.exception("intent failed", event_type=entry.intent.type, order_id=entry.key)
            self.retry(entry, bug, began_at)
        finally:
            del self._in_hand[entry.id, entry.attempts]

    def _ask(self, entry: LeasedIntent) -> Result:
        """Carry an intent out; an old one asks first what became of it."""
        policy = self.policy(entry)
        if policy.look_up and self._age(entry) >= OLD and (known := policy.look_up(entry.intent, self.client)):
            return known
        return policy.call(entry.intent, self.client)

    def _age(self, entry: LeasedIntent) -> timedelta:
        """Return how long ago the intent was emitted, by its id: a restored row is as old as it was."""
        return self.clock() - id_time(entry.id)

    def _input(self, entry: LeasedIntent, answer: Result) -> Envelope:
        identity = event_id(self.service.name, entry.id, "answer", 0)
        undoes = step_of(self.service.on, type(entry.intent), type(answer))
        record = Record(to_json(answer))
        return Envelope(identity, key_of(answer), answer, self.clock(), answer.type, record, from_task=entry.id,
                     attempts=entry.attempts, compensates=undoes, trace=entry.trace)  # fmt: skip
