"""Asks: one thing a person may do, as a page asks before it; whom it asks then, and how its answer is told.

Nothing here does anything: `actions` says what may be asked, `acting` sends it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias
from uuid import UUID

from starlette.exceptions import HTTPException

from console.neighbours import Call, Reply
from console.sessions import Outcome

Given: TypeAlias = Mapping[str, str]
"""What a page's address or a form says."""
Tell: TypeAlias = Callable[[Mapping[str, Any]], Outcome]
WHY = "…"
REASON_MOST = 512


@dataclass(frozen=True, slots=True)
class FormField:
    """A field that a person fills in: ``choices`` of a list, else a text, or a number of this ``kind``."""

    name: str
    label: str
    value: str = ""
    kind: str = "text"
    choices: tuple[tuple[str, str], ...] = ()
    required: bool = True
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked before something is done: what would happen, what else is to be said, the command that does it.

    ``kept`` goes along unseen; ``lines`` are what there is to look at first; without a ``call`` it cannot be asked for
    now, and ``what`` says why.
    """

    title: str
    what: str
    button: str
    command: str
    call: Call | None
    tell: Tell
    fields: tuple[FormField, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    lines: tuple[tuple[str, str], ...] = ()
    reason: bool = True
    again: str = ""


def outcome_of(ask: Ask, reply: Reply) -> Outcome:
    """Return what came of it: the service's own words, whether it did it or not."""
    process = ask.call.process if ask.call else ""
    if not reply.status:
        if reply.lost:
            said = f"{process} was asked and did not answer: it may have happened. Look before you ask again."
        else:
            why = reply.body.get("detail")
            said = f"{process} does not answer, so nothing was done{f': {why}' if why else ''}."
        return Outcome("bad", said, ask.command)
    if reply.status < 300:  # noqa: PLR2004 - HTTP
        told = ask.tell(reply.body)
        return Outcome(told.level, told.said, told.command or ask.command, told.link)
    return Outcome("bad", f"{process} refuses it, nothing was done: {words_of(reply)}", ask.command, ask.again)


def words_of(reply: Reply) -> str:
    """Return a refusal in the words of who refused: title, rule, detail, each place that was not valid."""
    body = reply.body
    rule = f" ({body['rule']})" if body.get("rule") else ""
    errors = [one for one in body.get("errors", ()) if isinstance(one, Mapping)]
    places = "".join(f" {one.get('pointer')}: {one.get('message')}." for one in errors[:5])
    title = str(body.get("title") or body.get("error") or f"status {reply.status}")
    return f"{title}{rule}. {body.get('detail') or ''}{places}".strip()


def command(*words: str, **options: object) -> str:
    """Return a line of the command line; an option that is empty is left out, True is a flag, a reason comes last."""
    line = ["quadrille", *(shlex.quote(word) for word in words)]
    for name, value in options.items():
        if value is True:
            line.append(f"--{name.replace('_', '-')}")
        elif value not in ("", None, False):
            line.append(f"--{name.replace('_', '-')} {shlex.quote(str(value))}")
    return " ".join(line)


def why_of(given: Given) -> str:
    """Return the reason a form gives, or what stands for it in a command to copy."""
    return given.get("reason", "").strip() or WHY


def identity(given: Given, name: str) -> str:
    """Return an id that was given; refuses what is none."""
    try:
        return str(UUID(given.get(name, "")))
    except ValueError:
        wrong(f"{name}: an id is wanted, such as 01a1fd62-57f0-7eeb-be96-e59ce40f9cb1.")


def one_of(given: Given, name: str, known: tuple[str, ...]) -> str:
    """Return what was given if it is known; refuses anything else."""
    value = given.get(name, "")
    if value not in known:
        wrong(f"{name}: one of {', '.join(known) or 'none that is watched here'} is wanted.")
    return value


def number(given: Given, name: str, default: float, least: float, most: float) -> float:
    """Return a number that was given; refuses what is none, and what is beyond its bounds."""
    text = given.get(name, "") or f"{default:g}"
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        wrong(f"{name}: a number from {least:g} to {most:g} is wanted.")
    return value


def wrong(detail: str) -> NoReturn:
    """Refuse what was asked: nothing was done."""
    raise HTTPException(422, f"{detail} Nothing was done.")
