"""Commands that are named anywhere exist and parse: in messages, advice, pages, alerts and the documents."""

from __future__ import annotations

import ast
import html
import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import typer
from typer._click import ClickException, Command
from typer.core import TyperGroup

from console.screens import twins
from quadrille_cli import explain, main

ROOT = Path(__file__).resolve().parents[2]
VALUE = "\ue000"  # where a program puts a value in
NAMED = re.compile(r"(?<![\w./-])quadrille ((?:[^\s`|,;()<>…]|…(?!\s))[^\n`|;()<>]*)")
SPAN = re.compile(r"`quadrille ([^`]+)`")
ENDS = re.compile(r"(?: {3,}| · |, (?=quadrille )|(?<=\S)[.:,] |[.:,]$|\\$|\\b|&&)")
NO_COMMAND = "command"  # "use the quadrille command."
MENTION = re.compile(r"Missing |requires an argument")
"""Of a page, what is no fault: options are spoken of there without all that goes with them."""
PROGRAMS = ("*/src/**/*.py", "services/*/src/**/*.py", "deploy/*.py")
PAGES = ("console/src/console/pages/templates/*.html", "deploy/prometheus/rules/*.y*ml")
STRICT = "docs/operating.md"
DOCUMENTS = ("README.md", "docs/*.md", "CONTRIBUTING.md")


@cache
def program() -> TyperGroup:
    """The whole command line, as it parses."""
    main._load_more("")  # noqa: SLF001 - what `run` does for a help page
    whole = typer.main.get_command(main.app)
    assert isinstance(whole, TyperGroup)
    return whole


def texts(source: str) -> Iterator[str]:
    """Every text of a program, docstrings too, with a mark where a value is put in."""
    inside = set[int]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            yield "".join(str(p.value) if isinstance(p, ast.Constant) else VALUE for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


def commands(text: str) -> Iterator[str]:
    """What stands behind the program's name in a text, up to where the command ends."""
    for found in NAMED.findall(re.sub(r"\\\n\s*", " ", text)):
        command = ENDS.split(found, maxsplit=1)[0].strip()
        if command and command != NO_COMMAND:
            yield command


def fault(text: str) -> str | None:
    """Why a command does not parse; None if it does, or its verb is put in by the program.

    A word that the program puts in may be any: a value, nothing, or an option with its value.
    """
    try:
        words = explain.asked_for(shlex.split(text))
    except ValueError as odd:
        return str(odd)
    this: Command = program()
    rest = words
    while isinstance(this, TyperGroup) and rest and not rest[0].startswith("-"):
        if rest[0].startswith(VALUE):
            return None
        if (named := this.get_command(typer.Context(this), rest[0])) is None:
            return f"there is no {rest[0]}"
        this, rest = named, rest[1:]
    return _refused(this, rest) if rest else None  # else it is only named


def _refused(verb: Command, words: list[str]) -> str | None:
    put_in, refused = [n for n, word in enumerate(words) if word == VALUE], ""
    for chosen in product((("1",), (), ("--reason", "1")), repeat=len(put_in)):
        given = dict(zip(put_in, chosen, strict=True))
        filled = [one.replace(VALUE, "1") for n, word in enumerate(words) for one in given.get(n, (word,))]
        try:
            verb.make_context(verb.name, filled)
        except typer.Exit:  # --help
            return None
        except ClickException as fault_:
            refused = fault_.format_message()
        else:
            return None
    return refused


def found() -> Iterator[tuple[str, str]]:
    """Every command that is named, and where."""
    for pattern in PROGRAMS:
        for path in sorted(ROOT.glob(pattern)):
            for text in texts(path.read_text("utf-8")):
                yield from ((path.relative_to(ROOT).as_posix(), one) for one in commands(text))
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            text = path.read_text("utf-8")
            shown = html.unescape(re.sub(r"<[^>]+>", "\n", re.sub(r"\{\{.*?\}\}|\{%.*?%\}", VALUE, text)))
            quoted = "\n".join(re.findall(r"\"(quadrille [^\"]*)\"", text.replace(' " ~ ', f' {VALUE}" ~ ')))
            yield from ((path.relative_to(ROOT).as_posix(), one) for one in (*commands(shown), *commands(quoted)))
    for pattern in DOCUMENTS:
        for path in sorted(ROOT.glob(pattern)):
            text = path.read_text("utf-8")
            blocks = re.findall(r"```(?:console|bash|sh)\n(.*?)```", text, re.DOTALL)
            spans = [re.sub(r"\s+", " ", one).replace("\\|", "|") for one in SPAN.findall(text)]
            for one in (*spans, *(found for block in blocks for found in commands(block))):
                yield path.relative_to(ROOT).as_posix(), one


def test_every_command_that_is_named_parses() -> None:
    """Whatever a message, a page, an alert or a document says to type is a command with options that it has."""
    named = list(found())
    faults = {
        f"{where}: quadrille {one}": why
        for where, one in named
        if (why := fault(one)) and not (where.endswith(".md") and where != STRICT and MENTION.search(why))
    }

    assert faults == {}
    assert {where.partition("/")[0] for where, _ in named} >= {"chassis", "cli", "why", "console", "deploy", "docs"}
    assert len(named) > 200


def test_the_commands_of_an_orders_page_parse() -> None:
    """Beside what an order's page shows stand the commands that show the same."""
    shown = twins("01a1fd62-57f0-7eeb-be96-e59ce40f9cb1")
    assert {one: fault(one.removeprefix("quadrille ")) for one in shown} == dict.fromkeys(shown)


@pytest.mark.parametrize(
    ("planted", "named"),
    [
        ("now  quadrille submit", "submit"),
        ("fix: quadrille parked drop 1c07", "drop"),
        ("quadrille parked discard 1c07 --because x", "--because"),
        ("quadrille consumers resume", None),
        ("quadrille audit list --limit many", "--limit"),
        ("quadrille why one two", "two"),
    ],
)
def test_a_planted_command_turns_the_gate_red(planted: str, named: str | None) -> None:
    """A verb, an option or a value that there is not is found by name; a command that is only named is no fault."""
    [one] = commands(planted)

    assert (fault(one) is None) if named is None else (named in str(fault(one)))
