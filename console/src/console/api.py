"""The console's API: what was heard, as documents; it composes reads and changes nothing but the traces it is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from typing import Annotated, Any, NoReturn
from uuid import UUID

from fastapi import Header, Path, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.types import ASGIApp

from console import audit, reads, repairs, screens
from console.console_api import AT_ONCE, ConsoleApi, console_of
from console.trace_document import TRACE, TraceDocument, trace_document
from quadrille import rfc3339
from quadrille.web import EVENTS, Answer, Document, ProcessContext, Routes, call_of, events, json_of, make_app, refuse

routes = Routes("ops:read")
ORDER = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"
SANDBOX = "sandbox"
ASYNCAPI = files("console") / "asyncapi.json"
PRIVATE = {"Cache-Control": "no-store"}
AUDITED = ("service", "number", "at", "actor", "action", "subject", "reason", "before", "after")
EVENT = {
    "event_id": "01a1fd62-57f0-84b3-9e84-5f3f080daefc", "type": "payment.declined", "source": "quadrille/payment",
    "order_id": ORDER, "sequence": 1, "time": "2026-11-21T09:14:03.391Z",
    "causation_id": "01a1fd62-57f0-80d0-bc12-39e01842d73c", "correlation_id": ORDER,
    "trace_id": "04a75036e9d520bb983c5ed03b8d0182", "topic": "payment.events", "partition": 7, "offset": 18234,
    "schema_id": 12, "body": {"order_id": ORDER, "code": "insufficient_funds"}, "unreadable": None,
}  # fmt: skip

GROUP = {
    "service": "order", "type": "payment.charged", "error_class": "HANDLER", "error": "KeyError: 'amount_minor'",
    "fingerprint": "5f0c1a9be2d4", "count": 3, "dead": 1, "orders": 3, "behind": 2,
    "first": "2026-11-21T09:14:03.391Z", "last": "2026-11-21T09:19:41.020Z", "order_id": ORDER,
    "event_id": "01a1fd62-57f0-84b3-9e84-5f3f080daefc",
}  # fmt: skip
FINDING = {
    "finding_id": "0f6e0f0e-6b5c-4f0e-9d55-6f4f2f0f6a01", "kind": "ended-without-notice", "order_id": ORDER,
    "expected": "a confirmed notice sent, failed or suppressed", "found": "NONE",
    "evidence": ["order: status=CONFIRMED", "notification: nothing"], "raised_at": "2026-11-21T09:15:00.000Z",
    "seen_at": "2026-11-21T09:16:00.000Z", "closed_at": None, "said": True, "repairable": True,
}  # fmt: skip
ROUND = {"at": "2026-11-21T09:16:00.000Z", "outcome": "JUDGED", "detail": "", "judged": 2000, "moving": 3,
         "judged_at": "2026-11-21T09:16:00.000Z"}  # fmt: skip
TRACE_LINE = {
    "trace_id": "04a75036e9d520bb983c5ed03b8d0182", "order_id": ORDER, "first": "order: POST /v1/orders", "spans": 21,
    "errors": 0, "began_at": "2026-11-21T09:14:03.118Z", "took_ms": 342.118,
}  # fmt: skip


class EventDocument(Document):
    """An event as every interface shows it; what could not be read has its reason, and its bytes as hex."""

    event_id: str
    type: str
    source: str
    order_id: str | None = Field(description="The record's key, where it is an order's id.")
    sequence: int | None
    time: str
    causation_id: str | None
    correlation_id: str | None
    trace_id: str
    topic: str
    partition: int
    offset: int
    schema_id: int | None
    body: dict[str, Any] | None
    unreadable: str | None = Field(description="Why it could not be read.")
    hex: str | None = None


class EventList(Document):
    """A page of events, newest first; ``next`` is the cursor of the page that follows.

    Asked for a header, a page looks at so many records only: it may be short, even empty, and not the last.
    """

    events: list[EventDocument]
    next: int | None


class Evidence(Document):
    """One line of evidence."""

    label: str
    text: str
    more: str | None


class Now(Document):
    """What removes the cause, and what follows from that."""

    command: str | None
    then: str | None


class Why(Document):
    """Why an order waits, or how it ended; ``missing`` names whoever did not answer, and why."""

    order_id: str
    code: str
    sentence: str
    waits_for: str | None
    since_at: str | None
    evidence: list[Evidence]
    now: Now
    trace_id: str | None
    missing: dict[str, str]
    took_ms: int


class Timeline(Document):
    """An order as its events tell it."""

    order_id: str
    status: str
    final: bool
    reason: str | None
    waits_for: str | None
    waits_since: str | None
    because: str | None
    attention: str | None
    took_ms: int | None
    events: list[EventDocument]


class Flow(Document):
    """How orders ended lately, and who is waited for."""

    minutes: int
    ended: list[dict[str, Any]]
    waiting: list[dict[str, Any]]


class Groups(Document):
    """Inputs that are parked, by service, type of event and error."""

    groups: list[dict[str, Any]]


class FailureGroup(Document):
    """Inputs of one service that are parked for one reason; ``order_id`` and ``event_id`` are one of them."""

    service: str
    type: str = Field(description="Empty where nobody could tell.")
    error_class: str
    error: str
    fingerprint: str = Field(description="Of service, type, error and the frame it came from; empty without a frame.")
    count: int
    dead: int = Field(description="How many are not tried again by themselves.")
    orders: int
    behind: int = Field(description="How many inputs wait behind these.")
    first: str
    last: str
    order_id: str
    event_id: str


class FailureGroups(Document):
    """Inputs that are parked, grouped."""

    groups: list[FailureGroup]


class FindingLine(Document):
    """Something about an order on which the services do not agree."""

    finding_id: str
    kind: str
    order_id: str
    expected: str
    found: str
    evidence: list[str] = Field(description="What each service keeps, and where the order's events lie.")
    raised_at: str
    seen_at: str = Field(description="When a round last found it so.")
    closed_at: str | None
    said: bool = Field(description="Whether it is said on ops.events.")
    repairable: bool


class LastRound(Document):
    """How the last round of the reconciler went: JUDGED, BEHIND (somebody did not catch up) or AWAY, and who."""

    at: str
    outcome: str
    detail: str
    judged: int
    moving: int = Field(description="Orders that were not judged, for something of them was under way.")
    judged_at: str | None


class FindingList(Document):
    """A page of findings, newest first; ``next`` is the cursor of the page that follows."""

    findings: list[FindingLine]
    round: LastRound | None
    next: str | None


class FindingRepair(Document):
    """The repair: what is to be asked of which process's ops port."""

    process: str
    path: str
    body: dict[str, Any]


class FindingNow(FindingLine):
    """A finding as it is, looked at now.

    ``now`` is OPEN, GONE (so no more), MOVING (something of the order is under way) or UNKNOWN (who had to be asked
    was away); ``why`` is what moves or is away, or why nothing but a person can mend it.
    """

    now: str
    why: str
    repair: FindingRepair | None


class TestValue(Document):
    """A value that the sandbox knows."""

    given_as: str = Field(description="payment_token of an order, or email of a contact.")
    value: str
    does: str


class TestValues(Document):
    """What the sandbox knows."""

    test_values: list[TestValue]


class StuckList(Document):
    """The orders that wait too long, those that need a person first."""

    count: int
    stuck: list[dict[str, Any]]


class OperationList(Document):
    """Long actions of every service; ``silent`` are those that do not answer."""

    operations: list[dict[str, Any]]
    silent: list[str]


class AuditList(Document):
    """A page of what was done by hand; ``next`` is the cursor of the page that follows."""

    actions: list[dict[str, Any]]
    silent: list[str]
    next: str | None


class AuditQuery(BaseModel):
    """On what it was done, by whom, and the page."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: str = Field("", max_length=255)
    actor: str = Field("", max_length=255)
    limit: int = Field(audit.PAGE, ge=1, le=200)
    cursor: str = Field("", max_length=255)


class TraceLine(Document):
    """One trace of a list: its first span, how many there are, how long it took."""

    trace_id: str
    order_id: str | None
    first: str = Field(description="Service and name of its first span.")
    spans: int
    errors: int = Field(description="How many of its spans failed.")
    began_at: str
    took_ms: float


class TraceList(Document):
    """A page of traces, newest first; ``next`` is the cursor of the page that follows."""

    traces: list[TraceLine]
    next: int | None


class EventQuery(BaseModel):
    """What narrows events down, and the page."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    topic: str | None = Field(None, max_length=249)
    type: str | None = Field(None, max_length=128)
    key: str | None = Field(None, max_length=512)
    source: str | None = Field(None, max_length=64)
    trace_id: str | None = Field(None, pattern="^[0-9a-f]{32}$")
    unreadable: bool = False
    until: AwareDatetime | None = None
    header: str | None = Field(None, max_length=512, pattern="^[^=]", description="A header's name, or name=value.")
    limit: int = Field(50, ge=1, le=200)
    cursor: int | None = Field(None, ge=0, lt=1 << 62)

    @property
    def filters(self) -> reads.EventFilters:
        """Return them as the read side takes them."""
        return reads.EventFilters(
            self.topic, self.type, self.key, self.source, self.trace_id, self.unreadable, self.until,
            self.header,
        )  # fmt: skip


def document(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event as a document."""
    key = row["key"] if reads.is_uuid(row["key"]) else None
    source = f"quadrille/{row['source']}" if row["source"] else ""
    return {
        "event_id": row["event_id"], "type": row["type"], "source": source, "order_id": key,
        "sequence": row["sequence"], "time": rfc3339(row["at"]), "causation_id": row["causation"],
        "correlation_id": key, "trace_id": row["trace_id"], "topic": row["topic"], "partition": row["partition"],
        "offset": row["offset"], "schema_id": row["schema_id"], "body": row["body"], "unreadable": row["fault"],
    }  # fmt: skip


@routes.on(
    "GET", "/v1/events", scope="ops:read", problems=(),
    answers=[Answer(200, "A page of events.", EventList, {"events": [EVENT], "next": None})],
)  # fmt: skip
async def list_events(request: Request, asked: Annotated[EventQuery, Query()]) -> Response:
    """List every record of every topic, newest first."""
    found = await console_of(request).read(reads.events, asked.filters, asked.limit, asked.cursor)
    return _told({"events": [document(row) for row in found.events], "next": found.next})


@routes.on(
    "GET", "/v1/events/stream", scope="ops:read", problems=(),
    answers=[Answer(200, "fact …, each with its number as id; restart.", None, "event: fact\nid: 7\ndata: {…}\n\n",
                    media_type=EVENTS)],
)  # fmt: skip
async def follow_events(request: Request, last_event_id: Annotated[str | None, Header()] = None) -> Response:
    """Follow every record of every topic as it is heard; with Last-Event-ID from there on."""
    api = console_of(request)
    came = last_event_id or ""
    since = int(came) if came.isdecimal() and len(came) <= 18 else await api.newest()  # noqa: PLR2004 - a bigint's
    return events(call_of(request), _facts(api, since))


@routes.on(
    "GET", "/v1/events/{event_id}", scope="ops:read", problems=("not-found",),
    answers=[Answer(200, "The event.", EventDocument, EVENT)],
)  # fmt: skip
async def show_event(request: Request, event_id: UUID) -> Response:
    """Show one record with its bytes."""
    row = await console_of(request).read(reads.event, str(event_id))
    if row is None:
        refuse("not-found")
    return _told(document(row) | {"hex": row["raw"].hex()})


@routes.on(
    "GET", "/v1/orders/{order_id}/timeline", scope="ops:read", problems=("not-found",),
    answers=[Answer(200, "The order with its events, oldest first.", Timeline)],
)  # fmt: skip
async def timeline(request: Request, order_id: UUID) -> Response:
    """Show an order as its events tell it."""
    api = console_of(request)
    call_of(request).order_id = str(order_id)
    row = await api.read(reads.order, str(order_id))
    if row is None:
        refuse("not-found")
    story = await api.read(reads.story, str(order_id))
    names = ("order_id", "status", "final", "reason", "waits_for", "because", "attention", "took_ms")
    since = row["waits_since"] and rfc3339(row["waits_since"])
    told = {name: row[name] for name in names} | {"waits_since": since}
    return _told(told | {"events": [document(one) for one in story]})


@routes.on(
    "GET", "/v1/orders/{order_id}/why", scope="ops:read", problems=("not-found",),
    answers=[Answer(200, "Why it waits, or how it ended.", Why)],
)  # fmt: skip
async def why(request: Request, order_id: UUID) -> Response:
    """Say why an order waits, or how it ended: one sentence, its evidence from every service, what to do now."""
    call_of(request).order_id = str(order_id)
    told = await console_of(request).neighbours.why(str(order_id))
    if told.code == "UNKNOWN" and not told.missing:
        refuse("not-found")
    return _told(told.document())


@routes.on(
    "GET", "/v1/flow", scope="ops:read", problems=(),
    answers=[Answer(200, "The last minutes.", Flow)],
)  # fmt: skip
async def show_flow(request: Request, minutes: Annotated[int, Query(ge=1, le=1440)] = reads.MINUTES) -> Response:
    """Tell how orders ended in the last minutes, and who is waited for."""
    found = await console_of(request).read(reads.flow, minutes)
    return _told({"minutes": minutes, "ended": _plain(found["ended"]), "waiting": _plain(found["waiting"])})


@routes.on(
    "GET", "/v1/failures", scope="ops:read", problems=(),
    answers=[Answer(200, "What is parked.", Groups)],
)  # fmt: skip
async def show_failures(request: Request) -> Response:
    """Tell which inputs are parked, by service, type of event and error."""
    return _told({"groups": _plain(await console_of(request).read(reads.failure_groups))})


@routes.on(
    "GET", "/v1/failures/groups", scope="ops:read", problems=(),
    answers=[Answer(200, "What is parked, the largest group first.", FailureGroups, {"groups": [GROUP]})],
)  # fmt: skip
async def list_failure_groups(request: Request) -> Response:
    """Group the inputs that are parked by service, type of event, error and the place where it was raised."""
    return _told({"groups": _plain(await console_of(request).read(reads.failure_groups))})


@routes.on(
    "GET", "/v1/findings", scope="ops:read", problems=(),
    answers=[Answer(200, "A page of findings.", FindingList, {"findings": [FINDING], "round": ROUND, "next": None})],
)  # fmt: skip
async def list_findings(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: UUID | None = None,
    *,
    closed: bool = False,
) -> Response:
    """List on what the services do not agree about orders, as the reconciler found it; ``closed``: what was, too."""
    api = console_of(request)
    found = await api.read(reads.findings, limit + 1, str(cursor) if cursor else None, closed=closed)
    last = await api.read(reads.reconciliation)
    following = found[limit - 1]["finding_id"] if len(found) > limit else None
    told = None if last is None else _plain([last])[0]
    return _told({"findings": [_finding(one) for one in found[:limit]], "round": told, "next": following})


@routes.on(
    "GET", "/v1/findings/{finding_id}", scope="ops:read", problems=("not-found",),
    answers=[Answer(200, "The finding, and how it is now.", FindingNow)],
)  # fmt: skip
async def show_finding(request: Request, finding_id: UUID) -> Response:
    """Show a finding, look at its order anew in every service, and tell by what it can be repaired."""
    api = console_of(request)
    row = await api.read(reads.finding, str(finding_id)) or refuse("not-found")
    call_of(request).order_id = row["order_id"]
    return _told(_finding(row) | (await repairs.look(api, row))._asdict())


def _finding(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a finding as a document."""
    names = ("finding_id", "kind", "order_id", "expected", "found", "evidence", "said")
    times = {name: row[name] and rfc3339(row[name]) for name in ("raised_at", "seen_at", "closed_at")}
    return {name: row[name] for name in names} | times | {"repairable": row["mender"] is not None}


@routes.on(
    "GET", "/v1/meta/test-values", scope="ops:read", problems=("not-found", "dependency-unavailable"),
    answers=[Answer(200, "What may be given where, and what it does.", TestValues)],
)  # fmt: skip
async def list_test_values(request: Request) -> Response:
    """Tell what the sandbox's processor and mailbox do to which values, as it tells it itself."""
    neighbours = console_of(request).neighbours
    if SANDBOX not in neighbours.apis:
        refuse("not-found", "No sandbox is set here: QUADRILLE_APIS names none, so there are no test values.")
    told = await neighbours.ask(neighbours.apis[SANDBOX], "/test-values")
    if not isinstance(told, dict):
        refuse("dependency-unavailable", "The sandbox does not answer.", dependency=SANDBOX, retry_after=1)
    return _told({"test_values": told.get("test_values", [])})


@routes.on(
    "GET", "/asyncapi.json", scope="ops:read", problems=(),
    answers=[Answer(200, "AsyncAPI 3: a channel a topic, a message a type, who says and who hears each.")],
)  # fmt: skip
async def asyncapi(request: Request) -> Response:
    """Describe what lies on Kafka, as schemas, topics and handlers of this release have it."""
    del request
    return Response(ASYNCAPI.read_bytes(), 200, PRIVATE, "application/json")


@routes.on(
    "GET", "/v1/stuck", scope="ops:read", problems=("dependency-unavailable",),
    answers=[Answer(200, "Who waits too long, as order tells it now.", StuckList)],
)  # fmt: skip
async def show_stuck(request: Request) -> Response:
    """Tell which orders are stuck or need a person: who owes which fact since when."""
    neighbours = console_of(request).neighbours
    told = await neighbours.ask(neighbours.ops.get("order-api"), "/ops/stuck")
    if not isinstance(told, dict):
        refuse("dependency-unavailable", "order-api does not answer.", dependency="order-api", retry_after=1)
    return _told({"count": told.get("count", 0), "stuck": told.get("stuck", [])})


@routes.on(
    "GET", "/v1/operations", scope="ops:read", problems=(),
    answers=[Answer(200, "Long actions, as each worker tells them now.", OperationList)],
)  # fmt: skip
async def show_operations(request: Request) -> Response:
    """List the long actions of every service; whoever does not answer is named."""
    neighbours = console_of(request).neighbours
    told = await neighbours.ask_each("worker", "/ops/operations")
    told |= {"console": await neighbours.ask(neighbours.ops.get("console-all"), "/ops/operations")}
    found = [one for body in told.values() if isinstance(body, dict) for one in body.get("operations", ())]
    silent = [name for name, body in told.items() if not isinstance(body, dict)]
    return _told({"operations": found, "silent": silent})


@routes.on(
    "GET", "/v1/audit", scope="ops:read", problems=(),
    answers=[Answer(200, "What was done by hand, newest first.", AuditList)],
)  # fmt: skip
async def show_audit(request: Request, asked: Annotated[AuditQuery, Query()]) -> Response:
    """List what was done by hand, of every service's chain; whoever does not answer is named."""
    found = await audit.read(console_of(request), asked.subject, asked.actor, asked.cursor, asked.limit)
    rows = [{name: row.get(name) for name in AUDITED} for row in found.rows]
    return _told({"actions": rows, "silent": [*found.silent], "next": found.next or None})


@routes.on(
    "GET", "/v1/traces", scope="ops:read", problems=(),
    answers=[Answer(200, "A page of traces.", TraceList, {"traces": [TRACE_LINE], "next": None})],
)  # fmt: skip
async def list_traces(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[int | None, Query(ge=0, lt=1 << 62)] = None,
) -> Response:
    """List the traces that are kept, the one heard of last first."""
    found = await console_of(request).read(reads.traces, limit + 1, cursor)
    page = found[:limit]
    following = page[-1]["number"] if len(found) > limit else None
    return _told({"traces": [trace_line(row) for row in page], "next": following})


def trace_line(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trace as a list tells it."""
    began = datetime.fromtimestamp(row["began_ns"] / 1e9, UTC)
    return {
        "trace_id": row["trace_id"], "order_id": row["order_id"], "first": row["first"], "spans": row["spans"],
        "errors": row["errors"], "began_at": rfc3339(began),
        "took_ms": round((row["ended_ns"] - row["began_ns"]) / 1e6, 3),
    }  # fmt: skip


@routes.on(
    "GET", "/v1/traces/{trace_id}", scope="ops:read", problems=("not-found", "past-retention"),
    answers=[Answer(200, "The trace, each span after what it came of.", TraceDocument, TRACE)],
)  # fmt: skip
async def show_trace(request: Request, trace_id: Annotated[str, Path(pattern="^[0-9a-f]{32}$")]) -> Response:
    """Show a trace: its spans, and what each has waited for: outbox, relay, queue, retry or parked."""
    api = console_of(request)
    found = await api.read(reads.spans, trace_id)
    kept = await api.read(reads.trace_kept, trace_id)
    if not found:
        _refuse_trace(kept, api.told.keep_traces)
    return _told(trace_document(trace_id, found, kept))


def _refuse_trace(kept: reads.Row, most: int) -> NoReturn:
    """Say why no span of a trace is here: it came before those that are kept, none has come yet, or there is none."""
    since = kept["oldest_at"] and rfc3339(kept["oldest_at"])
    if kept["order_id"] is None:
        refuse("not-found", f"No span of such a trace is kept. The last {most:,} are, back to {since or 'none yet'}.")
    named = f"the trace of order {kept['order_id']}"
    if kept["told"] > most and kept["placed_at"] and kept["placed_at"] < kept["oldest_at"]:
        detail = f"The spans of {named} were dropped: the last {most:,} traces are kept, back to {since}."
        refuse("past-retention", detail, oldest_at=since)
    refuse("not-found", f"No span of {named} has come: they are sent some seconds after the fact, if they are sampled.")


def make(context: ProcessContext) -> ASGIApp:
    """Return the console's API with its pages."""
    api = ConsoleApi(context)
    return make_app("Quadrille console", routes, api, context.spans, api.base, keys=api.keys, pages=screens.ROUTES)


async def _facts(api: ConsoleApi, since: int) -> AsyncIterator[bytes]:
    """Tell each record once, in the order it was heard; a client that comes back goes on where it was."""
    yield b"retry: 2000\n\n"
    async for news in api.news(None, since):
        if news is None:
            yield b": keep-alive\n\n"
        while news is not None and since < news:
            found = await api.read(reads.events_after, since, AT_ONCE)
            if not found:
                break
            for row in found:
                since = row["number"]
                yield b"event: fact\nid: %d\ndata: %s\n\n" % (since, json_of(document(row)))
    yield b"event: restart\ndata: {}\n\n"


def _plain(found: list[reads.Row]) -> list[dict[str, Any]]:
    """Return rows as JSON has them: times as text, what is counted as whole numbers."""
    return [
        {name: rfc3339(value) if hasattr(value, "tzinfo") else int(value) if name in COUNTED and value is not None
         else value for name, value in row.items()}
        for row in found
    ]  # fmt: skip


COUNTED = frozenset({"count", "behind", "orders", "dead", "p50", "p99", "judged", "moving"})


def _told(body: Mapping[str, object]) -> Response:
    return Response(json_of(body), 200, PRIVATE, "application/json")
