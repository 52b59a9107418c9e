"""A reader who searches for a word of the field finds the one file that is it; what we called it before is gone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.architecture.test_design_pages import CHASSIS, page, rows, section
from tests.architecture.test_documents import ROOT, tracked

WANTED = {
    *("outbox", "inbox", "consumer", "retry", "dead letter", "scheduler", "heartbeat", "idempotency"),
    "circuit breaker",
}
"""What an expert looks for first."""
FORMER = re.compile(r"agenda|errands?|deeds?|desk|pulse|ears|ladder|rung|upkeep|wish(?:es)?", re.IGNORECASE)
PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def places() -> dict[str, str]:
    """Return the file of each word, as the page tells."""
    told = section(page("architecture.md"), "Where to find what")
    return {word.strip("`"): file.strip("`") for word, file, *_ in rows(told)}


def first_sentence(file: Path) -> str:
    """Return what a module says it is."""
    text = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ").lower()


def misplaced(told: dict[str, str]) -> list[str]:
    """Return the words whose file is not there, or does not say in its first sentence that it is it."""
    files = {word: CHASSIS / file for word, file in told.items()}
    return [word for word, file in files.items() if not file.is_file() or word not in first_sentence(file)]


def test_a_word_of_the_field_leads_to_its_file() -> None:
    """Each word of the table stands in the first sentence of its file; all that an expert looks for are there."""
    assert misplaced(places()) == []
    assert set(places()) >= WANTED
    assert len(set(places().values())) == len(places())


@pytest.mark.parametrize("wrong", ["processing/ledger.py", "ids.py"])
def test_a_word_that_leads_nowhere_is_found(wrong: str) -> None:
    """Planted: a file that is gone, and one that is something else."""
    assert misplaced({**places(), "outbox": wrong}) == ["outbox"]


def former(files: Iterable[Path]) -> list[str]:
    """Return the names in code that have one of our former words in them."""
    found = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            name = getattr(node, "id", None) or getattr(node, "attr", None) or getattr(node, "arg", None) or ""
            name = node.name if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) else name
            found += [f"{file}: {name}" for part in PART.findall(str(name)) if FORMER.fullmatch(part)]
    return found


def sources() -> list[Path]:
    """Return the sources of all packages."""
    return [file for file in tracked() if file.suffix == ".py" and "src" in file.relative_to(ROOT).parts]


def test_no_name_is_a_former_word() -> None:
    """What has a word of the field is called by it, in every package."""
    assert former(sources()) == []
    assert len(sources()) > len(WANTED)


def test_a_former_word_is_found(tmp_path: Path) -> None:
    """Planted: a parameter, a function and an attribute of former names."""
    (file := tmp_path / "old.py").write_text("def carry_out(errand): return errand.ladder\n\nclass DryWish: ...\n")

    assert {one.rpartition(" ")[2] for one in former([file])} == {"errand", "ladder", "DryWish"}


def without_reason(text: str) -> list[str]:
    """Return the words of our own whose row says nothing in its last cell."""
    found = re.findall(r"^\| (.+?) \| .* \| *(.*?) \|$", section(text, "Words of our own"), re.MULTILINE)
    return [word for word, why in found if not why and word != "word"]


def test_a_word_of_our_own_has_its_reason() -> None:
    """The glossary says of each word that is not the field's why it is there."""
    assert without_reason(page("glossary.md")) == []


def test_a_word_without_a_reason_is_found() -> None:
    """Planted: a row whose last cell is empty."""
    assert without_reason("## Words of our own\n\n| word | meaning | why |\n| gizmo | a thing | |\n") == ["gizmo"]


def test_every_module_of_the_chassis_names_its_subject_first() -> None:
    """A module's docstring begins with what it is, before what it guarantees: no riddle, no question."""
    riddles = re.compile(r"^(who|what|how|where|which|whether|when|why)\b")

    assert [file.name for file in CHASSIS.rglob("*.py") if riddles.match(first_sentence(file))] == []


def test_a_riddle_is_found(tmp_path: Path) -> None:
    """Planted: a module that begins with a question is seen to."""
    (file := tmp_path / "riddle.py").write_text('"""Who of those is alive."""\n')

    assert first_sentence(file).startswith("who ")
