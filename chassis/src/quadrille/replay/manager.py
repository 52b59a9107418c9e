"""Managers of long actions, asked for over the ops port, carried out by whichever worker of the service has the lock.

A worker that is killed leaves its operation RUNNING; it goes on by itself as soon as a worker looks: this one after its
restart, or another one within ``LOOK_SECONDS``. Only a pause, a cancel or a failure ends it before its end.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from types import TracebackType
from typing import ClassVar, Self
from uuid import UUID

import structlog

from quadrille.consumer.loop import RETRIABLE
from quadrille.consumer.whole_records import reader_of
from quadrille.context import ProcessContext
from quadrille.db import sqlstate
from quadrille.ids import lock_key
from quadrille.kafka.topics import Topics
from quadrille.observability.logs import ThrottledLog
from quadrille.replay import operations, shadow
from quadrille.replay.archive import ArchiveError
from quadrille.replay.archive_tape import ArchiveTape, Joined, opened
from quadrille.replay.fence import Effects, Fence, effects_of
from quadrille.replay.operations import Advance, Operation
from quadrille.replay.plan import plan_of
from quadrille.replay.projection import Projection
from quadrille.replay.runner import RangeReader, RecordsGoneError, Replay, Tape
from quadrille.service import Tx

KIND = "replay"
LOOK_SECONDS = 15.0
REST_SECONDS = 0.5
MINE = "SELECT pg_try_advisory_lock(%b)"
log = structlog.get_logger()


class OperationManager:
    """What an operator may ask of one service, of one ``kind``, and the thread that does it while the block lasts."""

    kind: ClassVar[str]

    def __init__(self, context: ProcessContext) -> None:
        self._stop, self._woken = threading.Event(), threading.Event()
        self.service, self.context = context.service, replace(context, stop=self._stop)
        self.reader = reader_of(self.service, context.decoder)
        self._troubles = ThrottledLog()
        self._thread = threading.Thread(target=self._run, name=f"{self.kind}s")

    def do(self, tx: Tx, found: Operation) -> None:
        """Carry an operation out, from wherever its row says it is; raises Interrupted when it is not ours any more."""
        raise NotImplementedError

    def tidy(self, tx: Tx) -> None:
        """Put away what operations that are over have left behind; called at each look."""

    def __enter__(self) -> Self:
        """Begin to look for what is to be done."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop between two batches; what is under way stays so and goes on with the next worker."""
        self._stop.set()
        self._woken.set()
        self._thread.join()

    def wake(self) -> None:
        """Look at once for what was asked."""
        self._woken.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._woken.clear()
            try:
                with closing(self.context.connect()) as tx:
                    self.tidy(tx)
                    for identity in operations.under_way(tx, self.kind):
                        self._carry_out(tx, identity)
                self._troubles.over()
            except operations.Interrupted:
                continue
            except RETRIABLE as trouble:
                self._troubles.warn(f"{self.kind}s wait", type(trouble).__name__)
                self._stop.wait(REST_SECONDS)
                continue
            self._woken.wait(LOOK_SECONDS)

    def _carry_out(self, tx: Tx, identity: UUID) -> None:
        """Carry an operation out if no other worker does; the lock goes with the connection."""
        row = tx.execute(MINE, [lock_key(f"{self.kind}:{identity}")]).fetchone()
        found = operations.read(tx, identity)
        if not (row and row[0]) or found is None or found.state != "RUNNING":
            return
        try:
            self.do(tx, found)
        except operations.Interrupted:
            raise
        except Exception as bug:
            if isinstance(bug, RETRIABLE) and not sqlstate.blames_input(bug):
                raise
            log.exception("operation failed", operation_id=str(identity), error_class=type(bug).__name__)
            self._fail(identity, _why(bug))

    def _fail(self, identity: UUID, why: str) -> None:
        """Note on a connection of its own that nothing more will come of it until a person resumes it."""
        with closing(self.context.connect()) as tx, tx.transaction():
            found = operations.read(tx, identity)
            if found is not None:
                step = int(found.progress["step"])
                made = {**found.progress, "step": step + 1, "failure": why}
                operations.advance(tx, identity, step, Advance(made, "FAILED"))


class Replays(OperationManager):
    """Replays of a service; ``effects`` are what its events lead to, without them read from what its wheel carries."""

    kind = KIND

    def __init__(self, context: ProcessContext, effects: Effects | None = None) -> None:
        super().__init__(context)
        self._effects = effects or effects_of(self.service.name)

    def do(self, tx: Tx, found: Operation) -> None:
        """Read again what the plan names."""
        plan, fence = plan_of(found.plan), Fence(self._effects, plan_of(found.plan).allow_effects)
        with closing(self._tape(plan.archive, plan.seal or "", found.id)) as tape:
            Replay(self.context, self.reader, tx, found, fence).run(tape)

    def _tape(self, archive: str | None, seal: str, identity: UUID) -> Tape:
        """Return what is read again: the archive that was planned with, or the topics."""
        if archive is not None:
            return ArchiveTape(opened(archive, seal))
        return RangeReader(self.context.settings.kafka_bootstrap, f"{self.service.name}.replay.{identity}")


def _why(bug: Exception) -> str:
    if isinstance(bug, ArchiveError):
        return str(bug)
    return "past retention" if isinstance(bug, RecordsGoneError) else type(bug).__name__


class Shadows(OperationManager):
    """Shadow replays of a service; ``projections`` are the read models it declares rebuildable."""

    kind = shadow.KIND

    def __init__(self, context: ProcessContext, projections: Sequence[Projection] = ()) -> None:
        super().__init__(context)
        self.projections = {one.name: one for one in projections}

    def do(self, tx: Tx, found: Operation) -> None:
        """Rebuild the projection the plan names."""
        projection = self.projections.get(found.plan["model"])
        if projection is None:
            self._fail(found.id, f"{self.service.name} declares no projection {found.plan['model']} any more")
            return
        bootstrap, group = self.context.settings.kafka_bootstrap, f"{self.service.name}.replay.{found.id}"
        reader = reader_of(self.service, self.context.decoder)  # its inbox begins with the topics: no id is too old
        topics: Topics | Joined = Topics(bootstrap)
        tape: Tape = RangeReader(bootstrap, group)
        if (directory := found.plan.get("archive")) is not None and isinstance(topics, Topics):
            tape = topics = Joined(opened(directory, found.plan["seal"]), topics, tape)
        with closing(tape):
            try:
                shadow.ShadowReplay(self.context, reader, tx, found, projection, tape, topics).run()
            except shadow.NOT_REBUILDABLE as refused:
                self._fail(found.id, refused.diag.message_primary or type(refused).__name__)

    def tidy(self, tx: Tx) -> None:
        """Drop the schemas of those that are over."""
        if self.projections:
            shadow.sweep(tx)
