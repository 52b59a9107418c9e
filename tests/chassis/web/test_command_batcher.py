"""Intake tells each asker the truth: its own durable answer, or what is known about the lack of one."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import psycopg
import pytest
from prometheus_client import REGISTRY

from quadrille.db.connection import connection
from quadrille.ids import lock_key
from quadrille.kafka.topics import StoppedError
from quadrille.messages import Infrastructure, Reply
from quadrille.observability.tracing import Spans
from quadrille.processing.envelope import Envelope
from quadrille.processing.idempotency import KeptAnswer
from quadrille.processing.telemetry import Telemetry
from quadrille.service import Tx
from quadrille.web import command_batcher
from quadrille.web.command_batcher import CommandBatcher
from quadrille.web.problems import Problem
from tests.chassis.support import sample_service
from tests.chassis.support.database import Database, envelope_of, once
from tests.chassis.support.sample_messages import FillShelf, ShelfFilled
from tests.chassis.support.sample_service import PantryStore, Unlucky

END_OTHERS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"""
QUIET = Telemetry(Spans.disabled())
HOLD_REQUEST = "SELECT pg_advisory_xact_lock(%s)"


def fill(sku: str, available: int, request: str | None = None) -> Envelope:
    return envelope_of(FillShelf(sku, available), request=once(request) if request else None)


def ask(
    connect: Callable[[], Tx], commands: Sequence[Envelope], store: PantryStore | None = None, limit: int = 200
) -> list[Reply | KeptAnswer | BaseException]:
    """Ask all commands at once and return what each asker got."""

    async def asking() -> list[Reply | KeptAnswer | BaseException]:
        api = CommandBatcher(sample_service.service(store=store), connect, QUIET, limit)
        async with api:
            return await asyncio.gather(*(api.execute(command) for command in commands), return_exceptions=True)

    return asyncio.run(asking())


def kept(text: str, answer: object) -> KeptAnswer:
    """Return the answer, once it is seen to be one that is kept, of this text."""
    assert isinstance(answer, KeptAnswer), answer
    assert answer.answer == text
    return answer


def slug(answer: object) -> str:
    assert isinstance(answer, Problem), answer
    return answer.kind.slug


def commits() -> float:
    return REGISTRY.get_sample_value("quadrille_batch_inputs_count") or 0.0


class Wire:
    """A TCP proxy before Postgres that cuts the line when the server answers ``COMMIT``, as often as told."""

    def __init__(self, host: str, port: int, cuts: int) -> None:
        self._there, self.cuts = (host, port), cuts
        self._consumer_loop = socket.create_server(("127.0.0.1", 0))
        self.port = self._consumer_loop.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop, and end every connection."""
        _end(self._consumer_loop, *self._open)

    def _accept(self) -> None:
        while True:
            try:
                here = self._consumer_loop.accept()[0]
            except OSError:
                return
            there = socket.create_connection(self._there)
            self._open += [here, there]
            for source, target, answers in ((here, there, False), (there, here, True)):
                threading.Thread(target=self._pump, args=(source, target, answers), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, answers: bool) -> None:  # noqa: FBT001 - one of two directions
        try:
            while data := source.recv(65_536):
                if answers and self.cuts and b"COMMIT\0" in data:
                    self.cuts -= 1
                    break
                target.sendall(data)
        except OSError:
            pass
        _end(source, target)


def _end(*sockets: socket.socket) -> None:
    for one in sockets:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)  # wakes whoever reads from it, and tells the other side
        one.close()


@pytest.fixture
def cut(db: Database) -> Iterator[Callable[[int], Callable[[], Tx]]]:
    """Gives a connect function whose first ``n`` commits are stored and never answered."""
    wires: list[Wire] = []

    def after(cuts: int) -> Callable[[], Tx]:
        address = psycopg.conninfo.conninfo_to_dict(db.url("app"))
        wires.append(Wire(str(address["host"]), int(str(address["port"])), cuts))
        return connection(db.url("app").replace(f":{address['port']}/", f":{wires[-1].port}/"))

    yield after
    for wire in wires:
        wire.close()


def test_all_that_wait_go_down_together(db: Database) -> None:
    """Fifty commands at once are answered each with its own reply, in far fewer commits than fifty."""
    before = commits()
    answers = ask(db.connect, [fill(f"sku-{n}", n) for n in range(50) if n != 13])

    assert answers == [ShelfFilled(f"sku-{n}", n) for n in range(50) if n != 13]
    assert commits() - before <= 5
    assert db.one("SELECT count(*) FROM level") == 49


def test_one_bad_command_fails_alone(db: Database) -> None:
    """A handler's bug and a row the database refuses are told to their askers; the neighbours are stored."""
    answers = ask(db.connect, [fill("a", 1), fill("b", 13), fill("c", -1), fill("d", 4)])

    assert (answers[0], answers[3]) == (ShelfFilled("a", 1), ShelfFilled("d", 4))
    assert isinstance(answers[1], Unlucky)
    assert isinstance(answers[2], psycopg.IntegrityError)
    assert db.rows("SELECT sku FROM level ORDER BY sku") == [("a",), ("d",)]


def test_a_busy_key_waits_alone(db: Database) -> None:
    """A request key held elsewhere delays its own command only, and is answered once it is free."""
    told: list[str] = []

    async def asking(other: Tx) -> None:
        async def one(command: Envelope, name: str) -> None:
            await api.execute(command)
            told.append(name)

        api = CommandBatcher(sample_service.service(), db.connect, QUIET)
        async with api:
            held = asyncio.ensure_future(one(fill("a", 1, "r-1"), "a"))
            await one(fill("b", 2, "r-2"), "b")
            told.append("the key is let go")
            other.rollback()
            await held

    with db.connect() as other:
        other.execute("BEGIN")
        other.execute(HOLD_REQUEST, [lock_key(once("r-1").lock)])
        asyncio.run(asking(other))

    assert told == ["b", "the key is let go", "a"]
    assert db.rows("SELECT sku, available FROM level ORDER BY sku") == [("a", 1), ("b", 2)]


def test_a_key_that_stays_busy_is_told(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request key held beyond our patience is 409 idempotency-key-in-use; nothing of it is stored."""
    monkeypatch.setattr(command_batcher, "PATIENCE_SECONDS", 0.2)
    with db.connect() as other:
        other.execute("BEGIN")
        other.execute(HOLD_REQUEST, [lock_key(once("r-1").lock)])
        answers = ask(db.connect, [fill("a", 1, "r-1"), fill("b", 2, "r-2")])
        other.rollback()

    assert (slug(answers[0]), answers[1]) == ("idempotency-key-in-use", kept("b: 2", answers[1]))
    assert db.rows("SELECT sku FROM level") == [("b",)]


def test_equal_keys_in_one_process_share_a_batch(db: Database) -> None:
    """Twenty requests with one key are all answered at once: they do not make each other busy."""
    before = commits()
    answers = ask(db.connect, [fill("a", 1, "r-1") for _ in range(20)])

    assert answers == [kept("a: 1", answers[0])] * 20
    assert commits() - before <= 3


def test_a_lost_commit_answer_is_looked_up(db: Database, cut: Callable[[int], Callable[[], Tx]]) -> None:
    """When COMMIT's answer is lost, commands with a request key are asked again and get the stored truth."""
    answers = ask(cut(2), [fill("a", 1, "r-1"), fill("b", 2, "r-2")])

    assert answers == [kept("a: 1", answers[0]), kept("b: 2", answers[1])]


def test_without_a_key_a_lost_answer_is_unknown(db: Database, cut: Callable[[int], Callable[[], Tx]]) -> None:
    """A command without a request key is not done twice: its asker hears outcome-unknown, and it is stored here."""
    answers = ask(cut(1), [fill("a", 1)])

    assert slug(answers[0]) == "outcome-unknown"
    assert db.one("SELECT available FROM level") == 1


def test_an_outage_that_lasts_after_a_lost_answer(
    cut: Callable[[int], Callable[[], Tx]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If every answer is lost until patience ends, the outcome is unknown, and retryable with the same key."""
    monkeypatch.setattr(command_batcher, "PATIENCE_SECONDS", 0.3)
    (answer,) = ask(cut(1000), [fill("a", 1, "r-1")])

    assert slug(answer) == "outcome-unknown"
    assert isinstance(answer, Problem)
    assert answer.headers == {"Retry-After": "1"}


def test_a_database_that_is_gone_stored_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nobody listening nothing was sent: 503 dependency-unavailable."""
    monkeypatch.setattr(command_batcher, "PATIENCE_SECONDS", 0.3)
    answers = ask(connection("postgresql://app@127.0.0.1:1/nowhere"), [fill("a", 1, "r-1"), fill("b", 1)])

    assert [slug(answer) for answer in answers] == ["dependency-unavailable"] * 2


def test_a_refusal_of_the_server_stored_nothing(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing column is the infrastructure's fault and rolled back: 503 dependency-unavailable."""
    monkeypatch.setattr(command_batcher, "PATIENCE_SECONDS", 0.3)
    store = PantryStore()
    store.levels_sql = "SELECT sku, absent FROM level WHERE sku = ANY(%b)"
    answers = ask(db.connect, [fill("a", 1, "r-1")], store)

    assert slug(answers[0]) == "dependency-unavailable"
    assert not db.rows("SELECT 1 FROM level")


def test_without_a_registry_nothing_is_stored(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A schema that cannot be asked for is an outage of the registry: 503 dependency-unavailable, named."""
    monkeypatch.setattr(command_batcher, "PATIENCE_SECONDS", 0.2)

    class Unasked(PantryStore):
        def save(self, tx: Tx, work: object) -> None:  # noqa: ARG002 - the signature of a store
            raise Infrastructure

    (answer,) = ask(db.connect, [fill("a", 1)], Unasked())
    assert isinstance(answer, Problem)
    assert (answer.kind.slug, answer.extra["dependency"]) == ("dependency-unavailable", "registry")
    assert not db.rows("SELECT 1 FROM level")


def test_a_connection_closed_while_idle_is_replaced(db: Database) -> None:
    """A backend ended between two commands costs the next one nothing."""

    async def asking() -> object:
        api = CommandBatcher(sample_service.service(), db.connect, QUIET)
        async with api:
            await api.execute(fill("a", 1))
            db.rows(END_OTHERS)
            return await api.execute(fill("b", 2))

    assert asyncio.run(asking()) == ShelfFilled("b", 2)


def test_more_than_the_bound_is_shed(db: Database) -> None:
    """Commands beyond the bound in flight are 503 overloaded at once; those within are served."""
    answers = ask(db.connect, [fill(f"sku-{n}", n) for n in range(8)], limit=5)

    assert [slug(answer) for answer in answers if isinstance(answer, Problem)] == ["overloaded"] * 3
    assert db.one("SELECT count(*) FROM level") == 5


def test_closing_drains_and_then_refuses(db: Database) -> None:
    """Commands in flight when the service stops are answered; later ones are told that it drains."""

    async def asking() -> tuple[list[object], Exception | None]:
        api = CommandBatcher(sample_service.service(), db.connect, QUIET)
        async with api:
            tasks = [asyncio.create_task(api.execute(fill(f"sku-{n}", n))) for n in range(5)]
            await asyncio.sleep(0)
        done: list[object] = [await task for task in tasks]
        late = (await asyncio.gather(api.execute(fill("late", 1)), return_exceptions=True))[0]
        return done, late if isinstance(late, Exception) else None

    done, late = asyncio.run(asking())
    assert done == [ShelfFilled(f"sku-{n}", n) for n in range(5)]
    assert isinstance(late, Problem)
    assert late.extra["cause"] == "DRAINING"


def test_a_forgetful_database_refuses_the_start(db: Database) -> None:
    """synchronous_commit=off would lose accepted orders: found, wanted, fix, and no start."""

    def forgetful() -> Tx:
        tx = db.connect()
        tx.execute("SET synchronous_commit = off")
        return tx

    with pytest.raises(StoppedError, match="found synchronous_commit=off; wanted on"):
        CommandBatcher(sample_service.service(), forgetful, QUIET).check()
