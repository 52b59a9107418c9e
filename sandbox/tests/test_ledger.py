"""What the processor answered survives its process, in every state a call can be in."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from quadrille_sandbox.http_server import Reply
from quadrille_sandbox.journal import Journal, JournalLockedError, Record
from quadrille_sandbox.ledger import Ledger
from quadrille_sandbox.processor import PROCESSING, ChargeAsked, Processor, RefundAsked, Rules
from quadrille_sandbox.testing import Running, running

PENDING = ChargeAsked("tok_pending_15s", 2500, "EUR", "o-1")


@dataclass
class Time:
    """A clock that a test moves, and what is to be done at which second."""

    now: float = 1_000_000.0
    planned: list[tuple[float, Callable[[], object]]] = field(default_factory=list)

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        """Plan a call."""
        self.planned.append((self.now + seconds, call))

    def passes(self, seconds: float) -> None:
        """Move on and make the calls that are due."""
        self.now += seconds
        due = [call for at, call in self.planned if at <= self.now]
        self.planned = [(at, call) for at, call in self.planned if at > self.now]
        for call in due:
            call()


class World:
    """A processor over a journal that can be closed and opened again, with time in the test's hands."""

    def __init__(self, path: Path, **rules: float) -> None:
        self._path, self._rules = path, Rules(**rules)
        self.time = Time()
        self._open()

    def restart(self) -> None:
        """End the process and start the next one."""
        self._journal.close()
        self.time.planned.clear()
        self._open()

    def kinds(self) -> list[object]:
        """Return what the ledger's lines did."""
        return [line["kind"] for line in self.processor.ledger.lines()]

    def close(self) -> None:
        """End the process."""
        self._journal.close()

    def _open(self) -> None:
        self._journal = Journal(self._path)
        ledger = Ledger(self._journal, lambda: self.time.now)
        self.processor = Processor(ledger, self._rules, self.time.later)


def charge(sandbox: Running, order_id: str, amount: int = 2500) -> tuple[int, Record]:
    body: Record = {"payment_token": "tok_ok", "amount_minor": amount, "currency": "EUR", "order_id": order_id}
    return sandbox.post("/v1/charges", f"charge:{order_id}", body)


def test_a_pending_charge_is_processing_for_15_seconds(tmp_path: Path) -> None:
    """The same key and the inquiry say processing until the charge is made, once."""
    world = World(tmp_path / "ledger.jsonl")
    assert world.processor.charge("k", PENDING) is PROCESSING
    world.time.passes(14.9)
    assert world.processor.charge("k", PENDING) is PROCESSING
    assert world.processor.inquire_charge("k") is PROCESSING
    assert world.kinds() == []

    world.time.passes(0.2)

    assert b"charged" in world.processor.inquire_charge("k").content
    assert world.processor.charge("k", PENDING) == world.processor.inquire_charge("k")
    assert world.kinds() == ["CAPTURE"]
    world.close()


@pytest.mark.parametrize("after_restart", [5.0, 60.0])
def test_a_pending_charge_survives_a_restart(tmp_path: Path, after_restart: float) -> None:
    """A processor that died meanwhile charges at the promised second, or at its start if that has passed."""
    world = World(tmp_path / "ledger.jsonl")
    world.processor.charge("k", PENDING)
    world.time.now += 12
    world.restart()
    assert world.processor.inquire_charge("k") is PROCESSING

    world.time.passes(after_restart)

    assert world.kinds() == ["CAPTURE"]
    world.restart()
    assert world.kinds() == ["CAPTURE"]
    assert b"charged" in world.processor.inquire_charge("k").content
    world.close()


def test_a_key_is_forgotten_only_when_told_so(tmp_path: Path) -> None:
    """With a lifetime of 24 h the same key charges again on the next day: what real processors do."""
    asked = ChargeAsked("tok_ok", 2500, "EUR", "o-1")
    for lifetime, captures in ((0.0, 1), (86_400.0, 2)):
        world = World(tmp_path / f"{lifetime}.jsonl", key_ttl=lifetime)
        world.processor.charge("k", asked)
        world.time.passes(90_000)
        world.processor.charge("k", asked)
        assert len(world.kinds()) == captures
        world.close()


@pytest.mark.proves("payment.void")
def test_settlement_decides_between_void_and_refund(tmp_path: Path) -> None:
    """One second before settlement it is a void, at settlement a refund."""
    for passed, kind in ((3_599.0, "VOID"), (3_600.0, "REFUND")):
        world = World(tmp_path / f"{kind}.jsonl", settle_after=3_600)
        world.processor.charge("c", ChargeAsked("tok_ok", 2500, "EUR", "o-1"))
        world.time.passes(passed)
        answer = world.processor.refund("r", RefundAsked("c", 2500))
        assert isinstance(answer, Reply)
        assert f'"kind":"{kind}"'.encode() in answer.content
        world.close()


def test_a_killed_processor_knows_its_answers(data: Path, order_id: str) -> None:
    """After SIGKILL the same keys get the same answers and the ledger is the same, line by line."""
    with running(data) as sandbox:
        answers = [charge(sandbox, f"{order_id}-{n}") for n in range(20)]
        body: Record = {"charge_key": f"charge:{order_id}-3", "amount_minor": 2500}
        refunded = sandbox.post("/v1/refunds", "r", body)
        before = sandbox.ledger()
        sandbox.process.kill()
        sandbox.process.wait(60)

    with running(data) as sandbox:
        assert sandbox.ledger() == before
        assert [line["number"] for line in before] == list(range(1, 22))
        assert [charge(sandbox, f"{order_id}-{n}") for n in range(20)] == answers
        assert sandbox.post("/v1/refunds", "r", body) == refunded
        assert len(sandbox.ledger()) == 21


def test_a_line_cut_by_a_kill_is_no_charge(data: Path, order_id: str) -> None:
    """Half a line at the end was never answered: it is cut off and the key is free."""
    with running(data) as sandbox:
        charge(sandbox, order_id)
    journal = data / "ledger.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole[: len(whole) // 2].replace(order_id.encode(), b"another"))

    with running(data) as sandbox:
        assert len(sandbox.ledger()) == 1
        assert charge(sandbox, "another")[0] == 200
        assert [line["order_id"] for line in sandbox.ledger()] == [order_id, "another"]


def test_a_full_disk_is_an_outage_not_a_charge(data: Path, order_id: str) -> None:
    """When nothing can be written the answer is 503, no half line stays, and later the same key charges."""
    with running(data) as sandbox:
        charge(sandbox, order_id)
        size = (data / "ledger.jsonl").stat().st_size
        unlimited = resource.prlimit(sandbox.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(sandbox.pid, resource.RLIMIT_FSIZE, (size + 40, unlimited[1]))

        assert charge(sandbox, "next")[0] == 503
        assert (data / "ledger.jsonl").stat().st_size == size

        resource.prlimit(sandbox.pid, resource.RLIMIT_FSIZE, unlimited)
        assert charge(sandbox, "next")[0] == 200
        assert len(sandbox.ledger()) == 2


def test_a_long_ledger_is_read_in_pieces(data: Path) -> None:
    """Ten thousand lines come whole and in order, from any number on."""
    data.mkdir()
    line = (
        '{"kind":"CAPTURE","at":"2026-11-21T09:00:00.000Z","key":"%d","order_id":"o","amount_minor":1,'
        '"currency":"EUR","payment_token":"tok_ok","reference":"r"}\n'
    )
    (data / "ledger.jsonl").write_text("".join(line % n for n in range(10_000)))

    with running(data) as sandbox:
        lines = sandbox.ledger()
        _, tail = sandbox.get("/ledger?after=9998")

    assert [line["number"] for line in lines] == list(range(1, 10_001))
    assert [line["key"] for line in lines] == [str(n) for n in range(10_000)]
    assert len(tail.splitlines()) == 2


def test_one_journal_has_one_writer(tmp_path: Path) -> None:
    """A second writer is refused while the first is there."""
    first = Journal(tmp_path / "ledger.jsonl")
    with pytest.raises(JournalLockedError):
        Journal(tmp_path / "ledger.jsonl")
    first.close()
    Journal(tmp_path / "ledger.jsonl").close()
