"""A service's API for tests: the real server in a thread, over the service's real database."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.types import ASGIApp

from quadrille.context import ProcessContext
from quadrille.observability.tracing import Spans
from quadrille.processing.telemetry import SagaOutcomes
from quadrille.service import Service, Tx
from quadrille.settings import Bind, settings_of
from quadrille.web.server import serve

START_SECONDS = 60.0


@contextmanager
def serving(
    make: Callable[[ProcessContext], ASGIApp],
    service: Service[Any],
    connect: Callable[[], Tx],
    tally: SagaOutcomes | None = None,
    **told: object,
) -> Iterator[str]:
    """Serve what ``make`` gives while the block runs, at the base url yielded; raises TimeoutError.

    ``told`` are settings by name.
    """
    bind, stop = Bind(f"127.0.0.1:{_free_port()}"), threading.Event()
    nowhere = {"database_url": "", "kafka_bootstrap": "none", "registry_url": "http://none"}  # an api asks neither
    settings = settings_of(service.name).model_validate({**nowhere, "api_bind": bind, **told})
    app = make(ProcessContext(settings, service, connect, Spans.disabled(), tally, stop))
    thread = threading.Thread(target=serve, args=(app, bind, stop), daemon=True)
    thread.start()
    try:
        _await_consumer(bind.port, thread)
        yield settings.public_base
    finally:
        stop.set()
        thread.join()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_consumer(port: int, server: threading.Thread) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if not server.is_alive() or time.monotonic() > deadline:
            message = f"no server on port {port}"
            raise TimeoutError(message)
        time.sleep(0.01)
