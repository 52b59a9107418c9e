"""One worker process: a thread that hears topics, a thread that works off the agenda, both through ``commit``."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import psycopg
import structlog
from confluent_kafka import Consumer, KafkaError

from chassis import metrics, otlp
from chassis.agenda import Agenda
from chassis.announce import tell_recoveries
from chassis.conninfo import pinned, settled
from chassis.consumer_progress import ConsumerProgress
from chassis.health import NotReadyError, reason
from chassis.inputs import Done, Entry, Input, Outcome, Parked
from chassis.kafka import consumer_settings
from chassis.listener import AWAY, Ears, Listener, hinted
from chassis.logs import Seldom
from chassis.otlp import CLIENT, CONSUMER, INTERNAL
from chassis.parked import redrive_open
from chassis.progress import Patience
from chassis.reading import Decoder, Reader
from chassis.service import Service, Tx
from chassis.silence import Pulse
from chassis.tally import Tally
from chassis.topics import Stopped, Topics
from chassis.tracing import Spans
from chassis.upkeep import Upkeep
from chassis.words import Fact

UPKEEP_SECONDS = 600.0
WATCH_SECONDS = 10.0
RETRY_SECONDS = 10.0
STOPPED_EVERY = 60.0
Work: TypeAlias = Callable[[threading.Event], None]
log = structlog.get_logger()


class Notes:
    """Spans, counters and log lines of what a worker did; after the commit, so that they tell only what is true."""

    def __init__(self, spans: Spans, tally: Tally | None = None) -> None:
        self.spans, self.tally = spans, tally

    def handled(self, batch: Sequence[tuple[Input, Outcome]], began_ns: int) -> None:
        """Note a committed batch."""
        ended_ns = time.time_ns()
        metrics.BATCH.observe(len(batch))
        metrics.COMMIT.observe((ended_ns - began_ns) / 1e9)
        for heard, outcome in batch:
            metrics.count_outcome(heard.type, outcome)
            if self.spans.on:
                self._span(heard, outcome, began_ns, ended_ns)
            if isinstance(outcome, Parked):
                self._parked(heard, outcome)
            elif self.tally and isinstance(outcome, Done):
                self.tally.add(outcome.said)

    def called(self, entry: Entry, began_ns: int, trouble: Exception | None = None) -> None:
        """Note a call outside that has ended."""
        ended_ns, kind = time.time_ns(), entry.intent.type
        metrics.ERRANDS.labels(kind, type(trouble).__name__ if trouble else "answered").inc()
        metrics.ERRAND.labels(kind).observe((ended_ns - began_ns) / 1e9)
        attributes: dict[str, otlp.Value] = {"quadrille.order_id": entry.key, "quadrille.attempt": entry.attempts}
        error = type(trouble).__name__ if trouble else None
        self.spans.record(
            kind, entry.trace.child(), entry.trace.span_id, began_ns, ended_ns, kind=CLIENT, attributes=attributes,
            error=error,
        )  # fmt: skip

    def _span(self, heard: Input, outcome: Outcome, began_ns: int, ended_ns: int) -> None:
        attributes: dict[str, otlp.Value] = {
            "quadrille.order_id": heard.key,
            "quadrille.event_type": heard.type,
            "quadrille.outcome": type(outcome).__name__.lower(),
        }
        name = f"process {heard.type}"
        if heard.origin:
            name = f"process {heard.origin.topic}"
            attributes |= {
                "messaging.system": "kafka",
                "messaging.operation.type": "process",
                "messaging.destination.name": heard.origin.topic,
                "messaging.message.id": str(heard.id),
            }
        self.spans.record(
            name, heard.inside, heard.trace.span_id, began_ns, ended_ns,
            kind=CONSUMER if heard.origin else INTERNAL,
            attributes=attributes,
            links=(heard.trace,) if heard.origin else (),
            error=outcome.error_class if isinstance(outcome, Parked) else None,
        )  # fmt: skip

    def _parked(self, heard: Input, outcome: Parked) -> None:
        place = heard.origin
        log.error(
            "input parked",
            order_id=heard.key, event_id=str(heard.id), event_type=heard.type, error_class=outcome.error_class,
            topic=place and place.topic, partition=place and place.partition, offset=place and place.upto - 1,
            trace_id=heard.trace.trace_id,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a worker stands in, and how large a batch may be; ``beats`` says that it says and hears proofs of life.

    ``tally`` counts how sagas end, ``upkeep`` is what the database needs beside its inputs, ``patience`` how long
    nothing may be handled with records ahead.
    """

    connect: Callable[[], Tx]
    bootstrap: str
    decoder: Decoder
    spans: Spans
    client: object = None
    batch_max: int = 100
    beats: bool = False
    tally: Tally | None = None
    upkeep: Upkeep = field(default_factory=Upkeep)
    patience: Patience = field(default_factory=Patience)


class Worker:
    """Everything one worker process does; ``run`` returns when told to stop, or raises Stopped with the reason."""

    def __init__(self, service: Service[Any], around: Surroundings) -> None:
        self.service, self.connect, self.upkeep = service, around.connect, around.upkeep
        self.reader = Reader(service.on.hears(Fact), around.decoder)
        notes = Notes(around.spans, around.tally)

        def client() -> Consumer:
            told = {"error_cb": self._say, "on_commit": hinted}
            return Consumer(consumer_settings(around.bootstrap, service.name) | told)

        self.topics = Topics(around.bootstrap)
        self.listener = Listener(service, self.connect, Ears(client, self.topics, self.reader), notes)
        self.progress = ConsumerProgress(service, self.topics, self.listener, around.patience)
        self.agenda = Agenda(service, self.connect, notes, around.client)
        if around.beats:
            self.listener.pulse = Pulse(service, self.topics, around.decoder)
        self.listener.take, self.listener.room = self.agenda.heard, self.agenda.room
        self.agenda.caught_up = self.listener.caught_up
        self.listener.batch_max = self.agenda.batch_max = around.batch_max
        self._failure: BaseException | None = None
        self._troubles = Seldom()

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop; raises Stopped when a topic is not what it was."""
        if not self._prepare(stop):
            return
        heard_all = threading.Event()  # the agenda ends last: it takes in hand what the last batch says
        listening = self._thread("listener", self.listener.run, stop, stop)
        working = self._thread("agenda", self.agenda.run, heard_all, stop)
        watching = self._thread("watchdog", self._watch, stop, stop)
        listening.start()
        watching.start()
        if not self.agenda.idle:
            working.start()
        self._guarded(self._look_after, stop, stop)
        listening.join()
        watching.join()
        heard_all.set()
        if not self.agenda.idle:
            self.agenda.wake()
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
                    self.upkeep.prepare(tx, self.reader)
                    self._check(tx)
                    outcomes = list(redrive_open(tx, self.service, self.reader))
            except AWAY as trouble:
                self.listener.waiting = f"it waits for what it needs: {reason(trouble)}"
                self._troubles.warn("worker waits", type(trouble).__name__)
                stop.wait(0.5)
            else:
                if outcomes:
                    done = sum(isinstance(outcome, Done) for outcome in outcomes)
                    log.info("parked inputs tried again", tried=len(outcomes), done=done)
                return True
        return False

    def _look_after(self, stop: threading.Event) -> None:
        """See to it that topics stay what they are, days come and go in time and recoveries are told of.

        Raises Stopped.
        """
        kept_up = -math.inf
        while not stop.wait(WATCH_SECONDS):
            try:
                with self.connect() as tx:
                    self.upkeep.prepare(tx, self.reader)  # each time: a clock that stood still or jumped is no excuse
                    self._check(tx)
                    if time.monotonic() - kept_up >= UPKEEP_SECONDS:
                        self.upkeep.clear(tx)
                        kept_up = time.monotonic()
            except AWAY as trouble:
                self._troubles.warn("upkeep waits", type(trouble).__name__)

    def _watch(self, stop: threading.Event) -> None:
        """Look whether what lies on the topics is handled, in a thread that hears nothing and so cannot get stuck."""
        while not stop.wait(self.progress.patience.look_every):
            try:
                with self.connect() as tx:
                    self.progress.look(tx)
            except AWAY as trouble:
                self.progress.suspend()
                self._troubles.warn("watchdog waits", type(trouble).__name__)

    def _check(self, tx: Tx) -> None:
        self.topics.check(tx, list(self.service.on.topics()))
        tell_recoveries(tx, self.service)

    def _say(self, error: KafkaError) -> None:
        """Pass on what the client says; it does so only when it is polled, which the listener does."""
        self.listener.trouble(error)


class WorkerRole:
    """A worker for as long as its process lives: one that had to stop says why, and another begins where it stood.

    So the reason can be asked for while it lasts, and whoever has removed it need not start anything again.
    """

    def __init__(self, make: Callable[[], Worker], retry_seconds: float = RETRY_SECONDS) -> None:
        self._make, self._retry_seconds = make, retry_seconds
        self._worker: Worker | None = None
        self._inner = threading.Event()
        self._stopped = ""
        self._said = Seldom(STOPPED_EVERY)

    def allowed(self) -> None:
        """Raise NotReadyError with the reason why the last worker stopped, until another has its partitions."""
        if self._stopped and self._worker is not None and self._worker.listener.joined:
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
        self._worker.listener.ready()

    def progressing(self) -> None:
        """Raise NotReadyError while records lie ahead that nobody handles."""
        if self._worker is not None:
            self._worker.progress.ready()

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop."""
        ending = threading.Thread(target=self._pass_on, args=(stop,), name="stop", daemon=True)
        ending.start()
        while not stop.is_set():
            try:
                self._work(stop)
            except Stopped as why:
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
        stop.wait()
        self._inner.set()


def connection(url: str) -> Callable[[], Tx]:
    """Return a function that opens a connection as the chassis wants it: autocommit, prepared statements at once.

    Nothing of it depends on the environment or on what the server speaks by default.
    """

    def connect() -> Tx:
        tx: Tx = psycopg.connect(
            pinned(url, connect_timeout=5, keepalives_idle=5, tcp_user_timeout=10_000),
            autocommit=True, prepare_threshold=0,
        )  # fmt: skip
        return settled(tx)

    return connect
