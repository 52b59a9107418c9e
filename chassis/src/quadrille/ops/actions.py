"""Operators' actions: a command with a reason, through ``process_batch`` like any other.

The command, what it emits and the audit's row are one transaction. An action the service refuses leaves a row too:
somebody tried. What never became a command (a malformed body, no reason) leaves none: nothing was tried.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeAlias, get_args, get_type_hints

import psycopg
from pydantic import create_model

from quadrille.context import ProcessContext
from quadrille.db import audit
from quadrille.ids import lock_key, uuid7
from quadrille.messages import Command, Infrastructure, Reply
from quadrille.observability.tracing import SERVER
from quadrille.ops.routes import RESOLVE, OpsRequest, OpsResponse, OpsRoutes, ScopedRoute
from quadrille.processing.batch import OUTAGE, is_outage, process_batch
from quadrille.processing.envelope import Envelope, Failed, Handled, Outcome
from quadrille.service import Service, Tx
from quadrille.system_messages import ResolveCompensation, RetryCompensation
from quadrille.values import Text
from quadrille.web.documents import Document
from quadrille.web.problems import KINDS, Problem, refuse

PATH = "/ops/orders/{order_id}/"
PATIENCE = "SET LOCAL lock_timeout = '5s'"
LOCK_KEY = "SELECT pg_advisory_xact_lock(%b)"
Look: TypeAlias = Callable[[Tx, str], Mapping[str, object] | None]


@dataclass(frozen=True, slots=True)
class Success:
    """How an outcome that is one is told: 200 done, 202 under way; and in words what is so now."""

    status: int
    detail: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """How an outcome that is no success is told: the problem's slug, what to do now, the rule it names.

    ``members`` are taken from what the store says of the saga.
    """

    slug: str
    detail: str = ""
    rule: str = ""
    members: tuple[str, ...] = ()


UNKNOWN = Refusal("not-found", "Nothing is known of this order here: check the id, and the participant.")


@dataclass(frozen=True, slots=True)
class OperatorAction:
    """One thing an operator may ask for: ``POST /ops/orders/{order_id}/<name>``.

    ``command`` has the saga's id as its first field; ``fixed`` are fields nobody may choose, ``actor`` is the field
    for who asks, every other one is a member of the body. Its reply has an ``outcome``: ``answers`` has each but
    UNKNOWN, which is 404. ``look`` is what the store says of the saga, kept before and after; ``scope`` is what a key
    needs.
    """

    name: str
    command: type[Command]
    look: Look
    answers: Mapping[str, Success | Refusal]
    role: str = "worker"
    actor: str = ""
    fixed: Mapping[str, object] = field(default_factory=dict)
    scope: str = RESOLVE

    def model(self) -> type[Document]:
        """Return what the body may say beside its reason."""
        hints = get_type_hints(self.command)
        own = dataclasses.fields(self.command)[1:]  # type: ignore[arg-type]  # it is a dataclass
        chosen = {f.name: (Text if hints[f.name] is str else hints[f.name], _default(f))
                  for f in own if f.name not in (*self.fixed, self.actor)}  # fmt: skip
        made: type[Document] = create_model(self.command.__name__, __base__=Document, **chosen)  # type: ignore[call-overload]  # told at run time
        return made


AGAIN = "The outside is being asked: its answer decides."
OPEN = (
    "What is to be undone has no answer yet, and what has none is never closed by hand: it is asked for now. "
    "Resolve it again when it has one."
)
NOT_OWED = Refusal(
    "operation-refused",
    "Nothing of this order is owed here: no cancellation has reached it, or its undo is acknowledged already. "
    "Look at the order, and at the other participant.",
    rule="NOT_OWED",
    members=("state",),
)
STILL_FAILED = Refusal(
    "operation-refused",
    "The undo is still not possible, for the same reason; nothing has changed. End it with how, evidence and a reason.",
    rule="STILL_FAILED",
    members=("state",),
)
UNDO: Mapping[str, Success | Refusal] = {
    "DONE": Success(200, "Its part of the undo is acknowledged: the order goes on to its end."),
    "ASKED": Success(202, AGAIN),
    "CHARGE_OPEN": Success(202, OPEN),
    "STILL_FAILED": STILL_FAILED,
    "NOT_OWED": NOT_OWED,
}


def compensation_actions(look: Look, **answers: Success | Refusal) -> tuple[OperatorAction, OperatorAction]:
    """Return what a participant lets an operator do about an undo it owes: try it again, or end it with evidence.

    ``answers`` are outcomes told in the participant's own words.
    """
    told = {**UNDO, **answers}
    return OperatorAction("retry-compensation", RetryCompensation, look, told), OperatorAction(
        "resolve", ResolveCompensation, look, told, actor="operator"
    )


def routes(actions: Sequence[OperatorAction], context: ProcessContext, role: str) -> OpsRoutes:
    """Return the routes of a role's actions; raises TypeError for a reply with an outcome that nobody answers."""
    found: dict[tuple[str, str], Callable[[OpsRequest], OpsResponse]] = {}
    for action in actions:
        _check(action, context.service)
        if action.role == role:
            found["POST", PATH + action.name] = ScopedRoute(action.scope, partial(_do, context, action, action.model()))
    return found


def _do(context: ProcessContext, action: OperatorAction, model: type[Document], asked: OpsRequest) -> OpsResponse:
    order_id, began_ns, began = str(asked.identity("order_id")), time.time_ns(), time.monotonic()
    chosen = {name: value for name, value in asked.read(model) if name in model.model_fields}
    given = {**action.fixed, **chosen, **({action.actor: asked.actor} if action.actor else {})}
    command = action.command(order_id, **given)  # type: ignore[call-arg]  # as above
    envelope = Envelope(uuid7(), order_id, command, datetime.now(UTC), command.type, trace=asked.trace)
    done = _commit(context, action, envelope, asked)
    context.telemetry.handled([(done.envelope, done.outcome)], began_ns)
    route = f"POST {PATH}{action.name}"
    context.spans.record(
        route, done.envelope.trace, None, began_ns, began_ns + int((time.monotonic() - began) * 1e9), kind=SERVER,
        attributes={"http.route": PATH + action.name, "quadrille.order_id": order_id},
    )  # fmt: skip
    return _told(action, done, order_id)


@dataclass(frozen=True, slots=True)
class _ActionDone:
    """An action that is durable: as it was heard, what became of it, what the saga is now, its row in the audit."""

    envelope: Envelope
    outcome: Outcome
    said: str
    after: Mapping[str, object]
    number: int


def _commit(context: ProcessContext, action: OperatorAction, envelope: Envelope, asked: OpsRequest) -> _ActionDone:
    """Commit command and audit row together; refuses when the database or registry is away, telling what may be."""
    try:
        tx = context.connect()
    except psycopg.OperationalError:
        refuse("dependency-unavailable", dependency="database", retry_after=1)
    with closing(tx):
        try:
            with tx.transaction():
                return _within(tx, context, action, (envelope, asked))
        except Infrastructure:
            refuse("dependency-unavailable", dependency="registry", retry_after=1)
        except OUTAGE as trouble:  # an error the server told of has undone everything; a lost line may hide a commit
            if not is_outage(trouble):
                raise
            slug = "outcome-unknown" if tx.closed else "dependency-unavailable"
            raise Problem(slug, dependency="database", retry_after=1) from None


def _within(
    tx: Tx, context: ProcessContext, action: OperatorAction, asking: tuple[Envelope, OpsRequest]
) -> _ActionDone:
    """Do it under the saga's lock; in the saga's own trace, where its store knows that (invariant 21)."""
    envelope, asked = asking
    tx.execute(PATIENCE)
    tx.execute(LOCK_KEY, [lock_key(envelope.key)])  # what is kept as before must be what the handler sees
    before = action.look(tx, envelope.key)
    if before and (trace_id := before.get("trace_id")):
        envelope = replace(envelope, trace=context.spans.within(str(trace_id)))
    outcome = process_batch(tx, context.service, [envelope])[0]
    said = _outcome(outcome)
    after = action.look(tx, envelope.key)
    kept = {"outcome": said, "order": after}
    row = audit.Action(asked.actor, action.name, envelope.key, asked.reason, before and {"order": before}, kept)
    return _ActionDone(envelope, outcome, said, after or {}, audit.record(tx, row))


def _told(action: OperatorAction, done: _ActionDone, order_id: str) -> OpsResponse:
    answer = {"UNKNOWN": UNKNOWN, **action.answers}[done.said]
    if isinstance(answer, Refusal):
        extra: dict[str, object] = {name: done.after.get(name) for name in answer.members}
        extra |= {"rule": answer.rule} if answer.rule else {}
        raise Problem(answer.slug, answer.detail, headers=None, **extra)
    document = {"order_id": order_id, "action": action.name, "outcome": done.said, "detail": answer.detail}
    return OpsResponse(
        answer.status, {**document, "audit_number": done.number, "order": done.after}, done.envelope.trace
    )


def _outcome(outcome: Outcome) -> str:
    if isinstance(outcome, Failed):
        raise outcome.error
    said = outcome.emitted if isinstance(outcome, Handled) else ()
    reply = next(message for message in said if isinstance(message, Reply))
    return str(getattr(reply, "outcome"))  # noqa: B009 - _check has seen that the reply has one


def _check(action: OperatorAction, service: Service[Any]) -> None:
    """See to it that every outcome a reply may have is answered, by a problem that exists."""
    reaction = service.on.specs.get(action.command)
    replies = [cls for cls in reaction.emits if issubclass(cls, Reply)] if reaction else []
    outcomes = {one for cls in replies for one in get_args(get_type_hints(cls).get("outcome"))}
    slugs = {answer.slug for answer in action.answers.values() if isinstance(answer, Refusal)}
    if not outcomes or outcomes - {"UNKNOWN", *action.answers} or slugs - set(KINDS):
        message = f"{action.name}: {action.command.__name__} may come to {sorted(outcomes)}, not all of them answered"
        raise TypeError(message)


def _default(member: dataclasses.Field[Any]) -> object:
    return ... if member.default is dataclasses.MISSING else member.default
