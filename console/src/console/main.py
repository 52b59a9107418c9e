"""The console wired: one reaction to every record, its read side, its API and pages, and alerts to webhooks outside."""

from __future__ import annotations

from console import store
from console.alerts import gateway
from console.domain import Keeping
from console.handlers import on
from console.settings import ConsoleSettings
from quadrille.app import Program, ProjectedTable, Projection


def rules(settings: ConsoleSettings) -> Keeping:
    """Return how much is kept, and who is told of alerts."""
    told = {target.name: target.least for target in settings.told.values()}
    return Keeping(settings.keep, settings.keep_events, settings.keep_traces, told)


def notifier(settings: ConsoleSettings) -> gateway.Notifier:
    """Return the way to those who are told of alerts."""
    return gateway.Notifier(settings.told, settings.public_base, loopback=settings.alert_loopback)


TIMELINE = Projection(
    "timeline",
    {"order_view": ProjectedTable("order_id", without=("changed_at",)), "failure": ProjectedTable("order_id")},
)
PROGRAM = Program(
    on,
    store,
    api="console.api:make",
    ops=("console.ops:routes",),
    outside=gateway.outside,
    client=notifier,
    rules=rules,
    projections=(TIMELINE,),
)
