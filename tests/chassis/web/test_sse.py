"""Waiting for rows: one question for all, only while somebody waits, and an answer whatever happens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import pytest

from quadrille.web.problems import Problem
from quadrille.web.sse import ServerSentEvent, Watch, news, wait_of


@dataclass(frozen=True, slots=True)
class Row:
    """A row that changes."""

    version: int


@dataclass(slots=True)
class Table:
    """Rows by key, and every question asked about them."""

    rows: dict[str, Row]
    asked: list[dict[str, int]] = field(default_factory=list)
    away: bool = False
    fault: ValueError | None = None

    async def newer(self, known: Mapping[str, int]) -> dict[str, Row]:
        """Answer as a store does."""
        self.asked.append(dict(known))
        if self.away:
            raise Problem(slug="dependency-unavailable", dependency="database", retry_after=1)
        if self.fault:
            raise self.fault
        return {k: row for k, v in known.items() if (row := self.rows.get(k)) and row.version > v}


def run(body: Callable[[Watch[Row], Table, threading.Event], Awaitable[None]]) -> Table:
    """Run a test's body with a watch over a table of three rows."""
    table, stop = Table({key: Row(1) for key in "abc"}), threading.Event()

    async def inside() -> None:
        await body(Watch(table.newer, stop), table, stop)

    asyncio.run(inside())
    return table


def test_all_who_wait_are_one_question() -> None:
    """Three hundred who wait for three rows ask one question at a time; each gets the row, nobody another's."""

    async def body(watch: Watch[Row], table: Table, _: threading.Event) -> None:
        waits = [asyncio.create_task(watch.after("abc"[n % 3], 1, 10)) for n in range(300)]
        await until(lambda: len(table.asked) > 1)
        table.rows = {key: Row(version) for version, key in enumerate("abc", 2)}
        assert [row.version for row in await asyncio.gather(*waits) if row] == [2, 3, 4] * 100

    assert all(question == {"a": 1, "b": 1, "c": 1} for question in run(body).asked)


def test_nobody_waits_nothing_is_asked() -> None:
    """The last one gone, the questions end; a newcomer begins them again."""

    async def body(watch: Watch[Row], table: Table, _: threading.Event) -> None:
        assert await watch.after("a", 0, 10) == Row(1)
        await until(lambda: len(asyncio.all_tasks()) == 1)
        asked = len(table.asked)
        assert await watch.after("a", 1, 0.1) is None
        assert len(table.asked) > asked

    run(body)


def test_who_knows_less_is_told_at_once() -> None:
    """A version behind the row's is answered by the first look, while others wait on; waiting ends when it is done."""

    async def body(watch: Watch[Row], table: Table, _: threading.Event) -> None:
        patient = asyncio.create_task(watch.until("a", lambda row: row.version == 3, 10))
        assert await watch.after("a", 0, 10) == Row(1)
        table.rows["a"] = Row(2)
        assert await watch.after("a", 1, 10) == Row(2)
        assert not patient.done()
        table.rows["a"] = Row(3)
        assert await patient == Row(3)
        assert await watch.until("a", lambda row: row.version == 4, 0.1) == Row(3)

    run(body)


def test_a_database_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits is told nothing while the database is away, and the row when it is back."""
    monkeypatch.setattr("quadrille.web.sse.OUTAGE_SECONDS", 0.01)

    async def body(watch: Watch[Row], table: Table, _: threading.Event) -> None:
        table.away = True
        assert await watch.until("a", lambda _: True, 0.1) is None
        waiting = asyncio.create_task(watch.after("a", 0, 10))
        asked = len(table.asked)
        await until(lambda: len(table.asked) > asked)
        table.away = False
        assert await waiting == Row(1)

    run(body)


def test_a_fault_of_the_question_is_everybodys() -> None:
    """An error that is no outage reaches all who wait: nobody waits for a look that never comes again."""

    async def body(watch: Watch[Row], table: Table, _: threading.Event) -> None:
        table.fault = ValueError("a bug")
        waits = (watch.after("a", 1, 10), watch.after("b", 1, 10))
        assert list(await asyncio.gather(*waits, return_exceptions=True)) == [table.fault] * 2
        table.fault = None
        assert await watch.after("a", 0, 10) == Row(1)

    run(body)


def test_at_the_end_nobody_waits() -> None:
    """When the process is to end, all who wait are told within a look, and nobody begins."""

    async def body(watch: Watch[Row], table: Table, stop: threading.Event) -> None:
        waits = [asyncio.create_task(watch.after("a", 1, 60)) for _ in range(50)]
        await until(lambda: bool(table.asked))
        stop.set()
        async with asyncio.timeout(1):
            assert await asyncio.gather(*waits) == [None] * 50
            assert await watch.after("a", 0, 60) is None
        assert watch.stopping

    run(body)


async def until(done: Callable[[], bool]) -> None:
    """Let others run until something is so."""
    async with asyncio.timeout(5):
        while not done():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        (None, 0), ("", 0), ("wait=3", 3), ("respond-async, wait=10", 10), ("wait=600", 10), ("Wait = 5; a=b", 5),
        ('wait="4"', 4), ("wait=0", 0), ("wait=-1", 0), ("wait=x", 0), ("await=3", 0), ("wait=3x", 0),
    ],
)  # fmt: skip
def test_how_long_a_client_would_wait(prefer: str | None, seconds: int) -> None:
    """Prefer: wait=N among other preferences, 10 at most; what is not understood is not preferred (RFC 7240)."""
    assert wait_of(prefer) == seconds


def test_what_is_told_of_a_document() -> None:
    """Who knows nothing gets a snapshot, who knows a part the rest; what is final ends, whatever is known."""
    one, two = {"sequence": 1}, {"sequence": 2}
    going, over = {"history": [one, two], "final": False}, {"history": [one, two], "final": True}

    assert list(news(going, None)) == [ServerSentEvent("snapshot", 2, going)]
    assert list(news(going, 0)) == [ServerSentEvent("status", 1, one), ServerSentEvent("status", 2, two)]
    assert list(news(going, 2)) == []
    assert list(news(over, 1)) == [ServerSentEvent("status", 2, two), ServerSentEvent("end", 2, over)]
    assert (
        ServerSentEvent("status", 2, {"at": "\u2026\n"}).line
        == 'event: status\nid: 2\ndata: {"at":"\u2026\\n"}\n\n'.encode()
    )
