"""Payment wired: handlers and store for the worker, the card processor as its outside, the payments API."""

from __future__ import annotations

from payment import gateway, store
from payment.handlers import on
from quadrille.app import Program, Settings, compensation_actions


def processor(found: Settings) -> gateway.Processor:
    """Return the client of the processor the settings name."""
    return gateway.Processor(found.processor_url, found.processor_timeout.total_seconds())


PROGRAM = Program(
    on, store, api="payment.api:make", outside=gateway.outside, client=processor,
    operators=compensation_actions(store.standing),
)  # fmt: skip
