"""Operators' routes to parked inputs: what waits and why, in groups and one by one; tried again, or dropped."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Literal, NoReturn
from uuid import UUID

import psycopg
from pydantic import Field

from quadrille.consumer import parked_view
from quadrille.consumer.deserializer import RecordDeserializer
from quadrille.consumer.parked_actions import ParkedActions, ParkedRuleError
from quadrille.consumer.parked_view import STATES, AmbiguousError, chosen
from quadrille.db import audit, sqlstate
from quadrille.ids import uuid7
from quadrille.messages import Event, Infrastructure
from quadrille.ops.replays import alone
from quadrille.ops.routes import REDRIVE, OpsRequest, OpsResponse, OpsRoutes, Route, ScopedRoute
from quadrille.processing.envelope import RedriveRequest
from quadrille.processing.telemetry import Telemetry
from quadrille.replay import operations
from quadrille.replay.parked_bulk import KIND, ParkedBulk, Selection, select
from quadrille.service import Tx
from quadrille.web.documents import Document
from quadrille.web.problems import Problem, refuse

LISTED, LIST_MOST = 50, 200
Verb = Literal["redrive", "discard"]
FILTERS = "type", "error_class", "group", "order_id"


class ParkedRequest(Document):
    """What is asked of parked inputs: one by its id, those of a key that stand first, or many by what they share.

    Of many a dry run tells the ``selection``; given back, exactly that is done, ``rate`` a second, until ``stop_at``
    per cent have failed.
    """

    id: str | None = None
    order_id: str | None = None
    group: str | None = None
    type: str | None = None
    error_class: str | None = None
    limit: int = Field(default=0, ge=0)
    rate: float = Field(default=20.0, gt=0, le=1000)
    stop_at: int = Field(default=20, ge=1, le=100)
    dry_run: bool = False
    selection: str | None = None

    @property
    def filters(self) -> dict[str, str | None]:
        """What a selection of many is made by."""
        return {"group": self.group, "type": self.type, "error_class": self.error_class}


class ParkedRedriveRequest(ParkedRequest):
    """To be tried again; ``accept_old`` lets in what is older than the inbox can tell."""

    accept_old: bool = False


class ParkedRoutes:
    """The routes by which parked inputs are looked at and ended; of many ``bulk`` makes an operation."""

    def __init__(self, bulk: ParkedBulk) -> None:
        self.bulk, self.context, self.service = bulk, bulk.context, bulk.service
        self._reader = RecordDeserializer(self.service.on.consumes(Event), self.context.decoder)
        self._turn = threading.Lock()  # the reader's horizon is one

    def routes(self) -> OpsRoutes:
        """Return what the ops port answers."""
        return {
            ("GET", "/ops/parked?type&error_class&group&order_id&state&limit"): self._list,
            ("GET", "/ops/parked/{name}"): self._show,
            ("POST", "/ops/parked/redrive"): ScopedRoute(REDRIVE, self._ending("redrive")),
            ("POST", "/ops/parked/discard"): ScopedRoute(REDRIVE, self._ending("discard")),
        }

    def _list(self, asked: OpsRequest) -> OpsResponse:
        limit, state = asked.query.get("limit", str(LISTED)), asked.query.get("state")
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= LIST_MOST):
            _invalid("query:limit", f"Input should be 1 to {LIST_MOST}")
        if state is not None and state not in STATES:
            _invalid("query:state", f"Wanted: {', '.join(STATES)}")
        filters = {name: asked.query.get(name) for name in FILTERS}
        selection = chosen((state,) if state else ("OPEN", "DEAD"), limit=int(limit), **filters)
        with self._database() as tx:
            found, one_by_one = parked_view.groups(tx, selection), parked_view.records(tx, selection)
        return OpsResponse(200, {"service": self.service.name, "groups": found, "records": one_by_one})

    def _show(self, asked: OpsRequest) -> OpsResponse:
        with self._database() as tx:
            ids, key = _resolved(tx, asked.path["name"])
            record = parked_view.whole(tx, self.service, self.context.decoder, ids[0])
            others = [] if key is None else parked_view.records(tx, chosen(STATES, order_id=key))
        others = [one for one in others if one["parked_id"] != record["parked_id"]]
        return OpsResponse(200, {"service": self.service.name, "record": record, "others": others})

    def _ending(self, verb: Verb) -> Route:
        def end(asked: OpsRequest) -> OpsResponse:
            wanted = asked.read(ParkedRedriveRequest if verb == "redrive" else ParkedRequest)
            if any(wanted.filters.values()):
                return self._many(verb, wanted, asked)
            request = RedriveRequest(asked.actor, asked.reason, getattr(wanted, "accept_old", False))
            with self._turn, self._database() as tx:
                actions = ParkedActions(self.service, self._reader, self.context.retention)
                try:
                    results = [getattr(actions, verb)(tx, one, request) for one in self._meant(tx, wanted)]
                except ParkedRuleError as refused:
                    raise _problem(refused) from None
                finally:
                    Telemetry(self.context.spans, self.context.tally).retried(actions.done)
            told = [one.document() for one in results]
            return OpsResponse(200, {"service": self.service.name, "action": verb, "results": told})

        return end

    def _many(self, verb: Verb, wanted: ParkedRequest, asked: OpsRequest) -> OpsResponse:
        """Tell what would be done, or begin to do what was told, if it is still the same."""
        if wanted.id or wanted.order_id:
            _invalid("", "Name one, or what many share")
        with self._database() as tx:
            found = select(tx, wanted.filters, wanted.limit)
            records = len(found.ids)
            told = {"selection": found.mark, "records": records, "keys": found.keys, "behind": found.behind}
            if wanted.dry_run:
                return OpsResponse(200, {"service": self.service.name, "action": verb, **told, "ids": found.ids[:20]})
            if wanted.selection is None:
                _invalid("/selection", "Ask with dry_run first, then give back the selection it tells")
            if wanted.selection != found.mark:
                detail = f"What you looked at has changed: {records} are selected now. Look again, with dry_run."
                refuse("operation-refused", detail, rule="SELECTION_CHANGED", selection=found.mark)
            made = self._begun(tx, verb, (wanted, found), asked)
        self.bulk.wake()
        return OpsResponse(202, {**made.document(self.service.name), **told})

    def _begun(
        self, tx: Tx, verb: Verb, what: tuple[ParkedRequest, Selection], asked: OpsRequest
    ) -> operations.Operation:
        """Store the operation with its frozen selection and its row in the audit."""
        wanted, found = what
        chosen_by = {name: value for name, value in wanted.filters.items() if value}
        plan = {
            "mode": verb, **chosen_by, "records": len(found.ids), "rate": wanted.rate, "stop_at": wanted.stop_at,
            "accept_old": getattr(wanted, "accept_old", False), "ids": list(found.ids),
        }  # fmt: skip
        with tx.transaction():
            alone(tx, KIND)
            made = operations.new(uuid7(), KIND, plan, asked.actor, asked.reason)
            operations.add(tx, made)
            audit.record(tx, audit.Action(asked.actor, f"parked-{verb}-many", str(made.id), asked.reason, None, plan))
        return made

    def _meant(self, tx: Tx, wanted: ParkedRequest) -> list[UUID]:
        """Return the inputs a request names; of a key those that stand first in their lanes."""
        if (wanted.id is None) == (wanted.order_id is None):
            _invalid("", "Name one: id, or order_id")
        if wanted.id is not None:
            return _resolved(tx, wanted.id)[0][:1]
        first = parked_view.records(tx, {**chosen(order_id=wanted.order_id), "all": False})
        if not first:
            refuse("not-found", "Nothing of this key is parked here.")
        return [UUID(str(one["parked_id"])) for one in first]

    @contextmanager
    def _database(self) -> Iterator[Tx]:
        """Open a connection for one request; refuses when the database, or the registry, is away."""
        try:
            tx = self.context.connect()
        except psycopg.OperationalError:
            refuse("dependency-unavailable", dependency="database", retry_after=1)
        with closing(tx):
            try:
                yield tx
            except Infrastructure:
                refuse("dependency-unavailable", dependency="registry", retry_after=1)
            except psycopg.Error as trouble:  # a lost line may hide a commit
                if sqlstate.blames_input(trouble):
                    raise
                slug = "outcome-unknown" if tx.closed else "dependency-unavailable"
                raise Problem(slug, dependency="database", retry_after=1) from None


def _resolved(tx: Tx, name: str) -> tuple[list[UUID], str | None]:
    """Return the parked inputs that a name means; refuses one that means none, or several."""
    try:
        ids, key = parked_view.resolve(tx, name)
    except AmbiguousError as several:
        detail = f"{len(several.candidates)} ids end so: write more of it, such as {several.candidates[0]}."
        slug = "operation-refused"
        raise Problem(slug, detail, rule="AMBIGUOUS", candidates=several.candidates[:20]) from None
    if not ids:
        refuse("not-found", "Nothing parked here has this id, or ends so: ask the service it belongs to.")
    return ids, key


def _problem(refused: ParkedRuleError) -> Problem:
    if refused.rule == "UNKNOWN":
        return Problem("not-found", refused.detail)
    blocker = refused.blocker and str(refused.blocker)
    return Problem("operation-refused", refused.detail, rule=refused.rule, blocker=blocker)


def _invalid(pointer: str, message: str) -> NoReturn:
    refuse("validation-failed", errors=[{"pointer": pointer, "code": "value", "message": message}])
