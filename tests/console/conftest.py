"""What the tests of the console stand on: its own database, its server over it, and a browser."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from console import store
from console.api import make
from console.domain import TAKES_PART, Keeping, Shown
from console.handlers import on
from console.main import PROGRAM as PROGRAM_OF_THE_CONSOLE
from console.settings import ConsoleSettings
from order.domain import Orders
from quadrille.app import api_routes
from quadrille.context import ProcessContext
from quadrille.observability import degraded
from quadrille.observability.readiness import NotReadyError
from quadrille.observability.tracing import Spans
from quadrille.ops import server
from quadrille.ops.checks import Check
from quadrille.settings import Bind
from quadrille.testing import Logins, OnPostgres
from quadrille.web.server import serve
from quadrille_cli.testing import Start
from tests.console.browser import PROGRAM, Browser
from tests.console.shopfloor import order_on
from tests.console.stories import Teller, a_day, inputs

TABLES = ("event", "order_view", "failure", "trace_part", "trace", "login", "session", "finding", "reconciliation")
EMPTY = "; ".join(f"DELETE FROM {table}" for table in TABLES)  # noqa: S608 - of this file


@pytest.fixture(scope="session")
def logins(parts_of_the_stack: Start) -> Logins:
    stack = parts_of_the_stack("postgres:console")
    return Logins(stack.database_url("console", "owner"), stack.database_url("console", "app"))


@pytest.fixture
def console(logins: Logins, tmp_path: Path) -> Iterator[OnPostgres[Shown]]:
    """The console over its database, emptied."""
    for name in degraded.shown():  # by another test of this process
        degraded.Degraded(name).back()
    there = OnPostgres(on, store, logins, tmp_path, Keeping())
    for statement in EMPTY.split(";"):
        there.tx.execute(statement.encode())
    yield there
    there.close()


@pytest.fixture(scope="session")
def order_db(parts_of_the_stack: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnPostgres[Orders]]:
    """Order over its own Postgres."""
    stack = parts_of_the_stack("postgres:order")
    logins = Logins(stack.database_url("order", "owner"), stack.database_url("order", "app"))
    there = order_on(logins, tmp_path_factory.mktemp("order"))
    yield there
    there.close()


@dataclass(frozen=True, slots=True)
class Console:
    """A console that is served: where its pages and its ops port are."""

    address: str
    ops: str

    def link(self, reason: str = "a test") -> str:
        """Return a new link that logs in, as `quadrille login` asks for it."""
        made = httpx.post(f"{self.ops}/ops/logins", json={"reason": reason})
        assert made.status_code == 201, made.text
        return str(made.json()["url"])


@contextmanager
def console_served(
    there: OnPostgres[Shown], ops: Mapping[str, str], apis: Mapping[str, str] | None = None,
    warns: Mapping[str, Check] | None = None, **settings: object,
) -> Iterator[Console]:  # fmt: skip
    """The console's API, pages and ops port over a database, beside ops ports and APIs at these addresses."""
    stop = threading.Event()
    bind, own = (Bind(f"127.0.0.1:{_free_port()}") for _ in range(2))
    told = ConsoleSettings.model_validate(
        {"database_url": "", "kafka_bootstrap": "none", "registry_url": "http://none", "api_bind": bind,
         "ops_bind": own, "ops": dict(ops), "apis": dict(apis or {}), **settings}
    )  # fmt: skip
    context = ProcessContext(told, there.service, there.connect, Spans.disabled(), None, stop)
    routes = api_routes(PROGRAM_OF_THE_CONSOLE, context)
    with server.serve(str(own), "console", "all", {}, routes=routes, warns=warns or {}, keys=context.keys):
        thread = threading.Thread(target=serve, args=(make(context), bind, stop), daemon=True)
        thread.start()
        with httpx.Client(transport=httpx.HTTPTransport(retries=10)) as answers:
            assert answers.get(f"http://{bind}/v1/flow").status_code == (401 if context.keys else 200)
        try:
            yield Console(f"http://{bind}", f"http://{own}")
        finally:
            stop.set()
            thread.join()


@contextmanager
def ops_ports(*watched: tuple[str, Mapping[str, Check], Mapping[str, Check]]) -> Iterator[dict[str, str]]:
    """Real ops ports with these checks: their addresses, by process."""
    with ExitStack() as ports:
        ops = {}
        for name, checks, warns in watched:
            service, _, role = name.rpartition("-")
            port = ports.enter_context(server.serve("127.0.0.1:0", service, role, checks, warns=warns)).server_port
            ops[name] = f"http://127.0.0.1:{port}"
        yield ops


@contextmanager
def served(there: OnPostgres[Shown], *watched: tuple[str, Mapping[str, Check], Mapping[str, Check]]) -> Iterator[str]:
    """The console's API and pages over a database, beside real ops ports with these checks: its address."""
    with ops_ports(*watched) as ops, console_served(there, ops) as console:
        yield console.address


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


FINDINGS = """
INSERT INTO finding (finding_id, order_id, kind, expected, found, evidence, mender, event, closed_at, said)
SELECT gen_random_uuid(), order_id, kind, expected, found,
       '{"order: status=CONFIRMED amount_minor=2599 currency=EUR", "inventory: state=RESERVED",
         "payment: state=CHARGED captured_minor=2599 returned_minor=0", "notification: confirmed=SENT",
         "order.confirmed 01a1fd62-57f0-7eeb-be96-e59ce40f9cb1 at order.events[7]@4711"}', mender, event, closed_at, 1
  FROM (SELECT order_id FROM order_view WHERE status = 'CONFIRMED' ORDER BY order_id LIMIT 1) o,
       (VALUES ('confirmed-not-committed', 'COMMITTED at inventory', 'RESERVED', 'inventory', 'order.confirmed',
                NULL::timestamptz),
               ('charge-differs', '2599 EUR kept', '2600 EUR kept', NULL, NULL, NULL),
               ('order-behind', 'order knows inventory as COMMITTED', 'it knows RESERVED', 'order', 'stock.committed',
                now())) f (kind, expected, found, mender, event, closed_at)"""
ROUND = """
INSERT INTO reconciliation (at, outcome, detail, judged, moving, judged_at)
VALUES (now(), 'JUDGED', '', 12, 3, now())"""


@pytest.fixture(scope="module")
def day(logins: Logins, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A console that has heard a bit of everything, served."""
    there = OnPostgres(on, store, logins, tmp_path_factory.mktemp("schemas"), Keeping())
    for statement in EMPTY.split(";"):
        there.tx.execute(statement.encode())
    there.takes(inputs(*a_day(Teller())))
    for statement in (FINDINGS, ROUND):
        there.tx.execute(statement.encode())
    with ops_ports(*WATCHED) as ops, console_served(there, ops) as console:
        yield console
    there.close()


@pytest.fixture
def shop(day: Console) -> str:
    """The address of a console that has heard a bit of everything."""
    return day.address


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
