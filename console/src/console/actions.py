"""Actions: what a person may do from a page, by name; each is one write of the service that owns it, and a command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias
from uuid import uuid4

from starlette.exceptions import HTTPException

from console import processes, reads, repairs
from console.asks import Ask, FormField, Given, command, identity, number, one_of, outcome_of, why_of, wrong
from console.console_api import ConsoleApi
from console.neighbours import Call
from console.sessions import Outcome

Action: TypeAlias = Callable[[ConsoleApi, Given], Awaitable[Ask]]
ACTIONS: dict[str, Action] = {}
PARTICIPANTS = ("payment", "inventory")
WAYS = (("EXTERNAL", "it was undone elsewhere"), ("WRITTEN_OFF", "it never will be: written off"))
LET_IN = "Let it in although the inbox cannot tell whether it had its effect already"
LIMIT_MOST = 10_000
CHAOS = (
    ("errors", "Share of calls that fail (0 to 1)", "0.2", 1.0),
    ("timeouts", "Share whose answer is lost (0 to 1)", "0.02", 1.0),
    ("latency", "Seconds before each call", "0", 60.0),
    ("mail_errors", "Share of mails put off (0 to 1)", "0", 1.0),
    ("seconds", "How long, in seconds", "60", 3600.0),
)
TEST_ORDER = {"customer_id": "cust_demo", "payment_token": "tok_ok", "currency": "EUR",
              "lines": [{"sku": "SKU-TEA", "quantity": 1, "unit_price_minor": 1250}]}  # fmt: skip


def action(name: str) -> Callable[[Action], Action]:
    """Register an action by its name in addresses."""

    def register(made: Action) -> Action:
        ACTIONS[name] = made
        return made

    return register


def workers(api: ConsoleApi) -> tuple[str, ...]:
    """Return the services whose worker is watched."""
    return tuple(name.removesuffix("-worker") for name in api.neighbours.ops if name.endswith("-worker"))


@action("redrive")
async def redrive(api: ConsoleApi, given: Given) -> Ask:
    """One parked input goes through its handler again."""
    service, which, old = one_of(given, "service", workers(api)), identity(given, "id"), given.get("accept_old") == "on"
    too_old = given.get("error_class") == "BELOW_FLOOR"
    let_in = FormField("accept_old", LET_IN, kind="check", required=False)
    return Ask(
        f"Redrive input …{which[-4:]} at {service}",
        "It goes through its handler once more, now. If it goes through, what waits behind it goes on by itself; if it "
        "fails again it stays parked, with the error of this try.",
        "Redrive it",
        command("parked", "redrive", which, service=service, accept_old=old, reason=why_of(given)),
        Call(f"{service}-worker", "/ops/parked/redrive", {"id": which, **({"accept_old": True} if old else {})}),
        lambda told: _became(service, told),
        (let_in,) if too_old else (),
        {"service": service, "id": which, **({"error_class": "BELOW_FLOOR"} if too_old else {})},
        await _record(api, service, which),
    )


@action("discard")
async def discard(api: ConsoleApi, given: Given) -> Ask:
    """One parked input is dropped."""
    service, which = one_of(given, "service", workers(api)), identity(given, "id")
    return Ask(
        f"Discard input …{which[-4:]} at {service}",
        "It is dropped: its handler will never see it, and what waits behind it goes on. A redrive puts it back.",
        "Discard it",
        command("parked", "discard", which, service=service, reason=why_of(given)),
        Call(f"{service}-worker", "/ops/parked/discard", {"id": which}),
        lambda told: _became(service, told),
        kept={"service": service, "id": which},
        lines=await _record(api, service, which),
    )


@action("redrive-many")
async def redrive_many(api: ConsoleApi, given: Given) -> Ask:
    """Many parked inputs that fail alike go through their handler again."""
    return await _many(api, given, "redrive")


@action("discard-many")
async def discard_many(api: ConsoleApi, given: Given) -> Ask:
    """Many parked inputs that fail alike are dropped."""
    return await _many(api, given, "discard")


async def _many(api: ConsoleApi, given: Given, verb: str) -> Ask:
    """Look what would be done and freeze it; the form gives the selection back, and it alone is done."""
    service = one_of(given, "service", workers(api))
    limit = int(number(given, "limit", 0, 0, LIMIT_MOST))
    rate, stop_at = number(given, "rate", 20, 0.01, 1000), int(number(given, "stop_at", 20, 1, 100))
    chosen = {name: given[name] for name in ("group", "type", "error_class") if given.get(name)}
    if given.get("error") and "group" not in chosen:
        chosen |= await _group(api, service, given)
    if not chosen:
        wrong("Which inputs are meant is not said: a group, a type or an error.")
    body: dict[str, object] = {**chosen, "limit": limit}
    mark = given.get("selection", "")
    again = f"/ask/{verb}-many"
    what = ""
    lines: tuple[tuple[str, str], ...] = ()
    if not mark:
        mark, what, lines = await _selected(api, service, verb, body)
    line = command("parked", verb, service=service, **chosen, limit=limit or "", rate=f"{rate:g}", stop_at=stop_at,
                   selection=mark, reason=why_of(given), yes=True)  # fmt: skip
    call = Call(f"{service}-worker", f"/ops/parked/{verb}",
                {**body, "rate": rate, "stop_at": stop_at, "selection": mark})  # fmt: skip
    return Ask(
        f"{verb.capitalize()} {limit or 'all'} of a group at {service}", what, f"{verb.capitalize()} exactly these",
        line, call if mark else None, lambda told: _begun(service, verb, told),
        (FormField("rate", "So many a second", f"{rate:g}", "number"),
         FormField("stop_at", "Stop when so many per cent have failed", str(stop_at), "number")),
        {"service": service, **chosen, "limit": str(limit), "selection": mark}, lines, again=again,
    )  # fmt: skip


async def _group(api: ConsoleApi, service: str, given: Given) -> dict[str, str]:
    """Return the group whose error an event told of, as its service names it; nothing if it cannot say which."""
    told = await api.neighbours.ask(
        api.neighbours.ops.get(f"{service}-worker"), "/ops/parked", error_class=given.get("error_class", "")
    )
    groups = [one for one in (told or {}).get("groups", ()) if one.get("error") == given["error"]]
    found = {one["group"] for one in groups if given.get("type") in ("", None, one.get("type"))}
    return {"group": str(found.pop())} if len(found) == 1 else {}


async def _selected(
    api: ConsoleApi, service: str, verb: str, body: Mapping[str, object]
) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    """Return the mark of what is selected now, in words what would be done, and what there is to look at."""
    asking = {**body, "dry_run": True, "reason": "looked at from the console"}
    reply = await api.neighbours.send(Call(f"{service}-worker", f"/ops/parked/{verb}", asking))
    if reply.status != 200:  # noqa: PLR2004 - HTTP
        nothing = Ask("", "", "", "", Call(f"{service}-worker", ""), lambda _: Outcome("bad", ""))
        return "", f"What would be done cannot be told. {outcome_of(nothing, reply).said}", ()
    told = reply.body
    records = told.get("records", 0)
    if not records:
        return "", f"{service} has none of these parked any more: there is nothing to {verb}.", ()
    ids = ", ".join(f"…{str(one)[-4:]}" for one in told.get("ids", ()))
    lines = (
        ("inputs", f"{records}, the oldest first, frozen as selection {told['selection']}"),
        ("orders", f"{told.get('keys', 0)}"), ("behind them", f"{told.get('behind', 0)} wait and go on by themselves"),
        ("they are", ids + (" …" if records > len(told.get("ids", ())) else "")),
    )  # fmt: skip
    fate = "go through their handler again" if verb == "redrive" else "are dropped"
    what = (
        f"{records} inputs {fate}, one by one, as an operation that can be paused. If they have changed by then it is \
refused."
    )
    return str(told["selection"]), what, lines


async def _record(api: ConsoleApi, service: str, which: str) -> tuple[tuple[str, str], ...]:
    """Return what its service tells of a parked input now."""
    told = await api.neighbours.ask(api.neighbours.ops.get(f"{service}-worker"), f"/ops/parked/{which}")
    if not isinstance(told, dict) or not isinstance(record := told.get("record"), dict):
        return (("now", f"{service} tells nothing of it: its worker is away, or it is not parked there"),)
    state = f"{record.get('state')}, {record.get('attempts')} tries"
    if record.get("ended_by"):
        state += f"; by {record['ended_by']}: {record.get('reason')}"
    frames = record.get("frames") or [""]
    lines = (
        ("order", record.get("order_id")), ("event", record.get("type")), ("state", state),
        ("error", f"{record.get('error_class')}: {record.get('error')}"), ("at", frames[-1]),
        ("place", record.get("place")), ("behind it", record.get("behind")),
    )  # fmt: skip
    return tuple((name, str(value)) for name, value in lines if value not in ("", None))


def _became(service: str, told: Mapping[str, Any]) -> Outcome:
    results = [one for one in told.get("results", ()) if isinstance(one, Mapping)]
    said, level = [], "good"
    for one in results:
        what = f"{one.get('type') or 'the input'} of order …{str(one.get('order_id'))[-4:]}"
        match one.get("outcome"):
            case "DONE":
                said.append(f"{what} went through")
            case "SEEN":
                said.append(f"{what} had its effect already: nothing happened twice")
            case "DISCARDED":
                said.append(f"{what} is discarded")
            case _:
                level = "bad"
                said.append(f"{what} failed again and stays parked: {one.get('error_class')}: {one.get('error')}")
        if went_on := one.get("went_on"):
            said.append(f"{went_on} that waited behind it went on")
        if stopped := one.get("stopped_at"):
            level = "bad"
            said.append(f"then input …{str(stopped)[-4:]} failed")
        said.append(f"audit row {one.get('audit_number')}")
    return Outcome(level, f"{service}: {'; '.join(said) or 'nothing of it is parked there'}.")


def _begun(service: str, verb: str, told: Mapping[str, Any]) -> Outcome:
    operation = str(told.get("operation_id"))
    said = f"{service}: the {verb} of {told.get('records')} inputs has begun, as operation …{operation[-4:]}."
    return Outcome("going", said, f"quadrille operations show {operation}", "/operations")


@action("cancel")
async def cancel(api: ConsoleApi, given: Given) -> Ask:
    """An order is cancelled by an operator, as it was when the page was read."""
    order = identity(given, "order")
    version = given.get("version", "")
    if not version.isdecimal():
        known = await api.neighbours.version(order)
        version = "" if known is None else str(known)
    tail = f"…{order[-4:]}"
    what = "It is undone: what was taken goes back, what is held is released, and the customer is told."
    if not version:
        what = "Order does not tell how it stands now, so it cannot be cancelled from here."
    body: dict[str, object] = {"version": int(version)} if version else {}
    return Ask(
        f"Cancel order {tail}", what, "Cancel the order",
        command("orders", "cancel", order, operator=True, reason=why_of(given)),
        Call("order-api", f"/ops/orders/{order}/cancel", body) if version else None,
        lambda told: _answered("order", told), kept={"order": order, "version": version}, again="/ask/cancel",
    )  # fmt: skip


@action("retry-undo")
async def retry_undo(api: ConsoleApi, given: Given) -> Ask:
    """An undo that failed is tried again, at the participant that owes it."""
    order, who = identity(given, "order"), one_of(given, "participant", PARTICIPANTS)
    return Ask(
        f"Try the undo of order …{order[-4:]} again at {who}",
        f"{who} tries again what it could not undo. Do it when the cause is gone.", "Try again",
        command("resolve", order, participant=who, retry=True, reason=why_of(given)),
        await _unless_held(api, order, Call(f"{who}-worker", f"/ops/orders/{order}/retry-compensation")),
        lambda told: _answered(who, told), kept={"order": order, "participant": who},
    )  # fmt: skip


@action("resolve")
async def resolve(api: ConsoleApi, given: Given) -> Ask:
    """An undo that failed is ended by a person, with what proves it."""
    order, who = identity(given, "order"), one_of(given, "participant", PARTICIPANTS)
    how, evidence = given.get("how", ""), given.get("evidence", "").strip()
    call = Call(f"{who}-worker", f"/ops/orders/{order}/resolve", {"how": how, "evidence": evidence})
    return Ask(
        f"End the undo of order …{order[-4:]} by hand at {who}",
        f"{who} takes it as undone, for ever, by what you say. Only what has its answer can be ended by hand.",
        "End it",
        command("resolve", order, participant=who, how=how or "EXTERNAL", evidence=evidence or "…",
                reason=why_of(given)),
        await _unless_held(api, order, call), lambda told: _answered(who, told),
        (FormField("how", "How", how, choices=WAYS),
         FormField("evidence", "What proves it: a receipt, a ticket", evidence)),
        {"order": order, "participant": who},
    )  # fmt: skip


async def _unless_held(api: ConsoleApi, order: str, call: Call) -> Call:
    """Return the call; refuses while order itself holds something parked, and would not hear of it."""
    if held := await api.neighbours.held(order):
        raise HTTPException(409, f"PARKED_HERE: {held.sentence}. Nothing was done. First: {held.command}")
    return call


def _answered(who: str, told: Mapping[str, Any]) -> Outcome:
    level = "good" if told.get("outcome") in ("DONE", "ALREADY") else "going"
    said = f"{who}: {told.get('outcome')}. {told.get('detail')} (audit row {told.get('audit_number')})"
    return Outcome(level, said)


NO_REPAIR = {"GONE": "It is so no more: it closes itself with a later round.", "MOVING": "Its order is under way: "}


@action("repair")
async def repair(api: ConsoleApi, given: Given) -> Ask:
    """What the services do not agree about is mended: one of them hears again what had no effect on it."""
    which = identity(given, "finding")
    row = await api.read(reads.finding, which)
    if row is None:
        raise HTTPException(404, f"No finding {which} is kept. Nothing was done.")
    looked, order = await repairs.look(api, row), str(row["order_id"])
    call = looked.repair
    service = str(call["process"]).removesuffix("-worker") if call else ""
    what = f"{service} hears {row['event']} again, under a new id: it goes through its handler like any input."
    if call is None:
        what = f"It is not repaired from here. {NO_REPAIR.get(looked.now, '')}{looked.why}"

    def tell(told: Mapping[str, Any]) -> Outcome:
        said = f", and said {', '.join(told['said'])}" if told.get("said") else ""
        row = f"(audit row {told.get('audit_number')})"
        return Outcome("good", f"{service} has heard {told.get('event')} of …{order[-4:]} again{said} {row}.")

    return Ask(
        f"Repair {row['kind'].replace('-', ' ')} of order …{order[-4:]}", what, "Repair it",
        command("findings", "repair", which, reason=why_of(given)),
        Call(call["process"], call["path"], call["body"]) if call else None, tell, kept={"finding": which},
        lines=(("expected", row["expected"]), ("found", row["found"])), again=f"/findings/{which}",
    )  # fmt: skip


@action("intake")
async def intake(_: ConsoleApi, given: Given) -> Ask:
    """New orders are taken no more for a while, or again."""
    verb = one_of(given, "verb", ("pause", "resume"))
    what = {
        "pause": "New orders are refused with 503 until somebody resumes; what is under way goes on.",
        "resume": "New orders are taken again, unless the disk guard holds: then when there is room.",
    }[verb]
    states = {"OPEN": "open", "PAUSED": "shut"}

    def tell(told: Mapping[str, Any]) -> Outcome:
        now, before = (str(told.get(name)) for name in ("intake", "before"))
        word = states.get(now, now)
        if told.get("here", now) != now:
            return Outcome("going", f"order: noted as {word}; its api does not act by it yet.", "quadrille intake show")
        if now == "GUARDED":
            return Outcome("warn", "order: resumed, and the disk is filling: it opens by itself when there is room.")
        if now == before:
            return Outcome("warn", f"order: the intake was {word} already: nothing has changed.")
        return Outcome("good", f"order: the intake is {word} now, it was {states.get(before, before.lower())} before.")

    title = {"pause": "Shut the intake", "resume": "Open the intake"}[verb]
    call = Call("order-api", f"/ops/intake/{verb}")
    return Ask(title, what, title, command("intake", verb, reason=why_of(given)), call, tell, kept={"verb": verb})


@action("consumer")
async def consumer(api: ConsoleApi, given: Given) -> Ask:
    """A service's consumers rest, or go on."""
    service, verb = one_of(given, "service", workers(api)), one_of(given, "verb", ("pause", "resume"))
    what = {
        "pause": f"The workers of {service} take no more events; they stay where they are, and nothing is lost.",
        "resume": f"The workers of {service} go on where they were, whatever had paused them.",
    }[verb]
    path = f"/ops/consumers/{verb}"
    url = api.neighbours.ops[f"{service}-worker"] + path

    def tell(told: Mapping[str, Any]) -> Outcome:
        now = "rest now" if told.get("paused") else "go on"
        if not told.get("changed"):
            return Outcome("warn", f"{service}: its consumers did so already: nothing has changed.")
        if told.get("here") == ("RUNNING" if told.get("paused") else "PAUSED"):
            return Outcome("going", f"{service}: noted; its worker does not act by it yet.", link="/processes")
        return Outcome("good", f"{service}: its consumers {now}.")

    line = f"""curl -X POST {url} -H 'Content-Type: application/json' -d '{{"reason": "{WHY_IN_JSON}"}}'"""
    return Ask(f"{verb.capitalize()} the consumers of {service}", what, f"{verb.capitalize()} them", line,
               Call(f"{service}-worker", path), tell, kept={"service": service, "verb": verb})  # fmt: skip


WHY_IN_JSON = "…"


@action("restart")
async def restart(api: ConsoleApi, given: Given) -> Ask:
    """A process of the local stack is ended and started again."""
    name, stack = one_of(given, "process", tuple(api.told.ops)), api.told.stack
    what = (
        "It ends what it has in hand, stops, and starts with the code and the settings of now; others go on meanwhile."
    )
    line = command("restart", name)
    if stack is None:
        what = "This console runs beside no local stack: it cannot start a process again. The command below does it."
        line = processes.elsewhere(name)["restart"]

    def tell(told: Mapping[str, Any]) -> Outcome:
        row = f"(audit row {told.get('audit_number')})"
        if told.get("outcome") != "DONE":
            return Outcome(
                "going", f"{name} is being started again: look at it in a moment {row}.", link=f"/processes/{name}"
            )
        return Outcome("good", f"{name} was started again, and is ready {row}.")

    call = Call("console-all", f"/ops/processes/{name}/restart") if stack else None
    return Ask(f"Restart {name}", what, "Restart it", line, call, tell, kept={"process": name})


@action("operation")
async def operation(api: ConsoleApi, given: Given) -> Ask:
    """A long action is paused, resumed or cancelled."""
    service, which = one_of(given, "service", (*workers(api), "console")), identity(given, "id")
    verb = one_of(given, "verb", ("pause", "resume", "cancel"))
    what = {
        "pause": "It stops after what it does just now, and can be resumed exactly there.",
        "resume": "It goes on with the next one.",
        "cancel": "It stops for good; what it has done stays done.",
    }[verb]
    process = "console-all" if service == "console" else f"{service}-worker"

    def tell(told: Mapping[str, Any]) -> Outcome:
        return Outcome("good", f"{service}: operation …{which[-4:]} is {str(told.get('state')).lower()} now.")

    return Ask(
        f"{verb.capitalize()} operation …{which[-4:]} of {service}", what, f"{verb.capitalize()} it",
        command("operations", verb, which, reason=why_of(given)),
        Call(process, f"/ops/operations/{which}/{verb}"), tell, kept={"service": service, "id": which, "verb": verb},
    )  # fmt: skip


@action("chaos")
async def chaos(api: ConsoleApi, given: Given) -> Ask:
    """Trouble begins in the sandbox, with an end."""
    _sandbox(api)
    plan = {name: number(given, name, float(usual), 0, most) for name, _, usual, most in CHAOS}
    sent = " ".join(f'"{name}": {value:g},' for name, value in plan.items()).rstrip(",")
    return Ask(
        "Begin chaos in the sandbox",
        "Calls of the processor and mails fail as said, until its end. All orders must end rightly nevertheless.",
        "Begin",
        f"curl -X PUT {api.neighbours.apis['sandbox']}/chaos -d '{{{sent}}}'",
        Call("sandbox", "/chaos", plan, "PUT", api=True), _chaotic,
        tuple(FormField(name, label, f"{plan[name]:g}", "number") for name, label, _, _ in CHAOS), reason=False,
    )  # fmt: skip


@action("calm")
async def calm(api: ConsoleApi, _: Given) -> Ask:
    """Trouble in the sandbox ends now."""
    _sandbox(api)
    return Ask(
        "End chaos in the sandbox", "Everything outside works again at once.", "End it",
        f"curl -X DELETE {api.neighbours.apis['sandbox']}/chaos",
        Call("sandbox", "/chaos", method="DELETE", api=True), _chaotic, reason=False,
    )  # fmt: skip


def _chaotic(told: Mapping[str, Any]) -> Outcome:
    if told.get("on"):
        return Outcome("going", f"sandbox: chaos has begun, until {str(told.get('until'))[11:19]} UTC.")
    return Outcome("good", "sandbox: there is no chaos now.")


@action("place")
async def place(api: ConsoleApi, given: Given) -> Ask:
    """A test order is placed, where the sandbox pays."""
    _sandbox(api)
    key = given.get("key", "") or f"console-{uuid4()}"

    def tell(told: Mapping[str, Any]) -> Outcome:
        order = str(told.get("order_id"))
        return Outcome("going", f"order: …{order[-4:]} is placed.", f"quadrille why {order}", f"/orders/{order}")

    return Ask(
        "Place a test order",
        "One SKU-TEA for 12.50 EUR, paid with tok_ok: the sandbox takes no real money. With none in stock it ends so.",
        "Place it", "quadrille orders place",
        Call("order", "/v1/orders", TEST_ORDER, headers={"Idempotency-Key": key[:255]}, api=True), tell,
        kept={"key": key}, reason=False,
    )  # fmt: skip


def _sandbox(api: ConsoleApi) -> None:
    if "sandbox" not in api.neighbours.apis:
        raise HTTPException(404, "No sandbox is set here: QUADRILLE_APIS names none.")
