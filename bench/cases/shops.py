"""Shops that can be measured: ours and the naive build of the same saga, each on a Kafka and four databases of its own.

One shop runs at a time: its stack is started for a run and stopped after it, with its data kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Self

import psycopg

from bench import environment
from bench.cases.relays import until
from bench.meters import family_cpu, own_state
from bench.model import OURS
from bench.tracing import receiver
from quadrille_cli.demo_data import stock_up, write_addresses
from quadrille_cli.loadtest.observer import End, Observer
from quadrille_cli.loadtest.run import Plan, Run
from quadrille_cli.loadtest.sender import send
from quadrille_cli.services import SERVICES
from quadrille_cli.stack import INFRASTRUCTURE, Stack, ports
from quadrille_cli.stack.servers.kafka import listening
from quadrille_cli.stack.usage import cpu_by_group

PLENTY = 1_000_000
STALLED_SECONDS = 30.0
ENDED_SECONDS = 20.0
WARM = Plan(400, 20, {"ok": 1.0})
"""What a shop is sent before it is measured: JVM, programs and tables have seen every path some hundred times."""
TRACED = "ours, every order traced"
STOCK = "inventory"
SHELVES = {"SKU-TEA": PLENTY, "SKU-NONE": 0}
SHELF = "SELECT held, committed FROM stock WHERE sku = 'SKU-TEA'"
ENDINGS = "SELECT id, status, extract(epoch FROM ended_at)::float8 FROM shop_order WHERE ended_at >= %s"
PARKED = "SELECT count(*) FROM parked WHERE state IN ('OPEN', 'DEAD')"


@dataclass(slots=True)
class Shop:
    """A shop on its stack; ``confirmed`` and ``ended`` count what its books and its mailbox must show."""

    name: str
    stack: Stack
    shelf: str
    built: str = OURS
    processes: dict[str, int] = field(default_factory=dict)
    port: int = 0
    confirmed: int = 0
    ended: int = 0

    @property
    def url(self) -> str:
        """Where orders are posted."""
        return f"http://127.0.0.1:{self.port}" if self.port else self.stack.url("order")

    def spent(self) -> dict[str, float]:
        """Return CPU seconds so far by group."""
        groups = cpu_by_group(self.stack)
        for name, pid in self.processes.items():
            group = name.rpartition("-")[2]
            groups[group] = groups.get(group, 0.0) + family_cpu([pid])
        return groups

    @contextmanager
    def open(self, warm: Plan = WARM) -> Iterator[Shop]:
        """Start the shop, send it the orders that warm it, close it after."""
        with self.stack, ExitStack() as opened:
            if self.built != OURS:
                opened.enter_context(_peer(self))
            else:
                stock_up(self.stack, SHELVES)
                write_addresses(self.stack)
            measure(self, warm)
            yield self


@contextmanager
def ours(name: str = OURS, settings: Mapping[str, str] | None = None) -> Iterator[Shop]:
    """Have our shop: four services without the console, as the naive build has none."""
    parts = {*INFRASTRUCTURE, "topics", "schemas", "sandbox", *SERVICES}
    with _stack("ours", parts, settings) as stack:
        yield Shop(name, stack, "SELECT held, committed FROM level WHERE sku = 'SKU-TEA'")


@contextmanager
def traced() -> Iterator[Shop]:
    """Have our shop with every order traced, and somebody who takes the spans."""
    with receiver() as url, ours(TRACED, {"OTLP_ENDPOINTS": url}) as shop:
        yield shop


@contextmanager
def naive(*, async_commits: bool = False) -> Iterator[Shop]:
    """Have the naive build; raises CannotMeasureError when its packages cannot be had."""
    environment.python()
    name = "naive, asynchronous commits" if async_commits else "naive"
    with _stack("naive", {*INFRASTRUCTURE, "topics", "schemas", "sandbox"}) as stack:
        port = ports.scattered(["order"])["order"]
        yield Shop(name, stack, SHELF, "naive", port=port)


@contextmanager
def dbos() -> Iterator[Shop]:
    """Have a durable workflow of DBOS on one Postgres; raises CannotMeasureError when its packages cannot be had."""
    environment.python()
    with _stack("dbos", {"postgres:inventory", "sandbox"}) as stack:
        yield Shop("dbos", stack, SHELF, "dbos", port=ports.scattered(["order"])["order"])


@contextmanager
def _stack(name: str, parts: set[str], settings: Mapping[str, str] | None = None) -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix=f"quadrille-bench-{name}-") as home:
        Path(home).chmod(0o711)
        stack = Stack(home, parts=parts, scattered=True, settings=settings)
        try:
            yield stack
        finally:
            stack.wipe()


def _programs(shop: Shop) -> Iterator[tuple[str, list[str], dict[str, str]]]:
    """Yield what a peer's shop consists of: name, program and settings of each process."""
    stack, outside = shop.stack, {"PORT": str(shop.port), "PROCESSOR_URL": shop.stack.url("sandbox")}
    outside["SMTP"] = f"127.0.0.1:{stack.ports['smtp']}"
    if shop.built == "dbos":
        yield "dbos-api", ["bench.peers.dbos_shop"], outside | {"DATABASE_URL": stack.database_url(STOCK, "postgres")}
        return
    outside |= {"KAFKA_BOOTSTRAP": stack.kafka_bootstrap, "REGISTRY_URL": stack.registry_url}
    outside |= {"ASYNC_COMMITS": "1"} if "asynchronous" in shop.name else {}
    for service, role in (("order", "api"), *((service, "worker") for service in SERVICES)):
        own = {"SERVICE": service, "DATABASE_URL": stack.database_url(service, "owner")}
        yield f"{service}-{role}", ["bench.peers.naive.service", service, role], outside | own


@contextmanager
def _peer(shop: Shop) -> Iterator[None]:
    with ExitStack() as opened:
        for name, program, settings in _programs(shop):
            log = opened.enter_context((shop.stack.logs / f"peer-{name}.log").open("ab"))
            process = subprocess.Popen(
                [environment.python(), "-m", *program],
                env={"PATH": os.environ["PATH"], **settings},
                cwd=environment.ROOT, stdout=log, stderr=log,
            )  # fmt: skip
            opened.callback(_ended, process)
            shop.processes[name] = process.pid
        until(lambda: listening(shop.port), f"the API of {shop.name}")
        until(lambda: _stocked(shop.stack), f"the tables of {shop.name}")
        yield
    shop.processes.clear()


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.terminate()  # a member of a group that is killed keeps its partitions from the next round for 45 s
    try:
        process.wait(ENDED_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _stocked(stack: Stack) -> bool:
    try:
        with psycopg.connect(stack.database_url(STOCK, "postgres")) as db:
            for sku, n in SHELVES.items():
                db.execute(
                    "INSERT INTO stock (sku, available, held, committed) VALUES (%s, %s, 0, 0) ON CONFLICT DO NOTHING",
                    [sku, n],
                )
    except psycopg.errors.UndefinedTable:
        return False
    return True


class Endings:
    """Asks a shop without events how its orders have ended; ``at`` is when that was stored."""

    def __init__(self, stack: Stack) -> None:
        self._db = psycopg.connect(stack.database_url(STOCK, "postgres"), autocommit=True)
        self._behind = time.time() - time.monotonic()
        self._since = self._now()
        self.ends: dict[str, End] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def wait(self, seconds: float) -> bool:
        """Return whether anything ended within so many seconds."""
        time.sleep(seconds)
        before = len(self.ends)
        for order, state, at in self._db.execute(ENDINGS, [self._since]).fetchall():
            self.ends[order] = End(state, at - self._behind)
        return len(self.ends) > before

    def _now(self) -> object:
        return (self._db.execute("SELECT clock_timestamp()").fetchone() or (None,))[0]


def measure(shop: Shop, plan: Plan) -> Run:
    """Send a plan's orders from the open loop, wait for every end, return what was measured."""
    run, (task, kinds) = Run(plan, datetime.now(UTC)), plan.task(shop.url)

    def sending() -> None:
        run.sender = send(task, partial(run.note, kinds))

    with Observer(shop.stack) if shop.built != "dbos" else Endings(shop.stack) as observer:
        run.ends = observer.ends
        before, own, began = shop.spent(), time.process_time(), time.monotonic()
        sender = threading.Thread(target=sending, name="sending")
        sender.start()
        _wait(run, observer, sender)
        sender.join()
        run.took, run.observer = time.monotonic() - began, time.process_time() - own
        run.spent = {name: seconds - before.get(name, 0.0) for name, seconds in shop.spent().items()}
    ends = [run.ends[order].state for order in run.sent if order in run.ends]
    shop.confirmed, shop.ended = shop.confirmed + ends.count("CONFIRMED"), shop.ended + len(ends)
    return run


def _wait(run: Run, observer: Observer | Endings, sender: threading.Thread) -> None:
    quiet = time.monotonic()
    while sender.is_alive() or any(not run.over(order) for order in list(run.sent)):
        if observer.wait(0.2):
            quiet = time.monotonic()
        elif not sender.is_alive() and time.monotonic() - quiet > STALLED_SECONDS:
            break
        time.sleep(0.2)


def audit(shop: Shop, runs: Sequence[Run], patience: float = STALLED_SECONDS) -> list[str]:
    """Return what is wrong after these runs: orders against the card processor's own ledger, and the stock's books."""
    captures: Counter[str] = Counter()
    for entry in ledger(shop.stack):
        captures[str(entry["order_id"])] += {"CAPTURE": 1, "REFUND": -1, "VOID": -1}.get(str(entry["kind"]), 0)
    found: Counter[str] = Counter()
    for run in runs:
        for order in run.sent:
            end = run.ends.get(order)
            due = int(end is not None and end.state == "CONFIRMED")
            found["orders never ended"] += end is None
            found["orders charged too much"] += captures[order] > due
            found["confirmed orders not charged"] += captures[order] < due
    wrong = [f"{n} {what}" for what, n in found.items() if n]
    return wrong + _books(shop, patience)


def _books(shop: Shop, patience: float) -> list[str]:
    """Return what the stock's books and our parking show wrong, once they have had their time."""
    with psycopg.connect(shop.stack.database_url(STOCK, "postgres"), autocommit=True) as db:
        due, end = (0, shop.confirmed, shop.ended), time.monotonic() + patience
        while (found := (*_shelf(db, shop), mails(shop.stack))) != due and time.monotonic() < end:
            time.sleep(0.2)
    wrong = [] if found == due else [f"held, committed and mails are {found}, not {due}"]
    wrong += [f"{name} has ended" for name, pid in shop.processes.items() if own_state(pid) == "zombie"]
    if shop.built != OURS:
        return wrong
    for service in SERVICES:
        with psycopg.connect(shop.stack.database_url(service, "app"), autocommit=True) as db:
            if (parked := db.execute(PARKED).fetchone()) != (0,):
                wrong.append(f"{parked} inputs are parked at {service}")
    return wrong


def _shelf(db: psycopg.Connection, shop: Shop) -> tuple[int, int]:
    held, committed = db.execute(shop.shelf.encode()).fetchone() or (0, 0)
    return held, committed


def mails(stack: Stack) -> int:
    """Return how many mails the mailbox has."""
    with closing(HTTPConnection("127.0.0.1", stack.ports["sandbox"], timeout=30)) as asked:
        asked.request("GET", "/readyz")
        return int(json.loads(asked.getresponse().read())["mails"])


def ledger(stack: Stack) -> list[dict[str, object]]:
    """Return the card processor's ledger."""
    with closing(HTTPConnection("127.0.0.1", stack.ports["sandbox"], timeout=30)) as asked:
        asked.request("GET", "/ledger")
        return [json.loads(line) for line in asked.getresponse().read().splitlines()]
