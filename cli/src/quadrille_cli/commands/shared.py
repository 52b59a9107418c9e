"""How a command asks the running stack; what it says and exits with when it is refused (settings.md, "Exit codes")."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn
from urllib.parse import quote, urlsplit

import typer

from quadrille_cli import console, credentials
from quadrille_cli.client import Client, NoAnswerError, ProblemError
from quadrille_cli.commands import stack as supervisor
from quadrille_cli.stack import Stack, paths
from quadrille_cli.terminal import folded, harmless

USAGE, REFUSED, TIMEOUT, NOT_FOUND, CONFLICT, UNREACHABLE = 2, 3, 4, 5, 6, supervisor.UNREACHABLE
CODES = {
    "not-found": NOT_FOUND,
    "past-retention": NOT_FOUND,
    "not-cancellable": REFUSED,
    "order-frozen": REFUSED,
    "operation-refused": CONFLICT,
    "version-mismatch": CONFLICT,
    "webhook-limit": CONFLICT,
    "validation-failed": USAGE,
    "webhook-url-refused": USAGE,
    "malformed-json": USAGE,
    "dependency-unavailable": UNREACHABLE,
    "outcome-unknown": UNREACHABLE,
    "overloaded": UNREACHABLE,
    "rate-limited": UNREACHABLE,
    "unauthorized": USAGE,
    "insufficient-scope": USAGE,
}
WAYS = {
    "PAUSED": "quadrille intake show; quadrille intake resume --reason TEXT",
    "SAGA_FAILURE_RATE": "quadrille status; the intake opens by itself when orders go well again",
    "DISK_GUARD": "quadrille intake show; the intake opens by itself when the disk of order's database has room",
    "OUTBOX_BACKLOG": "quadrille status; new orders are taken when the relay has caught up",
}
"""What to type when new orders are refused for a cause."""
FIXES = {
    "unauthorized": "a live key, in QUADRILLE_KEY",
    "insufficient-scope": "a key with that scope: quadrille keys new",
}
BUSINESS = frozenset({"STILL_FAILED"})  # rules that are the business's, not a conflict with what is the case
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SUFFIX_LEAST = 4
_SUFFIX = re.compile(r"[0-9a-f-]{4,35}")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LISTED = 5
"""Of the ids that a suffix may mean, as many are named."""


Url = Annotated[
    str,
    typer.Option("--url", envvar="QUADRILLE_URL", help="An order API elsewhere; without it, the running stack's."),
]
Key = Annotated[
    str,
    typer.Option(
        "--key", envvar=credentials.VARIABLE, help="Your API key there; others see a command line, not $QUADRILLE_KEY."
    ),
]


@dataclass(frozen=True, slots=True)
class OrderApi:
    """The order API that is meant: the running stack's, or one elsewhere, of which no stack is known."""

    url: str
    stack: Stack | None = None

    def named(self, wanted: str) -> str:
        """Return the id of the order that is meant; elsewhere a whole id or a reference is wanted."""
        if self.stack is not None:
            return the_order(self.stack, wanted)
        if _ID.fullmatch(wanted):
            return wanted
        with asked(self.url) as api:
            found = api.demand("GET", f"/v1/orders?reference={quote(wanted, safe='')}").body["orders"]
        if len(found) != 1:
            bad("ID", f"an order's whole id, or a reference that one order has, for {self.url}; {len(found)} have this")
        return str(found[0]["order_id"])


def order_api(data: Path | None, url: str, key: str) -> OrderApi:
    """Return the order API to ask, and show it this key; a stack that is named goes before an address."""
    if url and data is None:
        if not url.startswith(("http://", "https://")):
            bad("--url", "http:// or https:// of an order API, such as https://orders.shop.example")
        if key:
            credentials.remember([url], key)
            if url.startswith("http://") and urlsplit(url).hostname not in LOOPBACK:
                console.fail(f"careful: the key goes to {url} as plain text; https:// hides it")
        return OrderApi(url.rstrip("/"))
    stack = running(data, "order-api")
    if key:
        credentials.remember([stack.url("order")], key)
    return OrderApi(stack.url("order"), stack)


def running(data: Path | None, *processes: str) -> Stack:
    """Return the stack whose processes of these names run; otherwise says what is missing, and exits 7."""
    stack = Stack.found(paths.data_dir(data))
    here = {name for name, process in stack.processes.items() if process.running} if stack else set()
    missing = [name for name in processes if stack and name not in here]
    if stack is None or missing:
        what = f"{', '.join(missing)} does not run" if missing else "no stack runs here"
        console.fail(f"{what}\n  fix: quadrille up --detach")
        raise typer.Exit(UNREACHABLE)
    return stack


def bad(option: str, wanted: str) -> NoReturn:
    """Refuse an option or argument: exit code 2, and what is wanted."""
    raise typer.BadParameter(wanted, param_hint=option)


def an_id(option: str, text: str, what: str = "an order") -> str:
    """Return an id, or the end of one, as it is written everywhere; raises BadParameter for what is neither.

    The end has at least four characters and may begin with `…`, as it is shown: ``named`` finds whose it is.
    """
    plain = text.strip().lower().removeprefix("…").removeprefix("...")
    if not (_ID.fullmatch(plain) or _SUFFIX.fullmatch(plain)):
        bad(option, f"{what}'s id, such as 01a1fd62-57f0-7eeb-be96-e59ce40f9cb1, or its last 4 characters or more")
    return plain


def whole_id(option: str, text: str, what: str) -> str:
    """Return an id of something that no list is kept of; raises BadParameter for what is none, or only its end."""
    if not _ID.fullmatch(plain := text.strip().lower()):
        bad(option, f"{what}'s whole id, such as 01a1fd62-57f0-7eeb-be96-e59ce40f9cb1")
    return plain


def named(option: str, wanted: str, found: Sequence[str], what: str = "an order") -> str:
    """Return the only one of the ids found that ends as wanted; several are listed and exit 2, none exits 5.

    A whole id needs no list to be found on.
    """
    if _ID.fullmatch(wanted):
        return wanted
    ending = sorted({one for one in found if one.endswith(wanted)})
    if len(ending) == 1:
        return ending[0]
    if not ending:
        console.fail(f"{what}'s id that ends in {wanted} is not known here")
        raise typer.Exit(NOT_FOUND)
    shown = "".join(f"\n  {one}" for one in ending[:LISTED])
    more = f"\n  and {len(ending) - LISTED} more" if len(ending) > LISTED else ""
    bad(option, f"{wanted} is the end of {len(ending)} ids; write more of the one that is meant:{shown}{more}")


def order_id(text: str) -> str:
    """Return what an order is named by, to be given to ``the_order``; raises BadParameter for what names none.

    It is an id, the end of one, a reference, or a trace's id.
    """
    plain = text.strip().removeprefix("…").removeprefix("...")
    if len(plain) < SUFFIX_LEAST:
        bad("ID", f"an order's id, its last {SUFFIX_LEAST} characters or more, or its reference")
    return plain.lower() if _ID.fullmatch(plain.lower()) else plain


def the_order(stack: Stack, wanted: str, option: str = "ID") -> str:
    """Return the id of the order that is meant; several are listed and exit 2, none exits 5.

    A whole id needs nobody to be asked: it is taken as it is, known or not.
    """
    if _ID.fullmatch(wanted):
        return wanted
    with asked(stack.url("order-api")) as ops:
        found = ops.demand("GET", f"/ops/names?name={quote(wanted, safe='')}").body["orders"]
    if not found:
        words = f"no order's id ends in {harmless(wanted)}, and none has it as its reference or trace"
        console.fail("\n".join(folded(words)))
        raise typer.Exit(NOT_FOUND)
    if len(found) > 1:
        listed = "".join(
            f"\n  {one['order_id']}  {one['status']}  {harmless(one['reference'] or '')}".rstrip() for one in found
        )
        bad(option, f"{harmless(wanted)} may be any of these: say more of the id{listed}")
    return str(found[0]["order_id"])


def form(output: str, forms: Sequence[str] = ("table", "json")) -> None:
    """Refuse a form of output there is not."""
    if output not in forms:
        bad("-o", ", ".join(forms))


def reason(text: str) -> str:
    """Return why an operator acts; raises BadParameter when nothing is said."""
    if not text.strip():
        bad("--reason", "say why: it is kept with the action")
    return text


def moment(option: str, text: str) -> str:
    """Return the RFC 3339 time that is meant by `10m` (ago) or by a time itself; raises BadParameter for neither."""
    from quadrille.settings import parse_duration  # noqa: PLC0415 - 0.1 s that most commands can spare
    from quadrille.values import rfc3339  # noqa: PLC0415 - as above

    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        try:
            at = datetime.now(UTC) - parse_duration(text)
        except ValueError:
            bad(option, "10m (ago), or a time such as 2026-11-21T09:14:03Z")
    if at.tzinfo is None:
        bad(option, f"{text} names no offset: end it with Z, or with +01:00")
    return rfc3339(at)


@contextmanager
def asked(url: str) -> Iterator[Client]:
    """A client of one API or ops port; a refusal is told on stderr and becomes the exit code that names its kind."""
    try:
        with Client(url) as client:
            yield client
    except ProblemError as refused:
        raise typer.Exit(told(refused)) from None
    except NoAnswerError as away:
        fix = "quadrille status, quadrille up --detach" if "//127.0.0.1:" in url else "the address in --url"
        console.fail(f"nothing answers at {url}: {away}\n  fix: {fix}")
        raise typer.Exit(UNREACHABLE) from None


def told(refused: ProblemError) -> int:
    """Say what was refused, why and what to do, and return the exit code."""
    problem, slug = refused.problem, refused.slug
    if not slug:
        console.fail(str(refused))
        return supervisor.FAILED
    lines = [f"{problem['title']} ({refused.reply.status} {slug}): {problem['detail']}"]
    lines += [f"  {error['pointer'] or 'body'}: {error['message']}" for error in problem.get("errors", ())]
    names = (
        "cause",
        "rule",
        "order_status",
        "cancellable_until",
        "since",
        "current_etag",
        "oldest_at",
        "required_scope",
        "retry_after",
    )
    if more := "  ".join(f"{name} {problem[name]}" for name in names if problem.get(name)):
        lines.append(f"  {more}")
    lines += [f"  fix: {FIXES[slug]}"] if slug in FIXES else []
    lines += [f"  fix: {WAYS[cause]}"] if (cause := problem.get("cause")) in WAYS else []
    lines.append(f"  request {problem['request_id']}")
    console.fail("\n".join(part for line in lines for part in folded(line, "    ")))
    return REFUSED if problem.get("rule") in BUSINESS else CODES.get(slug, supervisor.FAILED)
