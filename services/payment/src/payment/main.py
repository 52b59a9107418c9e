"""Payment wired: handlers and store for the worker, the card processor as its outside, the payments API."""

from __future__ import annotations

from chassis.operators import undo_deeds
from chassis.program import Program
from chassis.settings import Settings
from payment import gateway, store
from payment.handlers import on


def processor(found: Settings) -> gateway.Processor:
    """Return the client of the processor the settings name."""
    return gateway.Processor(found.processor_url, found.processor_timeout.total_seconds())


PROGRAM = Program(
    on, store, api="payment.api:make", outside=gateway.outside, client=processor,
    operators=undo_deeds(store.standing),
)  # fmt: skip
