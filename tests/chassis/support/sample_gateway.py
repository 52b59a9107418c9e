"""The outside of the pantry: an oven that remembers every call, and a scheduler at work."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from quadrille.intents import Decision, Gateway, RetryPolicy
from quadrille.observability.tracing import Spans
from quadrille.processing.envelope import Envelope
from quadrille.processing.telemetry import Telemetry
from quadrille.service import Service
from quadrille.tasks.scheduler import SchedulerPorts, TaskScheduler
from quadrille.testing.in_memory import PlainCodec
from tests.chassis.support import sample_service
from tests.chassis.support.database import Database, envelope_of, wait_until
from tests.chassis.support.kafka_harness import Running
from tests.chassis.support.sample_messages import (
    BakeCake,
    BakeCakeDropped,
    CakeBaked,
    CakeBurnt,
    CakeOrdered,
    CakeReady,
)
from tests.chassis.support.sample_service import Pantry

SOON = (timedelta(milliseconds=50), timedelta(milliseconds=50))


class Oven:
    """The outside: remembers every call by its key, and answers as it is told."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.trouble: list[Exception] = []
        self.raw = 0
        self.odd = False
        self.door = threading.Event()
        self.door.set()

    def bake(self, order_id: str) -> CakeBaked:
        """Bake, once the door is open."""
        self.calls[order_id] += 1
        assert self.door.wait(20)
        if self.trouble:
            raise self.trouble.pop()
        self.raw -= 1
        return CakeBaked(order_id, raw=self.raw >= 0, odd=self.odd)


def kitchen_with(
    when: Callable[[BakeCake, Pantry], Decision] | None = None,
    delays: tuple[timedelta, ...] = SOON,
    *,
    top: bool = True,
    goes_on: bool = False,
) -> Service[Pantry]:
    """Return a pantry whose cakes are baked by an oven."""
    outside = Gateway("pantry")

    @outside.executes(
        BakeCake, precondition=when, retry=RetryPolicy(delays),
        exhausted=(lambda intent: CakeBurnt(intent.order_id)) if top else None,
        cancelled=lambda intent: BakeCakeDropped(intent.order_id),
    )  # fmt: skip
    def bake(intent: BakeCake, oven: Oven) -> CakeBaked | CakeBurnt:
        return oven.bake(intent.order_id)

    if goes_on:
        outside.share_retries(BakeCake)
    return sample_service.service(outside=outside)


def tries(db: Database) -> int:
    """Return what the only cake.ready says about its tries."""
    [(payload,)] = db.emitted("payload")
    cake = PlainCodec().decode(payload, CakeReady)
    return cake.tries


@contextlib.contextmanager
def working(
    db: Database,
    oven: Oven,
    service: Service[Any] | None = None,
    client: object = None,
    caught_up: Callable[[], bool] = lambda: True,
) -> Iterator[TaskScheduler]:
    """Let a scheduler work while the block lasts, with the oven or another client; it drains at the end."""
    ports = SchedulerPorts(client or oven, caught_up)
    made = TaskScheduler(service or kitchen_with(), db.connect, Telemetry(Spans.disabled()), ports)
    run = Running(made.run)
    try:
        yield made
    finally:
        run.stop.set()
        made.wake()
        oven.door.set()
        run.end()


def ordered(db: Database, *orders: str, service: Service[Any] | None = None) -> list[Envelope]:
    """Order cakes and commit; nobody has taken the intents in hand yet."""
    inputs = [envelope_of(CakeOrdered(order)) for order in orders]
    db.commit(*inputs, service=service or kitchen_with())
    return inputs


def done(db: Database, count: int, kind: str = "cake.ready") -> None:
    """Wait until so many events of a type were said and no row is left."""
    wait_until(lambda: db.one("SELECT count(*) FROM outbox WHERE type = %s", kind) == count, what=f"{count} {kind}")
    wait_until(lambda: db.one("SELECT count(*) FROM task") == 0, what="no task left")
