"""Case: all that the services know of one order, and of each event said of it, where it has come to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from quadrille_why.words import moment

SERVICES = ("order", "inventory", "payment", "notification")
OVER = timedelta(days=6)  # what is older has left the inbox, which is how one knows that it was handled
WAITING = ("OPEN", "DEAD")
Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Link:
    """An event on its way from who said it to one who hears it, and where it is now.

    ``place`` is HANDLED, PARKED, DISCARDED, UNREAD, UNPUBLISHED, or UNKNOWN while the hearer does not answer; ``row``
    is what is parked, if it is.
    """

    source: str
    hearer: str
    fact: Document
    place: str
    row: Document | None = None

    @property
    def type(self) -> str:
        """The event's type."""
        return str(self.fact["type"])


@dataclass(frozen=True, slots=True)
class Case:
    """What was found out: evidence by service, why processes did not answer, how ready the relays are."""

    order_id: str
    now: datetime
    found: Mapping[str, Document] = field(default_factory=dict)
    away: Mapping[str, str] = field(default_factory=dict)
    relays: Mapping[str, Document] = field(default_factory=dict)
    asked: frozenset[str] = frozenset()
    took_ms: int = 0

    def look(self, service: str) -> Document:
        """Return what a service's own store tells of the order; empty where it knows nothing, or does not answer."""
        return self.found.get(service, {}).get("look") or {}

    def parked(self, service: str) -> list[Document]:
        """Return what is parked of the order at a service, the head first."""
        return [row for row in self.found.get(service, {}).get("parked", ()) if row["state"] in WAITING]

    def intents(self, service: str) -> list[Document]:
        """Return what a service has still to do outside for the order."""
        return [task for task in self.found.get(service, {}).get("tasks", ()) if task["kind"] == "intent"]

    def said(self, service: str) -> list[Document]:
        """Return the events a service has said of the order."""
        return list(self.found.get(service, {}).get("said", ()))

    def worker_away(self, service: str) -> str | None:
        """Return why a service's worker does not answer; None if it does."""
        return self.away.get(f"{service}-worker")

    def relay_away(self, service: str) -> str | None:
        """Return why a service's relay does not answer; None if it does."""
        return self.away.get(f"{service}-relay")

    def silent_since(self, service: str) -> str | None:
        """Return since when the others have heard nothing of a service."""
        told = [one["since_at"] for doc in self.found.values() for one in doc["silent"] if one["source"] == service]
        return min(told, default=None)

    @property
    def broker_away(self) -> str | None:
        """Why nobody reached the broker; None if somebody did, or nobody tried."""
        told = [doc["missing"]["broker"] for doc in self.found.values() if "broker" in doc["missing"]]
        reached = any(one["end"] is not None for doc in self.found.values() for one in doc["unread"])
        return told[0] if told and not reached else None

    def links(self) -> Iterator[Link]:
        """Yield each event said and each service that hears its type, the earliest first."""
        facts = [(source, fact) for source in self.found for fact in self.said(source)]
        for source, fact in sorted(facts, key=lambda one: str(one[1]["at"])):
            for hearer in SERVICES:
                doc = self.found.get(hearer)
                if hearer != source and (doc is None or fact["type"] in doc["hears"]):
                    yield self._link(source, hearer, fact)

    def _link(self, source: str, hearer: str, fact: Document) -> Link:
        doc = self.found.get(hearer)
        if doc is None:
            return Link(source, hearer, fact, "UNKNOWN")
        row = next((one for one in doc["parked"] if one["id"] == fact["id"]), None)
        if row:
            return Link(source, hearer, fact, "PARKED" if row["state"] in WAITING else "DISCARDED", row)
        forgotten = moment(fact["at"]) < self.now - OVER
        if forgotten or fact["id"] in doc["handled"] or fact["id"] not in self.asked:
            return Link(source, hearer, fact, "HANDLED")
        return Link(source, hearer, fact, "UNREAD" if fact["published"] else "UNPUBLISHED")


def nobody(order_id: str) -> Case:
    """Return a case of which nothing is known."""
    return Case(order_id, datetime.now(UTC))
