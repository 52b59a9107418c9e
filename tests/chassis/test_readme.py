"""The service of chassis/README.md is real: its files, as printed there, run in memory and on Kafka and Postgres."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from order.events import OrderCancelled, OrderConfirmed
from quadrille import Event, key_of
from quadrille.avro.codec import Codec
from quadrille.avro.schemas import emitted_by
from quadrille.db.connection import connection
from quadrille.ids import uuid7
from quadrille.service import schema
from quadrille.testing import schema_ids
from quadrille_cli.stack import Stack
from tests.chassis.support.database import wait_until
from tests.chassis.support.http_harness import free_port
from tests.chassis.support.kafka_harness import Kitchen, Told
from tests.chassis.support.records import record_headers

ROOT = Path(__file__).parents[2]
README = (ROOT / "chassis" / "README.md").read_text("utf-8")
FILES = dict(re.findall(r"<!-- (\S+) -->\n```\w+\n(.*?)```", README, re.DOTALL))
FOLDER_TESTS = sorted(name for name in FILES if name.startswith("test_"))
SAID = """
SELECT aggregateid, type, payload FROM outbox
 WHERE aggregatetype = 'loyalty.events' AND type = 'points.changed' ORDER BY sequence"""
MOST = 45


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of the page, and nothing else."""
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    return tmp_path


def _run(folder: Path, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(folder)} | settings
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=240
    )


def test_it_is_small() -> None:
    """Imports aside the service has the lines the page speaks of."""
    code = [text for name, text in FILES.items() if re.fullmatch(r"loyalty/\w+\.py", name)]
    lines = [line for text in code for line in text.splitlines() if line and not line.startswith(("from", "import"))]
    assert f"Imports aside it has {len(lines)}\nlines of code, in four files" in README
    assert (len(code), len(lines) <= MOST) == (4, True)


def test_it_makes_every_table_of_the_library() -> None:
    """Its first migration goes up to the newest version of the chassis' tables."""
    assert f"range(1, {max(schema.VERSIONS) + 1})" in FILES["loyalty/migrations/versions/0001_grants.py"]


def test_it_runs_in_memory(folder: Path) -> None:
    """The page's own test passes, and fails once a repeat grants again."""
    pytest_ = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_loyalty.py")
    assert "1 passed" in _run(folder, *pytest_).stdout
    handlers = folder / "loyalty/handlers.py"
    handlers.write_text(handlers.read_text("utf-8").replace("if grants.by_order.get(order.order_id):", "if False:"))
    assert "1 failed" in _run(folder, *pytest_).stdout


def test_a_timer_fires_in_memory(folder: Path) -> None:
    """The page's example of a timer passes."""
    ran = _run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_expiry.py")
    assert "1 passed" in ran.stdout, ran.stdout


def test_it_runs_over_its_database(folder: Path) -> None:
    """The page's second test passes on a Postgres of its own."""
    ran = _run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_on_postgres.py")
    assert "1 passed" in ran.stdout, ran.stdout


def test_it_runs_as_worker_and_relay(folder: Path) -> None:
    """The page's last test passes: an event on Kafka, a worker, a relay, and what it published."""
    ran = _run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_on_kafka.py")
    assert "1 passed" in ran.stdout, ran.stdout


def test_a_wrong_role_is_answered_with_the_module_that_was_started(folder: Path) -> None:
    """The usage line can be typed as it is printed."""
    ran = _run(folder, "-m", "loyalty.main", "dance")
    assert (ran.returncode, ran.stderr.split(" api ")[0]) == (2, "usage: python -m loyalty.main")


def test_it_is_typed(folder: Path) -> None:
    """The service and its tests pass the type checker at its strictest."""
    strict = ("-m", "mypy", "--strict", "--explicit-package-bases", "--cache-dir", os.devnull)
    sources = os.pathsep.join(str(ROOT / part / "src") for part in ("chassis", "cli", "services/order"))
    ran = _run(folder, *strict, "loyalty", *FOLDER_TESTS, MYPYPATH=sources)
    assert ran.returncode == 0, ran.stdout


def test_without_an_api_there_is_no_api_role(folder: Path) -> None:
    """The role is refused by a sentence, before anything is reached."""
    nowhere = ("--database_url=postgresql://nobody@127.0.0.1:1/x", "--kafka_bootstrap=127.0.0.1:1")
    ran = _run(folder, "-m", "loyalty.main", "api", *nowhere, "--registry_url=http://127.0.0.1:1")
    assert (ran.returncode, ran.stderr.splitlines()[-1]) == (1, "loyalty has no HTTP API: its PROGRAM names none")


@pytest.fixture
def database(pantry_stack: Stack) -> Iterator[str]:
    """A database of loyalty's own; the url waits for the role."""
    cluster = pantry_stack.database_url("inventory", "postgres")
    with connection(cluster)() as tx:
        tx.execute("CREATE DATABASE loyalty OWNER owner")
    yield f"{cluster.rpartition('/')[0]}/loyalty?options=-c%20role%3D"
    with connection(cluster)() as tx:
        tx.execute("DROP DATABASE loyalty WITH (FORCE)")


@pytest.fixture
def codec(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Codec]:
    """The codec of who has registered order's and loyalty's schemas; the ids are in the folder's cache too."""
    monkeypatch.syspath_prepend(str(folder))
    yield Codec(emitted_by("order"), schema_ids(folder / ".quadrille/schemas", "order", "loyalty"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "loyalty"]:
        del sys.modules[name]


@contextmanager
def running(folder: Path, role: str, env: dict[str, str]) -> Iterator[None]:
    """Run a role of the service in a process of its own."""
    with (folder / f"{role}.log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "loyalty.main", role], cwd=folder, env=os.environ | env, stdout=log, stderr=log
        )
        try:
            yield
        finally:
            child.terminate()
            child.wait(60)


def test_it_runs_on_kafka_and_postgres(folder: Path, database: str, codec: Codec, kitchen: Kitchen) -> None:
    """Events go in by Kafka, one of them twice; what the handlers say comes out of the outbox, once each."""
    env = {
        "QUADRILLE_DATABASE_URL": f"{database}app", "QUADRILLE_KAFKA_BOOTSTRAP": kitchen.bootstrap,
        "QUADRILLE_REGISTRY_URL": "http://127.0.0.1:1", "QUADRILLE_OPS_BIND": f"127.0.0.1:{free_port()}",
        "PYTHONPATH": str(folder),
    }  # fmt: skip
    migrated = _run(folder, "-m", "loyalty.main", "migrate", f"--database_url={database}owner", **env)
    assert migrated.returncode == 0, migrated.stderr
    first, second = str(uuid7()), str(uuid7())
    confirmed = OrderConfirmed(first, "cust_demo", 2599, "EUR")
    for event in (
        confirmed,
        OrderConfirmed(second, "cust_demo", 100, "EUR"),
        OrderCancelled(first, "cust_demo", "", ()),
    ):
        put(kitchen, codec, event, times=2 if event is confirmed else 1)

    def emitted() -> list[tuple[str, str, dict[str, Any]]]:
        with psycopg.connect(f"{database}owner") as tx:
            return [(key, kind, codec.look(bytes(payload))[1]) for key, kind, payload in tx.execute(SAID)]

    with running(folder, "worker", env):
        wait_until(lambda: len(emitted()) >= 3)

    assert sorted((key, kind, body["points"]) for key, kind, body in emitted()) == sorted(
        [(first, "points.changed", 25), (first, "points.changed", 0), (second, "points.changed", 1)]
    )


def put(kitchen: Kitchen, codec: Codec, event: Event, times: int) -> None:
    """Put an event on order's topic so many times, as a relay does that was killed in between."""
    told = Told("order.events")
    for _ in range(times):
        kitchen.put(told, key_of(event).encode(), codec.encode(event), record_headers(told.id, event.type), None)
    kitchen.flush()
