"""Advice: no message and no page offers to give up data; who wants empty data asks for it by an option of that name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COSTLY = re.compile(r"--fresh|--wipe|data is lost|data are lost|\brm -|remove the data|delete the (topic|data|volume)")
OPTIONS = {  # where the options themselves are declared, and what they do is said
    "cli/src/quadrille_cli/main.py": {"--fresh", "--wipe", "Remove the data too."},
    "cli/src/quadrille_cli/commands/demo.py": {"--fresh"},
    "deploy/bootstrap.py": {"see above; or begin anew: rm -r "},  # .venv: what is in it is installed again
}
EXAMPLES = re.compile(r"Examples:")


def sentences(text: str) -> Iterator[str]:
    """Every text in a program: the constants, and the constant pieces of those with values in them; no docstrings."""
    tree = ast.parse(text)
    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield node.value


def costly(path: str, text: str) -> list[str]:
    """The sentences of a program that cost data."""
    said = {one for one in sentences(text) if COSTLY.search(one) and not EXAMPLES.match(one)}
    return sorted(said - OPTIONS.get(path, set()))


PROGRAMS = [
    path.relative_to(ROOT).as_posix()
    for pattern in ("*/src/**/*.py", "services/*/src/**/*.py", "services/*/migrations/**/*.py", "deploy/*.py")
    for path in sorted(ROOT.glob(pattern))
]


def test_no_message_offers_the_loss_of_data() -> None:
    """Of all texts in all programs only the options' own declarations speak of beginning with empty data."""
    found = {path: costly(path, (ROOT / path).read_text(encoding="utf-8")) for path in PROGRAMS}

    assert len(PROGRAMS) > 100
    assert {path: said for path, said in found.items() if said} == {}


@pytest.mark.parametrize(
    "planted",
    [
        'raise CannotRun(what="x", fix="quadrille up --fresh (the data is lost)")',
        'fix = f"{name} is damaged: rm -r {home}"',
        'CAUSES = (("x", "y", "delete the topic, then run it again"),)',
    ],
)
def test_an_advice_that_costs_data_turns_the_gate_red(planted: str) -> None:
    """A message that offers it is found, whichever way it is put together."""
    assert costly("cli/src/quadrille_cli/stack/processes.py", planted)
