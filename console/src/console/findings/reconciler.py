"""Reconciler: every minute, what the services keep of the same orders is held against each other.

A round takes every service's watermark, waits until all have handled what the topics held by then, and asks for the
digests of the orders that something was heard of, that still moved last time, that something is found of, and of the
next slice of all there are. One reconciler at a time: an advisory lock of the console's database. What it finds is a
row here and a fact on ``ops.events``, said by order through its outbox; what is so no more closes itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from urllib.parse import urlencode
from uuid import UUID, uuid4

import psycopg
import structlog

from console import metrics
from console.findings import store
from console.findings.domain import Books, Discrepancy, Kind, judge
from console.findings.store import Found
from console.neighbours import Call, Reply
from quadrille.app import set_all
from quadrille.service import Tx
from quadrille_why import AwayError
from quadrille_why.case import SERVICES

Fetch: TypeAlias = Callable[[str, str, float], tuple[int, Any]]
Say: TypeAlias = Callable[[Call], Reply]
Marks: TypeAlias = Mapping[str, str]
"""Below which transaction each service's events are published, as it told."""
SPEAKER = "order-worker"
LOCK = "SELECT pg_try_advisory_lock(hashtext('reconciler'))"
KEYS_AT_ONCE, CHANGED_MOST, MOVING_MOST = 200, 20_000, 20_000
OVERLAP = timedelta(seconds=10)
"""What was heard is asked for from a little before the last round on: a row's time is older than its commit."""
FIRST = timedelta(minutes=15)
ASK_SECONDS, CATCH_UP_SECONDS, LOOK_SECONDS = 5.0, 30.0, 0.5
SETTLE_SECONDS = 10.0
LINE_MOST, LINES_MOST = 255, 50
"""How much of the evidence is said on ``ops.events``; all of it is kept here."""
log = structlog.get_logger()


class SkippedError(Exception):
    """A round came to no judgement; its text says who was away, or did not catch up in time."""

    outcome = "AWAY"


class BehindError(SkippedError):
    """Somebody did not catch up in time."""

    outcome = "BEHIND"


@dataclass(slots=True)
class Round:
    """What a round has judged, and what moved meanwhile."""

    judged: int = 0
    moving: list[str] = field(default_factory=list)
    found: int = 0


@dataclass(frozen=True, slots=True)
class Now:
    """How one order stands now: what moves, or else what does not agree."""

    moving: tuple[str, ...]
    discrepancies: tuple[Discrepancy, ...]


@dataclass(slots=True)
class Reconciler:
    """Rounds until told to stop; ``fetch`` asks an ops port by its process's name, ``say`` writes to one."""

    connect: Callable[[], Tx]
    fetch: Fetch
    say: Say
    stop: threading.Event
    every: timedelta
    slice: int
    keep: timedelta
    _since: datetime = field(default_factory=lambda: datetime.now(UTC) - FIRST)
    _moving: list[str] = field(default_factory=list)
    _cursor: str = ""

    def run(self) -> None:
        """Hold rounds; whatever one meets, the next is held."""
        while not self.stop.wait(self.every.total_seconds()):
            try:
                with closing(self.connect()) as tx:
                    if (tx.execute(LOCK).fetchone() or (False,))[0]:
                        self._round(tx)
            except psycopg.Error as trouble:
                metrics.ROUNDS.labels("AWAY").inc()
                log.warning("no reconciliation", outcome="AWAY", detail=type(trouble).__name__)
            except Exception:
                metrics.ROUNDS.labels("FAILED").inc()
                log.exception("a round of the reconciler failed")

    def _round(self, tx: Tx) -> None:
        """Hold one round, and note how it went."""
        held, outcome, detail = Round(), "JUDGED", ""
        try:
            held = self.hold(tx)
        except SkippedError as skipped:
            outcome, detail = skipped.outcome, str(skipped)
            log.warning("no reconciliation", outcome=outcome, detail=detail)
        self._tell(tx)
        store.let_go(tx, self.keep)
        store.note(tx, {"outcome": outcome, "detail": detail, "judged": held.judged, "moving": len(held.moving)})
        metrics.ROUNDS.labels(outcome).inc()
        if outcome == "JUDGED":
            metrics.JUDGED_AT.set_to_current_time()
        counted = store.counted(tx)
        set_all(metrics.FINDINGS, {(kind.value,): float(counted.get(kind.value, 0)) for kind in Kind})

    def hold(self, tx: Tx) -> Round:
        """Judge all that is to be looked at; raises SkippedError, and then nothing has changed."""
        heard, since = store.changed(tx, self._since - OVERLAP, CHANGED_MOST)
        marks = self._watermark()
        sliced, cursor = self._sliced()
        orders = sorted({*heard, *self._moving, *store.open_orders(tx), *sliced})
        made = Round()
        for chunk in _chunks(orders, KEYS_AT_ONCE):
            books = self._books(chunk, marks)
            resting = [one for one in books if not one.moving]
            made.moving += [one.order_id for one in books if one.moving]
            made.judged += len(resting)
            made.found += self._keep(tx, resting, marks)
        self._since, self._cursor, self._moving = since, cursor, made.moving[:MOVING_MOST]
        metrics.ORDERS.labels("judged").inc(made.judged)
        metrics.ORDERS.labels("moving").inc(len(made.moving))
        return made

    def look(self, order_id: str) -> Now:
        """Return how one order stands now, by a watermark of its own; raises SkippedError."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            books = self._books([order_id], self._watermark())[0]
            if not books.moving or time.monotonic() > deadline or self.stop.wait(LOOK_SECONDS):
                return Now(books.moving, () if books.moving else tuple(judge(books)))

    def _watermark(self) -> Marks:
        """Take every service's mark, and wait until all have handled what the topics held after that."""
        marks = {service: str(told["below"] or "") for service, told in self._asked().items()}
        if nowhere := [service for service, below in marks.items() if not below]:
            message = f"the relay of {', '.join(nowhere)} has published nothing yet, or is stopped"
            raise BehindError(message)
        ends = {
            (service, one["topic"], one["partition"]): one["end"]
            for service, told in self._asked().items()
            for one in told["read"]
        }
        if blind := sorted({service for (service, _, _), end in ends.items() if end is None}):
            message = f"Kafka does not answer {', '.join(blind)}"
            raise SkippedError(message)
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while late := [
            f"{service} has handled {one['topic']}[{one['partition']}] up to {one['next_offset']} of {end}"
            for service, told in self._asked().items()
            for one in told["read"]
            if one["next_offset"] < (end := ends[service, one["topic"], one["partition"]])
        ]:
            if time.monotonic() > deadline:
                raise BehindError("; ".join(late[:3]))
            self.stop.wait(LOOK_SECONDS)
        return marks

    def _asked(self) -> dict[str, Any]:
        return {service: self._ask(service, "/ops/watermark") for service in SERVICES}

    def _sliced(self) -> tuple[list[str], str]:
        """Return the next slice of all orders that any service knows, and where the one after that begins."""
        query = urlencode({"after": self._cursor, "limit": self.slice})
        pages = [self._ask(service, f"/ops/digest/keys?{query}")["keys"] for service in SERVICES]
        upto = min((page[-1] for page in pages if len(page) == self.slice), default=None)
        keys = {key for page in pages for key in page if (upto is None or key <= upto) and _is_id(key)}
        return sorted(keys), upto or ""

    def _books(self, orders: Sequence[str], marks: Marks) -> list[Books]:
        told = {
            service: self._ask(service, f"/ops/digest?keys={','.join(orders)}&below={marks[service]}")["digest"]
            for service in SERVICES
        }
        return [Books(one, {service: digest.get(one) for service, digest in told.items()}) for one in orders]

    def _ask(self, service: str, path: str) -> Any:  # noqa: ANN401 - a JSON document
        try:
            status, body = self.fetch(f"{service}-worker", path, ASK_SECONDS)
        except AwayError as away:
            message = f"{service}-worker: {away}"
            raise SkippedError(message) from None
        if status != 200:  # noqa: PLR2004 - HTTP
            message = f"{service}-worker answers {status}"
            raise SkippedError(message)
        return body

    def _keep(self, tx: Tx, resting: Sequence[Books], marks: Marks) -> int:
        """Keep what is found of orders that rest, with its evidence; return how much."""
        by_order = {one.order_id: judge(one) for one in resting}
        wrong = [one for one in resting if by_order[one.order_id]]
        places = store.records_of(tx, [one.order_id for one in wrong]) if wrong else {}
        found = [
            Found(one.order_id, discrepancy, _evidence(one, marks, [p.shown for p in places.get(one.order_id, ())]))
            for one in wrong
            for discrepancy in by_order[one.order_id]
        ]
        store.keep(tx, [one.order_id for one in resting], found, [uuid4() for _ in found])
        return len(found)

    def _tell(self, tx: Tx) -> None:
        """Have order say what was found and what is so no more; what it does not take now it is asked for next time."""
        for finding_id, order_id, kind, expected, found, evidence, closed, said in store.unsaid(tx):
            told = {"finding_id": finding_id, "invariant": kind, "order_id": order_id, "reason": "reconciliation"}
            wants = f"{kind}: expected {expected}; found {found}"
            lines = [line[:LINE_MOST] for line in evidence[:LINES_MOST]]
            words = {"detail": wants[:LINE_MOST], "expected": expected, "found": found, "evidence": lines}
            for step in range(said, 2 if closed else 1):
                body = {**told, "closed": True} if step else {**told, **words}
                reply = self.say(Call(SPEAKER, "/ops/findings", body))
                if reply.status != 202:  # noqa: PLR2004 - HTTP
                    log.warning("a finding is not said", status=reply.status, process=SPEAKER)
                    return
                store.said(tx, finding_id, step + 1)


def _evidence(books: Books, marks: Marks, places: Iterable[str]) -> list[str]:
    below = ", ".join(f"{service} {mark}" for service, mark in marks.items())
    return [*books.shown, f"judged below transactions {below}", *places]


def _chunks(found: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (found[n : n + size] for n in range(0, len(found), size))


def _is_id(key: str) -> bool:
    try:
        return str(UUID(key)) == key
    except ValueError:
        return False
