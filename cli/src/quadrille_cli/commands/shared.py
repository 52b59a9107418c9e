"""How a command asks the running stack; what it says and exits with when it is refused (settings.md, "Exit codes")."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import typer

from quadrille_cli import console
from quadrille_cli.client import Client, NoAnswerError, ProblemError
from quadrille_cli.commands import stack as supervisor
from quadrille_cli.stack import Stack, paths

USAGE, REFUSED, TIMEOUT, NOT_FOUND, CONFLICT, UNREACHABLE = 2, 3, 4, 5, 6, supervisor.UNREACHABLE
CODES = {
    "not-found": NOT_FOUND,
    "past-retention": NOT_FOUND,
    "not-cancellable": REFUSED,
    "order-frozen": REFUSED,
    "operation-refused": CONFLICT,
    "version-mismatch": CONFLICT,
    "validation-failed": USAGE,
    "malformed-json": USAGE,
    "dependency-unavailable": UNREACHABLE,
    "outcome-unknown": UNREACHABLE,
    "overloaded": UNREACHABLE,
}
BUSINESS = frozenset({"STILL_FAILED"})  # rules that are the business's, not a conflict with what is the case
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


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
    """Return an id as it is written everywhere; raises BadParameter for what is none."""
    if not _ID.fullmatch(text.strip().lower()):
        bad(option, f"{what}'s id, such as 01a1fd62-57f0-7eeb-be96-e59ce40f9cb1")
    return text.strip().lower()


def order_id(text: str) -> str:
    """Return an order's id as it is written everywhere; raises BadParameter for what is none."""
    return an_id("ID", text)


def form(output: str, forms: Sequence[str] = ("table", "json")) -> None:
    """Refuse a form of output there is not."""
    if output not in forms:
        bad("-o", ", ".join(forms))


def reason(text: str) -> str:
    """Return why an operator acts; raises BadParameter when nothing is said."""
    if not text.strip():
        bad("--reason", "say why: it is kept with the action")
    return text


@contextmanager
def asked(url: str) -> Iterator[Client]:
    """A client of one API or ops port; a refusal is told on stderr and becomes the exit code that names its kind."""
    try:
        with Client(url) as client:
            yield client
    except ProblemError as refused:
        raise typer.Exit(told(refused)) from None
    except NoAnswerError as away:
        console.fail(f"nothing answers at {url}: {away}\n  fix: quadrille status, quadrille up --detach")
        raise typer.Exit(UNREACHABLE) from None


def told(refused: ProblemError) -> int:
    """Say what was refused, why and what to do, and return the exit code."""
    problem, slug = refused.problem, refused.slug
    if not slug:
        console.fail(str(refused))
        return supervisor.FAILED
    lines = [f"{problem['title']} ({refused.reply.status} {slug}): {problem['detail']}"]
    lines += [f"  {error['pointer'] or 'body'}: {error['message']}" for error in problem.get("errors", ())]
    names = ("cause", "rule", "order_status", "cancellable_until", "since", "current_etag", "oldest_at")
    if more := "  ".join(f"{name} {problem[name]}" for name in names if problem.get(name)):
        lines.append(f"  {more}")
    console.fail("\n".join([*lines, f"  request {problem['request_id']}"]))
    return REFUSED if problem.get("rule") in BUSINESS else CODES.get(slug, supervisor.FAILED)
