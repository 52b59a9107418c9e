"""A service's processes: ``python -m inventory api | worker | relay | migrate``; settings are read here, once.

Each role imports what it needs and no more: a relay knows no handler, only the api knows HTTP. Exit codes: 0 after a
clean drain, 2 for an invalid setting. A worker that must not run stays, not ready, and says why (one line).
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import structlog

from chassis import files, logs, ops, settings
from chassis.conninfo import unhear
from chassis.health import breaker_closed, database_can_write, nothing_parked, relay_publishes
from chassis.ops import Check
from chassis.settings import Settings
from chassis.tracing import Spans, name_unheard

if TYPE_CHECKING:
    from chassis.avro import Codec
    from chassis.program import Program
    from chassis.service import Service

log = structlog.get_logger()


def main(name: str, arguments: Sequence[str] | None = None) -> None:
    """Run one role of a service until SIGTERM or SIGINT, then exit; ``name`` is the service's package."""
    role, *flags = arguments or sys.argv[1:] or [""]
    if role not in ROLES:
        sys.stderr.write(f"usage: python -m {name} {' | '.join(ROLES)} [--setting=value ...]\n")
        sys.exit(2)
    found = settings.read(flags)
    logs.configure(name, role, found.log_level)
    name_unheard(os.environ)
    files.take_all()
    for variable in unhear():
        log.warning("setting is not heard", setting=variable, reason="DATABASE_URL alone says how it is reached")
    ROLES[role](name, found, _stop_on_signals())


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _program(name: str) -> Program[Any]:
    program: Program[Any] = importlib.import_module(f"{name}.main").PROGRAM
    return program


def _named(name: str) -> Callable[[Any], Any]:
    """Return the function ``module:function``, imported now."""
    module, _, function = name.partition(":")
    found: Callable[[Any], Any] = getattr(importlib.import_module(module), function)
    return found


def _service(program: Program[Any], found: Settings) -> tuple[Service[Any], Codec]:
    from chassis.avro import Codec  # noqa: PLC0415 - not the relay's
    from chassis.schema_ids import Cache, SchemaIds  # noqa: PLC0415 - as above
    from chassis.schema_registry import Registry  # noqa: PLC0415 - as above
    from chassis.schemas import said_by  # noqa: PLC0415 - as above
    from chassis.service import Service  # noqa: PLC0415 - as above

    said = *said_by(program.on.service), *said_by("chassis")
    codec = Codec(said, SchemaIds(Registry(found.registry_url), Cache(found.schema_cache)))
    return Service(program.on, program.store, codec, program.outside, program.rules(found)), codec


def _worker(name: str, found: Settings, stop: threading.Event) -> None:
    from chassis import operators  # noqa: PLC0415 - the worker's and the api's
    from chassis.program import Face  # noqa: PLC0415 - as above
    from chassis.replay import Replays  # noqa: PLC0415 - the worker's alone
    from chassis.worker import Surroundings, Worker, WorkerRole, connection  # noqa: PLC0415 - as above

    program = _program(name)
    service, codec = _service(program, found)
    spans, connect = Spans(name, "worker", found.otlp_endpoints, found.trace_ratio), connection(found.database_url)
    tally, client = program.tally(connect), program.client(found)
    around = Surroundings(
        connect, found.kafka_bootstrap, codec, spans, client, found.batch_max, beats=True, tally=tally,
        upkeep=program.upkeep(found), patience=found.patience,
    )  # fmt: skip
    worker = WorkerRole(lambda: Worker(service, around))
    checks: dict[str, Check] = {
        "database": lambda: database_can_write(found.database_url),
        "kafka": worker.kafka_answers,
        "schemas": codec.prepare,
        "worker": worker.allowed,
        "assignment": worker.assigned,
        "progress": worker.progressing,
    }
    face = Face(found, service, connect, spans, tally, stop)
    replays = Replays(service, around)
    routes = {**operators.routes(program.operators, face, "worker"), **replays.routes()}
    with (
        tally or nullcontext(),
        replays,
        ops.serve(
            found.ops_bind,
            name,
            "worker",
            checks,
            found.shown(),
            routes=routes,
            warns={**_degraded(found), "outside": lambda: breaker_closed(client)},
        ),
    ):
        worker.run(stop)
    spans.stop()


def _api(name: str, found: Settings, stop: threading.Event) -> None:
    from chassis import operators  # noqa: PLC0415 - the worker's and the api's
    from chassis.program import Face  # noqa: PLC0415 - as above
    from chassis.serving import serve  # noqa: PLC0415 - HTTP is the api's alone
    from chassis.worker import connection  # noqa: PLC0415 - as above

    program = _program(name)
    service, codec = _service(program, found)
    spans, connect = Spans(name, "api", found.otlp_endpoints, found.trace_ratio), connection(found.database_url)
    tally = program.tally(connect)
    face = Face(found, service, connect, spans, tally, stop)
    app = _named(program.api)(face)
    checks: dict[str, Check] = {
        "database": lambda: database_can_write(found.database_url),
        "schemas": codec.prepare,
        "api": lambda: _listens(found.api_bind),
    }
    routes = dict(operators.routes(program.operators, face, "api"))
    for name_of_more in program.ops:
        routes |= _named(name_of_more)(face)
    with (
        tally or nullcontext(),
        ops.serve(found.ops_bind, name, "api", checks, found.shown(), routes=routes, warns=_degraded(found)),
    ):
        serve(app, found.api_bind, stop)
    spans.stop()


def _relay(name: str, found: Settings, stop: threading.Event) -> None:
    from chassis.relay import Plan, Relay, topics_of  # noqa: PLC0415 - the relay's alone

    spans = Spans(name, "relay", found.otlp_endpoints, found.trace_ratio)
    plan = Plan(
        name, found.database_url, found.kafka_bootstrap, topics_of(name), found.inbox_window,
        accepted=found.kafka_cluster, patience=found.patience,
    )  # fmt: skip
    relay = Relay(plan, spans)
    checks: dict[str, Check] = {
        "database": lambda: database_can_write(found.database_url),  # what an idle relay would not notice
        "relay": relay.ready,
    }
    with ops.serve(found.ops_bind, name, "relay", checks, found.shown()):
        relay.run(stop)
    spans.stop()


def _migrate(name: str, found: Settings, _: threading.Event) -> None:
    from chassis.migrate import upgrade  # noqa: PLC0415 - Alembic is needed here only

    upgrade(name, found.database_url)


def _degraded(found: Settings) -> dict[str, Check]:
    """Return the checks of what an api or a worker can do without for a while."""
    return {
        "relay": lambda: relay_publishes(found.database_url),
        "parked": lambda: nothing_parked(found.database_url),
    }


def _listens(bind: settings.Bind) -> None:
    """Raise OSError until the API's own port answers: nobody is told to come before it is open."""
    socket.create_connection((bind.host, bind.port), timeout=1).close()


ROLES: dict[str, Callable[[str, Settings, threading.Event], None]] = {
    "api": _api,
    "worker": _worker,
    "relay": _relay,
    "migrate": _migrate,
}
