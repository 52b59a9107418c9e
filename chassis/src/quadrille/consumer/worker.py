"""Worker: one process with the consumer loop and the task scheduler, a thread each; both call ``process_batch``."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import TypeAlias

import psycopg
import structlog
from confluent_kafka import Consumer, KafkaError

from quadrille.consumer.brake import resume_of_old
from quadrille.consumer.heartbeat import HeartbeatMonitor
from quadrille.consumer.loop import RETRIABLE, ConsumerLoop, ConsumerPorts, hinted
from quadrille.consumer.outage import OutageGuard
from quadrille.consumer.parking import LaneFeeder, Retrier, redrive_open
from quadrille.consumer.progress import ConsumerProgress
from quadrille.consumer.sealing import Sealing
from quadrille.consumer.suspects import WorkerLife
from quadrille.consumer.whole_records import reader_of
from quadrille.context import ProcessContext
from quadrille.kafka.config import consumer_settings
from quadrille.kafka.topics import Place, StoppedError, Topics
from quadrille.observability.logs import ThrottledLog
from quadrille.observability.readiness import NotReadyError, reason
from quadrille.processing.envelope import Handled
from quadrille.processing.outbox import tell_recoveries
from quadrille.service import Tx
from quadrille.tasks.scheduler import SchedulerPorts, TaskScheduler

RETENTION_SECONDS = 600.0
WATCH_SECONDS = 10.0
RETRY_SECONDS = 10.0
LOOK_SECONDS = 1.0
STOPPED_EVERY = 60.0
Work: TypeAlias = Callable[[threading.Event], None]
log = structlog.get_logger()


class Worker:
    """Everything one worker process does; ``run`` returns when told to stop, or raises StoppedError with the reason."""

    def __init__(self, context: ProcessContext) -> None:
        service, bootstrap = context.service, context.settings.kafka_bootstrap
        self.service, self.connect, self.retention = service, context.connect, context.retention
        self._window = context.settings.inbox_window
        self.sealing = Sealing(service, context.settings.audit_seal_every)
        self.reader = reader_of(service, context.decoder)
        telemetry = context.telemetry
        gather = context.settings.linger_min.total_seconds()

        def client() -> Consumer:
            told = {"error_cb": self._say, "on_commit": hinted}
            return Consumer(consumer_settings(bootstrap, service.name, gather) | told)

        self.topics, batch_max = Topics(bootstrap), context.settings.batch_max
        scheduling = SchedulerPorts(context.client, self._caught_up, batch_max, context.linger("scheduler"))
        self.scheduler = TaskScheduler(service, self.connect, telemetry, scheduling)
        heartbeat = HeartbeatMonitor(service, self.topics, context.decoder) if context.beats else None
        outages = None
        if heartbeat and context.outages and context.outages.fail_fast:
            outages = OutageGuard(service, context.outages, heartbeat, context.spans, telemetry)
        consuming = ConsumerPorts(
            client, self.topics, self.reader, self.scheduler.accept, self.scheduler.room, heartbeat, batch_max,
            context.linger("consumer"), outages,
        )  # fmt: skip
        self.consumer_loop = ConsumerLoop(service, self.connect, consuming, telemetry)
        context.acts_by["consumers"] = self.consumer_loop.state
        self.retrier = Retrier(LaneFeeder(service, self.reader, self.scheduler.accept), self.connect, telemetry.retried)
        self.progress = ConsumerProgress(service, self.topics, self.consumer_loop, context.settings.patience)
        self.life, self._careful_for = WorkerLife(self.connect), batch_max
        self._failure: BaseException | None = None
        self._troubles = ThrottledLog()

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop; raises StoppedError when a topic is not what it was."""
        try:
            self._run(stop)
        finally:
            with suppress(psycopg.Error):  # whoever starts next is careful for nothing
                self.life.end()

    def _run(self, stop: threading.Event) -> None:
        if not self._prepare(stop):
            return
        drained = threading.Event()  # the scheduler ends last: it carries out what the last batch emits
        listening = self._thread("consumer loop", self.consumer_loop.run, stop, stop)
        working = self._thread("scheduler", self.scheduler.run, drained, stop)
        watching = self._thread("watchdog", self._watch, stop, stop)
        retrying = self._thread("retries", self.retrier.run, stop, stop)
        listening.start()
        retrying.start()
        watching.start()
        if not self.scheduler.idle:
            working.start()
        self._guarded(self._look_after, stop, stop)
        listening.join()
        watching.join()
        retrying.join()
        drained.set()
        if not self.scheduler.idle:
            self.scheduler.wake()
            working.join()
        if self._failure:
            raise self._failure

    def _thread(self, name: str, work: Work, until: threading.Event, stop: threading.Event) -> threading.Thread:
        return threading.Thread(target=self._guarded, args=(work, until, stop), name=name)

    def _guarded(self, work: Work, until: threading.Event, stop: threading.Event) -> None:
        try:
            work(until)
        except BaseException as failure:  # noqa: BLE001 - raised again by run, in the main thread
            self._failure = self._failure or failure
        finally:
            stop.set()

    def _prepare(self, stop: threading.Event) -> bool:
        """Check the topics, refresh the floor and try what is parked again; wait for what is not up yet."""
        while not stop.is_set():
            try:
                with self.connect() as tx:
                    self.retention.prepare(tx, self.reader)
                    self._check(tx)
                    self.topics.require(list(self.service.on.subscribed()), self._window)
                    self.scheduler.look(tx)
                    resume_of_old(tx, self.service)
                    if not self.life.begun and self.life.begin():
                        self.consumer_loop.suspects.left = self._careful_for
                    suspects = self.consumer_loop.suspects
                    careful = suspects if suspects.left else None
                    outcomes = list(redrive_open(tx, self.service, self.reader, careful))
            except RETRIABLE as trouble:
                self.consumer_loop.waiting = f"it waits for what it needs: {reason(trouble)}"
                self._troubles.warn("worker waits", type(trouble).__name__)
                stop.wait(0.5)
            else:
                self._troubles.over("worker waits")
                if outcomes:
                    done = sum(isinstance(outcome, Handled) for outcome in outcomes)
                    log.info("parked inputs tried again", tried=len(outcomes), done=done)
                return True
        return False

    def _look_after(self, stop: threading.Event) -> None:
        """See to it that topics stay what they are, days come and go in time and recoveries are announced.

        Raises StoppedError.
        """
        kept_up = -math.inf
        while not stop.wait(WATCH_SECONDS):
            try:
                with self.connect() as tx:
                    self.retention.prepare(
                        tx, self.reader
                    )  # each time: a clock that stood still or jumped is no excuse
                    self._check(tx)
                    if time.monotonic() - kept_up >= RETENTION_SECONDS:
                        self.retention.clear(tx)
                        kept_up = time.monotonic()
                    self.sealing.look(tx)
                self._troubles.over("retention waits")
            except RETRIABLE as trouble:
                self._troubles.warn("retention waits", type(trouble).__name__)

    def _watch(self, stop: threading.Event) -> None:
        """Look whether what lies on the topics is handled, in a thread that consumes nothing: it cannot get stuck."""
        while not stop.wait(self.progress.patience.look_every):
            try:
                with self.connect() as tx:
                    self.progress.look(tx)
                self._troubles.over("watchdog waits")
            except RETRIABLE as trouble:
                self.progress.suspend()
                self._troubles.warn("watchdog waits", type(trouble).__name__)

    def _caught_up(self) -> bool:
        return self.consumer_loop.caught_up()

    def _check(self, tx: Tx) -> None:
        self.topics.check(tx, list(self.service.on.subscribed()))
        tell_recoveries(tx, self.service)

    def _say(self, error: KafkaError) -> None:
        """Pass on what the client reports; it does so only when it is polled, which the consumer loop does."""
        self.consumer_loop.trouble(error)


class WorkerRole:
    """A worker for as long as its process lives: one that had to stop says why, and another begins where it stood.

    So the reason can be asked for while it lasts, and whoever has removed it need not start anything again.
    """

    def __init__(self, make: Callable[[], Worker], retry_seconds: float = RETRY_SECONDS) -> None:
        self._make, self._retry_seconds = make, retry_seconds
        self._worker: Worker | None = None
        self._inner = threading.Event()
        self._stopped, self._stopped_at = "", 0.0
        self._said = ThrottledLog(STOPPED_EVERY)

    def allowed(self) -> None:
        """Raise NotReadyError with the reason why the last worker stopped, until another has its partitions."""
        worker = self._worker
        if self._stopped and worker is not None and worker.consumer_loop.joined:
            seconds = round(time.monotonic() - self._stopped_at, 1)
            log.critical("worker goes on", reason=self._stopped, seconds=seconds)
            self._stopped = ""
        if self._stopped:
            raise NotReadyError(self._stopped)

    def kafka_answers(self) -> None:
        """Raise KafkaException unless the broker answers the worker that runs."""
        if self._worker is not None:
            self._worker.topics.answers()

    def assigned(self) -> None:
        """Raise NotReadyError unless the worker has its place in the group and its batches are committed."""
        if self._worker is None:
            message = "no worker runs"
            raise NotReadyError(message)
        self._worker.consumer_loop.ready()

    def progressing(self) -> None:
        """Raise NotReadyError while records lie ahead that nobody handles."""
        if self._worker is not None:
            self._worker.progress.ready()

    def at_the_end(self) -> None:
        """Raise NotReadyError while what this worker has read lies well before what is there."""
        if self._worker is not None:
            self._worker.progress.at_the_end()

    def ends(self, places: Collection[Place]) -> Mapping[Place, int]:
        """Return where partitions end at the broker; raises NotReadyError without a worker, or what Kafka raises."""
        if self._worker is None:
            raise NotReadyError(self._stopped or "no worker runs")
        return {place: high for place, (_, high) in self._worker.topics.watermarks(places).items()}

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop."""
        ending = threading.Thread(target=self._pass_on, args=(stop,), name="stop", daemon=True)
        ending.start()
        while not stop.is_set():
            try:
                self._work(stop)
            except StoppedError as why:
                self._stopped_at = self._stopped_at if self._stopped else time.monotonic()
                self._worker, self._stopped = None, str(why)
                if self._said.met(self._stopped):
                    log.critical("worker stopped", reason=self._stopped, seconds=self._retry_seconds)
                stop.wait(self._retry_seconds)

    def _work(self, stop: threading.Event) -> None:
        self._inner = threading.Event()
        if not stop.is_set():
            self._worker = self._make()
            self._worker.run(self._inner)

    def _pass_on(self, stop: threading.Event) -> None:
        """Tell the worker at hand that the process is to end; a worker that ends by itself tells only itself."""
        while not stop.wait(LOOK_SECONDS):
            with suppress(NotReadyError):
                self.allowed()  # that it goes on is told, whether somebody asks or not
        self._inner.set()
