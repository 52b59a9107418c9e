"""Targets: who is told, in which shape; and the bodies that a generic webhook, PagerDuty and Slack take."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from console.alerts.domain import PAGE, SEVERITIES, TICKET, SendAlert
from quadrille import rfc3339

SHAPES = ("generic", "pagerduty", "slack")
NAMED = {name: number for number, name in SEVERITIES.items()}
PAGERDUTY = {1: "warning", 2: "error", 3: "critical"}
WANTED = "a line each: NAME generic|pagerduty|slack URL [KEY] [ticket|page|escalate]"


class TargetError(ValueError):
    """A target's line cannot be understood; no secret of it is repeated."""


@dataclass(frozen=True, slots=True)
class Target:
    """One webhook: ``key`` signs a generic one, or is PagerDuty's routing key; told of what is at least so severe."""

    name: str
    shape: str
    url: str
    key: str = ""
    least: int = TICKET


def targets_of(text: str) -> dict[str, Target]:
    """Return the targets of the setting, by name; raises TargetError."""
    found: dict[str, Target] = {}
    for number, line in enumerate(text.replace(";", "\n").splitlines(), 1):
        if words := line.split():
            target = _target(words, number)
            if target.name in found:
                message = f"line {number}: there is a target {target.name} already"
                raise TargetError(message)
            found[target.name] = target
    return found


def _target(words: list[str], number: int) -> Target:
    least = NAMED.get(words[-1], 0) if len(words) > 3 else 0  # noqa: PLR2004 - after name, shape and URL
    words = words[:-1] if least else words
    if len(words) not in (3, 4) or words[1] not in SHAPES:
        message = f"line {number} is not {WANTED}"
        raise TargetError(message)
    name, shape, url, key = (*words, "")[:4]
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.fragment:
        message = f"line {number}: the address of {name} is no http or https address without login and fragment"
        raise TargetError(message)
    if shape != "slack" and not key:
        message = f"line {number}: {name} needs a key: what signs it, or PagerDuty's routing key"
        raise TargetError(message)
    return Target(name, shape, url, key, least or TICKET if shape != "pagerduty" else least or PAGE)


def body_of(target: Target, said: SendAlert, page: str) -> bytes:
    """Return what a target is sent; ``page`` is the address of the console's page on it, empty if there is none."""
    shapes = {"generic": _generic, "pagerduty": _pagerduty, "slack": _slack}
    document = shapes[target.shape](target, said, page)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def headers_of(target: Target, said: SendAlert, body: bytes, at: int) -> dict[str, str]:
    """Return the headers of a delivery: a repeat has the same id, and its own time and signature."""
    headers = {"Content-Type": "application/json", "User-Agent": "quadrille"}
    if target.shape == "generic":
        headers |= {"Quadrille-Delivery": delivery_of(said), **signature(target.key, body, at)}
    return headers


def signature(key: str, body: bytes, at: int) -> dict[str, str]:
    """Return the headers that prove who sent a body, and when: HMAC-SHA-256 over ``<time>.<body>``."""
    digest = hmac.new(key.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return {"Quadrille-Timestamp": str(at), "Quadrille-Signature": f"v1={digest}"}


def delivery_of(said: SendAlert) -> str:
    """Return the id under which a change is delivered, the same each time."""
    return hashlib.sha256(f"{said.alert}\0{said.number}\0{rfc3339(said.since_at)}".encode()).hexdigest()[:32]


def _generic(_: Target, said: SendAlert, page: str) -> Mapping[str, Any]:
    return {
        "alert": said.alert, "state": "open" if said.open else "resolved", "kind": said.kind,
        "severity": SEVERITIES[said.severity], "summary": said.summary, "number": said.number,
        "since_at": rfc3339(said.since_at), "changed_at": rfc3339(said.changed_at), "order_id": said.order_id,
        "links": {"page": page} if page else {},
    }  # fmt: skip


def _pagerduty(target: Target, said: SendAlert, page: str) -> Mapping[str, Any]:
    """Return an event of PagerDuty's Events API v2: the same ``dedup_key`` opens, escalates and resolves."""
    event: dict[str, Any] = {
        "routing_key": target.key,
        "event_action": "trigger" if said.open else "resolve",
        "dedup_key": said.alert[:255],
        "payload": {
            "summary": said.summary[:1024], "source": "quadrille", "severity": PAGERDUTY[said.severity],
            "timestamp": rfc3339(said.changed_at), "class": said.kind,
            "custom_details": {"order_id": said.order_id, "since_at": rfc3339(said.since_at)},
        },
    }  # fmt: skip
    return event | ({"links": [{"href": page, "text": "console"}]} if page else {})


def _slack(_: Target, said: SendAlert, page: str) -> Mapping[str, Any]:
    mark = "resolved" if not said.open else SEVERITIES[said.severity]
    words = said.summary.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"text": f"*{mark}* {words}" + (f" <{page}|console>" if page else "")}
