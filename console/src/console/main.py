"""The console wired: one reaction to every record, its read side, its API and pages; it says nothing to the world."""

from __future__ import annotations

from console import store
from console.domain import Keeping
from console.handlers import on
from console.settings import ConsoleSettings
from quadrille.app import Program, ProjectedTable, Projection


def rules(settings: ConsoleSettings) -> Keeping:
    """Return how much is kept."""
    return Keeping(settings.keep, settings.keep_events, settings.keep_traces)


TIMELINE = Projection(
    "timeline",
    {"order_view": ProjectedTable("order_id", without=("changed_at",)), "failure": ProjectedTable("order_id")},
)
PROGRAM = Program(on, store, api="console.api:make", rules=rules, projections=(TIMELINE,))
