"""Asking: ask every service, at once and within a bound, what it knows of an order; whoever is away is named."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, TypeAlias

from quadrille_why.case import SERVICES, Case, Document
from quadrille_why.words import moment

WITHIN_SECONDS = 0.9
ASK_SECONDS = 0.45
EVENTS_MOST = 100


class AwayError(Exception):
    """A process did not answer; the text says why: connection refused, no answer in time."""


Fetch: TypeAlias = Callable[[str, str, float], tuple[int, Any]]
"""Ask the ops port of a process (``payment-worker``) for a path, within so many seconds; return status and document.

Raises AwayError.
"""


class _Asking:
    """One round of questions that ends in time."""

    def __init__(self, fetch: Fetch, order_id: str, within: float) -> None:
        self._fetch, self._order_id, self._until = fetch, order_id, time.monotonic() + within
        self._ask_seconds = max(ASK_SECONDS, within / 2)
        self.away: dict[str, str] = {}
        self.by: dict[str, str] = {}

    def evidence(self, service: str) -> Document | None:
        """Ask a service's worker, and where that is away its api: the database is the same."""
        for process in (f"{service}-worker", f"{service}-api"):
            if (found := self._evidence(process, "")) is not None:
                self.by[service] = process
                return found
        return None

    def again(self, service: str, ids: str) -> Document | None:
        """Ask once more whom the first round found, with the events that the others have said."""
        return self._evidence(self.by[service], f"?events={ids}")

    def relay(self, service: str) -> Document | None:
        """Ask a relay whether it can publish."""
        found = self._asked(f"{service}-relay", "/readyz")
        return found[1] if found else None

    def _evidence(self, process: str, query: str) -> Document | None:
        found = self._asked(process, f"/ops/evidence/{self._order_id}{query}")
        if found is None:
            return None
        status, document = found
        if status == 200 and isinstance(document, Mapping):  # noqa: PLR2004 - OK
            return document
        told = document.get("detail") if isinstance(document, Mapping) else ""
        self.away[process] = f"it answers {status}: {told}" if told else f"it answers {status}"
        return None

    def _asked(self, process: str, path: str) -> tuple[int, Any] | None:
        left = min(self._ask_seconds, self._until - time.monotonic())
        if left <= 0:
            self.away[process] = "no time was left to ask"
            return None
        try:
            return self._fetch(process, path, left)
        except AwayError as away:
            self.away[process] = str(away)
            return None


def gather(fetch: Fetch, order_id: str, within: float = WITHIN_SECONDS) -> Case:
    """Return what the services know of an order after ``within`` seconds at most, whoever of them is away."""
    began, asking = time.monotonic(), _Asking(fetch, order_id, within)
    with ThreadPoolExecutor(2 * len(SERVICES)) as pool:
        relays = {name: pool.submit(asking.relay, name) for name in SERVICES}
        first = {name: pool.submit(asking.evidence, name) for name in SERVICES}
        found = {name: doc for name, asked in first.items() if (doc := asked.result())}
        ids = sorted({str(fact["id"]) for doc in found.values() for fact in doc["said"]})[-EVENTS_MOST:]
        second = {name: pool.submit(asking.again, name, ",".join(ids)) for name in found if ids}
        for name, asked in second.items():
            if doc := asked.result():
                found[name] = doc
            else:
                del found[name]
        ready = {name: doc for name, asked in relays.items() if (doc := asked.result())}
    now = max((moment(doc["at"]) for doc in found.values()), default=datetime.now(UTC))
    took = round((time.monotonic() - began) * 1000)
    return Case(order_id, now, found, dict(asking.away), ready, frozenset(ids), took)
