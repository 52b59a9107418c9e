"""Command batcher: all commands that wait at one instant share one commit; each gets the durable answer, or the truth.

While the one committer thread commits a batch, the next one gathers by itself: the first never waits. A command whose
request key is held elsewhere leaves the batch and asks again on its own time. After an outage a command that has a
request key is asked again under the same id: if it was stored, its row answers; nobody is answered before.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import psycopg
import structlog

from quadrille.db.connection import PLAN_ONCE
from quadrille.kafka.topics import StoppedError
from quadrille.messages import Infrastructure, Reply
from quadrille.observability import metrics
from quadrille.observability.linger import Linger
from quadrille.observability.logs import ThrottledLog
from quadrille.processing.batch import OUTAGE, process_batch
from quadrille.processing.envelope import Busy, Envelope, Failed, Handled, Outcome, Replayed
from quadrille.processing.idempotency import KeptAnswer
from quadrille.processing.telemetry import Telemetry
from quadrille.service import Service, Tx
from quadrille.web.concurrency import MOST, ConcurrencyLimit
from quadrille.web.problems import Problem

BATCH = 100
PATIENCE_SECONDS = 2.0
BUSY_SECONDS = 0.03
OUTAGE_SECONDS = 0.1
ANSWER_SECONDS = 10.0
log = structlog.get_logger()


@dataclass(slots=True)
class _Asked:
    """A command that waits for its answer; ``unsure`` while it may be stored unheard, ``alone`` after trouble."""

    command: Envelope
    answer: asyncio.Future[Outcome]
    give_up: float
    unsure: bool = False
    alone: bool = False


class CommandBatcher:
    """The way of a service's commands into its database; open it as a context while serving.

    ``execute`` may be called from the event loop only; what would be answered too late is refused at once, and never
    are more than ``limit`` commands in flight.
    """

    def __init__(
        self,
        service: Service[Any],
        connect: Callable[[], Tx],
        telemetry: Telemetry,
        limit: int = MOST,
        linger: Linger | None = None,
    ) -> None:
        self._service, self._connect, self._telemetry = service, connect, telemetry
        self._limit = ConcurrencyLimit(most=limit)
        self._linger, self._wait = linger, 0.0
        self._waiting: deque[_Asked] = deque()
        self._closing = False
        self._tx: Tx | None = None
        self._missing = "database"
        self._troubles = ThrottledLog()
        self._committer = ThreadPoolExecutor(1, "committer")

    def check(self) -> None:
        """Refuse to start on a database that forgets (failure R14); one that is down is waited for."""
        with suppress(psycopg.OperationalError):
            self._open()

    async def __aenter__(self) -> Self:
        self._woken = asyncio.Event()
        self._serving = asyncio.create_task(self._serve())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._woken.set()
        await self._serving
        self._committer.shutdown()
        if self._tx:
            self._tx.close()

    @property
    def full(self) -> bool:
        """Whether one more command is refused at once."""
        return self._closing or self._limit.full

    async def execute(self, command: Envelope) -> Reply | KeptAnswer:
        """Return the handler's reply, or the answer that is kept under the command's key, after the durable commit.

        Raises Problem: overloaded, idempotency-key-in-use, dependency-unavailable (nothing stored), outcome-unknown
        (perhaps stored); and whatever the handler raised.
        """
        if self.full:
            raise Problem(slug="overloaded", cause="DRAINING" if self._closing else "POOL_EXHAUSTED", retry_after=1)
        loop = asyncio.get_running_loop()
        began = self._limit.began(loop)
        asked = _Asked(command, loop.create_future(), loop.time() + PATIENCE_SECONDS)
        self._put(asked)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return _reply(await asked.answer)
        except TimeoutError:
            raise self._lost(asked) from None
        finally:
            self._limit.ended(loop, began, told=_answered(asked.answer))

    def _put(self, asked: _Asked) -> None:
        self._waiting.append(asked)
        metrics.WAITING.set(len(self._waiting))
        self._woken.set()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting or self._limit.in_flight or not self._closing:
            if not self._waiting:
                self._woken.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), 0.05 if self._closing else None)
                continue
            if self._wait and len(self._waiting) < BATCH:
                await asyncio.sleep(self._wait)
            batch = self._gather()
            before = [asked.unsure for asked in batch]
            for asked in batch:
                asked.unsure = True
            outcomes, doubt = await loop.run_in_executor(self._committer, self._commit, [a.command for a in batch])
            for asked, unsure, outcome in zip(batch, before, outcomes, strict=True):
                asked.unsure, asked.alone = unsure or doubt, asked.alone or outcome is None
                self._settle(asked, outcome)

    def _gather(self) -> list[_Asked]:
        """Take all that wait, up to a batch; one that shared a batch with trouble goes alone."""
        batch: list[_Asked] = []
        while self._waiting and len(batch) < BATCH and not (batch and (batch[0].alone or self._waiting[0].alone)):
            asked = self._waiting.popleft()
            if not asked.answer.done():  # an asker who was told that nothing is stored must be right
                batch.append(asked)
        metrics.WAITING.set(len(self._waiting))
        return batch

    def _settle(self, asked: _Asked, outcome: Outcome | None) -> None:
        """Answer, or ask again later while patience lasts; None is an outage."""
        loop = asyncio.get_running_loop()
        if asked.answer.done():
            return
        if outcome is not None and not isinstance(outcome, Busy):
            asked.answer.set_result(outcome)
        elif loop.time() >= asked.give_up or (asked.unsure and not asked.command.request):
            busy = isinstance(outcome, Busy) and not asked.unsure
            asked.answer.set_exception(Problem("idempotency-key-in-use", retry_after=1) if busy else self._lost(asked))
        else:
            loop.call_later(BUSY_SECONDS if outcome else OUTAGE_SECONDS, self._put, asked)

    def _commit(self, batch: Sequence[Envelope]) -> tuple[Sequence[Outcome | None], bool]:
        """In the committer's thread: commit one batch; all None after an outage, and whether it may be stored."""
        began_ns, doubt = time.time_ns(), False
        try:
            tx = self._ready()
            doubt = True
            outcomes = process_batch(tx, self._service, batch)
        except (*OUTAGE, StoppedError) as trouble:
            self._missing = "registry" if isinstance(trouble, Infrastructure) else "database"
            metrics.OUTAGES.labels(type(trouble).__name__).inc()
            self._troubles.warn("intake waits", type(trouble).__name__)
            # A server that answered a lone input with an error rolled it back; a halved batch may be half stored.
            return [None] * len(batch), doubt and (self._tx is None or self._tx.closed or len(batch) > 1)
        self._troubles.over()
        handled = [pair for pair in zip(batch, outcomes, strict=True) if not isinstance(pair[1], Busy)]
        self._telemetry.handled(handled, began_ns)
        self._wait = self._linger.seconds() if self._linger else 0.0
        return outcomes, False

    def _ready(self) -> Tx:
        """Return a connection the server has not closed while it was idle: then nothing has been sent on it."""
        if self._tx and not self._tx.closed:
            poll = select.poll()
            poll.register(self._tx.fileno(), select.POLLIN | select.POLLHUP)
            if not poll.poll(0):
                return self._tx
            self._tx.close()
        return self._open()

    def _open(self) -> Tx:
        tx = self._connect()
        row = tx.execute("SELECT current_setting('synchronous_commit')").fetchone()
        if row == ("off",):
            tx.close()
            message = "found synchronous_commit=off; wanted on: accepted commands would be lost; fix: set it to on"
            raise StoppedError(message)
        self._tx = tx
        tx.execute(PLAN_ONCE)
        return tx

    def _lost(self, asked: _Asked) -> Problem:
        slug = "outcome-unknown" if asked.unsure else "dependency-unavailable"
        return Problem(slug, dependency=self._missing, retry_after=1)


def _answered(answer: asyncio.Future[Outcome]) -> bool:
    return answer.done() and not answer.cancelled() and answer.exception() is None


def _reply(outcome: Outcome) -> Reply | KeptAnswer:
    if isinstance(outcome, Failed):
        raise outcome.error
    if isinstance(outcome, Handled | Replayed) and outcome.kept:
        return outcome.kept
    emitted = outcome.emitted if isinstance(outcome, Handled) else ()
    for message in emitted:
        if isinstance(message, Reply):
            return message
    error = f"a command was {type(outcome).__name__} and got no reply: its handler must say one"
    raise TypeError(error)
