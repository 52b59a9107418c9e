"""Sentences: why an order waits, or how it ended, and its evidence: the one text that command line and console show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from quadrille_why.answer import Answer, Line
from quadrille_why.case import SERVICES, Case, Document
from quadrille_why.causes import REASON, Cause, causes, doing, held_at
from quadrille_why.words import clock, length, moment, money, short

GOODS = {
    "RESERVED": "held", "COMMITTED": "committed", "REJECTED": "not in stock", "RELEASED": "given back",
    "RELEASE_FAILED": "cannot be given back", "RESOLVED": "ended by a person",
}  # fmt: skip
AWAITS = {"PENDING": "inventory", "INVENTORY_RESERVED": "payment"}
NOTHING = "nothing to do: it goes on by itself"


def explain(case: Case) -> Answer:
    """Return why an order waits, or how it ended, as the services told it."""
    look = case.look("order")
    if not look:
        return _unknown(case)
    over = bool(look["final"] and not look["owed"])
    if over:
        cause = next(_leftovers(case), None)
        code, sentence = _over(case, look, cause)
    else:
        cause = next(causes(case), None) or Cause("UNSAID", "order", "nothing is found that holds it up")
        code, sentence = cause.code, _waiting(case, look, cause)
    return Answer(
        case.order_id, code, sentence, cause.who if cause else None,
        tuple(_lines(case, look, cause, over=over)), cause.command if cause else "", cause.then if cause else "",
        str(look["since_at"]), str(look["trace_id"]), _missing(case), case.took_ms,
    )  # fmt: skip


def in_the_way(case: Case) -> Answer | None:
    """Return why nothing goes on at order, whatever is done elsewhere: what it holds parked, until a person acts.

    None where it holds nothing, or tries again by itself.
    """
    parked = [row for row in case.parked("order") if row["line"] == case.order_id]
    waits = parked and (parked[0]["state"] == "DEAD" or not parked[0]["retry_at"])
    return explain(case) if waits and case.look("order") else None


def _over(case: Case, look: Document, cause: Cause | None) -> tuple[str, str]:
    """Return how an order ended, and after it what somebody still waits for: a mail that bounced, a record parked."""
    code, ended = ended_as(case, look)
    sentence = f"{short(case.order_id)} is {look['status']}: {ended}"
    if look["resolved"]:
        sentence += f"; the undo was ended by a person ({look['resolved']})"
    if mail := _bounced(case):
        return "MAIL_BOUNCED", f"{sentence}; {mail}"
    return code, f"{sentence}; still at {_named(cause.who)}: {cause.text}" if cause else sentence


def _named(service: str) -> str:
    return "order itself" if service == "order" else service


def _waiting(case: Case, look: Document, cause: Cause) -> str:
    age = length(max(0.0, (case.now - moment(look["since_at"])).total_seconds()))
    return f"{short(case.order_id)} waits {age} for {_named(cause.who)}: {cause.text}"


def ended_as(case: Case, look: Document) -> tuple[str, str]:
    """Return the kind of end an order has, or is brought to, and how that came, in words."""
    reason, at = look["reason"], _decided(look, case)
    if reason is None:
        return str(look["status"]), f"{_took(look)} after it was placed" if look["final"] else "it goes on"
    short_of = [f"{sku} asked {asked}, available {there}" for sku, asked, there in look["shortages"]]
    told = {
        "OUT_OF_STOCK": f"out of stock: {', '.join(short_of)}",
        "PAYMENT_DECLINED": f"the card was declined ({look['code']})",
        "CONFIRMATION_REJECTED": f"its confirmation was rejected: {look['rule']}",
        "DEADLINE": f"it was not decided by its deadline, {clock(look['deadline_at'], case.now)}",
        "PARTICIPANT_AWAY": f"{_awaited(look)} was away, and orders that wait for it fail fast",
        "CUSTOMER": f"its customer cancelled it {at}",
        "OPERATOR": f"an operator cancelled it {at}{_by(case)}",
    }
    return str(reason), told.get(reason, str(reason))


def _by(case: Case) -> str:
    rows = [row for row in case.found["order"]["audit"] if row["action"] == "cancel" and row["outcome"] == "ACCEPTED"]
    return f": {rows[-1]['actor']}, '{rows[-1]['reason']}'" if rows else ""


def _decided(look: Document, case: Case) -> str:
    """Return when it was decided that an order is undone."""
    undone = [at for status, at, _ in look["history"] if status == "CANCELLING"]
    return clock(undone[0], case.now) if undone else ""


def _awaited(look: Document) -> str:
    """Return whom an order waited for when it was given up."""
    before = [AWAITS[status] for status, _, _ in look["history"] if status in AWAITS]
    return before[-1] if before else "a participant"


def _took(look: Document) -> str:
    return length((moment(look["history"][-1][1]) - moment(look["placed_at"])).total_seconds())


def _bounced(case: Case) -> str:
    failed = [one for one in case.look("notification").get("notices", ()) if one["state"] == "FAILED"]
    return f"its mail bounced: {failed[-1]['because']}" if failed else ""


def _leftovers(case: Case) -> Iterator[Cause]:
    """Yield what is still held of an order that is over: it changes nothing of its end, but somebody waits for it."""
    links = list(case.links())
    for service in SERVICES:
        yield from held_at(case, service, links)
    yield from doing(case, "notification")


def _unknown(case: Case) -> Answer:
    """Return what can be said of an order that order does not know, or does not answer about."""
    order, known = case.found.get("order"), [name for name in case.found if case.look(name)]
    missing, name = _missing(case), short(case.order_id)
    if order is None:
        why = case.worker_away("order") or "no answer"
        told = ", ".join(_knows(case, service) for service in known) or "the others know nothing of it"
        text = f"{name}: order does not answer ({why}), which alone knows where it stands; {told}"
        lines = (*_stock_and_money(case), Line("now", "quadrille up --detach"), *_missing_lines(case))
        return Answer(case.order_id, "ORDER_AWAY", text, "order", lines, "quadrille up --detach", "", None, None,
                      missing, case.took_ms)  # fmt: skip
    if "look" in order["missing"]:
        text = f"{name}: order cannot read its own row: {order['missing']['look']}"
        return Answer(case.order_id, "ROW_UNREADABLE", text, "order", missing=missing, took_ms=case.took_ms)
    intake = order["intake"] or {"state": "OPEN"}
    if intake["state"] != "OPEN":
        since = clock(intake["since_at"], case.now)
        why, command, then = _intake(intake)
        text = f"{name} was never taken here: order's intake is {intake['state']} since {since} ({why})"
        now = Line("now", command or then, then if command else "")
        lines = Line("intake", f"order: {intake['state']} since {since}"), now
        return Answer(case.order_id, "INTAKE_SHUT", text, "order", lines, command, then, None, None, missing,
                      case.took_ms)  # fmt: skip
    where = f", though {' and '.join(known)} heard of it" if known else ""
    text = f"{name} was never placed here{where}"
    return Answer(case.order_id, "UNKNOWN", text, None, tuple(_missing_lines(case)), missing=missing,
                  took_ms=case.took_ms)  # fmt: skip


def _intake(intake: Document) -> tuple[str, str, str]:
    """Return why no orders are taken, the command that ends it, if there is one, and what follows."""
    if intake["state"] == "PAUSED":
        return "an operator paused it", f"quadrille intake resume {REASON}", "then place it again"
    if intake["state"] == "GUARDED":
        then = "it opens by itself when there is room"
        return f"the disk is filling: {intake['detail']}", "quadrille relay status", then
    return "too many orders failed", "", "it opens by itself when orders end well again"


def _knows(case: Case, service: str) -> str:
    look = case.look(service)
    return f"{service} says {look['state']}" if "state" in look else f"{service} knows it"


def _lines(case: Case, look: Document, cause: Cause | None, *, over: bool) -> Iterator[Line]:
    if cause:
        yield from cause.lines
    if look["reason"] and not over:
        yield Line("cause", f"{look['reason']}: {ended_as(case, look)[1]}")
    yield from _stock_and_money(case)
    yield from _mails(case)
    yield _usually(case, look)
    if cause:
        yield Line("now", cause.command or cause.then or NOTHING, cause.then if cause.command else "")
    yield from _missing_lines(case)


def _stock_and_money(case: Case) -> Iterator[Line]:
    taken, goods = _money(case), _goods(case)
    if taken and goods:
        yield Line("money", taken, f"goods  {goods}")
    elif taken or goods:
        yield Line("money", taken) if taken else Line("goods", goods)


def _money(case: Case) -> str:
    pay = case.look("payment")
    if not pay:
        return "" if "payment" not in case.found else "nothing asked for yet"
    words = {"CAPTURE": "taken", "VOID": "given back", "REFUND": "given back"}
    moved = [f"{words.get(e['kind'], e['kind'])} {clock(e['at'], case.now)}" for e in pay["entries"]]
    amount = money(pay["amount_minor"], pay["currency"])
    state = {
        "NONE": "nothing taken", "CHARGING": f"{amount} being taken", "UNKNOWN": f"{amount}: nobody knows yet",
        "DECLINED": f"{amount} declined ({pay['code']})", "SKIPPED": "nothing taken",
        "REFUND_FAILED": f"not given back ({pay['code']})", "REFUNDING": "being given back",
        "RESOLVED": f"ended by a person ({pay['how']})",
    }.get(pay["state"], "")  # fmt: skip
    return ", ".join(part for part in (f"{amount} {', '.join(moved)}" if moved else "", state) if part)


def _goods(case: Case) -> str:
    hold = case.look("inventory")
    if not hold:
        return "" if "inventory" not in case.found else "none held"
    named = zip(hold["skus"], hold["quantities"], strict=True)
    lines = ", ".join(f"{quantity} × {sku}" for sku, quantity in named)
    return f"{lines} {GOODS.get(hold['state'], hold['state'])}".lstrip()


def _mails(case: Case) -> Iterator[Line]:
    shown = [one for one in case.look("notification").get("notices", ()) if one["state"] != "NONE"]
    for one in shown:
        because = f" ({one['because']})" if one["because"] else ""
        yield Line("mail", f"{one['kind']}: {one['state']}{because} {clock(one['at'], case.now)}")


def _usually(case: Case, look: Document) -> Line:
    usual: Mapping[str, list[float]] = look["usual_seconds"]
    what, to = ("undone", "to be undone") if look["reason"] else ("done", "to the end")
    told = f"{length(usual[what][0])} (p99 {length(usual[what][1])}) {to}" if what in usual else "nothing measured yet"
    stuck = [fact["at"] for fact in case.said("order") if fact["type"] == "order.stuck"]
    called = f"; called stuck {clock(stuck[-1], case.now)}" if stuck and look["attention"] == "STUCK" else ""
    return Line("usually", told + called)


def _missing(case: Case) -> dict[str, str]:
    """Return what was not told: processes that are away, and parts of the evidence that could not be read."""
    parts = {f"{name}: {part}": why for name, doc in case.found.items() for part, why in doc["missing"].items()}
    return dict(sorted((dict(case.away) | parts).items()))


def _missing_lines(case: Case) -> Iterator[Line]:
    for name, why in _missing(case).items():
        service = name.partition("-")[0]
        by_api = " (its api told the rest)" if name.endswith("-worker") and service in case.found else ""
        yield Line("missing", f"{name}: {why}{by_api}")
