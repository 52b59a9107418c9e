"""Order wired: handlers and store, the clocks it decides by, the order API."""

from __future__ import annotations

from chassis.operators import Deed, Refusal, Success
from chassis.program import Program
from chassis.settings import Settings
from chassis.stuck import Patience
from order import store
from order.domain import Rules
from order.events import CancelOrder
from order.handlers import on


def rules(settings: Settings) -> Rules:
    """Return the clocks of this process."""
    patience = Patience(settings.stuck_warn, settings.stuck_page, settings.stuck_escalate)
    return Rules(settings.order_deadline, settings.order_cancel_cutoff, settings.idempotency_ttl, patience)


LATE = "The cut-off has passed: the goods may be on their way, and nobody can cancel any more."
FROZEN = "Its undo has failed already and waits for a person: quadrille resolve, at the participant that owes it."
CANCEL = Deed(
    "cancel", CancelOrder, store.standing, role="api", actor="requested_by", fixed={"caller": None},
    answers={
        "ACCEPTED": Success(202, "It is being undone: look at its status."),
        "ALREADY": Success(200, "It was being undone already, or is."),
        "TOO_LATE": Refusal("not-cancellable", LATE, members=("order_status", "cancellable_until")),
        "FROZEN": Refusal("order-frozen", FROZEN, members=("since",)),
        "CHANGED": Refusal("version-mismatch", "It has gone on since: read it again.", members=("current_etag",)),
    },
)  # fmt: skip
PROGRAM = Program(on, store, api="order.api:make", rules=rules, operators=(CANCEL,))
