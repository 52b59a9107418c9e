"""Payment wired: handlers and store for the worker, the card processor as its outside, the payments API."""

from __future__ import annotations

from payment import gateway, store
from payment.handlers import on
from payment.settings import PaymentSettings
from quadrille.app import Program, Success, compensation_actions


def processor(found: PaymentSettings) -> gateway.Processor:
    """Return the client of the processor the settings name."""
    return gateway.Processor(found.processor_url, found.processor_timeout.total_seconds())


OPEN = (
    "Its charge has no answer yet, and a charge without an answer is never closed by hand: it is asked for now. "
    "Resolve it again when it has one."
)
PROGRAM = Program(
    on, store, api="payment.api:make", outside=gateway.outside, client=processor,
    operators=compensation_actions(store.standing, CHARGE_OPEN=Success(202, OPEN)),
    look=store.look, digest=store.DIGEST,
)  # fmt: skip
