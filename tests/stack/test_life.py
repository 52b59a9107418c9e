"""The stack starts, survives the restart of any part, and ends without a trace."""

from __future__ import annotations

import json
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import psycopg
import pytest

from quadrille_cli.client import Client
from quadrille_cli.stack import CannotRun, Stack, topics
from quadrille_cli.stack.errors import PartFailed
from quadrille_cli.stack.processes import Process, Spec
from quadrille_cli.testing import Start

RECORD = {"type": "record", "name": "Kept", "fields": [{"name": "order_id", "type": "string"}]}


@pytest.fixture
def infrastructure(parts_of_the_stack: Start) -> Stack:
    """Kafka, registry and one database, shared by this folder's tests."""
    return parts_of_the_stack("kafka", "topics", "registry", "postgres:order")


def register(stack: Stack, name: str) -> int:
    """Register the record under a subject; its id."""
    kind = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
    with Client(stack.registry_url) as registry:
        path, body = f"/subjects/{name}/versions", {"schema": json.dumps(RECORD | {"name": name.rpartition(".")[2]})}
        return int(registry.demand("POST", path, body, kind).body["id"])


def processes_below(text: str) -> list[str]:
    """Every living process whose command line or working directory names this text."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd", "status"]):
        told = [*(process.info["cmdline"] or []), process.info["cwd"] or ""]
        if any(text in part for part in told) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(" ".join(told))
    return found


def test_topics_are_made_once_and_drift_is_seen(infrastructure: Stack) -> None:
    """All declared topics exist with 12 partitions and no auto-created one is accepted; nothing is left to plan."""
    assert topics.plan(infrastructure.kafka_bootstrap) == topics.Plan()


def test_ids_survive_a_restart_of_the_registry(infrastructure: Stack) -> None:
    """A schema keeps the id that was answered, though the registry is killed at once; no other one ever gets it."""
    registry, ids = infrastructure.process("registry"), dict[str, int]()
    for name in ("Kept", "Another", "Third"):
        ids[name] = register(infrastructure, f"quadrille.test.{name}")
        registry.kill()
        assert not registry.running
        registry.start()

    assert len(set(ids.values())) == len(ids)
    assert {name: register(infrastructure, f"quadrille.test.{name}") for name in ids} == ids


@pytest.mark.parametrize("name", ["kafka", "postgres:order"])
def test_a_killed_part_comes_back_on_its_port(infrastructure: Stack, name: str) -> None:
    """A part killed with SIGKILL and started again listens where it did, with its data."""
    part = infrastructure.process(name)
    before = dict(part.spec.ports)

    part.kill()
    part.start()

    assert part.running
    assert part.spec.ports == before
    assert topics.plan(infrastructure.kafka_bootstrap) == topics.Plan()


@pytest.mark.parametrize("role", ["owner", "app", "relay"])
def test_every_role_reaches_its_database_and_no_other(infrastructure: Stack, role: str) -> None:
    """Owner, app and relay reach the service's own database; another database of the cluster refuses them."""
    url = infrastructure.database_url("order", role)
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT current_user, current_database()").fetchone() == (role, "order")

    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
        psycopg.connect(url.replace("/order", "/postgres"))


def test_nobody_copies_a_cluster(infrastructure: Stack) -> None:
    """The relay's role may stream its own database's slot, but physical replication is rejected."""
    url = infrastructure.database_url("order", "relay")
    with pytest.raises(psycopg.OperationalError, match="rejects"):
        psycopg.connect(f"{url}?replication=true")

    with psycopg.connect(f"{url}?replication=database", autocommit=True) as connection:
        assert connection.execute("IDENTIFY_SYSTEM").fetchone() is not None


@pytest.mark.parametrize(
    ("role", "name", "wanted"),
    [
        ("app", "synchronous_commit", "on"),
        ("app", "statement_timeout", "20s"),
        ("app", "transaction_timeout", "30s"),
        ("app", "idle_in_transaction_session_timeout", "10s"),
        ("app", "wal_level", "logical"),
        ("app", "fsync", "on"),
        ("app", "full_page_writes", "on"),
        ("app", "data_checksums", "on"),
        ("app", "log_parameter_max_length_on_error", "0"),
        ("app", "idle_replication_slot_timeout", "0"),
        ("app", "max_replication_slots", "4"),
        ("owner", "lock_timeout", "2s"),
        ("relay", "wal_sender_timeout", "5s"),
        ("relay", "transaction_timeout", "0"),
        ("relay", "idle_in_transaction_session_timeout", "0"),
    ],
)
def test_settings_are_what_reliability_asks_for(infrastructure: Stack, role: str, name: str, wanted: str) -> None:
    """The effective settings of each role are those of the reliability page."""
    with psycopg.connect(infrastructure.database_url("order", role)) as connection:
        assert connection.execute("SELECT current_setting(%s)", (name,)).fetchone() == (wanted,)


def test_down_leaves_nothing(new_stack: Start) -> None:
    """After stop no process of the stack lives, and its ports are free again."""
    stack = new_stack(parts={"kafka", "postgres:order", "postgres:payment"})
    stack.start()
    assert processes_below(str(stack.data))

    stack.stop()

    assert processes_below(str(stack.data)) == []
    assert Stack.found(stack.data) is not None


def test_a_recycled_pid_is_never_hit(new_stack: Start) -> None:
    """A process that is not the one we started, though it has its pid, is neither stopped nor killed."""
    stack = new_stack(parts={"postgres:order"})
    stack.start()
    pid = stack.process("postgres:order").pid
    found = Stack.found(stack.data)
    assert found is not None
    stranger = found.process("postgres:order")
    stranger.born = "born at another time"

    stranger.stop()
    stranger.kill()

    assert stack.process("postgres:order").running
    assert psutil.pid_exists(pid)


def test_another_command_ends_what_was_started(new_stack: Start) -> None:
    """A stack found by its state file is stopped as well as by the one who started it."""
    stack = new_stack(parts={"postgres:order"})
    stack.start()
    found = Stack.found(stack.data)
    assert found is not None

    found.stop()

    assert not stack.process("postgres:order").running


def test_start_again_starts_only_what_is_missing(new_stack: Start) -> None:
    """`start` on a running stack keeps what runs, on its ports, and brings back what has died."""
    stack = new_stack(parts={"postgres:order", "postgres:payment"})
    stack.start()
    kept = stack.process("postgres:order").pid
    stack.process("postgres:payment").kill()
    again = new_stack(parts={"postgres:order", "postgres:payment"})
    again.data = stack.data

    again.start()

    assert again.process("postgres:order").pid == kept
    assert again.process("postgres:payment").running
    with psycopg.connect(again.database_url("payment")) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_an_interrupted_start_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C while `quadrille up` starts ends what was started and exits 130."""
    home = tmp_path / "data"
    command = [sys.executable, "-m", "quadrille_cli", "up", "--data", str(home)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as start:
        deadline = time.monotonic() + 120
        while not processes_below(f"{home}/kafka"):
            assert time.monotonic() < deadline, "Kafka was never started"
            select.select([], [], [], 0.05)
        start.send_signal(signal.SIGINT)
        _, said = start.communicate(timeout=90)

    assert start.returncode == 130, said.decode()
    found = Stack.found(home)
    assert found is not None
    found.wipe()
    assert processes_below(str(home)) == []


def test_a_part_that_runs_is_not_forgotten(new_stack: Start) -> None:
    """A second `start` with fewer parts still knows, and ends, what the first one started."""
    first = new_stack(parts={"postgres:order", "postgres:payment"})
    first.start()
    second = new_stack(parts={"postgres:order"})
    second.data = first.data

    second.start()
    second.stop()

    assert not first.process("postgres:payment").running


def test_a_part_by_a_wrong_name_is_refused(new_stack: Start) -> None:
    """An unknown part is refused with the list of the known ones."""
    with pytest.raises(CannotRun, match="no such part: postgress"):
        new_stack(parts={"postgress"})


def test_a_stranger_on_the_port_is_not_taken_for_the_part(tmp_path: Path) -> None:
    """What answers where a part should listen, while the part itself has ended, is a failed start."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        part = Process(
            Spec(
                name="part",
                command=lambda: [sys.executable, "-c", "raise SystemExit(3)"],
                log=tmp_path / "part.log",
                env={},
                ready=lambda: True,
                ports={"part": stranger.getsockname()[1]},
            )
        )
        with pytest.raises(PartFailed, match=r"is held by .* \(pid \d+\)"):
            part.start()
