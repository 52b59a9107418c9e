"""A sick outside is left in peace, and when it is well again whatever waits for it goes on soon, not all at once."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from quadrille.gateway.breaker import Breaker, CircuitOpenError, Limits, State
from quadrille.gateway.http_client import HttpClient, NoResponseError
from quadrille.ids import uuid7
from quadrille.intents import Gateway, RetryPolicy, TransientError
from quadrille.observability import metrics
from quadrille.service import Service
from quadrille.tasks import scheduler
from quadrille.tasks.leases import Rescheduled, hasten
from quadrille.tasks.scheduler import BreakerRecovery
from tests.chassis.support import sample_service
from tests.chassis.support.database import Database, wait_until
from tests.chassis.support.sample_gateway import Oven, done, kitchen_with, ordered, working
from tests.chassis.support.sample_messages import BakeCake, CakeBaked
from tests.chassis.support.sample_service import Pantry

LIMITS = Limits(window=10, open_for=0.3)
FAR = (timedelta(minutes=15),)
CAKES = 60


class Bakery:
    """An HTTP server that is sick until the test heals it; it remembers when it was asked, and how it answered."""

    def __init__(self) -> None:
        self.sick = True
        self.asked: list[tuple[float, bool]] = []
        bakery = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                bakery.asked.append((time.monotonic(), not bakery.sick))
                self.send_response(503 if bakery.sick else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


class Client:
    """The bakery as the pantry sees it."""

    def __init__(self, url: str) -> None:
        self.peer = HttpClient(url, 2.0, LIMITS)

    @property
    def breaker(self) -> Breaker:
        """The breaker every call goes through."""
        return self.peer.breaker


@contextmanager
def opened() -> Iterator[Bakery]:
    """Run a bakery while the block lasts."""
    made = Bakery()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
        thread.join(60)


@pytest.fixture
def bakery() -> Iterator[Bakery]:
    with opened() as made:
        yield made


def service() -> Service[Pantry]:
    """Return a pantry that has its cakes baked over HTTP, and whose next try is a quarter of an hour away."""
    outside = Gateway("pantry")

    @outside.executes(BakeCake, retry=RetryPolicy(FAR))
    def bake(intent: BakeCake, client: Client) -> CakeBaked:
        try:
            status, _ = client.peer.call("POST", "/bake", {}, b"{}")
        except (NoResponseError, CircuitOpenError) as trouble:
            raise TransientError(str(trouble)) from trouble
        if status != 200:
            raise TransientError
        return CakeBaked(intent.order_id)

    return sample_service.service(outside=outside)


@contextmanager
def baking(db: Database, bakery: Bakery) -> Iterator[Client]:
    """Let a scheduler work with a client of the bakery while the block lasts."""
    client, oven = Client(bakery.url), Oven()
    with working(db, oven, service(), client=client):
        yield client
    client.peer.close()


@pytest.mark.proves("F3")
def test_what_waits_for_a_sick_outside_goes_on_within_five_seconds_of_its_healing(
    db: Database, bakery: Bakery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty rows a quarter of an hour from their next try: probed by three at a time, then all due in 5 s."""
    monkeypatch.setattr(scheduler, "PROBE_SECONDS", 0.4)
    ordered(db, *(f"o-{n}" for n in range(CAKES)), service=service())
    with baking(db, bakery) as client:
        wait_until(lambda: db.one("SELECT count(*) FROM task WHERE due > now() + interval '5 min'") == CAKES)
        assert client.breaker.state is State.OPEN
        sick = len(bakery.asked)
        began = time.monotonic()
        wait_until(lambda: len(bakery.asked) >= sick + 6, what="probes of a sick outside")
        assert len(bakery.asked) - sick <= 3 * ((time.monotonic() - began) / LIMITS.open_for + 1)

        bakery.sick = False
        wait_until(lambda: client.breaker.state is State.CLOSED)
        wait_until(lambda: db.one("SELECT count(*) FROM task WHERE due > now() + interval '5 s'") == 0)
        done(db, CAKES)

    assert sum(well for _, well in bakery.asked) == CAKES
    assert metrics.BREAKER.labels("pantry")._value.get() == 0  # noqa: SLF001 - there is no other way to read it


def test_what_falls_due_after_the_healing_is_spread(db: Database) -> None:
    """Not all at once: of two hundred rows no second of the spread has more than half, and none is later."""
    ordered(db, *(f"o-{n}" for n in range(200)), service=service())
    db.rows("UPDATE task SET due = now() + interval '15 min'")
    with db.connect() as tx, tx.transaction():
        hasten(tx, ["bake_cake"], scheduler.SPREAD)
        waits = [row[0] for row in tx.execute("SELECT extract(epoch FROM due - now())::float FROM task").fetchall()]
    assert len(waits) == 200
    assert 0 <= min(waits) < max(waits) <= scheduler.SPREAD.total_seconds()
    for second in range(round(scheduler.SPREAD.total_seconds())):
        assert 0 < sum(second <= wait < second + 1 for wait in waits) < 100


def test_a_call_under_way_at_the_closing_waits_no_longer_than_the_rest() -> None:
    """What was refused before the breaker closed is put off for seconds; what fails later climbs as it should."""
    breaker, woken = Breaker(Limits(window=1, open_for=0, probes=1), (OSError,)), []

    class Guarded:
        @property
        def breaker(self) -> Breaker:
            return breaker

    health = BreakerRecovery("pantry", Guarded(), ["bake_cake"], lambda: woken.append(True))
    with breaker.call() as call:
        call.failed = True
    row = Rescheduled(uuid7(), 3, timedelta(minutes=10), untried=False, began=time.monotonic())
    assert (breaker.state, health.sooner(row)) == (State.OPEN, row)
    with breaker.call():
        pass

    assert (breaker.state, woken) == (State.CLOSED, [True])
    assert health.sooner(row).wait <= timedelta(seconds=5)
    assert health.sooner(replace(row, wait=timedelta(seconds=1))).wait == timedelta(seconds=1)
    later = replace(row, began=time.monotonic())
    assert health.sooner(later) == later
    unbegun = Rescheduled(uuid7(), 1, timedelta(minutes=10))
    assert health.sooner(unbegun) == unbegun


def test_a_client_without_a_breaker_is_left_alone(db: Database) -> None:
    """Nothing to watch, nothing hastened: its tasks wait for their delay."""
    ordered(db, "o-1")
    oven = Oven()
    oven.trouble = [TransientError()]
    with working(db, oven, kitchen_with(delays=FAR)) as scheduler:
        wait_until(lambda: db.one("SELECT due > now() + interval '5 min' FROM task"))
        assert scheduler.healing.look(db.connect) is False
