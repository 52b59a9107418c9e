"""The pages for operators and for the sandbox say what is: every route, rule and test value, and commands that work."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from quadrille.app import Program
from quadrille.context import ProcessContext
from quadrille.ops.actions import Refusal
from quadrille.ops.audit_log import audit_routes
from quadrille.ops.consumers import consumers
from quadrille.ops.digest import digest_routes
from quadrille.ops.evidence import EvidenceRoutes
from quadrille.ops.findings import finding_routes
from quadrille.ops.hear_again import REFUSALS, hear_again_routes
from quadrille.ops.parked import ParkedRoutes
from quadrille.ops.relay_status import relay_routes
from quadrille.ops.replays import ReplayRoutes
from quadrille.relay.relay import Relay
from quadrille.service import Digest
from quadrille_cli.services import PROGRAMS
from quadrille_sandbox.cards import TOKENS
from quadrille_sandbox.chaos import Plan
from quadrille_sandbox.testing import running
from tests.architecture.test_documents import ROOT, alike, commands, run

OPERATORS = (ROOT / "docs" / "operators.md").read_text("utf-8")
SANDBOX = (ROOT / "docs" / "sandbox.md").read_text("utf-8")
RULE = re.compile(r'(?:rule=|_refuse\()"([A-Z_]+)"')


def programs() -> list[Program[Any]]:
    return [importlib.import_module(f"{name}.main").PROGRAM for name in PROGRAMS]


def routes() -> Iterator[str]:
    """Yield every route of an ops port that is more than a probe."""
    yield from (f"{method} {pattern}" for method, pattern in ReplayRoutes.routes(ReplayRoutes.__new__(ReplayRoutes)))
    yield from (f"{method} {pattern}" for method, pattern in EvidenceRoutes(cast("ProcessContext", None)).routes())
    yield from (f"{method} {pattern}" for method, pattern in audit_routes(cast("ProcessContext", None)))
    yield from (f"{method} {pattern}" for method, pattern in ParkedRoutes.routes(ParkedRoutes.__new__(ParkedRoutes)))
    yield from (f"{method} {pattern}" for method, pattern in consumers(cast("ProcessContext", None)))
    yield from (f"{method} {pattern}" for method, pattern in relay_routes("order", "", "", cast("Relay", None)))
    nothing = cast("ProcessContext", None)
    yield from (f"{method} {pattern}" for method, pattern in digest_routes(nothing, None, lambda _: {}))
    yield from (f"{method} {pattern}" for method, pattern in finding_routes(nothing))
    yield from (
        f"{method} {pattern}"
        for method, pattern in hear_again_routes(nothing, lambda *_: None, cast("Digest", object()))
    )
    for program in programs():
        yield from (f"POST /ops/orders/{{order_id}}/{action.name}" for action in program.operators)
        for name in program.ops:
            module, _, function = name.partition(":")
            context = cast("ProcessContext", None)  # nothing is asked of it until somebody asks the route
            found = getattr(importlib.import_module(module), function)(context)
            yield from (f"{method} {pattern}" for method, pattern in found)


def rules() -> set[str]:
    """Return every rule that a refusal may name."""
    sources = [path.read_text("utf-8") for path in (ROOT / "chassis" / "src").rglob("*.py")]
    actions = [action for program in programs() for action in program.operators]
    answers = [answer for action in actions for answer in action.answers.values()]
    return {*RULE.findall("".join(sources)), *REFUSALS, *(a.rule for a in answers if isinstance(a, Refusal) and a.rule)}


def test_every_route_of_operators_is_on_their_page() -> None:
    """The table has each route an ops port answers, as it is written there, and no other."""
    assert sorted(re.findall(r"^\| `((?:GET|POST) /ops/\S+)` \|", OPERATORS, re.MULTILINE)) == sorted(set(routes()))


def test_every_rule_is_on_the_page() -> None:
    """Whoever is refused by a rule finds there what it means and what to do."""
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", OPERATORS, re.MULTILINE)) == rules() >= {"ENDED", "NOT_OWED"}


def test_every_token_and_share_is_on_the_sandboxs_page() -> None:
    """What the processor does with a token, and what a plan of chaos may say, is told."""
    named = set(re.findall(r"`([a-z0-9_]+)`", SANDBOX))

    assert set(TOKENS) <= named
    assert set(Plan.__dataclass_fields__) <= named


def test_chaos_works_as_shown(tmp_path: Path) -> None:
    """The commands of the page do what it shows, and leave peace behind."""
    shown = commands(SANDBOX, "runs on the sandbox")
    with running(tmp_path) as sandbox:
        for command, answer in shown:
            told = run(command.replace("http://127.0.0.1:8010", f"http://{sandbox.http}"))
            assert json.loads(alike(told.stdout)) == json.loads(alike(answer))

    assert [command.split()[3] for command, _ in shown] == ["PUT", "DELETE"]


@pytest.mark.parametrize("planted", ["ENDED", "RUNNING"])
def test_a_rule_left_out_is_found(planted: str) -> None:
    """Planted: without one of its rules the page is not what refusals name."""
    page = OPERATORS.replace(f"| `{planted}` |", "| |")

    assert set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE)) == rules() - {planted}
