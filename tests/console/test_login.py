"""Who may write: by a link that works once, a cookie no script sees, a form of one's own; none is kept open."""

from __future__ import annotations

from collections.abc import Iterator
from http.cookies import SimpleCookie

import httpx
import psycopg
import pytest

from console.domain import Shown
from quadrille.testing import OnPostgres
from tests.console.browser import Browser
from tests.console.conftest import Console, console_served
from tests.console.desk import Desk, form, said
from tests.console.test_screens import AXE, RULES

GONE = "UPDATE login SET expires_at = clock_timestamp() - interval '1 s'"
OVER = "UPDATE session SET expires_at = clock_timestamp() - interval '1 s'"
KEPT = """
SELECT 'login ' || l::text FROM login l UNION ALL SELECT 'session ' || s::text FROM session s
 UNION ALL SELECT 'audit ' || a::text FROM audit a UNION ALL SELECT 'outcome ' || o::text FROM outcome o"""
NOBODY = "http://127.0.0.1:9"  # nothing listens


@pytest.fixture
def here(console: OnPostgres[Shown]) -> Iterator[Console]:
    """A console whose order-api does not answer: what its buttons come to is known beforehand."""
    with console_served(console, {"order-api": NOBODY}) as there:
        yield there


def test_a_link_logs_in_once_and_looking_at_it_uses_nothing_up(here: Console) -> None:
    """Fetched twice it is as before; pressed it logs in; pressed again it says it was used."""
    link, desk = here.link(), Desk(here, logged_in=False)
    assert [httpx.get(link).status_code for _ in range(2)] == [200, 200]
    assert desk.log_in(link).status_code == 303
    assert "You act as <b>local</b>" in desk.http.get("/login").text

    other = Desk(here, logged_in=False)
    again = other.log_in(link)
    assert (again.status_code, "used already: it logs in once" in again.text) == (403, True)
    assert not other.http.cookies


def test_a_link_that_is_over_or_made_up_logs_nobody_in(here: Console, console: OnPostgres[Shown]) -> None:
    """Its time over, and one of nobody: each is said, with the command that gives another."""
    link = here.link()
    with console.connect() as tx:
        tx.execute(GONE)
    for one, words in ((link, "time is over"), (f"{here.address}/login?t=made-up", "no link of this console")):
        refused = Desk(here, logged_in=False).log_in(one)
        assert (refused.status_code, words in refused.text, "quadrille login" in refused.text) == (403, True, True)


def test_the_cookie_is_out_of_reach(console: OnPostgres[Shown]) -> None:
    """HttpOnly, SameSite=Strict, of this path; Secure but where the browser speaks to this machine without TLS."""
    for public, secure in (("", False), ("https://console.example", True)):
        with console_served(console, {}, public_url=public or None) as there:
            token = there.link().partition("t=")[2]
            origin = public or there.address
            answer = httpx.post(f"{there.address}/login", data={"t": token}, headers={"Origin": origin})
            [cookie] = SimpleCookie(answer.headers["set-cookie"]).values()
            assert (bool(cookie["httponly"]), cookie["samesite"], cookie["path"]) == (True, "strict", "/")
            assert bool(cookie["secure"]) is secure


def test_the_database_has_no_key_that_opens(here: Console, console: OnPostgres[Shown]) -> None:
    """Neither the link's token, nor the cookie's secret, nor a form's proof is in any row; the login is audited."""
    link, desk = here.link("looking around"), Desk(here, logged_in=False)
    desk.log_in(link)
    [secret] = dict(desk.http.cookies).values()
    desk.act("intake", verb="pause")
    proof = form(desk.http.get("/login").text, "/logout")["proof"]
    with console.connect() as tx:
        kept = [row for (row,) in tx.execute(KEPT)]
    assert {row.split()[0] for row in kept} == {"login", "session", "audit", "outcome"}
    for hidden in (link.partition("t=")[2], secret, proof):
        assert not [row for row in kept if hidden in row or hidden.encode().hex() in row]
    assert [row for row in kept if row.startswith("audit") and "looking around" in row]


def test_without_a_login_nothing_is_written_and_the_way_in_is_told(here: Console) -> None:
    """No button stands on a page; what a button asks, and what it sends, is refused with the command to log in."""
    nobody = Desk(here, logged_in=False)
    assert "/ask/" not in nobody.http.get("/").text
    for answer in (
        nobody.asks("intake", verb="pause"),
        nobody.http.post("/do/intake", data={"verb": "pause", "reason": "a test", "proof": ""}),
        nobody.http.post("/logout", data={"proof": ""}),
    ):
        assert answer.status_code == 403
        assert "quadrille login" in answer.text
        assert "Nothing was done" in answer.text
    assert "quadrille intake pause" in nobody.asks("intake", verb="pause").text


@pytest.mark.parametrize("proof", ["", "0" * 64, "ü"])
def test_a_form_of_another_session_is_refused(here: Console, proof: str) -> None:
    """Without the proof of one's own form, or with another's, nothing is sent to anybody."""
    desk = Desk(here)
    body = form(desk.asks("intake", verb="pause").text, "/do/intake") | {"reason": "a test"}
    refused = desk.http.post("/do/intake", data=body | {"proof": proof})
    assert (refused.status_code, "not of your session" in refused.text) == (403, True)
    theirs = form(Desk(here).asks("intake", verb="pause").text, "/do/intake")["proof"]
    assert desk.http.post("/do/intake", data=body | {"proof": theirs}).status_code == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", ""])
def test_another_page_cannot_have_a_browser_write(here: Console, origin: str) -> None:
    """Another origin, none that is told, or none at all: refused before the form is read; logging in, too."""
    desk = Desk(here)
    body = form(desk.asks("intake", verb="pause").text, "/do/intake") | {"reason": "a test"}
    if origin:
        desk.http.headers["Origin"] = origin
    else:
        del desk.http.headers["Origin"]
    for path in ("/do/intake", "/login", "/logout"):
        refused = desk.http.post(path, data=body)
        assert (refused.status_code, "comes from another page" in refused.text) == (403, True), path


def test_a_session_that_is_over_says_so_and_does_nothing(here: Console, console: OnPostgres[Shown]) -> None:
    """A form that was open when the time was up is answered with the way in, and the command that does the same."""
    desk = Desk(here)
    page = desk.asks("intake", verb="pause")
    with psycopg.connect(console.logins.owner) as tx:
        tx.execute(OVER)
    late = desk.does("intake", page, reason="a test")
    assert late.status_code == 403
    assert "session is over. Nothing was done" in late.text
    assert "quadrille intake pause --reason &#39;a test&#39;" in late.text


def test_logging_out_ends_it_everywhere(here: Console) -> None:
    """The cookie is taken back, and one that was kept aside opens nothing."""
    desk = Desk(here)
    kept = dict(desk.http.cookies)
    out = desk.http.post("/logout", data=form(desk.http.get("/login").text, "/logout"))
    assert (out.status_code, dict(desk.http.cookies)) == (303, {})
    refused = httpx.get(f"{here.address}/ask/intake?verb=pause", cookies=kept)
    assert refused.status_code == 403


def test_nobody_sees_what_came_of_anothers_button(here: Console) -> None:
    """The number of an outcome in an address shows it to its own session alone, and a reload does nothing again."""
    mine, other = Desk(here), Desk(here)
    page = mine.asks("intake", verb="pause", back="/orders")
    done = mine.does("intake", page, reason="a test")
    assert said(done) == ("bad: ✕ order-api does not answer, so nothing was done. "
                          "quadrille intake pause --reason 'a test' copy")  # fmt: skip
    assert done.url.path == "/orders"
    assert mine.http.get(str(done.url)).text.count("order-api does not answer") == 1
    assert "order-api does not answer" not in other.http.get(str(done.url)).text


@pytest.mark.parametrize(
    "back",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/a\r\nX: y", "/do/intake"],
)
def test_one_comes_back_to_this_console_alone(here: Console, back: str) -> None:
    """A place elsewhere, or none of a page, is the first screen."""
    desk = Desk(here)
    page = desk.asks("intake", verb="pause")
    body = form(page.text, "/do/intake") | {"reason": "a test", "back": back}
    assert desk.http.post("/do/intake", data=body).headers["location"].startswith("/?said=")


@pytest.mark.parametrize("reason", ["", "   ", "x" * 513])
def test_what_is_done_is_said_why(here: Console, reason: str) -> None:
    """Without a reason, or with one that is too long, the form comes back with what is wanted."""
    desk = Desk(here)
    page = desk.asks("intake", verb="pause")
    refused = desk.does("intake", page, reason=reason)
    assert (refused.status_code, "Nothing was done yet" in refused.text) == (422, True)


def test_odd_forms_are_refused(here: Console) -> None:
    """Another kind of body, too much, bytes that are no text, an action there is none of."""
    desk = Desk(here)
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    for path, content, headers, status in (
        ("/do/intake", b"{}", {"Content-Type": "application/json"}, 415),
        ("/do/intake", b"a=" + b"x" * 20_000, kind, 413),
        ("/do/intake", b"reason=%ff", kind, 422),
        ("/do/intake", b"&".join(b"a%d=1" % n for n in range(40)), kind, 422),
        ("/do/nothing", b"a=b", kind, 404),
    ):
        assert desk.http.post(path, content=content, headers=headers).status_code == status, (path, content[:20])
    assert desk.asks("nothing").status_code == 404


@pytest.mark.parametrize("name", ["intake", "redrive", "cancel", "consumer", "operation", "redrive-many", "place"])
def test_what_an_action_is_to_know_is_checked(here: Console, name: str) -> None:
    """Ids that are none, services nobody watches, verbs there are none of: said, and nobody is asked."""
    odd = {"service": "order/../x", "id": "../..", "order": "%2f", "verb": "burn", "group": "", "limit": "-1"}
    answer = Desk(here).asks(name, **odd)
    assert answer.status_code in (404, 422)
    assert "<h1>" in answer.text


def test_a_person_logs_in_by_keyboard(here: Console, browser: Browser) -> None:
    """In a real browser: the link, its button, Enter; the page is accessible, its policy kept; then buttons stand."""
    with browser.page() as page:
        page.goto(here.link())
        page.run(AXE + ";true")
        assert page.run(RULES) == []
        page.run("document.querySelector('main form button').focus()")
        page.follow(lambda: page.press("Enter"))
        assert page.run("location.pathname") == "/"
        assert page.run("document.cookie") == ""
        assert "Shut…" in page.text()
        assert page.told() == []
