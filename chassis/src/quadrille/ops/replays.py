"""Operators' routes to replays: plan one, run it, list them, pause, resume, cancel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
from confluent_kafka import KafkaException

from quadrille.db import audit, sqlstate
from quadrille.ids import lock_key, uuid7
from quadrille.kafka.topics import Topics
from quadrille.messages import Infrastructure
from quadrille.ops.routes import REPLAY, OpsRequest, OpsResponse, OpsRoutes, ScopedRoute
from quadrille.processing.outbox import announce
from quadrille.replay import operations, shadow
from quadrille.replay.archive import Archive, ArchiveError
from quadrille.replay.archive_tape import same_log
from quadrille.replay.manager import KIND, OperationManager, Replays, Shadows
from quadrille.replay.operations import Operation
from quadrille.replay.plan import DryRunRequest, LiveRunRequest, ReplayPlan, ShadowRunRequest, freeze, plan_of
from quadrille.replay.report import report_of
from quadrille.replay.runner import tell_end
from quadrille.service import Tx
from quadrille.system_messages import ReplayStarted
from quadrille.web.documents import Document
from quadrille.web.problems import Problem, refuse

LISTED = 50
LIST_MOST = 200
# Ends of one state: who turns an operation into what, from which states; what it is already is no change.
TURNS = {
    "pause": (("RUNNING",), "PAUSED"),
    "resume": (("PAUSED", "FAILED"), "RUNNING"),
    "cancel": (("RUNNING", "PAUSED", "PLANNED", "FAILED"), "CANCELLED"),
}
ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(%b)"


def alone(tx: Tx, kind: str) -> None:
    """Refuse while another operation of this kind runs in this service."""
    tx.execute(ONE_AT_A_TIME, [lock_key(kind)])
    if running := operations.under_way(tx, kind):
        what = "Replay" if kind == KIND else "Operation"
        refuse("operation-refused", f"{what} {running[0]} is running: pause or cancel it, or wait.", rule="RUNNING")


class ReplayRoutes:
    """The routes by which replays are asked for, and every long action is turned; managers carry them out.

    ``others`` are the managers of what else goes on for long here.
    """

    def __init__(self, replays: Replays, shadows: Shadows, *others: OperationManager) -> None:
        self.replays, self.service, self.context = replays, replays.service, replays.context
        self._shadows, self._managers = shadows, (replays, shadows, *others)
        self._topics: Topics | None = None

    def routes(self) -> OpsRoutes:
        """Return what the ops port answers."""
        return {
            ("POST", "/ops/replays"): ScopedRoute(REPLAY, self._ask),
            ("GET", "/ops/operations?limit&before&state"): self._list,
            ("GET", "/ops/operations/{operation_id}"): self._show,
            **{
                ("POST", f"/ops/operations/{{operation_id}}/{verb}"): ScopedRoute(REPLAY, self._turning(verb))
                for verb in TURNS
            },
        }

    def _ask(self, asked: OpsRequest) -> OpsResponse:
        with self._database() as tx:
            if asked.body.get("into") == "live":
                return self._ask_live(tx, asked, asked.read(LiveRunRequest))
            if asked.body.get("into") == "shadow":
                return self._ask_shadow(tx, asked, asked.read(ShadowRunRequest))
            request = asked.read(DryRunRequest)
            plan = self._frozen(tx, request)
            with tx.transaction():
                alone(tx, KIND)
                made = operations.new(uuid7(), KIND, plan.document(), asked.actor, asked.reason)
                operations.add(tx, made)
        self.replays.wake()
        return OpsResponse(202, made.document(self.service.name))

    def _frozen(self, tx: Tx, request: DryRunRequest) -> ReplayPlan:
        heard = request.topic in self.service.on.topics()
        if request.archive is not None:
            archive = _archive(request.archive)
            try:
                return freeze(request, archive, tx, heard and same_log(tx, archive, request.topic))
            except ArchiveError as broken:
                refuse("operation-refused", f"{broken}.", rule="ARCHIVE")
        try:
            self._topics = self._topics or Topics(self.context.settings.kafka_bootstrap)
            return freeze(request, self._topics, tx, heard)
        except (KafkaException, TimeoutError):
            refuse("dependency-unavailable", dependency="broker", retry_after=1)

    def _ask_live(self, tx: Tx, asked: OpsRequest, request: LiveRunRequest) -> OpsResponse:
        self._confirm(request.confirm, "it will handle what it replays")
        planned = operations.read(tx, request.plan)
        if planned is None or planned.kind != KIND or plan_of(planned.plan).mode != "dry":
            refuse("not-found", "There is no such plan here: plans belong to the service they were made for.")
        with tx.transaction():
            alone(tx, KIND)
            made = operations.new(uuid7(), KIND, _live(planned, request).document(), asked.actor, asked.reason)
            operations.add(tx, made)
            self._tell_start(tx, made)
            seen = {"plan": planned.plan, "foreseen": planned.progress}
            audit.record(tx, audit.Action(asked.actor, "replay", str(made.id), asked.reason, seen, {"plan": made.plan}))
        self.replays.wake()
        return OpsResponse(202, made.document(self.service.name))

    def _ask_shadow(self, tx: Tx, asked: OpsRequest, request: ShadowRunRequest) -> OpsResponse:
        projection = self._shadows.projections.get(request.model)
        if projection is None:
            declared = ", ".join(sorted(self._shadows.projections)) or "none"
            detail = (
                f"{self.service.name} declares no projection {request.model} (declared: {declared}): "
                "what commands or the outside fill cannot be rebuilt from topics."
            )
            refuse("operation-refused", detail, rule="NOT_REBUILDABLE")
        if request.swap:
            self._confirm(request.confirm, "its read model will be exchanged")
        plan: dict[str, object] = {
            "mode": shadow.KIND, "model": request.model, "swap": request.swap, "tables": sorted(projection.tables),
        }  # fmt: skip
        if request.archive is not None:
            archive = self._of_these_topics(tx, _archive(request.archive))
            plan |= {"archive": str(archive.directory), "seal": archive.seal}
        with tx.transaction():
            alone(tx, shadow.KIND)
            made = operations.new(uuid7(), shadow.KIND, plan, asked.actor, asked.reason)
            operations.add(tx, made)
            told = self.service.name, str(made.id), shadow.KIND, request.model, 0, made.actor, made.reason or ""
            announce(tx, self.service, made.id, ReplayStarted(*told))
            audit.record(tx, audit.Action(asked.actor, "replay", str(made.id), asked.reason, None, {"plan": plan}))
        self._shadows.wake()
        return OpsResponse(202, made.document(self.service.name))

    def _of_these_topics(self, tx: Tx, archive: Archive) -> Archive:
        """Refuse, for a shadow, an archive with holes, and one of another log than the service's positions are in."""
        if not archive.whole:
            refuse("operation-refused", f"{archive.directory} was made with times: it has holes.", rule="ARCHIVE")
        for topic in sorted(set(self.service.on.topics()) & set(archive.topics)):
            if not same_log(tx, archive, topic):
                detail = f"{archive.directory} is of another {topic}: its offsets are not those of the one read here."
                refuse("operation-refused", detail, rule="ARCHIVE")
        return archive

    def _confirm(self, said: str, why: str) -> None:
        """Refuse what is not asked for twice, the second time with the service's name."""
        if said != self.service.name:
            message = f"This is {self.service.name}: say so, for {why}"
            refuse("validation-failed", errors=[{"pointer": "/confirm", "code": "confirm", "message": message}])

    def _tell_start(self, tx: Tx, made: Operation) -> None:
        plan = plan_of(made.plan)
        told = (self.service.name, str(made.id), plan.mode, plan.topic, plan.records, made.actor, made.reason or "")
        announce(tx, self.service, made.id, ReplayStarted(*told))

    def _list(self, asked: OpsRequest) -> OpsResponse:
        limit = asked.query.get("limit", str(LISTED))
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= LIST_MOST):
            error = {"pointer": "query:limit", "code": "range", "message": f"Input should be 1 to {LIST_MOST}"}
            refuse("validation-failed", errors=[error])
        state, before = asked.query.get("state"), asked.query.get("before")
        if state is not None and state not in operations.STATES:
            error = {"pointer": "query:state", "code": "enum", "message": f"Wanted: {', '.join(operations.STATES)}"}
            refuse("validation-failed", errors=[error])
        last = None if before is None else OpsRequest(asked.query).identity("before")
        with self._database() as tx:
            found = operations.listing(tx, int(limit), last, state)
        return OpsResponse(200, {"operations": [one.document(self.service.name) for one in found]})

    def _show(self, asked: OpsRequest) -> OpsResponse:
        with self._database() as tx:
            found = operations.read(tx, asked.identity("operation_id"))
        return OpsResponse(200, (found or _unknown()).document(self.service.name))

    def _turning(self, verb: str) -> Callable[[OpsRequest], OpsResponse]:
        """Return the route that pauses, resumes or cancels; asked twice it changes nothing the second time."""
        states, wanted = TURNS[verb]

        def turn(asked: OpsRequest) -> OpsResponse:
            identity = asked.identity("operation_id")
            asked.read(Document)
            with self._database() as tx, tx.transaction():
                there = operations.hold(tx, identity) or _unknown()
                if there.state == wanted:
                    return OpsResponse(200, there.document(self.service.name))
                if wanted == "RUNNING":
                    alone(tx, there.kind)
                turned = operations.turn(tx, identity, states, wanted)
                if turned is None:
                    detail = f"This operation is {there.state}: there is nothing to {verb}."
                    refuse("operation-refused", detail, rule="ENDED")
                if wanted == "CANCELLED":
                    self._tell_end(tx, replace(turned, actor=asked.actor))
                action = audit.Action(asked.actor, f"operation-{verb}", str(identity), asked.reason)
                audit.record(
                    tx, replace(action, before={"state": there.state}, after=turned.document(self.service.name))
                )
            for manager in self._managers:
                manager.wake()
            return OpsResponse(200, turned.document(self.service.name))

        return turn

    def _tell_end(self, tx: Tx, cancelled: Operation) -> None:
        if cancelled.kind == shadow.KIND:
            shadow.tell_end(tx, self.context, cancelled, int(cancelled.progress.get("records", 0)))
        elif cancelled.kind == KIND and plan_of(cancelled.plan).mode == "live":
            tell_end(tx, self.service, cancelled, report_of(cancelled.progress))

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


def _archive(directory: str) -> Archive:
    """Return the archive of an absolute path on this machine; refuses what is none, or is not what was written."""
    if not Path(directory).is_absolute():
        error = {
            "pointer": "/archive",
            "code": "path",
            "message": "Input should be an absolute path",
        }
        refuse("validation-failed", errors=[error])
    try:
        return Archive(Path(directory))
    except ArchiveError as broken:
        refuse("operation-refused", f"{broken}: as {directory} is where this worker runs.", rule="ARCHIVE")


def _live(planned: Operation, request: LiveRunRequest) -> ReplayPlan:
    """Return the live plan of a dry one; refuses one that is not ready, expired, or reaches below the inbox's floor."""
    foreseen, plan = report_of(planned.progress), plan_of(planned.plan)
    if planned.state == "RUNNING":
        refuse("operation-refused", "This plan is still being made: wait until it is PLANNED.", rule="RUNNING")
    if planned.state != "PLANNED" or planned.expired:
        refuse("operation-refused", "A plan is kept for an hour: make a new one.", rule="PLAN_EXPIRED")
    if foreseen.total("OLD"):
        detail = f"{foreseen.total('OLD')} records are older than the inbox can tell: plan a later beginning."
        refuse("operation-refused", detail, rule="BELOW_FLOOR")
    live = replace(plan, mode="live", limit=None, plan=planned.id, records=foreseen.records)
    return replace(live, allow_effects=request.allow_effects, rate=request.rate)


def _unknown() -> Operation:
    refuse("not-found", "There is no such operation here: ask the service it belongs to.")
