"""A service's processes: ``python -m inventory api | worker | relay | migrate``; settings are read here, once.

Exit codes: 0 after a clean drain, 2 for an invalid setting, 9 when this process must not run (the reason is one line).
"""

from __future__ import annotations

import importlib
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import structlog

from chassis import logs, ops, settings
from chassis.avro import Codec
from chassis.listener import Stopped
from chassis.outside import Outside
from chassis.registry import Reactions
from chassis.schema_ids import Cache, SchemaIds
from chassis.schema_registry import Registry
from chassis.schemas import said_by
from chassis.service import Service, Store, Tx
from chassis.settings import Settings
from chassis.tracing import Spans
from chassis.worker import Surroundings, Worker, connection

W = TypeVar("W")
log = structlog.get_logger()


def _nobody(_: Settings) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Program(Generic[W]):
    """What a service's main.py wires: handlers, store, errands with their client, rules, and where its HTTP face is.

    ``api`` is the name of a function ``make(face: Face)`` giving an ASGI app, imported by the api role alone.
    """

    on: Reactions[W]
    store: Store[W]
    api: str
    outside: Outside = field(default_factory=lambda: Outside(""))
    client: Callable[[Settings], object] = _nobody
    rules: Callable[[Settings], object] = _nobody


@dataclass(frozen=True, slots=True)
class Face:
    """What an HTTP face is made from."""

    settings: Settings
    service: Service[Any]
    connect: Callable[[], Tx]
    spans: Spans


def main(program: Program[Any], arguments: Sequence[str] | None = None) -> None:
    """Run one role of a service until SIGTERM or SIGINT, then exit."""
    name = program.on.service
    role, *flags = arguments or sys.argv[1:] or [""]
    if role not in ROLES:
        sys.stderr.write(f"usage: python -m {name} {' | '.join(ROLES)} [--setting=value ...]\n")
        sys.exit(2)
    found = settings.read(flags)
    logs.configure(name, role, found.log_level)
    try:
        ROLES[role](program, found, _stop_on_signals())
    except Stopped as reason:
        log.critical("refused to run", reason=str(reason))
        sys.exit(9)


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _codec(program: Program[Any], found: Settings) -> Codec:
    ids = SchemaIds(Registry(found.registry_url), Cache(found.schema_cache))
    return Codec(said_by(program.on.service), ids)


def _service(program: Program[Any], found: Settings, codec: Codec) -> Service[Any]:
    return Service(program.on, program.store, codec, program.outside, program.rules(found))


def _worker(program: Program[Any], found: Settings, stop: threading.Event) -> None:
    name, codec = program.on.service, _codec(program, found)
    spans = Spans(name, "worker", found.otlp_endpoints, found.trace_ratio)
    connect = connection(found.database_url)
    around = Surroundings(connect, found.kafka_bootstrap, codec, spans, program.client(found), found.batch_max)
    worker = Worker(_service(program, found, codec), around)
    checks = {"database": lambda: _answers(connect), "assignment": worker.listener.ready, "schemas": codec.prepare}
    with ops.serve(found.ops_bind, name, "worker", checks, found.shown()):
        worker.run(stop)
    spans.stop()


def _api(program: Program[Any], found: Settings, stop: threading.Event) -> None:
    from chassis.serving import serve  # noqa: PLC0415 - HTTP is the api's alone: the other roles stay small

    name, codec = program.on.service, _codec(program, found)
    spans = Spans(name, "api", found.otlp_endpoints, found.trace_ratio)
    connect = connection(found.database_url)
    module, _, function = program.api.partition(":")
    face = Face(found, _service(program, found, codec), connect, spans)
    app = getattr(importlib.import_module(module), function)(face)
    checks = {"database": lambda: _answers(connect), "schemas": codec.prepare, "api": lambda: _listens(found.api_bind)}
    with ops.serve(found.ops_bind, name, "api", checks, found.shown()):
        serve(app, found.api_bind, stop)
    spans.stop()


def _relay(program: Program[Any], found: Settings, stop: threading.Event) -> None:
    from chassis.relay import Plan, Relay, topics_of  # noqa: PLC0415 - the relay's alone

    name = program.on.service
    spans = Spans(name, "relay", found.otlp_endpoints, found.trace_ratio)
    url = found.database_url
    relay = Relay(Plan(name, url, found.kafka_bootstrap, topics_of(name), found.inbox_window), spans)
    with ops.serve(found.ops_bind, name, "relay", {"relay": lambda: relay.trouble is None}, found.shown()):
        relay.run(stop)
    spans.stop()


def _migrate(program: Program[Any], found: Settings, _: threading.Event) -> None:
    from chassis.migrate import upgrade  # noqa: PLC0415 - Alembic is needed here only

    upgrade(program.on.service, found.database_url)


def _answers(connect: Callable[[], Tx]) -> None:
    with connect() as tx:
        tx.execute("SELECT 1")


def _listens(bind: settings.Bind) -> None:
    """Raise OSError until the API's own port answers: nobody is told to come before it is open."""
    socket.create_connection((bind.host, bind.port), timeout=1).close()


ROLES: dict[str, Callable[[Program[Any], Settings, threading.Event], None]] = {
    "api": _api,
    "worker": _worker,
    "relay": _relay,
    "migrate": _migrate,
}
