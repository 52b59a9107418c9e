"""Order wired: handlers and store, the clocks it decides by, the order API, callers' endpoints outside."""

from __future__ import annotations

from order import events, gateway, metrics, problems, store
from order.domain import Patience, Rules, Status
from order.handlers import on
from order.settings import OrderSettings
from quadrille import Emitted
from quadrille.app import OperatorAction, Outages, Program, Refusal, Success, register
from quadrille.service import connection


def rules(settings: OrderSettings) -> Rules:
    """Return the clocks of this process."""
    patience = Patience(settings.stuck_warn, settings.stuck_page, settings.stuck_escalate)
    return Rules(settings.order_deadline, settings.order_cancel_cutoff, patience)


def outages(settings: OrderSettings) -> Outages:
    """Return whose outage ends the orders that wait for them."""
    policies = {"inventory": settings.outage_inventory, "payment": settings.outage_payment}
    failing = frozenset(name for name, policy in policies.items() if policy == "fail_fast")
    return Outages(failing, store.awaiting, events.GiveUpWaiting)


def endpoints(settings: OrderSettings) -> gateway.Endpoints:
    """Return the way to callers' endpoints."""
    return gateway.Endpoints(store.Tellings(connection(settings.database_url)), loopback=settings.webhook_loopback)


def outcome(said: Emitted) -> tuple[int, int]:
    """Return how many sagas end by this, and how many fail (law.md, "Clocks")."""
    if isinstance(said, events.OrderCancellationRequested):
        return int(said.status_then != Status.CONFIRMED), int(said.reason in ("DEADLINE", "PARTICIPANT_AWAY"))
    return int(isinstance(said, events.OrderConfirmed)), int(isinstance(said, events.OrderCompensationFailed))


register(*problems.PROBLEMS)
LATE = "The cut-off has passed: the goods may be on their way, and nobody can cancel any more."
FROZEN = "Its undo has failed already and waits for a person: quadrille resolve, at the participant that owes it."
CANCEL = OperatorAction(
    "cancel", events.CancelOrder, store.standing, role="api", actor="requested_by", fixed={"caller": None},
    answers={
        "ACCEPTED": Success(202, "It is being undone: look at its status."),
        "ALREADY": Success(200, "It was being undone already, or is."),
        "TOO_LATE": Refusal("not-cancellable", LATE, members=("order_status", "cancellable_until")),
        "FROZEN": Refusal("order-frozen", FROZEN, members=("since",)),
        "CHANGED": Refusal("version-mismatch", "It has gone on since: read it again.", members=("current_etag",)),
    },
)  # fmt: skip
PROGRAM = Program(
    on, metrics.STORE, api="order.api:make", rules=rules, outcome=outcome, meter=metrics.count,
    gauges=(metrics.look,), operators=(CANCEL,), ops=("order.ops:routes",),
    look=store.look, digest=store.DIGEST, forget=store.forget_changes, outages=outages,
    outside=gateway.outside, client=endpoints,
)  # fmt: skip
