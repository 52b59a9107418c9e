"""The program of a service: what its ``main.py`` wires, and the roles it is started as.

Reading order: ``Program`` (what is wired), ``main`` (one role until SIGTERM), the roles ``_api``, ``_worker``,
``_relay``, ``_all`` (api and worker in one process), ``_migrate``; ``Settings`` (``quadrille.settings``),
``ProcessContext`` (``quadrille.context``: what a process stands in), ``OperatorAction`` (``quadrille.ops.actions``:
what a person may ask for).
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

import structlog

from quadrille import file_limits, lazy, settings
from quadrille.context import ProcessContext
from quadrille.db.conninfo import unhear
from quadrille.handlers import HandlerRegistry
from quadrille.intents import Gateway
from quadrille.messages import Event
from quadrille.observability import logs, otel
from quadrille.observability.metrics import Counter, Gauge, Histogram, set_all
from quadrille.observability.tracing import Spans
from quadrille.ops import server
from quadrille.ops.checks import Check
from quadrille.ops.health import breaker_closed, database_can_write, nothing_parked, registry_asked, relay_publishes
from quadrille.ops.routes import OpsRequest, OpsResponse, OpsRoutes, ScopedRoute
from quadrille.ops.start import RefusedStartError, StartChecks, this_process
from quadrille.service import Digest, OutagePolicy, Outages, Service, Store, Tx
from quadrille.settings import Duration, Hidden, Secret, Settings, SettingsError, Size, Url, parse_duration

if TYPE_CHECKING:
    from quadrille.avro.codec import Codec
    from quadrille.consumer.worker import WorkerRole
    from quadrille.db.audit import Action, record
    from quadrille.ops.actions import Look, OperatorAction, Refusal, Success, compensation_actions
    from quadrille.ops.admission import database, intake
    from quadrille.ops.evidence import held
    from quadrille.ops.gauges import GaugeReader
    from quadrille.processing.telemetry import Meter, SagaOutcome, SagaOutcomes
    from quadrille.replay.projection import ProjectedTable, Projection
    from quadrille.web.problems import refuse, register
else:  # a relay has no operators' actions
    __getattr__ = lazy.face(
        __name__,
        {
            "quadrille.db.audit": ("Action", "record"),
            "quadrille.ops.actions": ("OperatorAction", "Refusal", "Success", "compensation_actions"),
            "quadrille.ops.admission": ("database", "intake"),
            "quadrille.replay.projection": ("ProjectedTable", "Projection"),
            "quadrille.ops.evidence": ("held",),
            "quadrille.web.problems": ("refuse", "register"),
        },
    )

__all__ = [
    "Action",
    "Counter",
    "Duration",
    "Gauge",
    "Hidden",
    "Histogram",
    "OperatorAction",
    "OpsRequest",
    "OpsResponse",
    "OpsRoutes",
    "OutagePolicy",
    "Outages",
    "ProcessContext",
    "Program",
    "ProjectedTable",
    "Projection",
    "Refusal",
    "ScopedRoute",
    "Secret",
    "Settings",
    "Size",
    "Success",
    "Url",
    "compensation_actions",
    "database",
    "held",
    "intake",
    "main",
    "parse_duration",
    "record",
    "refuse",
    "register",
    "set_all",
]
GARBAGE = 20_000
"""So many more containers made than let go start a collection: a batch makes thousands that die with it."""
W = TypeVar("W")


def _nobody(_: Settings) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Program(Generic[W]):
    """What a service's main.py wires: handlers, store, gateway with its client, rules, and where its HTTP face is.

    ``api`` is the name of a function ``make(context)`` giving an ASGI app, imported by the api role alone, empty for a
    service without one; ``outcome`` tells how a saga ends by what is said; ``meter`` counts what is said once it is
    committed, ``gauges`` read the service's tables every few seconds; ``operators`` are the commands a person may
    give over the ops port, ``ops`` the names of functions ``routes(context)`` giving what else the api's ops port
    answers; ``projections`` are read models that a shadow replay may rebuild from their topics, ``look`` is what the
    store tells of a saga, for whoever asks why it waits, ``digest`` what it tells of many, for whoever holds services
    against each other; ``forget`` lets go some of the service's rows that are older than events are recognised
    (``inbox_window``), and returns how many; ``outages`` tells of the settings what is done about others that are away.
    """

    on: HandlerRegistry[W]
    store: Store[W]
    api: str = ""
    outside: Gateway = field(default_factory=lambda: Gateway(""))
    client: Callable[[Any], object] = _nobody  # of the settings, which are of the service's own class
    rules: Callable[[Any], object] = _nobody
    outcome: SagaOutcome | None = None
    meter: Meter | None = None
    gauges: Sequence[GaugeReader] = ()
    operators: Sequence[OperatorAction] = ()
    ops: Sequence[str] = ()
    projections: Sequence[Projection] = ()
    look: Look | None = None
    digest: Digest | None = None
    forget: Callable[[Tx, timedelta], int] | None = None
    outages: Callable[[Any], Outages] | None = None

    def tally(self, connect: Callable[[], Tx]) -> SagaOutcomes | None:
        """Return a process's own count of how sagas end, None where that is not counted."""
        from quadrille.processing.telemetry import SagaOutcomes  # noqa: PLC0415 - the relay knows no database of ours

        return SagaOutcomes(connect, self.outcome) if self.outcome else None


log = structlog.get_logger()


def main(name: str, arguments: Sequence[str] | None = None) -> None:
    """Run one role of a service until SIGTERM or SIGINT, then exit; ``name`` is the service's package."""
    role, *flags = arguments or sys.argv[1:] or [""]
    if role not in ROLES:
        module = name if Path(sys.argv[0]).stem == "__main__" else f"{name}.main"
        sys.stderr.write(f"usage: python -m {module} {' | '.join(ROLES)} [--setting=value ...]\n")
        sys.exit(2)
    found = settings.read(settings.settings_of(name), flags)
    if wrong := otel.check(os.environ):
        _refuse(wrong)
    logs.configure(name, role, found.log_level, events=found.log_events)
    otel.name_unheard(os.environ, endpoints=bool(found.otlp_endpoints), ratio=_ratio(found) is not None)
    file_limits.take_all()
    for variable in unhear():
        log.warning("setting is not heard", setting=variable, reason="DATABASE_URL alone says how it is reached")
    stop = _stop_on_signals()
    checks = StartChecks(role, found.database_url, stop)
    try:
        checks.begin(this_process(found, flags))
        ROLES[role](name, found, stop)
        checks.verdict()
    except (SettingsError, RefusedStartError) as refused:
        _refuse(str(refused))
    except Exception:
        log.critical("stopped", status=1, exc_info=True)
        raise
    log.info("stopped", status=0)


def _refuse(why: str) -> NoReturn:
    sys.stderr.write(f"refused to start: {why}\n")
    sys.exit(2)


def _spans(name: str, role: str, found: Settings) -> Spans:
    """Return the spans of this process; its own settings, where they are given, win over OpenTelemetry's variables."""
    try:
        return Spans(name, role, found.otlp_endpoints, _ratio(found)).install()
    except otel.OtelError as wrong:  # what an installed package offers cannot be loaded
        _refuse(str(wrong))


def _ratio(found: Settings) -> float | None:
    return None if found.sources["trace_ratio"] == "default" else found.trace_ratio


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _settle() -> None:
    """Take what start has made out of the garbage collector's sight, and let it look seldom: little here is cyclic."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE, *gc.get_threshold()[1:])


def _program(name: str) -> Program[Any]:
    program: Program[Any] = importlib.import_module(f"{name}.main").PROGRAM
    return program


def _named(name: str) -> Callable[[Any], Any]:
    """Return the function ``module:function``, imported now."""
    module, _, function = name.partition(":")
    found: Callable[[Any], Any] = getattr(importlib.import_module(module), function)
    return found


def _service(program: Program[Any], found: Settings, *, relayed: bool = True) -> tuple[Service[Any], Codec]:
    from quadrille.avro.codec import Codec  # noqa: PLC0415 - not the relay's
    from quadrille.avro.registry import (  # noqa: PLC0415 - as above
        Cache,
        Registry,
        SchemaIds,
    )
    from quadrille.avro.schemas import emitted_by  # noqa: PLC0415 - as above
    from quadrille.service import Service  # noqa: PLC0415 - as above

    own = emitted_by(program.on.service) if program.on.emits(Event) else ()
    said = *own, *emitted_by("chassis")
    codec = Codec(said, SchemaIds(Registry(found.registry_url), Cache(found.schema_cache)))
    return Service(program.on, program.store, codec, program.outside, program.rules(found), relayed), codec


def _worker(name: str, found: Settings, stop: threading.Event) -> None:
    from quadrille.consumer.worker import Worker, WorkerRole  # noqa: PLC0415 - as above
    from quadrille.db.connection import connection  # noqa: PLC0415 - as above
    from quadrille.ops import gauges  # noqa: PLC0415 - the worker's alone

    program = _program(name)
    service, codec = _service(program, found)
    spans, connect = _spans(name, "worker", found), connection(found.database_url)
    tally, client = program.tally(connect), program.client(found)
    context = ProcessContext(
        found, service, connect, spans, tally, stop, codec, client, beats=True, meter=program.meter,
        forget=program.forget, outages=program.outages(found) if program.outages else None,
    )  # fmt: skip
    looks = (gauges.outbox, gauges.parked, gauges.paused, gauges.heartbeats(name), *program.gauges)
    worker = WorkerRole(lambda: Worker(context))
    checks = _worker_checks(worker, found, codec)
    routes, managers = worker_routes(program, context, worker)
    with (
        tally or nullcontext(),
        managers,
        gauges.Gauges(connect, looks, found),
        server.serve(
            found.ops_bind,
            name,
            "worker",
            checks,
            found.shown(),
            routes=routes,
            warns={**_degraded(found), "outside": lambda: breaker_closed(client)},
            draining=stop.is_set,
            keys=context.keys,
        ),
    ):
        _settle()
        worker.run(stop)
    spans.stop()


def worker_routes(
    program: Program[Any], context: ProcessContext, worker: WorkerRole
) -> tuple[OpsRoutes, AbstractContextManager[object]]:
    """Return what a worker's ops port answers beside health, and the threads that carry long actions out.

    Operators' actions, replays, what is parked, evidence of a key.
    """
    from quadrille.ops import actions  # noqa: PLC0415 - the worker's and the api's
    from quadrille.ops.audit_log import audit_routes  # noqa: PLC0415 - as above
    from quadrille.ops.consumers import consumers  # noqa: PLC0415 - the worker's alone
    from quadrille.ops.digest import digest_routes  # noqa: PLC0415 - as above
    from quadrille.ops.evidence import EvidenceRoutes  # noqa: PLC0415 - as above
    from quadrille.ops.findings import finding_routes  # noqa: PLC0415 - as above
    from quadrille.ops.hear_again import hear_again_routes  # noqa: PLC0415 - as above
    from quadrille.ops.parked import ParkedRoutes  # noqa: PLC0415 - as above
    from quadrille.ops.replays import ReplayRoutes  # noqa: PLC0415 - as above
    from quadrille.replay.manager import Replays, Shadows  # noqa: PLC0415 - as above
    from quadrille.replay.parked_bulk import ParkedBulk  # noqa: PLC0415 - as above

    replays, shadows, bulk = Replays(context), Shadows(context, program.projections), ParkedBulk(context)
    managers = ExitStack()
    for manager in (replays, bulk, *((shadows,) if program.projections else ())):
        managers.enter_context(manager)
    told = finding_routes(context) if context.service.relayed else {}
    again = hear_again_routes(context, program.look, program.digest)
    return {
        **actions.routes(program.operators, context, "worker"),
        **ReplayRoutes(replays, shadows, bulk).routes(),
        **ParkedRoutes(bulk).routes(),
        **consumers(context),
        **EvidenceRoutes(context, program.look, worker.ends).routes(),
        **digest_routes(context, program.digest, worker.ends),
        **audit_routes(context),
        **told,
        **again,
    }, managers


def _api(name: str, found: Settings, stop: threading.Event) -> None:
    from quadrille.db.connection import connection  # noqa: PLC0415 - as above
    from quadrille.web.server import serve  # noqa: PLC0415 - HTTP is the api's alone

    program = _program(name)
    if not program.api:
        sys.exit(f"{name} has no HTTP API: its PROGRAM names none")
    service, codec = _service(program, found)
    spans, connect = _spans(name, "api", found), connection(found.database_url)
    tally = program.tally(connect)
    context = ProcessContext(found, service, connect, spans, tally, stop, meter=program.meter)
    app = _named(program.api)(context)
    checks: dict[str, Check] = {
        "database": lambda: database_can_write(found.database_url),
        "schemas": codec.prepare,
        "api": lambda: _listens(found.api_bind),
    }
    with (
        tally or nullcontext(),
        server.serve(
            found.ops_bind,
            name,
            "api",
            checks,
            found.shown(),
            routes=api_routes(program, context),
            warns=_degraded(found),
            draining=stop.is_set,
            keys=context.keys,
        ),
    ):
        _settle()
        serve(app, found.api_bind, stop)
    spans.stop()


def _all(name: str, found: Settings, stop: threading.Event) -> None:
    """Run api and worker in one process, for a service that says nothing to the world: it has no relay."""
    from quadrille.consumer.worker import Worker, WorkerRole  # noqa: PLC0415 - not the relay's
    from quadrille.db.connection import connection  # noqa: PLC0415 - as above
    from quadrille.web.server import serve  # noqa: PLC0415 - as above

    program = _program(name)
    if not program.api or program.on.emits(Event):
        sys.exit(f"{name} is not for one process: it has no HTTP API, or emits events that a relay must publish")
    service, codec = _service(program, found, relayed=False)
    spans, connect = _spans(name, "all", found), connection(found.database_url)
    context = ProcessContext(
        found, service, connect, spans, None, stop, codec, program.client(found), forget=program.forget
    )
    worker = WorkerRole(lambda: Worker(context))
    app = _named(program.api)(context)
    checks: dict[str, Check] = {
        **_worker_checks(worker, found, codec),
        "api": lambda: _listens(found.api_bind),
    }
    warns: dict[str, Check] = {"parked": lambda: nothing_parked(found.database_url), "behind": worker.at_the_end}
    workers, managers = worker_routes(program, context, worker)
    routes = {**api_routes(program, context), **workers}
    shown, keys = found.shown(), context.keys
    with managers, server.serve(found.ops_bind, name, "all", checks, shown, routes=routes, warns=warns, keys=keys):
        _settle()
        working = _Beside(worker.run, stop)
        serve(app, found.api_bind, stop)
        working.end()
    spans.stop()


class _Beside:
    """Work in a thread of its own until told to stop; when it ends by itself, so does the process."""

    def __init__(self, work: Callable[[threading.Event], None], stop: threading.Event) -> None:
        self._work, self._stop = work, stop
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="worker")
        self._thread.start()

    def end(self) -> None:
        """Wait for its end; raises what it died of."""
        self._stop.set()
        self._thread.join()
        if self._failure:
            raise self._failure

    def _run(self) -> None:
        try:
            self._work(self._stop)
        except BaseException as failure:  # noqa: BLE001 - raised again by end, in the main thread
            self._failure = failure
        finally:
            self._stop.set()


def _worker_checks(worker: WorkerRole, found: Settings, codec: Codec) -> dict[str, Check]:
    """Return the checks of whatever consumes."""
    return {
        "database": lambda: database_can_write(found.database_url),
        "kafka": worker.kafka_answers,
        "schemas": codec.prepare,
        "worker": worker.allowed,
        "assignment": worker.assigned,
        "progress": worker.progressing,
    }


def api_routes(program: Program[Any], context: ProcessContext) -> OpsRoutes:
    """Return what an api's ops port answers beside health: operators' actions, and what the service adds."""
    from quadrille.ops import actions  # noqa: PLC0415 - the worker's and the api's
    from quadrille.ops.audit_log import audit_routes  # noqa: PLC0415 - as above
    from quadrille.ops.evidence import EvidenceRoutes  # noqa: PLC0415 - as above

    routes = {
        **actions.routes(program.operators, context, "api"),
        **EvidenceRoutes(context, program.look).routes(),
        **audit_routes(context),
    }
    for name_of_more in program.ops:
        routes |= _named(name_of_more)(context)
    return routes


def _relay(name: str, found: Settings, stop: threading.Event) -> None:
    from quadrille.keys import keyring_of  # noqa: PLC0415 - others have them of their context
    from quadrille.ops.relay_status import relay_routes  # noqa: PLC0415 - the relay's alone
    from quadrille.relay import replication  # noqa: PLC0415 - as above
    from quadrille.relay.relay import Relay, RelayConfig, topics_of  # noqa: PLC0415 - as above

    spans = _spans(name, "relay", found)
    plan = RelayConfig(
        name, found.database_url, found.kafka_bootstrap, topics_of(name), found.inbox_window,
        accepted=found.kafka_cluster, patience=found.patience, linger=found.linger_max.total_seconds(),
        producer_linger=found.relay_linger.total_seconds(),
    )  # fmt: skip
    relay = Relay(plan, spans)
    checks: dict[str, Check] = {
        # what an idle relay would not notice, asked as its own sessions are opened
        "database": lambda: database_can_write(replication.conninfo(found.database_url)),
        "relay": relay.ready,
    }
    routes, shown, keys = relay_routes(name, found.database_url, plan.slot, relay), found.shown(), keyring_of(found)
    with server.serve(found.ops_bind, name, "relay", checks, shown, routes=routes, draining=stop.is_set, keys=keys):
        _settle()
        relay.run(stop)
    spans.stop()


def _migrate(name: str, found: Settings, _: threading.Event) -> None:
    from quadrille.db.migrations import upgrade  # noqa: PLC0415 - Alembic is needed here only

    upgrade(name, found.database_url)


def _degraded(found: Settings) -> dict[str, Check]:
    """Return the checks of what an api or a worker can do without for a while."""
    return {
        "relay": lambda: relay_publishes(found.database_url),
        "parked": lambda: nothing_parked(found.database_url),
        "registry": registry_asked,
    }


def _listens(bind: settings.Bind) -> None:
    """Raise OSError until the API's own port answers: nobody is told to come before it is open."""
    socket.create_connection((bind.host, bind.port), timeout=1).close()


ROLES: dict[str, Callable[[str, Settings, threading.Event], None]] = {
    "api": _api,
    "worker": _worker,
    "relay": _relay,
    "all": _all,
    "migrate": _migrate,
}
