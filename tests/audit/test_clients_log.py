"""What a load run's clients wrote down is held against what is there, and a lie in it is found."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quadrille_cli.auditing import audited as audit
from quadrille_cli.loadtest.client_log import ClientLog
from quadrille_cli.loadtest.run import Plan, measure
from quadrille_cli.loadtest.sender import Posted
from tests.conftest import Shop, away
from tests.stack.test_operators import Command

MANY = 60
NOWHERE = "01a1fd62-57f0-7eeb-be96-e59ce40f9cb1"
JUDGED = ("accepted-exists", "one-order-per-key", "status-forward")
Line = dict[str, Any]


@pytest.fixture(scope="module")
def log(audited: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of a load run, some of whose orders were sent while nobody took them."""
    path = tmp_path_factory.mktemp("clients") / "clients.jsonl"
    url, plan = audited.stack.url("order"), Plan(MANY, 30.0, {"ok": 0.7, "declined": 0.2, "cancel": 0.1})
    with ClientLog(path, url) as kept:
        measure(audited.stack, plan, log=kept)
    with away(audited.stack, "order-api"), ClientLog(path, url) as kept:
        measure_in_vain(audited, kept)
    audited.until(audited.all_read, "all is read")
    return path


def measure_in_vain(shop: Shop, kept: ClientLog) -> None:
    """Send orders that nobody answers."""
    from quadrille_cli.loadtest.sender import send  # noqa: PLC0415 - the one test that sends by itself

    task, _ = Plan(3, 30.0, {"ok": 1.0}).task(shop.stack.url("order"))
    send(task, lambda one: kept.note(task.key, one))


def lines(path: Path) -> list[Line]:
    """The lines of a log."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_each_request_is_a_line_with_its_key_and_answer(log: Path) -> None:
    """Every request is written down once: accepted with its order, or unknown when no answer came; and looks."""
    told = Counter(line["outcome"] for line in lines(log))

    assert (told["accepted"], told["unknown"]) == (MANY, 3)
    assert told["seen"] >= MANY
    keys = [line["key"] for line in lines(log) if line["outcome"] != "seen"]
    assert len(set(keys)) == len(keys) == MANY + 3
    assert all(line["order_id"] for line in lines(log) if line["outcome"] in ("accepted", "seen"))


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [("409", "refused"), ("429", "refused"), ("503", "unknown"), ("timed out", "unknown"), ("closed", "unknown")],
)
def test_only_a_refusal_is_written_down_as_one(tmp_path: Path, answer: str, outcome: str) -> None:
    """What does not say that nothing was done is unknown."""
    path = tmp_path / "clients.jsonl"
    with ClientLog(path, "http://127.0.0.1:9") as kept:
        kept.note("load-1", Posted(7, "", answer, 0.0, 0.0))

    [line] = lines(path)
    assert (line["key"], line["outcome"], line["answer"]) == ("load-1-7", outcome, answer)


def test_a_runs_log_is_audited_clean(audited: Shop, log: Path) -> None:
    """What the clients saw agrees with what is there, and it is judged by it: nothing is left out for want of it."""
    report = audit(audited.stack, JUDGED, clients=log)

    assert (report.code, report.findings) == (0, ())
    assert not [row for row in report.rows if "no clients' log" in str(row)]


def lost(told: list[Line]) -> None:
    """An order that was accepted is not there."""
    next(line for line in told if line["outcome"] == "accepted")["order_id"] = NOWHERE


def doubled(told: list[Line]) -> None:
    """One key was answered with two orders."""
    first, second = [line for line in told if line["outcome"] == "accepted"][:2]
    second["key"] = first["key"]


def backwards(told: list[Line]) -> None:
    """A client saw an order go back to where it had been."""
    seen = next(line for line in told if line["outcome"] == "seen" and line["version"] > 1)
    told.append(seen | {"status": "PENDING", "version": 1})


@pytest.mark.parametrize(("number", "lie"), [(1, lost), (2, doubled), (16, backwards)])
def test_a_lie_is_found(
    audited: Shop, log: Path, tmp_path: Path, number: int, lie: Callable[[list[Line]], None]
) -> None:
    """A log in which one line is not so breaks the invariant that line is judged by."""
    told = lines(log)
    lie(told)
    spoilt = tmp_path / "spoilt.jsonl"
    spoilt.write_text("".join(json.dumps(line) + "\n" for line in told), "utf-8")

    report = audit(audited.stack, JUDGED, clients=spoilt)

    assert report.code == 1
    assert {finding.invariant for finding in report.findings} == {number}


def test_the_command_writes_a_log_that_the_command_reads(audited: Shop, tmp_path: Path) -> None:
    """`quadrille load --log` and `quadrille audit run --clients` are one sentence; a place there is not is refused."""
    quadrille, path = Command(audited), tmp_path / "clients.jsonl"
    code, out, err = quadrille.run("load", "--orders", "20", "--rate", "20", "--force", "--log", str(path))
    assert code == 0, out + err
    assert len([line for line in lines(path) if line["outcome"] == "accepted"]) == 20
    only = [word for name in JUDGED for word in ("--only", name)]
    code, out, err = quadrille.run("audit", "run", *only, "--clients", str(path))
    assert code == 0, out + err

    assert quadrille.run("load", "--log", str(tmp_path / "none" / "clients.jsonl"))[0] == 2
