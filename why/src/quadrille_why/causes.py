"""Causes: where what an order waits for is held, looked for in the order of truth: whoever waits is asked first.

Parked here? Read and not handled? In the broker, unread? In the outbox, unpublished? Under way outside? Said at all?
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from quadrille_why.answer import Line
from quadrille_why.case import SERVICES, Case, Document, Link
from quadrille_why.words import clock, length, moment, money, times

UP = "quadrille up --detach"
ON = "then it goes on by itself"
REASON = "--reason '…'"
JUST_SAID = timedelta(seconds=10)  # until then the relay and the reader have had no time to be late
CLOSED = "CLOSED"
ERROR_MOST = 120
UNREACHED = ("connection", "gaierror", "unreachable", "circuitopen")  # kinds of failure that mean nobody is there
EFFECTS = {
    "charge_card": "the charge", "inquire_charge": "the charge", "refund_card": "the refund",
    "inquire_refund": "the refund", "send_mail": "the mail",
}  # fmt: skip
OUTSIDE = {"payment": "the card processor", "notification": "the mail server"}


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something does not go on: the kind, who holds it, in words, with evidence, and the way out."""

    code: str
    who: str
    text: str
    lines: tuple[Line, ...] = ()
    command: str = ""
    then: str = ""


def causes(case: Case) -> Iterator[Cause]:
    """Yield what holds an order up, the first being what it waits for now."""
    links, look = list(case.links()), case.look("order")
    yield from held_at(case, "order", links)
    owners = list(dict.fromkeys(one["owes"] for one in look["owed"]))
    failed = [Cause(*one) for one in _failed(case, look)]
    yield from failed
    for owner in owners:
        yield from held_at(case, owner, links)
        yield from doing(case, owner)
    for other in ("inventory", "payment"):
        if other not in owners:
            yield from held_at(case, other, links)
    for one in look["owed"]:
        yield _unsaid(case, one["owes"], one["fact"])


def held_at(case: Case, service: str, links: Sequence[Link]) -> Iterator[Cause]:
    """Yield what a service holds itself, or has not got: parked, kept back, unread, not published to it."""
    if parked := case.parked(service):
        yield _parked(case, service, parked)
    mine = [link for link in links if link.hearer == service]
    for link in mine:
        if link.place == "DISCARDED" and _matters(case, link):
            yield _discarded(case, link)
    for link in mine:
        if link.place == "UNREAD":
            yield _unread(case, link)
        elif link.place == "UNPUBLISHED":
            yield _unpublished(case, link)


def doing(case: Case, service: str) -> Iterator[Cause]:
    """Yield what a service has under way outside: an intent with its tries."""
    if intents := case.intents(service):
        if case.worker_away(service):
            yield _worker_gone(case, service, f"its {intents[0]['type']} waits")
        else:
            yield _under_way(case, service, intents[0])


def _matters(case: Case, link: Link) -> bool:
    """Tell whether a discarded event is still waited for; of participants nobody can say, so it is told."""
    owed = [one["fact"] for one in case.look("order").get("owed", ())]
    return link.hearer != "order" or link.type in owed


def place_of(row: Document) -> str:
    """Return where a parked record came from: payment.events[5]@21."""
    return f"{row['topic']}[{row['partition']}]@{row['offset']}" if row["topic"] else "an answer of the outside"


def _parked(case: Case, service: str, rows: Sequence[Document]) -> Cause:
    head = rows[0]
    behind = [row for row in rows[1:] if row["line"] == head["line"]]
    wanted = [one["fact"] for one in case.look("order").get("owed", ())]
    kept = next((row for row in (head, *behind) if row["type"] in wanted), behind[0] if behind else head)
    code, what = _blame(head)
    named = f"{kept['type']}{_worth(case, str(kept['type']))}"
    if kept is not head:
        code, text = "BEHIND", f"{named} is parked behind {_head_in_words(head)}"
    elif code == "UNREADABLE":
        text = f"{what} is parked, and nothing of this order goes past it"
    else:
        text = f"{named} is parked: {what}"
    headers = "no headers" if not head["headers"] else f"{len(head['headers'])} headers"
    told = f"{service}: {place_of(head)}, {head['bytes']} bytes, {headers}, {head['error_class']} since "
    told += f"{clock(head['parked_at'], case.now)}, {times(head['attempts'])}, {_next(head, case)}"
    lines = [Line("parked", told), *_raised(head)]
    if behind:
        lines.append(Line("behind", ", ".join(f"{row['type']} {place_of(row)}" for row in behind[:4]),
                          f"and {len(behind) - 4} more" if len(behind) > 4 else ""))  # fmt: skip # noqa: PLR2004 - a line
    others = _elsewhere(case, service, head)
    lines += [Line("also", f"{other} holds the same record: the command is for both") for other in others]
    return Cause(code, service, text, tuple(lines), *_way_out("" if others else service, head))


def _elsewhere(case: Case, service: str, head: Document) -> list[str]:
    """Return who else holds the same record: all who hear its topic got it."""
    return [
        other for other in SERVICES if other != service and any(row["id"] == head["id"] for row in case.parked(other))
    ]


def _blame(head: Document) -> tuple[str, str]:
    """Return the kind of trouble a parked head has, and in words."""
    raised = head.get("exception") or str(head["error"]).partition(" ")[0]
    match head["error_class"]:
        case "UNDECODABLE":
            return "UNREADABLE", _head_in_words(head)
        case "HANDLER":
            return "HANDLER_RAISED", f"its handler raised {raised}{_where(head)}"
        case "CAUSALITY":
            return "CAUSALITY", "it came before what it refers to"
        case "BELOW_FLOOR":
            return "TOO_OLD", "it is older than the inbox can tell"
        case "CONTRADICTS":
            return "CONTRADICTS", f"its service {head['error']}"
        case other:
            return str(other), str(head["error"])


def _head_in_words(head: Document) -> str:
    if head["error_class"] != "UNDECODABLE":
        return f"{head['type']}: {_blame(head)[1]}"
    return "an unreadable record" if head["type"] in (None, "", "unknown") else f"a {head['type']} that cannot be read"


def _where(head: Document) -> str:
    """Return the innermost frame in a service's own code; the innermost of all where none is."""
    frames = [line.strip() for line in str(head.get("frames") or "").splitlines() if line.strip()]
    own = [line for line in frames if line.partition("/")[0] in SERVICES]
    return f" in {(own or frames)[-1]}" if frames else ""


def _raised(head: Document) -> Iterator[Line]:
    """Yield the error as it was kept; the innermost frames below it."""
    error = str(head["error"])
    error = error if len(error) <= ERROR_MOST else f"{error[:ERROR_MOST]}…"
    yield Line("error", error, f"fingerprint {head['fingerprint']}" if head.get("fingerprint") else "")
    for frame in str(head.get("frames") or "").splitlines()[-3:]:
        yield Line("", frame.strip())


def _next(head: Document, case: Case) -> str:
    if head["state"] == "DEAD":
        return "next never (dead)"
    return f"next {clock(head['retry_at'], case.now)}" if head["retry_at"] else "next when its worker starts"


def _way_out(service: str, head: Document) -> tuple[str, str]:
    words = f"--service {service} {head['id']}" if service else str(head["id"])
    match head["error_class"]:
        case "UNDECODABLE":
            return f"quadrille parked discard {words} {REASON}", ON
        case "BELOW_FLOOR":
            return f"quadrille parked redrive {words} --accept-old {REASON}", ON
        case "HANDLER":
            return f"quadrille parked redrive {words} {REASON}", "once its handler is mended"
        case _:
            return f"quadrille parked redrive {words} {REASON}", ON


def _worth(case: Case, kind: str) -> str:
    """Return what an event is about in money, where that is known: (25.00 EUR taken 21:42:19)."""
    wanted = {"payment.charged": ("CAPTURE", "taken"), "payment.refunded": ("VOID REFUND", "given back")}.get(kind)
    for entry in case.look("payment").get("entries", ()) if wanted else ():
        if wanted and entry["kind"] in wanted[0].split():
            amount = money(entry["amount_minor"], entry["currency"])
            return f" ({amount} {wanted[1]} {clock(entry['at'], case.now)})"
    return ""


def _discarded(case: Case, link: Link) -> Cause:
    row = link.row or {}
    by = f"by {row.get('ended_by') or 'somebody'}" + (f": {row['reason']}" if row.get("reason") else "")
    gone = Line("discarded", f"{link.hearer}: {place_of(row)}, {row.get('error_class')}, {by}")
    again = (
        f"quadrille replay --topic {link.fact['topic']} --order {case.order_id} --event {link.fact['id']} "
        f"--from beginning --service {link.hearer}"
    )
    for one in case.found[link.hearer]["withheld"]:
        meant = not one["events"] or link.fact["id"] in one["events"]
        if one["topic"] == link.fact["topic"] and meant and link.type in one["types"]:
            effects = ", ".join(sorted(one["kept_back"])) or "an effect"
            text = f"{link.type} was discarded, and a replay kept it back: it leads to {effects}"
            lines = gone, Line("withheld", f"replay {one['operation_id']} by {one['actor']}: {one['reason']}")
            opened = f"then its plan with --into live --allow-effects {','.join(sorted(one['kept_back']))} --reason '…'"
            return Cause("REPLAY_WITHHELD", link.hearer, text, lines, again, opened)
    text = f"{link.type} was discarded {by}"
    return Cause("DISCARDED", link.hearer, text, (gone,), again, "then its plan with --into live")


def _unread(case: Case, link: Link) -> Cause:
    named = f"{link.type}{_worth(case, link.type)}"
    said = Line("said", f"{link.source}: {link.type} at {clock(link.fact['at'], case.now)}, published, not read")
    if case.broker_away and not case.worker_away(link.hearer):
        return _broker_away(case, link, f"{named} is published, and {link.hearer} cannot read it")
    if case.worker_away(link.hearer):
        gone = _worker_gone(case, link.hearer, f"{named} lies in the broker, unread")
        return Cause(gone.code, gone.who, gone.text, (said, *gone.lines), gone.command, gone.then)
    doc = case.found[link.hearer]
    read = next((one for one in doc["unread"] if one["topic"] == link.fact["topic"]), None)
    at = f"{read['topic']}[{read['partition']}]: at {read['next_offset']} of {read['end']}" if read else "?"
    lines = said, Line("read", f"{link.hearer}: {at}")
    if read and read["end"] is not None and read["next_offset"] == read["end"] and _old(case, link):
        again = f"quadrille replay --topic {link.fact['topic']} --order {case.order_id} --from beginning"
        text = f"{named} was read past, and is neither handled nor parked"
        return Cause("READ_PAST", link.hearer, text, lines, f"{again} --service {link.hearer}", "then its plan, live")
    if paused := doc.get("paused"):
        rests = Line("paused", f"{link.hearer}: since {clock(paused['since_at'], case.now)}, {paused['cause']}")
        text = f"{named} lies in the broker, unread: {link.hearer}'s consumers are paused"
        return Cause("CONSUMER_PAUSED", link.hearer, text, (*lines, rests),
                     f"quadrille consumers resume {link.hearer} {REASON}", ON)  # fmt: skip
    if stalled := doc["stalled"]:
        detail = Line("stalled", f"since {clock(stalled['since_at'], case.now)}: {stalled['detail']}")
        return Cause("STALLED", link.hearer, f"{named} lies in the broker, unread: it stands still", (*lines, detail),
                     "quadrille status")  # fmt: skip
    return Cause("IN_BROKER", link.hearer, f"{named} lies in the broker, not read yet", lines, "", "it is being read")


def _old(case: Case, link: Link) -> bool:
    return moment(link.fact["at"]) < case.now - JUST_SAID


def _unpublished(case: Case, link: Link) -> Cause:
    since = clock(link.fact["at"], case.now)
    waits = f"{link.type}{_worth(case, link.type)} waits in {link.source}'s outbox"
    if case.broker_away:
        return _broker_away(case, link, waits)
    relay = case.found[link.source]["relay"] or {}
    said = Line("outbox", f"{link.source}: {link.type} said {since}, unpublished")
    if away := case.relay_away(link.source):
        lines = said, Line("relay", f"{link.source}-relay: {away}", _published(relay, case))
        return Cause("RELAY_WAITING", link.source, f"{waits}: its relay is gone", lines, UP, ON)
    checks = case.relays.get(link.source, {}).get("checks", {})
    why = relay.get("stopped") or next((str(one["reason"]) for one in checks.values() if not one["ok"]), "")
    lines = said, Line("relay", f"{link.source}-relay: {why or 'ready'}", _published(relay, case))
    if not why:
        return Cause("RELAY_WAITING", link.source, f"{waits} for its relay", lines, "", "it is being published")
    return Cause("RELAY_WAITING", link.source, f"{waits}: {why}", lines, "quadrille status")


def _published(relay: Document, case: Case) -> str:
    return f"published up to {clock(relay.get('published_at'), case.now)}" if relay else "it never published anything"


def _broker_away(case: Case, link: Link, what: str) -> Cause:
    holder = link.source if link.place == "UNPUBLISHED" else link.hearer
    lines = (
        Line("broker", f"{case.broker_away}"),
        Line("said", f"{link.source}: {link.type} at {clock(link.fact['at'], case.now)}"),
    )
    return Cause("BROKER_AWAY", holder, f"Kafka does not answer: {what}", lines, UP, ON)


def _worker_gone(case: Case, service: str, what: str) -> Cause:
    since = case.silent_since(service)
    heard = f"silent since {clock(since, case.now)}" if since else ""
    line = Line("worker", f"{service}-worker: {case.worker_away(service)}", heard)
    return Cause("WORKER_GONE", service, f"its worker is gone: {what}", (line,), UP, ON)


def _under_way(case: Case, service: str, task: Document) -> Cause:
    """Return what an intent waits for: its answer, its next try, or an outside that is away."""
    effect = EFFECTS.get(str(task["type"]), str(task["type"]))
    pay = case.look("payment")
    worth = f" of {money(pay.get('amount_minor'), pay.get('currency'))}" if service == "payment" else ""
    line, tried = Line(effect.rpartition(" ")[2], _tries(case, service, task)), f"attempt {max(1, task['attempts'])}"
    breaker, then = case.found[service]["breaker"], "nothing to do: it is tried again by itself"
    refused = any(word in str((task.get("failure") or {}).get("kind", "")).lower() for word in UNREACHED)
    if service in OUTSIDE and (breaker not in (None, CLOSED) or refused):
        code = "PROCESSOR_AWAY" if service == "payment" else "OUTSIDE_AWAY"
        text = f"{OUTSIDE[service]} is away: {effect}{worth} is tried again, {tried}, {_due(case, task)}"
        return Cause(code, service, text, (line,), "", then)
    if pay.get("state") == "UNKNOWN" and service == "payment":
        text = f"nobody knows whether the card was charged: payment asks the processor, {tried}, {_due(case, task)}"
        return Cause("CHARGE_UNKNOWN", service, text, (line,), "", then)
    code = {"the charge": "CHARGE_IN_FLIGHT", "the refund": "REFUND_IN_FLIGHT"}.get(effect, "IN_FLIGHT")
    failed = f"; the last one failed: {_failure(task)}" if task["error_class"] else ""
    return Cause(code, service, f"{effect}{worth} is in flight, {tried}, {_due(case, task)}{failed}", (line,), "", then)


def _tries(case: Case, service: str, task: Document) -> str:
    failed = f"{task['error_class']} {_failure(task)}, " if task["error_class"] else ""
    breaker = case.found[service]["breaker"]
    guarded = f"; breaker {breaker}" if breaker else ""
    return f"{service}: {task['type']}, attempt {max(1, task['attempts'])}, {failed}{_due(case, task)}{guarded}"


def _failure(task: Document) -> str:
    """Return how the last try failed: what the outside's failure was and where, where that was kept."""
    told = task.get("failure") or {}
    words = str(told.get("phrase") or told.get("kind") or task["error"])
    return f"{words}, {told['address']}" if told.get("address") else words


def _due(case: Case, task: Document) -> str:
    leased = task["leased_until"]
    if leased == "infinity":
        return "its answer is parked"
    if leased and moment(leased) > case.now:
        return "under way now"
    return f"next try {clock(task['due'], case.now)}" if moment(task["due"]) > case.now else "due now"


def _failed(case: Case, look: Document) -> Iterator[tuple[str, str, str, tuple[Line, ...], str, str]]:
    """Yield undos that were refused or given up: a person decides."""
    if look["status"] != "COMPENSATION_FAILED":
        return
    for participant, error_class, code in look["failed"]:
        what = {"payment": "the refund", "inventory": "the release of the goods"}.get(participant, "its undo")
        text = f"{what} was refused ({code}): a person has to end it"
        line = Line("refused", f"{participant}: {error_class} {code}, since {clock(look['since_at'], case.now)}")
        command = (
            f"quadrille resolve {case.order_id} --participant {participant} --how EXTERNAL --evidence '…' {REASON}"
        )
        kind = "REFUND_REFUSED" if participant == "payment" else "RELEASE_REFUSED"
        yield kind, participant, text, (line,), command, "then it is CANCELLED"


def _unsaid(case: Case, owner: str, fact: str) -> Cause:
    """Return that what is owed was not said, and nothing is found that holds it up."""
    if owner not in case.found:
        why = case.worker_away(owner) or case.away.get(f"{owner}-api", "it does not answer")
        return Cause("SERVICE_AWAY", owner, f"it does not answer ({why}), and owes {fact}", (), UP, ON)
    if case.worker_away(owner):
        return _worker_gone(case, owner, f"it owes {fact}")
    age = length((case.now - moment(case.look("order")["since_at"])).total_seconds())
    return Cause("UNSAID", owner, f"{fact} is not said yet, and nothing is found that holds it up", (), "",
                 f"it is waited for since {age}")  # fmt: skip
