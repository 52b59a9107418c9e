"""Evidence: what one service knows of a key, asked in one moment: all places where something of it may be held.

``GET /ops/evidence/{order_id}`` tells what is parked and what waits behind it, open intents and timers, the events said
and whether the relay has published them, how far the topics are read where the key's records lie, and what may hold up
everybody: an open breaker, silent participants, a shut intake, replays that kept something back. With ``events`` it
tells which of these ids it has handled: so what is said there and not heard here is found by whoever asks both.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

import psycopg

from quadrille.consumer import brake
from quadrille.context import ProcessContext
from quadrille.gateway.breaker import Guarded
from quadrille.ids import id_time
from quadrille.kafka.partitioner import partition_of
from quadrille.kafka.topics import Place
from quadrille.messages import Event, Timer
from quadrille.observability.readiness import reason
from quadrille.ops.actions import Look
from quadrille.ops.admission import database
from quadrille.ops.routes import OpsRequest, OpsResponse, OpsRoutes
from quadrille.processing.unit_of_work import SEEN_IDS
from quadrille.replay.plan import concerns, plan_of
from quadrille.service import Tx
from quadrille.values import rfc3339
from quadrille.web.problems import refuse

Ends: TypeAlias = Callable[[Collection[Place]], Mapping[Place, int]]
"""Return the broker's ends of partitions; raises why it cannot."""
ROUTE = "/ops/evidence/{order_id}?events"
EVENTS_MOST = 100
BROKER_SECONDS = 0.4
SETTLING = timedelta(minutes=1)  # an id and its row may come from two looks at the clock
USUAL = timedelta(minutes=15)  # most sagas are over by then: what is said later is looked for only if some is missing
LISTED = 50
ONE_MOMENT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
PATIENCE = "SET LOCAL statement_timeout = '400ms'"
NOW = "SELECT now()"
TASKS = "SELECT to_jsonb(t) - 'body' FROM task t WHERE key = %b ORDER BY due, id LIMIT %b"
# Whatever columns there are: the row is told as it is, but for the bytes.
LANES = """
SELECT to_jsonb(p) - '{raw,headers}'::text[], octet_length(raw), headers FROM parked p
 WHERE line = ANY(%b) AND state <> 'REDRIVEN' ORDER BY place LIMIT %b"""
STREAMS = "SELECT topic, sequence FROM stream WHERE key = %b"
# A row is published when its transaction is proven so, or, until the next proof, by the server's own time of both.
SAID = """
SELECT o.id::text, o.aggregatetype, o.type, o.sequence, o.causationid::text, o.occurred_at,
       coalesce(age(o.xmin) > age(r.proven_xid::text::xid) OR o.occurred_at <= r.committed_at, false)
  FROM outbox o LEFT JOIN relay_progress r ON true
 WHERE o.aggregateid = %b AND o.occurred_at BETWEEN %b AND %b AND o.written_on BETWEEN %b AND %b
 ORDER BY o.occurred_at, o.aggregatetype, o.sequence"""
RELAY = "SELECT committed_at, extract(epoch FROM clock_timestamp() - committed_at)::float, stopped FROM relay_progress"
POSITIONS = """
SELECT t.name, t.partitions, o.partition, o.next_offset FROM topic t LEFT JOIN position o ON o.topic = t.name
 WHERE t.name = ANY(%b)"""
SILENT = "SELECT source, silent_since, heard_at FROM canary WHERE source <> %b ORDER BY source"
STALL = "SELECT since_at, detail FROM stall WHERE role = 'worker'"
AUDIT = """
SELECT number, at, actor, action, reason, after->>'outcome' FROM audit WHERE subject = %b ORDER BY number LIMIT %b"""
HAS_INTAKE = "SELECT to_regclass('intake') IS NOT NULL"
INTAKE = "SELECT state, since, detail FROM intake"
REPLAYS = """
SELECT id::text, state, plan, progress, actor, reason, changed_at FROM operation
 WHERE kind = 'replay' AND plan->>'mode' = 'live' AND jsonb_path_exists(progress, '$.verdicts.*.FENCED')
 ORDER BY id DESC LIMIT %b"""
HELD = """
SELECT line, state, type, topic, partition, "offset", error_class, error, attempts, retry_at, parked_at
  FROM parked WHERE line = ANY(%b) AND state IN ('OPEN', 'DEAD') AND topic IS NOT NULL ORDER BY place"""


@dataclass(frozen=True, slots=True)
class EvidenceRoutes:
    """What tells of a key: the context of the process, the service's own look of the saga, the broker's ends.

    An api has no ``ends``: it hears no topic.
    """

    context: ProcessContext
    look: Look | None = None
    ends: Ends | None = None

    def routes(self) -> OpsRoutes:
        """Return the route."""
        return {("GET", ROUTE): self._tell}

    def _tell(self, asked: OpsRequest) -> OpsResponse:
        key, events = str(asked.identity("order_id")), _ids(asked.query.get("events", ""))
        missing: dict[str, str] = {}
        with database(self.context) as tx, tx.transaction():
            tx.execute(ONE_MOMENT)
            tx.execute(PATIENCE)
            told = _Moment(tx, key, missing).told(self.context, events)
            with _excused(tx, "look", missing):
                told["look"] = self.look(tx, key) if self.look else None
        told["unread"] = self._unread(told.pop("positions"), missing)
        client = self.context.client
        told["breaker"] = client.breaker.state.value if isinstance(client, Guarded) else None
        return OpsResponse(200, told | {"missing": missing})

    def _unread(self, read: Mapping[Place, int | None], missing: dict[str, str]) -> list[dict[str, object]]:
        """Return how far the key's partitions are read, and where they end, should the broker say so in time."""
        ends: Mapping[Place, int] = {}
        if self.ends is not None and read:
            ends = _in_time(self.ends, list(read), missing)
        return [{"topic": topic, "partition": number, "next_offset": at, "end": ends.get((topic, number))}
                for (topic, number), at in sorted(read.items())]  # fmt: skip


@contextmanager
def _excused(tx: Tx, part: str, missing: dict[str, str]) -> Iterator[None]:
    """Let a part of the evidence be missing: what it met is named, and is all that is told of it."""
    try:
        with tx.transaction():
            yield
    except Exception as met:
        if isinstance(met, psycopg.OperationalError) and not _late(met):
            raise
        missing[part] = "not read within 400 ms" if _late(met) else reason(met)


def _late(raised: BaseException) -> bool:
    return isinstance(raised, psycopg.errors.QueryCanceled)


@dataclass(frozen=True, slots=True)
class _Moment:
    """One transaction's view of a key; what could not be read in time is named in ``missing``."""

    tx: Tx
    key: str
    missing: dict[str, str]

    def told(self, context: ProcessContext, events: Collection[UUID]) -> dict[str, Any]:
        """Return the evidence, but for what only the process knows."""
        service = context.service
        timers = service.on.consumes(Timer)
        now: datetime = self._rows(NOW)[0][0]
        tasks = [row[0] | {"kind": "timer" if row[0]["type"] in timers else "intent"}
                 for row in self._rows(TASKS, self.key, LISTED)]  # fmt: skip
        parked = self._parked([self.key, *(str(task["id"]) for task in tasks)])
        streams: dict[str, int] = dict(self._rows(STREAMS, self.key))
        return {
            "service": service.name, "order_id": self.key, "at": rfc3339(now),
            "hears": sorted(service.on.consumes(Event)), "parked": parked, "tasks": tasks, "streams": streams,
            "said": self._said(now, sum(streams.values())), "handled": self._handled(events),
            "positions": self._positions(service.on.topics()), "relay": self._relay(), "intake": self._intake(),
            "silent": self._silent(service.name), "stalled": self._stalled(), "audit": self._audit(),
            "withheld": self._withheld(), "paused": self._paused(),
        }  # fmt: skip

    def _rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return self.tx.execute(sql.encode(), values).fetchall()

    def _parked(self, lanes: Sequence[str]) -> list[dict[str, Any]]:
        rows = self._rows(LANES, lanes, LISTED)
        return [row | {"bytes": size, "headers": _names(headers)} for row, size, headers in rows]

    def _said(self, now: datetime, count: int) -> list[dict[str, Any]]:
        """Return the events said: those of the first minutes, and all the others only if some are missing."""
        begin = _begin(self.key) - SETTLING
        found: list[tuple[Any, ...]] = []
        for upto in (min(begin + USUAL, now + SETTLING), now + SETTLING):
            with _excused(self.tx, "said", self.missing):
                found = self._rows(SAID, self.key, begin, upto, begin.date(), upto.date())
            if len(found) >= count:
                break
        else:
            if found and "said" not in self.missing:
                self.missing["said"] = f"{count - len(found)} are older than what the outbox keeps"
        return [
            {"id": row[0], "topic": row[1], "type": row[2], "sequence": row[3], "cause": row[4],
             "at": rfc3339(row[5]), "published": row[6]}
            for row in found
        ]  # fmt: skip

    def _handled(self, events: Collection[UUID]) -> list[str]:
        if not events:
            return []
        asked = {"ids": list(events), "low": min(events), "high": max(events)}
        return sorted({str(row[0]) for row in self.tx.execute(SEEN_IDS, asked)})

    def _positions(self, topics: Collection[str]) -> dict[Place, int | None]:
        found: dict[Place, int | None] = {}
        for topic, partitions, number, at in self._rows(POSITIONS, list(topics)):
            mine = partition_of(self.key, partitions)
            if number == mine or (topic, mine) not in found:
                found[topic, mine] = at if number == mine else None
        return found

    def _relay(self) -> dict[str, object] | None:
        row = next(iter(self._rows(RELAY)), None)
        return (
            None
            if row is None
            else {"published_at": rfc3339(row[0]), "age_seconds": round(row[1], 1), "stopped": row[2]}
        )

    def _intake(self) -> dict[str, object] | None:
        row = next(iter(self._rows(INTAKE)), None) if self._rows(HAS_INTAKE)[0][0] else None
        return None if row is None else {"state": row[0], "since_at": rfc3339(row[1]), "detail": row[2]}

    def _silent(self, name: str) -> list[dict[str, object]]:
        rows = self._rows(SILENT, name)
        return [{"source": source, "since_at": rfc3339(since), "heard_at": rfc3339(heard)}
                for source, since, heard in rows if since]  # fmt: skip

    def _stalled(self) -> dict[str, object] | None:
        row = next(iter(self._rows(STALL)), None)
        return None if row is None else {"since_at": rfc3339(row[0]), "detail": row[1]}

    def _paused(self) -> dict[str, object] | None:
        """Return why the service's consumers rest, if they do."""
        found = brake.paused(self.tx)
        return {"since_at": rfc3339(found.since), "cause": found.cause} if found else None

    def _audit(self) -> list[dict[str, object]]:
        return [
            {"number": row[0], "at": rfc3339(row[1]), "actor": row[2], "action": row[3], "reason": row[4],
             "outcome": row[5]}
            for row in self._rows(AUDIT, self.key, LISTED)
        ]  # fmt: skip

    def _withheld(self) -> list[dict[str, object]]:
        """Return live replays, newest first, that may have read this key's records and kept some back."""
        rows = [row for row in self._rows(REPLAYS, LISTED) if concerns(plan_of(row[2]), self.key)]
        return [
            {"operation_id": row[0], "state": row[1], "topic": row[2]["topic"], "type": row[2].get("type"),
             "events": row[2].get("events") or [], "kept_back": row[3].get("kept_back", {}), "actor": row[4],
             "reason": row[5], "at": rfc3339(row[6]),
             "types": [kind for kind, counts in row[3]["verdicts"].items() if counts.get("FENCED")]}
            for row in rows
        ]  # fmt: skip


def held(tx: Tx, keys: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return what is parked of each key and holds up all that follows: the head, and the types of all that waits.

    A key of which nothing is parked is not in it.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in tx.execute(HELD, [list(keys)]):
        lane, state, kind, topic, partition, offset, error_class, error, attempts, retry_at, since = row
        head = {
            "state": state, "type": kind, "topic": topic, "partition": partition, "offset": offset,
            "error_class": error_class, "error": error, "attempts": attempts,
            "retry_at": retry_at and rfc3339(retry_at), "since_at": rfc3339(since), "waiting": [],
        }  # fmt: skip
        found.setdefault(lane, head)["waiting"].append(kind)
    return found


def _ids(text: str) -> list[UUID]:
    """Return the ids of a query, in their own spelling; refuses what is none, and too many."""
    names = [name for name in text.split(",") if name]
    try:
        found = [UUID(name) for name in names]
    except ValueError:
        found, names = [], names or [""]
    if len(found) != len(names) or len(found) > EVENTS_MOST:
        message = f"Input should be ids of events, at most {EVENTS_MOST}, with commas between"
        refuse("validation-failed", errors=[{"pointer": "query:events", "code": "uuid_parsing", "message": message}])
    return found


def _begin(key: str) -> datetime:
    """Return when a key began, by its id; long ago for one that does not tell."""
    try:
        found = UUID(key)
        return id_time(found) if found.version == 7 else datetime(2000, 1, 1, tzinfo=UTC)  # noqa: PLR2004 - uuid7
    except (ValueError, OverflowError):
        return datetime(2000, 1, 1, tzinfo=UTC)


def _names(headers: bytes | None) -> list[str]:
    return [str(name) for name, _ in json.loads(bytes(headers))] if headers else []


def _in_time(ends: Ends, places: Collection[Place], missing: dict[str, str]) -> Mapping[Place, int]:
    """Return the broker's ends; without an answer in time, why there is none."""
    found: dict[Place, int] = {}
    trouble = [f"no answer within {BROKER_SECONDS:g} s"]

    def ask() -> None:
        try:
            found.update(ends(places))
            trouble.clear()
        except Exception as away:  # noqa: BLE001 - whatever it is, it is told
            trouble[:] = [reason(away)]

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(BROKER_SECONDS)
    if said := list(trouble):
        missing["broker"] = said[0]
        return {}
    return found
