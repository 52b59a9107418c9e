"""Bulk of parked inputs: a frozen selection is redriven or discarded, one by one, at a rate, until too many fail.

Each input's own transaction moves the progress: a worker that is killed, or an operator who pauses, leaves everything
exactly there, and whoever goes on does so with the next one. What was selected is what is done: a selection that has
changed since it was looked at is refused.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from quadrille.consumer import parked_view
from quadrille.consumer.parked_actions import ParkedActions, ParkedRuleError
from quadrille.context import ProcessContext
from quadrille.db import audit
from quadrille.processing.envelope import RedriveRequest
from quadrille.processing.suspects import Suspects
from quadrille.processing.telemetry import Telemetry
from quadrille.replay import operations
from quadrille.replay.manager import OperationManager
from quadrille.replay.operations import Advance, Operation
from quadrille.service import Tx

KIND = "parked"
SELECTED_MOST = 10_000
LOOK_SECONDS = 1.0
JUDGED_LEAST = 5  # before so many were tried no share is one
GONE = frozenset({"NOT_PARKED", "UNKNOWN"})  # somebody was faster: no failure


@dataclass(frozen=True, slots=True)
class Selection:
    """What a bulk action is about, in the order it is done in; ``mark`` is the same for the same inputs alone."""

    ids: tuple[str, ...]
    keys: int
    behind: int

    @property
    def mark(self) -> str:
        """The mark a person gives back to say: these, as I saw them."""
        return hashlib.sha256("".join(self.ids).encode()).hexdigest()[:16]


def select(tx: Tx, filters: Mapping[str, str | None], limit: int) -> Selection:
    """Return what these filters select now, the oldest first, ``limit`` at most; 0 is as many as there may be."""
    most = min(limit or SELECTED_MOST, SELECTED_MOST)
    wanted = parked_view.chosen(limit=most, **filters)  # type: ignore[arg-type]  # names of filters alone
    found = parked_view.records(tx, wanted)
    keys = {str(one["order_id"]) for one in found}
    return Selection(
        tuple(str(one["parked_id"]) for one in found), len(keys), sum(int(str(o["behind"])) for o in found)
    )


class ParkedBulk(OperationManager):
    """Redrives and discards of many parked inputs, carried out by whichever worker has the lock."""

    kind = KIND

    def __init__(self, context: ProcessContext) -> None:
        super().__init__(context)
        self._suspects = Suspects()

    def do(self, tx: Tx, found: Operation) -> None:
        """Go on with the next input of the plan until all are done, too many failed, or we are to stop."""
        plan, progress, step = found.plan, dict(found.progress), int(found.progress["step"])
        actions = ParkedActions(self.service, self.reader, self.context.retention)
        while (at := int(progress.get("tried", 0))) < len(plan["ids"]):
            if self._stop.is_set():
                return
            with self._suspected(tx, UUID(plan["ids"][at])) as deaths, tx.transaction():
                progress = _counted(progress, self._one(tx, actions, found, UUID(plan["ids"][at]), deaths))
                too_many = _too_many(progress, plan)
                if too_many:
                    progress["failure"] = f"{_failed(progress)} of {progress['tried']} failed: look at one, then resume"
                    progress |= {"judged": progress["tried"], "judged_failed": _failed(progress)}
                progress["step"] = step + 1
                operations.advance(tx, found.id, step, Advance(progress, "PAUSED" if too_many else "RUNNING"))
            step += 1
            Telemetry(self.context.spans, self.context.tally).retried(actions.done)
            actions.done.clear()
            if too_many:
                return
            self._rest(tx, found, 1 / plan["rate"])
        self._end(tx, found, progress, step)

    @contextmanager
    def _suspected(self, tx: Tx, identity: UUID) -> Iterator[int]:
        """Keep an input written down while it is in hand; yield how often that has killed whoever had it."""
        deaths = self._suspects.note_parked(tx, identity, always=True)
        try:
            yield deaths
        except operations.Interrupted:
            self._suspects.clear_parked(tx, identity)
            raise
        self._suspects.clear_parked(tx, identity)

    def _one(self, tx: Tx, actions: ParkedActions, found: Operation, identity: UUID, deaths: int) -> str:
        """Do one and return what became of it: DONE, SEEN, DISCARDED, PARKED again, or the rule it would break."""
        why = f"{found.reason} (operation {found.id})"
        asked = RedriveRequest(found.actor, why, bool(found.plan.get("accept_old")))
        try:
            verb = actions.redrive if found.plan["mode"] == "redrive" else actions.discard
            return verb(tx, identity, asked, deaths).outcome
        except ParkedRuleError as refused:
            return "GONE" if refused.rule in GONE else refused.rule

    def _rest(self, tx: Tx, found: Operation, seconds: float) -> None:
        """Let the live service have its turn; raises Interrupted as soon as somebody has paused or cancelled it."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._stop.is_set():
            if self._woken.wait(min(left, LOOK_SECONDS)) or left > LOOK_SECONDS:
                self._woken.clear()
                now = operations.read(tx, found.id)
                if now is None or now.state != "RUNNING":
                    raise operations.Interrupted

    def _end(self, tx: Tx, found: Operation, progress: Mapping[str, Any], step: int) -> None:
        with tx.transaction():
            operations.advance(tx, found.id, step, Advance({**progress, "step": step + 1}, "DONE"))
            told = {"state": "DONE", "progress": dict(progress)}
            action = f"parked-{found.plan['mode']}-end"
            audit.record(tx, audit.Action(found.actor, action, str(found.id), found.reason or "", None, told))


def _counted(progress: Mapping[str, Any], outcome: str) -> dict[str, Any]:
    outcomes = dict(progress.get("outcomes", {}))
    outcomes[outcome] = outcomes.get(outcome, 0) + 1
    tried = int(progress.get("tried", 0)) + 1
    return {**progress, "outcomes": outcomes, "tried": tried, "records": tried, "failure": None}


def _failed(progress: Mapping[str, Any]) -> int:
    good: Sequence[str] = ("DONE", "SEEN", "DISCARDED", "GONE")
    return sum(count for outcome, count in progress.get("outcomes", {}).items() if outcome not in good)


def _too_many(progress: Mapping[str, Any], plan: Mapping[str, Any]) -> bool:
    """Tell whether so large a share has failed that a person should look: not before enough were tried to say so."""
    tried = int(progress["tried"]) - int(progress.get("judged", 0))
    failed = _failed(progress) - int(progress.get("judged_failed", 0))
    return tried >= JUDGED_LEAST and failed * 100 >= int(plan["stop_at"]) * tried
