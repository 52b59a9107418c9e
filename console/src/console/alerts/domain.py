"""When somebody is told, and when it is over: pure, read off the events of operators and of orders.

An alert is one matter under one key. It is opened, may grow louder, and is resolved; each is a change with a number.
A target is told of one change at a time, always of the latest: what was overtaken meanwhile is not told at all, and
the end of what a target never heard of is not told to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeAlias

from console.domain import Fact, Order
from quadrille import AnyRecord, Decision, Intent, Result, Rows

TICKET, PAGE, ESCALATE = 1, 2, 3
FRESH = timedelta(hours=1)
SEVERITIES = {TICKET: "ticket", PAGE: "page", ESCALATE: "escalate"}
LEVELS = {"WARN": TICKET, "PAGE": PAGE, "ESCALATE": ESCALATE}


@dataclass(frozen=True, slots=True)
class SendAlert(Intent, effect="webhook"):
    """Tell a target of an alert as it stands; ``alert`` is its key, ``number`` its change."""

    alert: str
    target: str
    number: int
    open: bool
    kind: str
    severity: int
    summary: str
    since_at: datetime
    changed_at: datetime
    order_id: str | None = None


@dataclass(frozen=True, slots=True)
class AlertTaken(Result):
    """The target has taken it."""

    alert: str
    target: str
    number: int


@dataclass(frozen=True, slots=True)
class AlertRefused(Result):
    """The target will not take it, or could not be reached for long: ``reason`` is a fixed phrase."""

    alert: str
    target: str
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Change:
    """What an event means for an alert: it is open, this loud, or it is over (severity 0)."""

    alert: str
    kind: str
    severity: int
    summary: str
    since: datetime
    order_id: str | None = None


@dataclass(frozen=True, slots=True)
class Alert:
    """A matter as it stands; ``told`` is the last change each target has taken, ``busy`` whom one is being told."""

    alert: str
    kind: str
    open: bool
    severity: int
    number: int
    summary: str
    since: datetime
    at: datetime
    order_id: str | None = None
    told: Mapping[str, int] = field(default_factory=dict)
    busy: tuple[str, ...] = ()

    def changed(self, change: Change, at: datetime) -> Alert | None:
        """Return it after a change; None where that is nothing new, or was overtaken by what came first."""
        if not change.severity:
            over = self.open and change.since >= self.since
            return replace(self, open=False, number=self.number + 1, summary=change.summary, at=at) if over else None
        if change.severity <= self.severity if self.open else at <= self.at:
            return None
        return replace(
            self, open=True, severity=change.severity, number=self.number + 1, summary=change.summary,
            since=self.since if self.open else change.since, at=at,
        )  # fmt: skip

    def to_tell(self, target: str, least: int) -> SendAlert | None:
        """Return what a target is to be told now, if it is to be told anything and is not being told already."""
        told = self.told.get(target, 0)
        if target in self.busy or told == self.number or self.severity < least or not (self.open or told):
            return None
        return SendAlert(
            self.alert, target, self.number, self.open, self.kind, self.severity, self.summary, self.since, self.at,
            self.order_id,
        )  # fmt: skip


def opened(change: Change, at: datetime) -> Alert:
    """Return a matter nobody knew of."""
    return Alert(change.alert, change.kind, True, change.severity, 1, change.summary, change.since, at, change.order_id)  # noqa: FBT003 - open


Targets: TypeAlias = Mapping[str, int]
"""Who is told, by name, from which severity on."""
Alerts: TypeAlias = Rows[str, Alert]
Saying: TypeAlias = tuple[SendAlert, ...]


def note(record: AnyRecord, order: Order | None, alerts: Alerts, targets: Targets) -> Saying:
    """Take in what a record means for alerts, and return what is to be told; ``order`` is as it stands with it."""
    said: list[SendAlert] = []
    for change in changes(record):
        known = alerts.get(change.alert)
        if (known is None and not change.severity) or (change.severity and has_gone_on(change, order)):
            continue
        alert = known.changed(change, record.at) if known else opened(change, record.at)
        if alert is not None:
            alerts.put(alert.alert, alert)
            said += _tell(alert, alerts, targets)
    return tuple(said)


def go_on(result: AlertTaken | AlertRefused, alerts: Alerts, targets: Targets) -> Saying:
    """Note what became of a telling; what has changed meanwhile is told now."""
    alert = alerts.get(result.alert)
    if alert is None:
        return ()
    told = {**alert.told, result.target: result.number} if isinstance(result, AlertTaken) else alert.told
    alert = replace(alert, told=told, busy=tuple(name for name in alert.busy if name != result.target))
    alerts.put(alert.alert, alert)
    if isinstance(result, AlertRefused) and result.number == alert.number:
        return ()
    return tuple(_tell(alert, alerts, {name: least for name, least in targets.items() if name == result.target}))


def when_news(said: SendAlert, alerts: Alerts) -> Decision:
    """Tell what is the latest of its matter and happened lately; a console that was rebuilt tells no old news."""
    alert = alerts.get(said.alert)
    latest = alert is not None and alert.number == said.number
    return Decision.PROCEED if latest and said.at - said.changed_at <= FRESH else Decision.CANCEL


def has_gone_on(change: Change, order: Order | None) -> bool:
    """Tell whether an order is said to wait for what has been heard of it already, or is over."""
    if change.kind != "order.stuck" or order is None:
        return False
    came = order.facts.get(change.alert.rpartition("/")[2])
    return order.final or (came is not None and came.at >= change.since)


def _tell(alert: Alert, alerts: Alerts, targets: Targets) -> list[SendAlert]:
    said = [one for name, least in targets.items() if (one := alert.to_tell(name, least))]
    if said:
        alerts.put(alert.alert, replace(alert, busy=(*alert.busy, *(one.target for one in said))))
    return said


def keys_of(record: AnyRecord) -> list[str]:
    """Return the keys of the alerts a record may change."""
    return [change.alert for change in changes(record)]


UNDO_FAILED = "order.compensation_failed"
ENDS = frozenset({"order.confirmed", "order.cancelled", "order.compensation_resolved"})
DEBTS = {
    "inventory": ("stock.reserved", "stock.committed", "stock.released"),
    "payment": ("payment.charged", "payment.skipped", "payment.refunded"),
}
"""What an order may wait for, by who owes it; once one has said something of it, that is owed no more."""
PAYS = {
    **dict.fromkeys((*DEBTS["inventory"], "stock.rejected", "stock.resolved"), DEBTS["inventory"]),
    **dict.fromkeys((*DEBTS["payment"], "payment.declined", "payment.resolved"), DEBTS["payment"]),
    **dict.fromkeys(ENDS, (*DEBTS["inventory"], *DEBTS["payment"])),
}


def changes(record: AnyRecord) -> list[Change]:
    """Return what a record means for alerts; nothing for most."""
    if record.fault is not None or record.body is None:
        return []
    key, fact = record.key, Fact(record.named, record.at, str(record.id), record.sequence or 0, record.body)
    if record.topic == "ops.events" or record.named == UNDO_FAILED:
        found = _OPENS.get(record.named)
        return [found(fact, key)] if found else []
    if not record.topic.endswith(".events"):
        return []
    over = f"order {key} goes on: {record.named}"
    paid = PAYS.get(fact.type, ())
    ended = [Change(f"order-stuck/{key}/{owed}", "order.stuck", 0, over, fact.at, key) for owed in paid]
    if fact.type in ENDS:
        ended.append(Change(f"undo-failed/{key}", UNDO_FAILED, 0, over, fact.at, key))
    return ended


def _stuck(fact: Fact, key: str) -> Change:
    owes, what = fact.text("owes") or "?", fact.text("fact") or "?"
    since = _moment(fact, "since_at")
    severity = LEVELS.get(fact.text("level") or "", TICKET)
    return Change(
        f"order-stuck/{key}/{what}", fact.type, severity, f"order {key} waits for {what} of {owes}", since, key
    )


def _undo_failed(fact: Fact, key: str) -> Change:
    who = fact.text("participant") or "?"
    return Change(f"undo-failed/{key}", fact.type, PAGE, f"order {key}: {who} could not undo its part", fact.at, key)


def _dead(fact: Fact, key: str) -> Change:
    service, event = fact.text("service") or "?", fact.text("event_id") or fact.id
    over = fact.type in ("input.redriven", "input.discarded")
    words = f"{service} could not handle {event} of order {key}" + (f": {fact.type}" if over else "")
    return Change(f"input/{service}/{event}", "input.dead", 0 if over else PAGE, words, fact.at, key)


def _silent(fact: Fact, _: str) -> Change:
    who, since = fact.text("silent") or "?", _moment(fact, "since_at")
    if fact.type == "service.heard":
        seconds = max(0, round((fact.at - since).total_seconds()))
        return Change(f"silent/{who}", "service.silent", 0, f"{who} is heard again after {seconds} s", since)
    return Change(f"silent/{who}", fact.type, PAGE, f"{who} is not heard any more", since)


def _stalled(fact: Fact, _: str) -> Change:
    who, role = fact.text("service") or "?", fact.text("role") or "?"
    over, since = fact.type == "progress.resumed", _moment(fact, "since_at")
    words = f"{who} {role} goes on" if over else f"{who} {role} handles nothing of what lies ahead"
    return Change(f"stalled/{who}/{role}", "progress.stalled", 0 if over else PAGE, words, since)


def _intake(fact: Fact, _: str) -> Change:
    who, cause = fact.text("service") or "?", fact.text("cause") or "?"
    over = fact.type == "intake.resumed"
    words = f"{who} takes new work again" if over else f"{who} takes no new work: {cause}"
    return Change(f"intake/{who}", "intake.paused", 0 if over else PAGE, words, fact.at)


def _recovered(fact: Fact, _: str) -> Change:
    who, cause = fact.text("service") or "?", fact.text("cause") or "?"
    words = f"the relay of {who} read its outbox again ({cause}): nothing is missing, some may come twice"
    return Change(f"recovered/{who}/{fact.id}", fact.type, TICKET, words, fact.at)


def _finding(fact: Fact, _: str) -> Change:
    who, what = fact.text("service") or "?", fact.text("invariant") or "?"
    order_id = fact.text("order_id")
    key = f"finding/{who}/{what}/{order_id or fact.id}"
    if fact.type == "finding.closed":
        return Change(key, "finding.raised", 0, f"{who}: what was found ({what}) is so no more", fact.at, order_id)
    words = f"{who} found what must never be (invariant {what}): {fact.text('detail') or ''}"
    return Change(key, fact.type, PAGE, words, fact.at, order_id)


_OPENS = {
    "order.stuck": _stuck,
    UNDO_FAILED: _undo_failed,
    "input.dead": _dead,
    "input.redriven": _dead,
    "input.discarded": _dead,
    "service.silent": _silent,
    "service.heard": _silent,
    "progress.stalled": _stalled,
    "progress.resumed": _stalled,
    "intake.paused": _intake,
    "intake.resumed": _intake,
    "relay.recovered": _recovered,
    "finding.raised": _finding,
    "finding.closed": _finding,
}


def _moment(fact: Fact, name: str) -> datetime:
    """Return a time of the body, the event's own where there is none."""
    value = fact.body.get(name)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return fact.at
    return value if isinstance(value, datetime) and value.tzinfo else fact.at
