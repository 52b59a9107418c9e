"""Order wired: handlers and store, the clocks it decides by, the order API."""

from __future__ import annotations

from chassis.program import Program
from chassis.settings import Settings
from order import store
from order.domain import Rules
from order.handlers import on


def rules(settings: Settings) -> Rules:
    """Return the clocks of this process."""
    return Rules(settings.order_deadline, settings.order_cancel_cutoff, settings.idempotency_ttl)


PROGRAM = Program(on, store, api="order.api:make", rules=rules)
