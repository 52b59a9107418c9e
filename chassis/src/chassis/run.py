"""A service's processes: ``python -m inventory api | worker | relay | migrate``; settings are read here, once.

Each role imports what it needs and no more: a relay knows no handler, only the api knows HTTP. Exit codes: 0 after a
clean drain, 2 for an invalid setting, 9 when this process must not run (the reason is one line).
"""

from __future__ import annotations

import importlib
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import psycopg

from chassis import logs, ops, settings
from chassis.settings import Settings
from chassis.tracing import Spans

if TYPE_CHECKING:
    from chassis.avro import Codec
    from chassis.program import Program
    from chassis.service import Service


def main(name: str, arguments: Sequence[str] | None = None) -> None:
    """Run one role of a service until SIGTERM or SIGINT, then exit; ``name`` is the service's package."""
    role, *flags = arguments or sys.argv[1:] or [""]
    if role not in ROLES:
        sys.stderr.write(f"usage: python -m {name} {' | '.join(ROLES)} [--setting=value ...]\n")
        sys.exit(2)
    found = settings.read(flags)
    logs.configure(name, role, found.log_level)
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
    from chassis.topics import Stopped  # noqa: PLC0415 - as above
    from chassis.worker import Surroundings, Worker, connection, log  # noqa: PLC0415 - as above

    program = _program(name)
    service, codec = _service(program, found)
    spans, connect = Spans(name, "worker", found.otlp_endpoints, found.trace_ratio), connection(found.database_url)
    tally = program.tally(connect)
    around = Surroundings(
        connect, found.kafka_bootstrap, codec, spans, program.client(found), found.batch_max, beats=True, tally=tally,
        upkeep=program.upkeep(found),
    )  # fmt: skip
    worker = Worker(service, around)
    checks = {"database": lambda: _answers(found), "assignment": worker.listener.ready, "schemas": codec.prepare}
    face = Face(found, service, connect, spans, tally, stop)
    replays = Replays(service, around)
    routes = {**operators.routes(program.operators, face, "worker"), **replays.routes()}
    try:
        with (
            tally or nullcontext(),
            replays,
            ops.serve(found.ops_bind, name, "worker", checks, found.shown(), routes=routes),
        ):
            worker.run(stop)
    except Stopped as reason:
        log.critical("refused to run", reason=str(reason))
        sys.exit(9)
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
    checks = {
        "database": lambda: _answers(found),
        "schemas": codec.prepare,
        "api": lambda: _listens(found.api_bind),
    }
    routes = dict(operators.routes(program.operators, face, "api"))
    for name_of_more in program.ops:
        routes |= _named(name_of_more)(face)
    with tally or nullcontext(), ops.serve(found.ops_bind, name, "api", checks, found.shown(), routes=routes):
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
    with ops.serve(found.ops_bind, name, "relay", {"relay": relay.ready}, found.shown()):
        relay.run(stop)
    spans.stop()


def _migrate(name: str, found: Settings, _: threading.Event) -> None:
    from chassis.migrate import upgrade  # noqa: PLC0415 - Alembic is needed here only

    upgrade(name, found.database_url)


def _answers(found: Settings) -> None:
    with psycopg.connect(found.database_url, connect_timeout=2) as tx:
        tx.execute("SELECT 1")


def _listens(bind: settings.Bind) -> None:
    """Raise OSError until the API's own port answers: nobody is told to come before it is open."""
    socket.create_connection((bind.host, bind.port), timeout=1).close()


ROLES: dict[str, Callable[[str, Settings, threading.Event], None]] = {
    "api": _api,
    "worker": _worker,
    "relay": _relay,
    "migrate": _migrate,
}
