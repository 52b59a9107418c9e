"""The documents' paths are those of the checkout: what looks like a file of the repository is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.architecture.test_documents import ROOT, tracked

QUOTED = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
PLACEHOLDER = re.compile(r"[<{…]|\bDIR\b")


def tops() -> set[str]:
    """Return the folders of the checkout's root that git tracks."""
    return {path.relative_to(ROOT).parts[0] for path in tracked() if path.parent != ROOT}


def paths(text: str) -> list[str]:
    """Return the paths a document writes in backquotes: words that begin with a folder of the root."""
    words = [word.rstrip(".,:;)") for quoted in QUOTED.findall(text) for word in quoted.split()]
    begins = tuple(f"{top}/" for top in tops())
    return [word for word in words if word.startswith(begins) and not PLACEHOLDER.search(word)]


def missing(text: str) -> list[str]:
    """Return the paths of a document that lead nowhere; a star stands for any name."""
    return [path for path in paths(text) if not any(ROOT.glob(path.partition("::")[0].rstrip("/")))]


def documents() -> list[Path]:
    """Return the documents for people."""
    return [file for file in tracked() if file.suffix == ".md" and file.name != "CHANGELOG.md"]


def test_every_path_of_a_document_exists() -> None:
    """A path in backquotes that begins with a folder of the root is there, in every document."""
    wrong = {str(file.relative_to(ROOT)): gone for file in documents() if (gone := missing(file.read_text("utf-8")))}

    assert wrong == {}
    assert len(paths((ROOT / "CONTRIBUTING.md").read_text("utf-8"))) > 10


@pytest.mark.parametrize(
    "planted", ["see `chassis/tests`", "`python tests/crash/none.py --all`", "`services/*/src/*/kitchen.py`"]
)
def test_a_path_that_leads_nowhere_is_found(planted: str) -> None:
    """Planted: a folder that was moved, a file in a command, a name that no service has."""
    assert len(missing(planted)) == 1


def test_every_folder_of_tests_is_described() -> None:
    """tests/README.md says of each folder below tests/ what it proves."""
    text = (ROOT / "tests" / "README.md").read_text("utf-8")
    folders = {file.relative_to(ROOT / "tests").parts[0] for file in tracked() if file.parent.parent == ROOT / "tests"}
    described = {name.removeprefix("tests/") for name in re.findall(r"^\| `([\w/]+)` \|", text, re.MULTILINE)}

    assert sorted(folders - described) == []
