"""Acting: logging in and out, what is asked before an action, and the one way by which pages write.

A GET changes nothing, so that a preview of a link uses no token up. A POST needs a cookie, a form of that session and
this console as its origin; then the service that owns the thing is asked, and its answer is shown where one was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import psycopg
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from console import sessions
from console.actions import ACTIONS
from console.asks import REASON_MOST, Ask, Given, outcome_of, wrong
from console.console_api import ConsoleApi
from console.intake import whole_body
from console.neighbours import ACTING
from console.pages import HEADERS, Page, page
from console.sessions import Outcome, Session
from quadrille.service import Tx
from quadrille.web import refuse

FORM = "application/x-www-form-urlencoded"
FORM_MOST = 16_384
FIELDS_MOST = 30
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
LOG_IN = "quadrille login"
LOG_IN_FIRST = "What is here is for those who are logged in."
FOR_ALL = ("/login", "/static/{name}")
T = TypeVar("T")
REFUSED = {
    "USED": "This link was used already: it logs in once.",
    "EXPIRED": "This link's time is over.",
    "UNKNOWN": "This is no link of this console.",
    "KEY": "This key lets nobody in here: it is unknown or over, or lacks the scope ops:read.",
}


class LoginNeededError(HTTPException):
    """Somebody wants to write who is not logged in, or no longer; the page says how to."""

    def __init__(self, command: str = "", given: Given | None = None, said: str = "", status: int = 403) -> None:
        super().__init__(status, said or "You are not logged in, or your session is over. Nothing was done.")
        self.command, self.given = command, given or {}


def cookie_name(api: ConsoleApi) -> str:
    """Return the cookie's name: browsers share cookies among the ports of a machine, stacks do not."""
    port = urlsplit(api.base).port
    return f"quadrille_{port}" if port else "quadrille"


async def session_of(request: Request, api: ConsoleApi) -> Session | None:
    """Return whose session a request belongs to, with the outcome its address names; None without one."""
    secret = request.cookies.get(cookie_name(api), "")
    if not secret:
        return None
    said = request.query_params.get("said", "")
    number = int(said) if said.isdecimal() and len(said) < 19 else 0  # noqa: PLR2004 - a bigint's
    return await api.read(sessions.visit, secret, number)


async def admit(request: Request, api: ConsoleApi, path: str) -> None:
    """Let pass who may read; where keys are wanted that is who is logged in, by a key that still lets in.

    From here on what he asks others to do is asked with his key.
    """
    if api.keys is None:
        return
    session = await session_of(request, api)
    if session is not None and (not session.key or may_read(api, session.key)):
        ACTING.set(session.key)
    elif path not in FOR_ALL:
        raise LoginNeededError(said=LOG_IN_FIRST, status=401)


def may_read(api: ConsoleApi, key: str) -> str:
    """Return whose key this is if it may read here; nothing if it is nobody's, or lacks the scope."""
    principal = api.keys.find(key) if api.keys else None
    return principal.owner if principal and principal.may("ops:read") else ""


async def login(request: Request, _: ConsoleApi) -> Page:
    """Ask before a link is used up; without one say how to get one."""
    return login_page(token=request.query_params.get("t", "")[: sessions.LONGEST])


def login_page(status: int = 200, *, token: str = "", refused: str = "", does: str = "") -> Page:
    """Return the page that logs in, by a token; without one it says how to get one, and what does the same."""
    return page("login.html", status, here="", token=token, refused=refused, how=LOG_IN, does=does)


async def log_in(request: Request, api: ConsoleApi) -> Response | Page:
    """Use a link up, or take an API key: the browser that asked has a session now."""
    _same_origin(request, api)
    given, life = await _form(request), api.told.session_life
    if key := given.get("key", "").strip():
        if not (owner := may_read(api, key)):
            return login_page(403, refused=REFUSED["KEY"])
        secret = await _write(api, lambda tx: sessions.begin_as(tx, owner, life, key))
    else:
        secret, refused = await _write(api, lambda tx: sessions.begin(tx, given.get("t", ""), life))
        if refused:
            return login_page(403, refused=REFUSED[refused])
    return _with_cookie(RedirectResponse("/", 303, HEADERS), api, secret, int(api.told.session_life.total_seconds()))


async def log_out(request: Request, api: ConsoleApi) -> Response | Page:
    """End the session of a cookie, here and in the browser."""
    session, _ = await _meant(request, api)
    await _write(api, lambda tx: sessions.end(tx, session.secret))
    return _with_cookie(RedirectResponse("/login", 303, HEADERS), api, "", 0)


async def ask(request: Request, api: ConsoleApi) -> Page:
    """Ask before something is done: what it would do, why it is done; the page is a dialog where scripts run."""
    name = request.path_params["name"]
    if name not in ACTIONS:
        raise HTTPException(404, "There is no such action.")
    given = {key: value[:FORM_MOST] for key, value in request.query_params.items()}
    asked = await ACTIONS[name](api, given)
    if await session_of(request, api) is None:
        raise LoginNeededError(asked.command)
    return page("ask.html", here="", action=name, ask=asked, back=_back(given.get("back", "")), reason="", missing="")


async def do(request: Request, api: ConsoleApi) -> Response | Page:
    """Do what a form asks for, by asking the service that owns it; then show what came of it where one was."""
    name = request.path_params["name"]
    if name not in ACTIONS:
        raise HTTPException(404, "There is no such action. Nothing was done.")
    try:
        session, given = await _meant(request, api)
    except LoginNeededError as needed:
        needed.command = (await ACTIONS[name](api, needed.given)).command
        raise
    asked = await ACTIONS[name](api, given)
    back = _back(given.get("back", ""))
    reason = given.get("reason", "").strip()
    if asked.reason and not 0 < len(reason) <= REASON_MOST:
        missing = f"Say why, in at most {REASON_MOST} characters: it is kept with what is done. Nothing was done yet."
        return page("ask.html", 422, here="", action=name, ask=asked, back=back, reason=reason, missing=missing)
    if asked.call is None:
        wrong(asked.what)
    return await _done(api, session, asked, reason, back)


async def _done(api: ConsoleApi, session: Session, asked: Ask, reason: str, back: str) -> Response:
    """Send the call once and keep what came of it; a browser that goes away does not stop it."""
    call = asked.call
    assert call is not None  # noqa: S101 - the caller has looked
    if asked.reason:
        call = type(call)(call.process, call.path, {**call.body, "reason": reason}, call.method, call.headers, call.api)
    reply = await asyncio.shield(asyncio.ensure_future(api.neighbours.send(call)))
    outcome = outcome_of(asked, reply)
    if outcome.link.startswith("/ask/"):  # what was looked at has changed: look again
        kept = {name: value for name, value in asked.kept.items() if name not in ("selection", "version")}
        query = urlencode({**kept, "back": back})
        outcome = Outcome(outcome.level, outcome.said, outcome.command, f"{outcome.link}?{query}")
    number = await _write(api, lambda tx: sessions.note(tx, session.secret, outcome))
    return RedirectResponse(_to(back, number), 303, HEADERS)


async def _meant(request: Request, api: ConsoleApi) -> tuple[Session, Mapping[str, str]]:
    """Return who writes, and the form; refuses another origin, a request without a session, a form of another one."""
    _same_origin(request, api)
    given = await _form(request)
    session = await session_of(request, api)
    if session is None:
        raise LoginNeededError(given=given)
    if not session.proves(given.get("proof", "")):
        raise HTTPException(403, "This form is not of your session: open the page again. Nothing was done.")
    return session, given


def _same_origin(request: Request, api: ConsoleApi) -> None:
    """Refuse a write that a page of somebody else had the browser send."""
    origin, base = request.headers.get("origin", ""), urlsplit(api.base)
    known = {f"{base.scheme}://{base.netloc}"}
    if base.hostname in ("127.0.0.1", "localhost", "::1"):
        known |= {f"{base.scheme}://{host}:{base.port}" for host in LOOPBACK}
    if origin not in known:
        raise HTTPException(403, f"This comes from another page ({origin[:100] or 'no origin'}). Nothing was done.")


async def _form(request: Request) -> dict[str, str]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        refuse("unsupported-media-type", accepted=[FORM], headers={"Accept": FORM})
    try:
        text = (await whole_body(request, FORM_MOST)).decode()
        return {name: value.replace("\0", "") for name, value in parse_qsl(
            text, keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MOST)}  # fmt: skip
    except ValueError:
        raise HTTPException(422, "The form is none that a page here sends. Nothing was done.") from None


async def _write(api: ConsoleApi, change: Callable[[Tx], T]) -> T:
    """Change something of the sessions; refuses while the database is away."""

    def within() -> T:
        with api.connect() as tx:
            return change(tx)

    try:
        return await asyncio.to_thread(within)
    except psycopg.OperationalError:
        refuse("dependency-unavailable", dependency="database", retry_after=1)


def _with_cookie(response: Response, api: ConsoleApi, secret: str, seconds: int) -> Response:
    secure = urlsplit(api.base).scheme == "https" or not api.loopback
    response.set_cookie(
        cookie_name(api), secret, max_age=seconds, path="/", secure=secure, httponly=True, samesite="strict"
    )
    return response


def _back(asked: str) -> str:
    """Return a place on this console to come back to; anything else is the first screen."""
    found = urlsplit(asked)
    ours = asked.startswith("/") and not asked.startswith(("//", "/\\", "/ask/", "/do/", "/login"))
    if not ours or found.netloc or any(ord(one) < 33 or one == "\\" for one in asked):  # noqa: PLR2004 - blanks
        return "/"
    return quote(asked[:2000], safe="/?&=%+:,;@!$'()*-._~")


def _to(back: str, number: int) -> str:
    """Return where an outcome is shown."""
    place, _, query = back.partition("?")
    pairs = [pair for pair in parse_qsl(query, keep_blank_values=True) if pair[0] != "said"]
    return f"{place}?{urlencode([*pairs, ('said', str(number))])}"
