"""Shadow replay: a projection rebuilt from its topics beside the live one, compared at one position, and exchanged.

The service's own handlers fill a copy of all its tables in a schema of their own, from the topics' beginnings, with an
inbox and positions there: its outbox is in no publication and no worker looks at its tasks, so nothing leaves. When it
has caught up, the service's batches wait for a moment at one position, and the rows are compared; a swap exchanges both
in that same transaction. Keys of which retention has cut a beginning cannot be rebuilt unless an archive has it: they
are left out, and a swap takes their live rows over. A worker that is killed leaves the schema; the next one goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from uuid import UUID

import psycopg
from psycopg import sql

from quadrille.consumer.deserializer import RecordDeserializer
from quadrille.consumer.parking import redrive_open
from quadrille.context import ProcessContext
from quadrille.db import audit
from quadrille.kafka import headers as record_headers
from quadrille.kafka.topics import Place, Topics
from quadrille.processing import unit_of_work
from quadrille.processing.batch import process_batch
from quadrille.processing.envelope import Envelope, Handled, OffsetRange, Parked
from quadrille.processing.outbox import announce
from quadrille.replay import operations
from quadrille.replay.archive_tape import Joined
from quadrille.replay.operations import Advance, Operation
from quadrille.replay.projection import ProjectedTable, Projection
from quadrille.replay.runner import Range as TopicRange
from quadrille.replay.runner import ReadRecord, Tape
from quadrille.service import Tx
from quadrille.system_messages import ReplayEnded

KIND = "shadow"
BATCH = 500
CHUNK = 2_000  # offsets of a partition in turn, so that no topic runs far ahead of another
NOTE_SECONDS = 0.5
HELD_SECONDS = 10.0  # the longest that the service's batches are made to wait
LOCK_SECONDS = "5s"
LISTED = 20
POSITIONS = "SELECT topic, partition, next_offset FROM position WHERE topic = ANY(%b)"
BEGIN_AT = "INSERT INTO position VALUES (%b, %b, %b) ON CONFLICT DO NOTHING"
FIRST = "INSERT INTO first_record SELECT * FROM unnest(%b::text[], %b::text[], %b::bigint[]) ON CONFLICT DO NOTHING"
THERE = "SELECT to_regnamespace(%b) IS NOT NULL"
PRIMARY_KEY = """
SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
 WHERE i.indisprimary AND i.indrelid = %b::regclass ORDER BY array_position(i.indkey, a.attnum)"""
WRITABLE = """
SELECT attname FROM pg_attribute WHERE attrelid = %b::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
 ORDER BY attnum"""
# A key's rows can be rebuilt if its first record is there: the one numbered 1 of each topic that lost its beginning.
PARTIAL = """
(EXISTS (SELECT FROM {shadow}.first_record f WHERE f.key = {key}::text AND f.sequence > 1 AND f.topic = ANY({cut}))
 OR cardinality({cut}) > 0 AND NOT EXISTS (SELECT FROM {shadow}.first_record f WHERE f.key = {key}::text))"""
JUDGED = """
SELECT CASE WHEN {partial} THEN 'partial'
            WHEN s.{first} IS NULL THEN 'only_live' WHEN l.{first} IS NULL THEN 'only_shadow'
            WHEN to_jsonb(l) - {without} = to_jsonb(s) - {without} THEN 'equal' ELSE 'different' END AS verdict,
       to_jsonb(l) - {without} AS live, to_jsonb(s) - {without} AS rebuilt
  FROM public.{table} l FULL JOIN {shadow}.{table} s USING ({primary})"""
NOT_REBUILDABLE = (psycopg.errors.UndefinedTable, psycopg.errors.FeatureNotSupported)  # what shadow_open refuses
Positions: TypeAlias = dict[Place, int]


class _BehindError(Exception):
    """The shadow did not reach the live position while the service's batches could be made to wait."""


@dataclass(slots=True)
class ShadowReport:
    """How far a shadow replay is: ``records`` handled of all ``offsets``, then what the comparison found by table.

    ``differences`` are the first of them: table, verdict, primary key, and the names of the columns that differ.
    """

    step: int = 0
    records: int = 0
    passed: int = 0
    offsets: int = 0
    parked: int = 0
    tables: dict[str, dict[str, int]] = field(default_factory=dict)
    differences: list[dict[str, Any]] = field(default_factory=list)
    swapped: bool = False
    failure: str | None = None

    @property
    def unequal(self) -> int:
        """How many rows differ, or are on one side only."""
        return sum(n for counts in self.tables.values() for verdict, n in counts.items()
                   if verdict not in ("equal", "partial"))  # fmt: skip

    def document(self) -> dict[str, Any]:
        """Return it as it is stored."""
        names = ("step", "records", "passed", "offsets", "parked", "tables", "differences", "swapped", "failure")
        return {name: getattr(self, name) for name in names} | {"unequal": self.unequal}


def schema_of(operation: UUID) -> str:
    """Return the name of an operation's schema."""
    return f"shadow_{operation.hex}"


@dataclass(slots=True)
class ShadowReplay:
    """One shadow replay in this process's hand, until its end or until ``context.stop``.

    Raises Interrupted when the row is no longer ours, and every infrastructure error: then it goes on in its schema.
    """

    context: ProcessContext
    reader: RecordDeserializer
    tx: Tx
    operation: Operation
    projection: Projection
    tape: Tape
    topics: Topics | Joined
    report: ShadowReport = field(init=False)
    cut: list[str] = field(default_factory=list)
    _noted: float = 0.0

    def __post_init__(self) -> None:
        self.report = ShadowReport(int(self.operation.progress["step"]))

    @property
    def schema(self) -> str:
        """The schema it is rebuilt in."""
        return schema_of(self.operation.id)

    def run(self) -> None:
        """Carry it out."""
        with closing(self.context.connect()) as own:
            self._open(own)
            while not self.context.stop.is_set():
                self._catch_up(own, self._live())
                if self.context.stop.is_set():
                    return
                step = self.report.step
                try:
                    self._settle(own)
                except (_BehindError, psycopg.errors.LockNotAvailable):
                    self.report.step = step  # what was noted meanwhile has been rolled back
                    self.context.stop.wait(NOTE_SECONDS)
                else:
                    return

    def _open(self, own: Tx) -> None:
        """Make the schema unless a worker before us did, and begin where the topics begin."""
        heard = sorted(self.context.service.on.topics())
        bounds = self.topics.watermarks([place for topic in heard for place in self.topics.places(topic)])
        self.cut = sorted({topic for (topic, _), (low, _) in bounds.items() if low > 0})
        with self.tx.transaction():
            row = self.tx.execute(THERE, [self.schema]).fetchone()
            if not (row and row[0]):
                self.tx.execute("SELECT shadow_open(%b, %b)", [self.schema, list(self.projection.tables)])
        own.execute(sql.SQL("SET search_path = {}, public").format(sql.Identifier(self.schema)))
        for (topic, partition), (low, _) in bounds.items():
            own.execute(BEGIN_AT, [topic, partition, low])

    def _live(self) -> Positions:
        """Return the service's own positions."""
        return _positions(self.tx, self.context.service.on.topics())

    def _catch_up(self, own: Tx, target: Positions, allowed: Callable[[], bool] = lambda: True) -> None:
        """Handle what lies before the target, each partition a piece in turn; raises _BehindError if not allowed on."""
        at = _positions(own, self.context.service.on.topics())
        self.report.offsets = sum(target.values())
        while behind := {place: upto for place, upto in target.items() if at.get(place, upto) < upto}:
            for place, upto in sorted(behind.items()):
                since = at[place]
                at[place] = min(since + CHUNK, upto)
                for taken in self.tape.play(TopicRange(*place, since, at[place]), BATCH):
                    since = self._take(own, place, since, taken)
                    if self.context.stop.is_set():
                        return
                    if not allowed():
                        raise _BehindError
                self._step(own, place, since, at[place])
                self.report.passed = sum(min(one, target.get(where, one)) for where, one in at.items())
                self._note()

    def _take(self, own: Tx, place: Place, since: int, taken: Sequence[ReadRecord]) -> int:
        """Handle records in one transaction of the shadow, and return the position after them."""
        inputs: list[Envelope] = []
        firsts: list[tuple[str, str, int]] = []
        for one in taken:
            if self.reader.unheard(one.record):
                continue
            origin = OffsetRange(*place, since, one.offset + 1)
            envelope = self.reader.read(one.record, one.key, origin, one.at_ms)
            inputs.append(envelope)
            since = one.offset + 1
            if isinstance(found := record_headers.read_headers(one.record.headers), record_headers.CloudEvent):
                firsts.append((place[0], envelope.key, found.sequence))
        if inputs:
            with own.transaction():
                if firsts:
                    own.execute(FIRST, [list(column) for column in zip(*firsts, strict=True)])
                outcomes = process_batch(own, self.context.service, inputs)
            self.report.records += len(inputs)
            self.report.parked += sum(isinstance(outcome, Parked) for outcome in outcomes)
        return since

    def _step(self, own: Tx, place: Place, since: int, upto: int) -> None:
        """Step over what no handler hears."""
        if since < upto and not unit_of_work.move(own, [(*place, since, upto)]).fetchall():
            message = "a position of the shadow was not where this worker left it"
            raise unit_of_work.FencedError(message)

    def _settle(self, own: Tx) -> None:
        """Let the service's batches wait, reach their position, compare, and exchange if that was asked for."""
        with self.tx.transaction():
            self.tx.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}'")
            names = [sql.Identifier("public", name) for name in ("position", *sorted(self.projection.tables))]
            self.tx.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(sql.SQL(", ").join(names)))
            until = time.monotonic() + HELD_SECONDS
            self._catch_up(own, self._live(), lambda: time.monotonic() < until)
            if self.context.stop.is_set():
                return
            while any(isinstance(one, Handled) for one in redrive_open(own, self.context.service, self.reader)):
                continue
            self._compare()
            if self.operation.plan["swap"]:
                self._swap()
            self._end()

    def _compare(self) -> None:
        self.report.tables, self.report.differences = {}, []
        for name, table in sorted(self.projection.tables.items()):
            judged = self._judged(name, table)
            counts = self.tx.execute(
                sql.SQL("SELECT verdict, count(*) FROM ({}) j GROUP BY 1 ORDER BY 1").format(judged)
            )
            self.report.tables[name] = {str(verdict): int(count) for verdict, count in counts}
            unequal = sql.SQL("SELECT * FROM ({}) j WHERE verdict NOT IN ('equal', 'partial') LIMIT {}")
            left = LISTED - len(self.report.differences)
            for verdict, live, rebuilt in self.tx.execute(unequal.format(judged, sql.Literal(left))):
                row = live or rebuilt
                differ = sorted(c for c in row if live and rebuilt and live[c] != rebuilt[c])
                told = {"table": name, "verdict": verdict, "columns": differ}
                self.report.differences.append(told | {"row": {c: row[c] for c in _primary_key(self.tx, name)}})

    def _judged(self, name: str, table: ProjectedTable) -> sql.Composed:
        primary = [sql.Identifier(column) for column in _primary_key(self.tx, name)]
        key = sql.SQL("coalesce(l.{0}, s.{0})").format(sql.Identifier(table.key))
        return sql.SQL(JUDGED).format(
            partial=self._partial(key), first=primary[0], primary=sql.SQL(", ").join(primary),
            table=sql.Identifier(name), shadow=sql.Identifier(self.schema),
            without=sql.SQL("{}::text[]").format(sql.Literal(list(table.without))),
        )  # fmt: skip

    def _partial(self, key: sql.Composable) -> sql.Composed:
        cut = sql.SQL("{}::text[]").format(sql.Literal(self.cut))
        return sql.SQL(PARTIAL).format(shadow=sql.Identifier(self.schema), key=key, cut=cut)

    def _swap(self) -> None:
        """Take over the rows that could not be rebuilt, and exchange; what was live is kept beside, until the next."""
        for name, table in sorted(self.projection.tables.items()):
            columns = [row[0] for row in self.tx.execute(WRITABLE, [f"public.{name}"])]
            parts = {
                "table": sql.Identifier(name), "shadow": sql.Identifier(self.schema),
                "partial": self._partial(sql.SQL("t.{}").format(sql.Identifier(table.key))),
                "columns": sql.SQL(", ").join(map(sql.Identifier, columns)),
            }  # fmt: skip
            self.tx.execute(sql.SQL("DELETE FROM {shadow}.{table} t WHERE {partial}").format(**parts))
            self.tx.execute(sql.SQL(
                "INSERT INTO {shadow}.{table} ({columns}) OVERRIDING SYSTEM VALUE "
                "SELECT {columns} FROM public.{table} t WHERE {partial}"
            ).format(**parts))  # fmt: skip
        self.tx.execute("SELECT shadow_swap(%b, %b)", [self.schema, sorted(self.projection.tables)])
        self.report.swapped = True

    def _note(self) -> None:
        """Let others see how far it is, and see whether it is still ours; twice a second at most.

        Inside the last transaction nobody sees it, and nobody can change the row: the end says it all.
        """
        if time.monotonic() - self._noted >= NOTE_SECONDS:
            self._advance("RUNNING")

    def _advance(self, state: str) -> None:
        step, self.report.step = self.report.step, self.report.step + 1
        operations.advance(self.tx, self.operation.id, step, Advance(self.report.document(), state))
        self._noted = time.monotonic()

    def _end(self) -> None:
        """End it with a row of the audit, and say so."""
        self._advance("DONE")
        tell_end(self.tx, self.context, self.operation, self.report.records)
        audit.record(self.tx, audit.Action(
            self.operation.actor, "replay-end", str(self.operation.id), self.operation.reason or "",
            {"plan": self.operation.plan}, {"state": "DONE", "progress": self.report.document()},
        ))  # fmt: skip


def tell_end(tx: Tx, context: ProcessContext, operation: Operation, records: int) -> None:
    """Say that a shadow replay is over, inside the transaction that ends it."""
    service = context.service
    told = KIND, operation.plan["model"], records, operation.actor, operation.reason or ""
    announce(tx, service, operation.id, ReplayEnded(service.name, str(operation.id), *told))


def sweep(tx: Tx) -> None:
    """Drop the schemas of shadow replays that are over, but for the rows that the last swap has replaced."""
    rows = tx.execute(
        "SELECT id, state, (progress->>'swapped')::bool FROM operation WHERE kind = %b ORDER BY id DESC", [KIND]
    ).fetchall()
    kept = [schema_of(identity) for identity, state, _ in rows if state in ("RUNNING", "PAUSED", "FAILED")]
    kept += [f"{schema_of(identity)}_before" for identity, _, swapped in rows if swapped][:1]
    tx.execute("SELECT shadow_sweep(%b)", [kept])


def _positions(tx: Tx, topics: Iterable[str]) -> Positions:
    return {(topic, partition): at for topic, partition, at in tx.execute(POSITIONS, [sorted(topics)])}


def _primary_key(tx: Tx, table: str) -> list[str]:
    return [row[0] for row in tx.execute(PRIMARY_KEY, [f"public.{table}"])]
