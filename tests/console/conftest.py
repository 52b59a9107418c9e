"""What the tests of the console stand on: its own database, its server over it, and a browser."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from console import store
from console.api import make
from console.domain import TAKES_PART, Keeping, Shown
from console.handlers import on
from console.settings import ConsoleSettings
from quadrille.context import ProcessContext
from quadrille.observability.readiness import NotReadyError
from quadrille.observability.tracing import Spans
from quadrille.ops import server
from quadrille.ops.checks import Check
from quadrille.settings import Bind
from quadrille.testing import Logins, OnPostgres
from quadrille.web.server import serve
from quadrille_cli.testing import Start
from tests.console.browser import PROGRAM, Browser
from tests.console.stories import Teller, a_day, inputs

EMPTY = "DELETE FROM event; DELETE FROM order_view; DELETE FROM failure; DELETE FROM span; DELETE FROM trace"


@pytest.fixture(scope="session")
def logins(parts_of_the_stack: Start) -> Logins:
    stack = parts_of_the_stack("postgres:console")
    return Logins(stack.database_url("console", "owner"), stack.database_url("console", "app"))


@pytest.fixture
def console(logins: Logins, tmp_path: Path) -> Iterator[OnPostgres[Shown]]:
    """The console over its database, emptied."""
    there = OnPostgres(on, store, logins, tmp_path, Keeping())
    for statement in EMPTY.split(";"):
        there.tx.execute(statement.encode())
    yield there
    there.close()


@contextmanager
def served(there: OnPostgres[Shown], *watched: tuple[str, Mapping[str, Check], Mapping[str, Check]]) -> Iterator[str]:
    """The console's API and pages over a database, beside real ops ports with these checks: its address."""
    stop = threading.Event()
    with ExitStack() as ports:
        ops = {}
        for name, checks, warns in (("console-all", {}, {}), *watched):
            service, _, role = name.rpartition("-")
            port = ports.enter_context(server.serve("127.0.0.1:0", service, role, checks, warns=warns)).server_port
            ops[name] = f"127.0.0.1:{port}"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            bind = Bind(f"127.0.0.1:{probe.getsockname()[1]}")
        settings = ConsoleSettings.model_validate(
            {"database_url": "", "kafka_bootstrap": "none", "registry_url": "http://none", "api_bind": bind,
             "ops_bind": ops.pop("console-all"), "ops": {name: f"http://{at}" for name, at in ops.items()}}
        )  # fmt: skip
        app = make(ProcessContext(settings, there.service, there.connect, Spans.disabled(), None, stop))
        thread = threading.Thread(target=serve, args=(app, bind, stop), daemon=True)
        thread.start()
        answers = httpx.Client(transport=httpx.HTTPTransport(retries=10))
        with answers:
            assert answers.get(f"http://{bind}/v1/flow").status_code == 200
        try:
            yield f"http://{bind}"
        finally:
            stop.set()
            thread.join()


def _lagging() -> None:
    message = "order.events[3] stands still at 4711 of 4802 for 41 s"
    raise NotReadyError(message)


def _open() -> None:
    message = "the breaker of the outside is OPEN: its calls wait"
    raise NotReadyError(message)


WATCHED: tuple[tuple[str, Mapping[str, Check], Mapping[str, Check]], ...] = (
    *((f"{service}-{role}", {}, {}) for service in TAKES_PART for role in ("api", "worker", "relay")
      if (service, role) not in {("payment", "worker"), ("notification", "worker")}),
    ("payment-worker", {}, {"outside": _open}),
    ("notification-worker", {"progress": _lagging}, {}),
)  # fmt: skip


@pytest.fixture(scope="module")
def shop(logins: Logins, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A console that has heard a bit of everything, served: its address."""
    there = OnPostgres(on, store, logins, tmp_path_factory.mktemp("schemas"), Keeping())
    for statement in EMPTY.split(";"):
        there.tx.execute(statement.encode())
    there.takes(inputs(*a_day(Teller())))
    with served(there, *WATCHED) as address:
        yield address
    there.close()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real headless Chromium, one for the session."""
    assert PROGRAM, "no Chromium: apt-get install chromium (.ci/run does)"
    there = Browser(tmp_path_factory.mktemp("profile"))
    yield there
    there.close()


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures of the screens are written: QUADRILLE_SHOTS, or a folder of the session."""
    named = os.environ.get("QUADRILLE_SHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("shots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
