"""A process' log and its restart from the pages: the end of it, as text; by the command of the local stack; audited."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from console import processes
from console.domain import Shown
from quadrille.testing import OnPostgres
from quadrille_cli.stack import Stack
from tests.console.conftest import Console, console_served
from tests.console.desk import Desk, said

NOBODY = "http://127.0.0.1:9"  # nothing listens
AUDIT = "SELECT actor, action, subject, reason FROM audit"
Serving = Callable[[Path | None], AbstractContextManager[Console]]


@pytest.fixture
def serving(console: OnPostgres[Shown]) -> Serving:
    """Serves a console that watches order's api, as one of a local stack in a directory, or of none."""
    with psycopg.connect(console.logins.owner) as owner:
        owner.execute("TRUNCATE audit")

    @contextmanager
    def served(stack: Path | None) -> Iterator[Console]:
        with console_served(console, {"order-api": NOBODY}, stack=stack) as there:
            yield there

    return served


def audited(console: OnPostgres[Shown]) -> list[tuple[str, ...]]:
    """Return what was done by hand, but for the logins."""
    return [row for row in console.tx.execute(AUDIT).fetchall() if row[1] != "login"]


def log(home: Path, name: str, content: bytes) -> None:
    """Write a process' log."""
    (home / "logs").mkdir(exist_ok=True)
    (home / "logs" / f"{name}.log").write_bytes(content)


def test_the_end_of_a_log_is_text_and_bounded(serving: Serving, tmp_path: Path) -> None:
    """Of a megabyte the last lines; tags, escapes and bytes that are no text have no meaning; what is new is read."""
    hostile = b"<script>alert(1)</script> \x1b[2J\x00\xff\xfe </pre><img src=x>\n"
    log(tmp_path, "order-api", b"first line\n" + b"x" * 1_000_000 + b"\n" + b"a line\n" * 500 + hostile)
    log(tmp_path, "kafka", b"")
    with serving(tmp_path) as console:
        answer = httpx.get(f"{console.address}/processes/order-api")
        assert (answer.status_code, len(answer.text) < 100_000, "first line" in answer.text) == (200, True, False)
        [shown] = re.findall(r"<pre[^>]*>(.*?)</pre>", answer.text, re.DOTALL)
        assert shown.endswith(
            "&lt;script&gt;alert(1)&lt;/script&gt; \ufffd[2J\ufffd\ufffd\ufffd &lt;/pre&gt;&lt;img src=x&gt;"
        )
        assert shown.count("a line") == processes.TAIL_LINES - 1

        log(tmp_path, "order-api", b"x" * 10_000_000)  # one line, and no end
        text = httpx.get(f"{console.address}/processes/order-api").text
        assert text.count("x" * 1000) == processes.TAIL_BYTES // 1000
        assert "It has written nothing." in httpx.get(f"{console.address}/processes/kafka").text
        assert 'href="/processes/kafka"' in httpx.get(f"{console.address}/processes").text


@pytest.mark.parametrize("name", ["..%2f..%2fpassword", "password", "%2e%2e%2fpassword", "order-api.log", "%00", "no"])
def test_nothing_but_a_log_is_shown(serving: Serving, tmp_path: Path, name: str) -> None:
    """What is no process' name is not found, whatever file it would lead to."""
    (tmp_path / "password").write_text("secret of the stack")
    log(tmp_path, "order-api", b"a line\n")
    with serving(tmp_path) as console:
        answer = httpx.get(f"{console.address}/processes/{name}")
    assert (answer.status_code, "secret of the stack" in answer.text) == (404, False)


def test_without_a_local_stack_the_page_names_the_command(serving: Serving, console: OnPostgres[Shown]) -> None:
    """In containers it has no log and no button that works: it says so, and what to write instead."""
    with serving(None) as here:
        page = Desk(here).http.get("/processes/order-api").text
        assert "docker compose logs order-api" in page
        assert "docker compose restart order-api" in page
        desk = Desk(here)
        asked = desk.asks("restart", process="order-api")
        assert "docker compose restart order-api" in asked.text
        assert 'action="/do' not in asked.text
        asked_by_hand = httpx.post(f"{here.ops}/ops/processes/order-api/restart", json={"reason": "a test"})
        assert (asked_by_hand.status_code, asked_by_hand.json()["rule"]) == (409, "ELSEWHERE")
    assert audited(console) == []


def test_a_restart_that_fails_is_told_in_its_words(
    serving: Serving, tmp_path: Path, console: OnPostgres[Shown]
) -> None:
    """The directory has no stack: what the command says is on the page, nothing is called done, the try is audited."""
    with serving(tmp_path) as here:
        came = Desk(here).act("restart", {"reason": "it hangs"}, process="order-api")
        assert came.startswith("bad: ✕ console-all refuses it, nothing was done:"), came
        assert "no stack was started here" in came
        unknown = httpx.post(f"{here.ops}/ops/processes/kafka/restart", json={"reason": "a test"})
        assert unknown.status_code == 404
        assert httpx.post(f"{here.ops}/ops/processes/order-api/restart", json={}).status_code == 422
    assert audited(console) == [("local", "restart", "order-api", "it hangs")]


def test_only_who_is_logged_in_restarts(serving: Serving, tmp_path: Path, console: OnPostgres[Shown]) -> None:
    """Without a session, with another origin, without the form's proof: nothing happens; a reader sees no button."""
    log(tmp_path, "order-api", b"a line\n")
    with serving(tmp_path) as here:
        reader, desk = Desk(here, logged_in=False), Desk(here)
        assert "/ask/restart" not in reader.http.get("/processes/order-api").text
        assert "/ask/restart?process=order-api" in desk.http.get("/processes/order-api").text
        given = {"process": "order-api", "reason": "a test"}
        assert reader.http.post("/do/restart", data=given).status_code == 403
        assert desk.http.post("/do/restart", data=given).status_code == 403
        page = desk.asks("restart", process="order-api")
        foreign = desk.http.post("/do/restart", data=given, headers={"Origin": "http://evil.example"})
        assert (page.status_code, foreign.status_code) == (200, 403)
    assert audited(console) == []


def test_a_process_of_the_stack_is_restarted_from_its_page(stack: Stack) -> None:
    """It has another pid and is ready when the page says so; its log tells its end; the row in the audit says why."""
    ops, page = stack.url("console-ops"), stack.url("console")
    desk = Desk(Console(page, ops))
    before = stack.process("notification-worker").pid
    form = desk.asks("restart", process="notification-worker")
    came = said(desk.does("restart", form, reason="it was edited"))
    again = Stack.found(stack.data)
    assert again is not None
    assert came.startswith(("good: ✓ notification-worker was started again", "going: …")), came
    stack.start()  # knows the new one, and waits until it is ready
    assert stack.process("notification-worker").pid != before
    assert "stopped" in desk.http.get("/processes/notification-worker").text
    rows = httpx.get(f"{ops}/ops/audit", params={"subject": "notification-worker"}).json()["actions"]
    assert [(row["action"], row["reason"]) for row in rows] == [("restart", "it was edited")]
