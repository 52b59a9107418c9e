"""The outside of the pantry: an oven that remembers every call, and an agenda at work."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from chassis.agenda import Agenda
from chassis.inputs import Input
from chassis.outside import Outside, Ruling
from chassis.service import Service
from chassis.testing import PlainCodec
from chassis.tests import pantry
from chassis.tests.kitchen import Running
from chassis.tests.pantry import Pantry
from chassis.tests.pantry_words import (
    BakeCake,
    BakeCakeDropped,
    CakeBaked,
    CakeBurnt,
    CakeOrdered,
    CakeReady,
)
from chassis.tests.workbench import Database, heard, wait_until
from chassis.tracing import Spans
from chassis.worker import Notes

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
    when: Callable[[BakeCake, Pantry], Ruling] | None = None,
    ladder: tuple[timedelta, ...] = SOON,
    *,
    top: bool = True,
    goes_on: bool = False,
) -> Service[Pantry]:
    """Return a pantry whose cakes are baked by an oven."""
    outside = Outside("pantry")

    @outside.carries_out(
        BakeCake, when=when, ladder=ladder,
        exhausted=(lambda intent: CakeBurnt(intent.order_id)) if top else None,
        dropped=lambda intent: BakeCakeDropped(intent.order_id),
    )  # fmt: skip
    def bake(intent: BakeCake, oven: Oven) -> CakeBaked | CakeBurnt:
        return oven.bake(intent.order_id)

    if goes_on:
        outside.one_ladder(BakeCake)
    return pantry.service(outside=outside)


def tries(db: Database) -> int:
    """Return what the only cake.ready says about its tries."""
    [(payload,)] = db.said("payload")
    cake = PlainCodec().decode(payload, CakeReady)
    return cake.tries


@contextlib.contextmanager
def working(
    db: Database, oven: Oven, service: Service[Any] | None = None, *, caught_up: bool = True, client: object = None
) -> Iterator[Agenda]:
    """Let an agenda work while the block lasts, with the oven or another client; it drains at the end."""
    made = Agenda(service or kitchen_with(), db.connect, Notes(Spans.disabled()), client or oven)
    made.caught_up = lambda: caught_up
    run = Running(made.run)
    try:
        yield made
    finally:
        run.stop.set()
        made.wake()
        oven.door.set()
        run.end()


def ordered(db: Database, *orders: str, service: Service[Any] | None = None) -> list[Input]:
    """Order cakes and commit; nobody has taken the intents in hand yet."""
    inputs = [heard(CakeOrdered(order)) for order in orders]
    db.commit(*inputs, service=service or kitchen_with())
    return inputs


def done(db: Database, count: int, kind: str = "cake.ready") -> None:
    """Wait until so many facts of a type were said and no row is left."""
    wait_until(lambda: db.one("SELECT count(*) FROM outbox WHERE type = %s", kind) == count, what=f"{count} {kind}")
    wait_until(lambda: db.one("SELECT count(*) FROM agenda") == 0, what="the agenda empty")
