"""Desk of parked inputs: what a person does with one, by rule: it is tried again, dropped, or put back.

Guarantee: what is done, what is told of it and its row in the audit are one transaction, under the key's lock; what
cannot work is refused, naming what stands in the way and the command that removes it. What waited behind goes on at
once, in sequence.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, NoReturn
from uuid import UUID

from quadrille.consumer.deserializer import RecordDeserializer
from quadrille.consumer.parking import LaneFeeder, ParkedInput, envelope_of, find_rows, quarantined
from quadrille.db import audit
from quadrille.db.retention import Retention
from quadrille.messages import Timer
from quadrille.processing import outbox
from quadrille.processing.batch import process_batch
from quadrille.processing.envelope import Duplicate, Envelope, Handled, Outcome, Parked, RedriveRequest
from quadrille.processing.parked_retry import DEAD, OPEN
from quadrille.processing.suspects import DEATHS
from quadrille.service import Service, Tx
from quadrille.system_messages import InputDiscarded

STANDING = "SELECT state, error_class, attempts, ended_by FROM parked WHERE id = %b FOR UPDATE"
BEFORE_IT = """
SELECT id, state FROM parked h
 WHERE h.line = %b AND h.state IN ('OPEN', 'DEAD') AND h.place < (SELECT place FROM parked WHERE id = %b)
 ORDER BY h.place LIMIT 1"""
PUT_BACK = "UPDATE parked SET state = 'OPEN', ended_by = NULL, reason = NULL, retry_at = NULL WHERE id = %b"
HOLD_TASK = "UPDATE task SET leased_until = 'infinity' WHERE id = %b RETURNING 1"
ASK_AGAIN = "UPDATE task SET leased_until = NULL, due = now() WHERE id = %b AND leased_until = 'infinity'"
DISCARD = "UPDATE parked SET state = 'DISCARDED', retry_at = NULL, ended_by = %b, reason = %b WHERE id = %b"


class ParkedRuleError(Exception):
    """What a person asks would break the rule named; ``blocker`` is the parked input that stands in the way."""

    def __init__(self, rule: str, detail: str, blocker: UUID | None = None) -> None:
        super().__init__(detail)
        self.rule, self.detail, self.blocker = rule, detail, blocker


def _refuse(rule: str, detail: str, blocker: UUID | None = None) -> NoReturn:
    raise ParkedRuleError(rule, detail, blocker)


class Standing(NamedTuple):
    """A parked row as it stands, locked until the transaction ends."""

    state: str
    error_class: str
    attempts: int
    ended_by: str | None


@dataclass(frozen=True, slots=True)
class ParkedResult:
    """What became of one parked input: DONE, SEEN, PARKED again or DISCARDED; ``went_on`` were behind it."""

    row: ParkedInput
    outcome: str
    audit_number: int
    failure: Parked | None = None
    went_on: int = 0
    stopped_at: UUID | None = None

    def document(self) -> dict[str, object]:
        """Return it as the API tells it."""
        cause = self.failure.cause if self.failure else None
        error = {"error_class": self.failure.error_class, "error": self.failure.reason} if self.failure else {}
        frames = {"frames": cause.frames.split("\n")} if cause and cause.frames else {}
        return {
            "parked_id": str(self.row.id), "order_id": self.row.order_id, "type": self.row.type,
            "outcome": self.outcome, **error, **frames,
            "went_on": self.went_on, "stopped_at": self.stopped_at and str(self.stopped_at),
            "audit_number": self.audit_number,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class ParkedActions:
    """What a person does with parked inputs of one service; used by one thread at a time."""

    service: Service[Any]
    reader: RecordDeserializer
    retention: Retention
    done: list[tuple[Envelope, Outcome]] = field(default_factory=list)

    def redrive(self, tx: Tx, identity: UUID, asked: RedriveRequest, deaths: int = 0) -> ParkedResult:
        """Give a parked input to its handler again, a discarded one too; raises ParkedRuleError, then nothing is so.

        ``deaths`` is how often this has killed the process: then what waits behind is left to go on by itself, and
        one that has killed too often is not opened.
        """
        self.retention.inform(tx, self.reader)
        with tx.transaction():
            row, standing = self._held(tx, identity)
            self._check_redrive(tx, row, standing, asked)
            if standing.state == "DISCARDED":
                self._put_back(tx, row)
            old = asked.accept_old and standing.error_class == "BELOW_FLOOR"
            read = envelope_of(self.service, self.reader, row, old=old)
            envelope = replace(read, early=True, redrive=replace(asked, accept_old=old))
            envelope = quarantined(envelope) if deaths >= DEATHS else envelope
            outcome = process_batch(tx, self.service, [envelope])[0]
            failure = outcome if isinstance(outcome, Parked) else None
            said = {Handled: "DONE", Duplicate: "SEEN"}.get(type(outcome), "PARKED")
            after = {"outcome": said, "accept_old": old}
            number = _audited(tx, "parked-redrive", row, asked, (standing, after))
        self.done.append((envelope, outcome))
        made = ParkedResult(row, said, number, failure)
        return made if failure or deaths else self._fed(tx, made)

    def discard(self, tx: Tx, identity: UUID, asked: RedriveRequest, deaths: int = 0) -> ParkedResult:
        """Drop a parked input; of a result the copy alone, its task asks again. Raises ParkedRuleError.

        After ``deaths`` of the process what waits behind is left to go on by itself.
        """
        with tx.transaction():
            row, standing = self._held(tx, identity)
            self._check_discard(row, standing)
            tx.execute(DISCARD, [asked.actor, asked.reason, row.id])
            if row.topic is None:
                tx.execute(ASK_AGAIN, [UUID(row.lane)])
            fact = InputDiscarded(row.order_id, self.service.name, str(row.id), asked.actor, asked.reason)
            outbox.announce(tx, self.service, row.id, fact, ordinal=standing.attempts)
            number = _audited(tx, "parked-discard", row, asked, (standing, {"outcome": "DISCARDED"}))
        made = ParkedResult(row, "DISCARDED", number)
        return made if deaths else self._fed(tx, made)

    def _held(self, tx: Tx, identity: UUID) -> tuple[ParkedInput, Standing]:
        """Return a row as it stays until the transaction ends: its key's lock comes first, as for every batch."""
        for row in find_rows(tx, [identity]):
            outbox.lock(tx, [row.order_id])
            for found in tx.execute(STANDING, [identity]):
                return row, Standing(*found)
        rule = "UNKNOWN"
        _refuse(rule, f"No input {identity} is parked here.")

    def _check_redrive(self, tx: Tx, row: ParkedInput, standing: Standing, asked: RedriveRequest) -> None:
        if standing.state not in (OPEN, DEAD, "DISCARDED"):
            _refuse("NOT_PARKED", f"It went through its handler already, by {standing.ended_by}.")
        for head, state in tx.execute(BEFORE_IT, [row.lane, row.id]):
            here = f"--service {self.service.name}"
            what = "a dead one" if state == DEAD else "one that is still tried"
            detail = (
                f"It waits behind {what} of its key, {head}: a key is handled in sequence. First quadrille parked "
                f"redrive {head} {here}, or quadrille parked discard {head} {here} --reason '...'; then it goes on."
            )
            _refuse("BEHIND", detail, head)
        if standing.error_class == "BELOW_FLOOR" and not asked.accept_old:
            detail = (
                "It is older than the inbox can tell, so nobody knows whether it had its effect already. Look, then "
                f"let it in: quadrille parked redrive {row.id} --service {self.service.name} --accept-old"
            )
            _refuse("BELOW_FLOOR", detail)

    def _check_discard(self, row: ParkedInput, standing: Standing) -> None:
        if standing.state not in (OPEN, DEAD):
            _refuse("NOT_PARKED", f"It is {standing.state} by {standing.ended_by}: nothing waits.")
        if row.topic is None and (row.intent == row.type or row.type in self.service.on.consumes(Timer)):
            detail = (
                "A timer cannot be discarded: what it is to begin would never happen. Mend its handler, then "
                f"quadrille parked redrive {row.id} --service {self.service.name}"
            )
            _refuse("TIMER", detail)

    def _put_back(self, tx: Tx, row: ParkedInput) -> None:
        """Put a discarded input back at its place; a result's task waits for it again."""
        tx.execute(PUT_BACK, [row.id])
        if row.topic is None and not tx.execute(HOLD_TASK, [UUID(row.lane)]).fetchone():
            _refuse("ENDED", "Its task has been answered since: there is nothing to put it back for.")

    def _fed(self, tx: Tx, made: ParkedResult) -> ParkedResult:
        """Let what waited behind it go on, and tell how far it came."""
        fed = LaneFeeder(self.service, self.reader).feed(tx, made.row.lane)
        self.done.extend(fed)
        stopped = next((one.id for one, outcome in fed if isinstance(outcome, Parked)), None)
        return replace(made, went_on=sum(isinstance(o, Handled) for _, o in fed), stopped_at=stopped)


def _audited(
    tx: Tx, action: str, row: ParkedInput, asked: RedriveRequest, states: tuple[Standing, dict[str, object]]
) -> int:
    before, after = states[0]._asdict(), {"parked_id": str(row.id), "type": row.type, **states[1]}
    return audit.record(tx, audit.Action(asked.actor, action, row.order_id, asked.reason, before, after))
