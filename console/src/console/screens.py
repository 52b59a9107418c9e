"""The screens: what each page asks of the read side and the neighbours, and how it is shown."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from console import acting, audit, reads, repairs
from console import processes as local
from console.acting import LoginNeededError, session_of
from console.actions import CHAOS
from console.answers import answer_of, buttons_of, commands_of
from console.asks import WHY, command
from console.bars import bars
from console.console_api import ConsoleApi, console_of
from console.currents import currents
from console.dance import HEARS, arrows, boxes
from console.domain import Order
from console.handlers import TOPICS
from console.intake import TraceIntake
from console.lanes import detail_of, picture
from console.pages import HEADERS, Page, asset, page
from console.reading import is_order
from console.store import order_of
from console.verdict import ago, judge
from console.waterfall import waterfall
from quadrille.web import OPEN, call_of, events, needs

PAGE = 50
LATEST = 12
NEWS_SECONDS = 1.0
Screen = Callable[[Request, ConsoleApi], Awaitable[Response | Page]]
REFUSALS = {404: "Not found", 409: "Refused: something stands in the way", 503: "Not to be had now"}


def screen(path: str, method: str = "GET") -> Callable[[Screen], Screen]:
    """Register a page; what it refuses is told as a page, too."""

    def register(make: Screen) -> Screen:
        async def endpoint(request: Request) -> Response:
            api = console_of(request)
            try:
                await acting.admit(request, api, path)
                made = await make(request, api)
            except LoginNeededError as needed:
                made = acting.login_page(needed.status_code, refused=str(needed.detail), does=needed.command)
            except HTTPException as refused:
                words = REFUSALS.get(refused.status_code, "Refused")
                made = page("error.html", refused.status_code, here="", title=words, detail=str(refused.detail))
            return made if isinstance(made, Response) else await _shown(request, api, made)

        ROUTES.append(Route(path, needs(OPEN)(endpoint), methods=[method], include_in_schema=False))
        return make

    return register


async def _shown(request: Request, api: ConsoleApi, made: Page) -> Response:
    """Return a page for whoever asks for it; while the database is away nobody is known."""
    session = None
    with suppress(HTTPException):
        session = await session_of(request, api)
    place = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    keyed = api.keys is not None
    return made.shown(session, place, sandbox="sandbox" in api.neighbours.apis, keyed=keyed)


ROUTES: list[Route] = []


@screen("/")
async def overview(_: Request, api: ConsoleApi) -> Response | Page:
    """Is all well, and if not, what needs a person first."""
    found, health, chaos = await asyncio.gather(
        api.read(reads.overview, LATEST), api.neighbours.health(), chaos_of(api)
    )
    person = [_needs(row) for row in found["person"]]
    counts = {**found["counts"], "resting": len(found["resting"]), "chaos": seconds_left(chaos, found["now"])}
    verdict = judge(counts, health, found["intake"], found["last"], found["now"])
    shown = [one for one in health if one.service != "console"]
    return page(
        "overview.html", here="/", verdict=verdict, all=found | {"person": person}, boxes=boxes(shown),
        arrows=arrows(found["told"]), bars=bars(found["flow"]["per_minute"], found["flow"]["minutes"]),
    )  # fmt: skip


@screen("/orders")
async def orders(request: Request, api: ConsoleApi) -> Response | Page:
    """List orders, newest first, narrowed down by what the address says."""
    names = ("status", "reason", "customer_id", "waits_for", "sku")
    given: dict[str, Any] = {name: _text(request, name) for name in names}
    given["attention"] = request.query_params.get("attention") == "true"
    found = await api.read(reads.orders, reads.OrderFilters(**given), PAGE + 1, _text(request, "before"))
    following = _next(request, "before", found[PAGE - 1]["order_id"]) if len(found) > PAGE else None
    return page(
        "orders.html", here="/orders", orders=found[:PAGE], next=following, given=given, narrowed=any(given.values())
    )


@screen("/orders/{order_id}")
async def order(request: Request, api: ConsoleApi) -> Response | Page:
    """All that is known of one order."""
    order_id = request.path_params["order_id"]
    row = await api.read(reads.order, order_id)
    if row is None:
        raise HTTPException(404, f"No event of an order {order_id[:64]} was heard. It may be older than what is kept.")
    story, failures, disputed, asked, why, done = await asyncio.gather(
        api.read(reads.story, order_id), api.read(reads.failures_of, order_id), api.read(reads.findings_of, order_id),
        _asked_of(api, order_id), api.neighbours.why(order_id), audit.read(api, order_id),
    )  # fmt: skip
    known, now = order_of(row), datetime.now(UTC)
    told = next((body for name, body in asked if name == "order" and isinstance(body, dict)), {})
    return page(
        "order.html", here="", o=row, why=answer_of(known, failures, now, why), p=picture(story), parked=failures,
        reference=told.get("reference"), lines=_lines(known), asked_of=asked, twins=twins(order_id), base=api.base,
        buttons=buttons_of(known), done=done, disputed=disputed,
    )  # fmt: skip


@screen("/events")
async def browse(request: Request, api: ConsoleApi) -> Response | Page:
    """Browse every record, decoded, narrowed down by what the address says."""
    names = ("topic", "type", "key", "source", "header")
    given: dict[str, Any] = {name: _text(request, name) for name in names}
    given["unreadable"] = request.query_params.get("unreadable") == "true"
    given["until"] = _time(request, "until")
    before = _text(request, "before")
    number = int(before) if before and before.isdecimal() and len(before) < 19 else None  # noqa: PLR2004 - a bigint's
    found = await api.read(reads.events, reads.EventFilters(**given), PAGE, number)
    following = _next(request, "before", str(found.next)) if found.next else None
    return page(
        "events.html", here="/events", events=[_listed(row) for row in found.events], next=following, given=given,
        narrowed=any(given.values()), topics=TOPICS, looked=found.looked,
    )  # fmt: skip


@screen("/events/{event_id}")
async def event(request: Request, api: ConsoleApi) -> Response | Page:
    """One record: decoded, its headers, its bytes."""
    event_id = request.path_params["event_id"]
    row = await api.read(reads.event, event_id) if reads.is_uuid(event_id) else None
    if row is None:
        raise HTTPException(404, f"No record {event_id[:64]} is kept.")
    cause = await api.read(reads.event, row["causation"]) if row["causation"] else None
    return page("event.html", here="", e=_listed(row), cause=cause)


@screen("/failures")
async def failures(request: Request, api: ConsoleApi) -> Response | Page:
    """What is parked, by group; one group's inputs; what workers say themselves."""
    service, error = request.query_params.get("service"), request.query_params.get("error")
    chosen = {"service": service, "error": error} if service and error is not None else None
    inputs = await api.read(reads.failures, service, error) if service and error is not None else []
    groups, told = await asyncio.gather(
        api.read(reads.failure_groups), api.neighbours.ask_each("worker", "/ops/parked")
    )
    parked = {name: _parked(body) for name, body in told.items()}
    return page("failures.html", here="/failures", groups=groups, chosen=chosen, inputs=inputs, parked=parked)


@screen("/stuck")
async def stuck(_: Request, api: ConsoleApi) -> Response | Page:
    """Who needs a person, and who is waited for."""
    found, flow = await asyncio.gather(api.read(reads.person, PAGE), api.read(reads.flow))
    return page("stuck.html", here="/stuck", orders=found, waiting=flow["waiting"])


@screen("/findings")
async def findings(request: Request, api: ConsoleApi) -> Response | Page:
    """On what the services do not agree, and how the last round went."""
    closed, before = request.query_params.get("closed") == "true", _text(request, "before") or ""
    after = before if reads.is_uuid(before) else None
    found, held = await asyncio.gather(
        api.read(reads.findings, PAGE + 1, after, closed=closed), api.read(reads.reconciliation)
    )
    following = _next(request, "before", found[PAGE - 1]["finding_id"]) if len(found) > PAGE else None
    return page("findings.html", here="/findings", findings=found[:PAGE], round=held, closed=closed, next=following)


@screen("/findings/{finding_id}")
async def finding(request: Request, api: ConsoleApi) -> Response | Page:
    """One finding with its evidence; of one that is open also how it is now, in every service."""
    finding_id = request.path_params["finding_id"]
    row = await api.read(reads.finding, finding_id) if reads.is_uuid(finding_id) else None
    if row is None:
        raise HTTPException(404, f"No finding {finding_id[:64]} is kept.")
    looked = repairs.Looked("GONE") if row["closed_at"] else await repairs.look(api, row)
    twin = command("findings", "repair", finding_id, reason=WHY)
    return page("finding.html", here="/findings", f=row, looked=looked, twin=twin)


@screen("/audit")
async def audited(request: Request, api: ConsoleApi) -> Response | Page:
    """What was done by hand, of every service, narrowed down to what it was done on and who did it."""
    given = {name: _text(request, name) for name in ("subject", "actor")}
    subject = await _whole(api, given["subject"] or "")
    found = await audit.read(api, subject, given["actor"] or "", _text(request, "before") or "")
    following = _next(request, "before", found.next) if found.next else None
    twin = f"quadrille audit list --order {subject}" if is_order(subject) else "quadrille audit list"
    return page(
        "audit.html", here="/audit", rows=found.rows, silent=found.silent, next=following, given=given,
        narrowed=any(given.values()), twin=twin,
    )  # fmt: skip


@screen("/chaos")
async def chaos(_: Request, api: ConsoleApi) -> Response | Page:
    """Trouble in the sandbox: whether it is on, what it has done, how long it lasts."""
    if "sandbox" not in api.neighbours.apis:
        raise HTTPException(404, "No sandbox is set here: QUADRILLE_APIS names none.")
    told = await chaos_of(api)
    left = ago(seconds_left(told, datetime.now(UTC)))
    names = [(name, label.partition(" (")[0].lower()) for name, label, _, _ in CHAOS if name != "seconds"]
    return page("chaos.html", here="/chaos", told=told, left=left, names=names, where=api.neighbours.apis["sandbox"])


@screen("/flow")
async def flow(_: Request, api: ConsoleApi) -> Response | Page:
    """What flows at each service now, and how orders ended lately."""
    now_there, lately = await asyncio.gather(currents(api), api.read(reads.flow))
    return page(
        "flow.html", here="/flow", currents=now_there, all={"flow": lately}, now=datetime.now(UTC),
        bars=bars(lately["per_minute"], lately["minutes"]),
    )  # fmt: skip


@screen("/operations")
async def operations(_: Request, api: ConsoleApi) -> Response | Page:
    """Long actions of every service."""
    told = await api.neighbours.ask_each("worker", "/ops/operations")
    told |= {"console": await api.neighbours.ask(api.neighbours.ops.get("console-all"), "/ops/operations")}
    shown = {service: _operations(body) for service, body in told.items()}
    return page("operations.html", here="/operations", operations=shown)


@screen("/catalogue")
async def catalogue(_: Request, api: ConsoleApi) -> Response | Page:
    """The events, who says and who hears them; beside a sandbox, what its test values do."""
    heard: dict[str, list[str]] = {}
    for (_source, target), types in HEARS.items():
        for kind in types:
            heard.setdefault(kind, []).append(target)
    types_found, told = await asyncio.gather(
        api.read(reads.catalogue), api.neighbours.ask(api.neighbours.apis.get("sandbox"), "/test-values")
    )
    values = told.get("test_values", []) if isinstance(told, dict) else []
    shown = [dict(row) | {"heard_by": ", ".join(heard.get(row["type"], ()))} for row in types_found]
    return page("catalogue.html", here="/catalogue", types=shown, values=values)


@screen("/processes")
async def processes(_: Request, api: ConsoleApi) -> Response | Page:
    """How each process is."""
    health = await api.neighbours.health()
    shown = {one.shown for one in health}
    others = [name for name in local.logs_of(api.told.stack) if name not in shown]
    return page("processes.html", here="/processes", health=health, ops=api.neighbours.ops, others=others)


@screen("/processes/{name}")
async def process(request: Request, api: ConsoleApi) -> Response | Page:
    """One process: how it is, the end of its log, how it is started again."""
    name, stack = request.path_params["name"], api.told.stack
    logs = local.logs_of(stack)
    health = next((one for one in await api.neighbours.health() if one.shown == name), None)
    if name not in logs and health is None:
        raise HTTPException(404, "No process of this name is known here.")
    log = await run_in_threadpool(local.tail, name, logs[name]) if name in logs else None
    return page(
        "process.html", here="/processes", process=name, health=health, local=stack is not None, log=log,
        mine=name in api.told.ops, now=datetime.now(UTC), elsewhere=local.elsewhere(name),
    )  # fmt: skip


@screen("/traces")
async def traces(request: Request, api: ConsoleApi) -> Response | Page:
    """The traces that are kept."""
    before = _text(request, "before")
    number = int(before) if before and before.isdecimal() and len(before) < 19 else None  # noqa: PLR2004 - a bigint's
    found = await api.read(reads.traces, PAGE + 1, number)
    following = _next(request, "before", str(found[PAGE - 1]["number"])) if len(found) > PAGE else None
    return page("traces.html", here="/traces", traces=found[:PAGE], next=following)


@screen("/traces/{trace_id}")
async def trace(request: Request, api: ConsoleApi) -> Response | Page:
    """One trace as a waterfall."""
    trace_id = request.path_params["trace_id"]
    found = await api.read(reads.spans, trace_id)
    order_id = await api.read(reads.order_of_trace, trace_id)
    drawn = waterfall(found, every=request.query_params.get("all") == "true")
    return page(
        "trace.html", here="/traces", trace_id=trace_id[:64], order_id=order_id, kept=api.told.keep_traces,
        jaeger=(api.told.jaeger_url or "").rstrip("/"), **drawn,
    )  # fmt: skip


@screen("/search")
async def search(request: Request, api: ConsoleApi) -> Response | Page:
    """Find anything by whatever is known of it; what is found alone is shown at once."""
    asked = request.query_params.get("q", "").strip().removeprefix("…").strip()[:400]
    hits = await api.read(reads.found, asked) if asked else []
    unanswered: list[str] = []
    if asked and not hits:
        hits, unanswered = await _found_elsewhere(api, asked)
    if len(hits) == 1:
        return RedirectResponse(hits[0]["link"], 303, HEADERS)
    return page("search.html", here="", asked=asked, hits=hits, unanswered=unanswered)


@screen("/static/{name}")
async def static(request: Request, _: ConsoleApi) -> Response | Page:
    """A file that pages load."""
    found = asset(request.path_params["name"])
    if found is None:
        raise HTTPException(404, "No page loads such a file.")
    return found


@screen("/live")
async def live(request: Request, api: ConsoleApi) -> Response | Page:
    """Tell a page that there is something new to show, at least every five seconds: ages grow."""
    key = _text(request, "key")

    async def lines() -> AsyncIterator[bytes]:
        yield b"retry: 2000\n\n"
        async for number in api.news(key, await api.newest(key)):
            yield b"event: news\ndata: %d\n\n" % (number or 0)
            await asyncio.sleep(NEWS_SECONDS)  # a page is told once a second, and always of the last

    return events(call_of(request), lines())


async def take_traces(request: Request) -> Response:
    """Take an export request of traces; what is wrong with it is told as a problem document."""
    return await TRACES.take(request, console_of(request))


for place, method, answer in (
    ("/login", "GET", acting.login), ("/login", "POST", acting.log_in), ("/logout", "POST", acting.log_out),
    ("/ask/{name}", "GET", acting.ask), ("/do/{name}", "POST", acting.do),
):  # fmt: skip
    screen(place, method)(answer)
TRACES = TraceIntake()
ROUTES.append(Route("/v1/traces", needs("traces:write")(take_traces), methods=["POST"], include_in_schema=False))


async def _asked_of(api: ConsoleApi, order_id: str) -> list[tuple[str, Any]]:
    """Return what the services themselves tell of an order now; None of one that does not answer."""
    apis, ask = api.neighbours.apis, api.neighbours.ask
    answers = await asyncio.gather(
        ask(api.neighbours.ops.get("order-api"), f"/ops/orders/{order_id}"),
        ask(apis.get("payment"), "/v1/payments", order_id=order_id),
        ask(apis.get("notification"), "/v1/notices", order_id=order_id),
    )
    return list(zip(("order", "payment", "notification"), answers, strict=True))


async def _found_elsewhere(api: ConsoleApi, asked: str) -> tuple[list[dict[str, str]], list[str]]:
    """Ask order for a reference, and the sandbox's mailbox for an address: events hold neither."""
    apis, unanswered = api.neighbours.apis, []
    told = await api.neighbours.ask(api.neighbours.ops.get("order-api"), "/ops/names", name=asked)
    if told is None:
        unanswered.append("order, for a reference")
    hits = [
        {"kind": "order", "shown": f"{one['order_id']} {one['status']}", "link": f"/orders/{one['order_id']}"}
        for one in (told or {}).get("orders", [])
    ]
    if "@" in asked and (mails := apis.get("sandbox")):
        told = await api.neighbours.ask(mails, "/mail", limit="200")
        hits += _mails(told, asked)
    return hits, unanswered


def _mails(told: object, asked: str) -> list[dict[str, str]]:
    mails = told.get("mails", []) if isinstance(told, dict) else []
    found = {one["order_id"] for one in mails if asked in one.get("recipients", ()) and one.get("order_id")}
    return [{"kind": "order", "shown": f"{one}, written to {asked}", "link": f"/orders/{one}"} for one in sorted(found)]


def _needs(row: reads.Row) -> dict[str, Any]:
    """Return an order that needs a person, with where money and goods are, and the command to copy."""
    known = order_of(row)
    parked = [
        {"state": "OPEN", "event_id": name.partition("/")[2], "service": name.partition("/")[0]}
        for name, _ in known.open_parked
    ]
    commands = commands_of(known, parked)
    return dict(row) | {
        "button": next((one for one in buttons_of(known) if one.action != "cancel"), None),
        "money_words": known.money, "goods_words": known.goods,
        "command": _shorter(commands[-1] if commands else f"quadrille why {row['order_id']}"),
    }  # fmt: skip


def _shorter(line: str) -> str:
    """Return a command with ids by their ends, which it takes as well."""
    return ID.sub(lambda found: found[0][-8:], line)


ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def twins(order_id: str) -> tuple[str, ...]:
    """Return the commands that show what the order's page shows."""
    verbs = "why", "orders get", "timeline", "trace", "watch", "logs --order"
    return tuple(f"quadrille {verb} {order_id}" for verb in verbs)


def _lines(order: Order) -> str:
    placed = order.facts.get("order.placed")
    lines = placed.body.get("lines") if placed else None
    told = [one for one in lines if isinstance(one, Mapping)] if isinstance(lines, list) else []
    return ", ".join(f"{one.get('quantity')} × {one.get('sku')}" for one in told)


def _listed(row: reads.Row) -> dict[str, Any]:
    return dict(row) | {"detail": detail_of(row["body"]), "order": reads.is_uuid(row["key"])}


def _operations(body: object) -> list[dict[str, Any]] | None:
    """Return the long actions a worker tells of, each with how far it is; None if it tells nothing."""
    if not isinstance(body, dict):
        return None
    names = ("operation_id", "kind", "state", "actor", "reason", "plan", "progress")
    found = [dict.fromkeys(names) | one for one in body.get("operations", []) if isinstance(one, dict)]
    return [one | {"far": _far(one), "verbs": TURNS.get(str(one["state"]), ())} for one in found]


TURNS = {"RUNNING": ("pause", "cancel"), "PAUSED": ("resume", "cancel"), "FAILED": ("resume", "cancel"),
         "PLANNED": ("cancel",)}  # fmt: skip


def _far(one: Mapping[str, Any]) -> str:
    """Return in words how far a long action is, and what became of what it has done."""
    plan, progress = one["plan"] or {}, one["progress"] or {}
    done, of = progress.get("records"), plan.get("records")
    told = [] if done is None else [f"{done} of {of}" if of else f"{done}"]
    outcomes = progress.get("outcomes") or {}
    told += [f"{count} {word.replace('_', ' ').lower()}" for word, count in outcomes.items()]
    told += [str(progress["failure"])] if progress.get("failure") else []
    return ", ".join(told)


def _parked(body: object) -> dict[str, list[dict[str, Any]]] | None:
    """Return the groups and inputs a worker tells of; None if it tells nothing."""
    if not isinstance(body, dict):
        return None
    groups = ("group", "type", "error_class", "exception", "error", "at", "count", "dead", "keys", "behind", "retry_at")
    inputs = ("parked_id", "order_id", "type", "error_class", "error", "state", "attempts", "behind", "retry_at")
    found = {name: [one for one in body.get(name, ()) if isinstance(one, dict)] for name in ("groups", "records")}
    return {
        "groups": [dict.fromkeys(groups) | one for one in found["groups"]],
        "inputs": [dict.fromkeys(inputs) | one for one in found["records"]],
    }


async def chaos_of(api: ConsoleApi) -> dict[str, Any] | None:
    """Return what the sandbox tells of trouble on purpose; None where there is no sandbox, or it does not answer."""
    told = await api.neighbours.ask(api.neighbours.apis.get("sandbox"), "/chaos")
    return told if isinstance(told, dict) else None


def seconds_left(chaos: Mapping[str, Any] | None, now: datetime) -> int:
    """Return how long trouble on purpose lasts, in seconds; 0 if there is none."""
    try:
        until = datetime.fromisoformat(str((chaos or {}).get("until")))
    except ValueError:
        return 0
    return max(1, round((until - now).total_seconds())) if chaos and chaos.get("on") else 0


async def _whole(api: ConsoleApi, asked: str) -> str:
    """Return the id of the one order that ends so; anything else as it was asked for."""
    plain = asked.removeprefix("…").strip().lower()
    if is_order(plain) or not reads.TAIL.fullmatch(plain):
        return plain if is_order(plain) else asked
    hits = [hit for hit in await api.read(reads.found, plain) if hit["kind"] == "order"]
    return hits[0]["link"].rpartition("/")[2] if len(hits) == 1 else asked


def _text(request: Request, name: str) -> str | None:
    value = request.query_params.get(name, "").strip().replace("\0", "")
    return value[:512] or None


def _time(request: Request, name: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(_text(request, name) or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _next(request: Request, name: str, value: str) -> str:
    return f"{request.url.path}?{urlencode({**request.query_params, name: value})}"
