"""The page that says which test proves which row of the law cannot lie: each way it could is a finding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from quadrille_cli.saga import proofs

ROOT = Path(__file__).parents[2]
LAW = """\
# The law

## Failures

| row | failure | end |
|---|---|---|
| `F1` | out of stock | – |
| `F2` | card declined | CANCELLED |
"""
PROOF = """\
import pytest

@pytest.mark.proves("F1", "F2")
@pytest.mark.parametrize("case", [1, 2])
def test_a_path(case):
    assert True
"""


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a law of two rows, and a test that proves both."""
    monkeypatch.setattr(proofs, "LATER", {})
    write(tmp_path / "docs" / "law.md", LAW)
    write(tmp_path / "tests" / "saga" / "test_paths.py", PROOF)
    return tmp_path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")


def change(name: str, old: str, new: str) -> Callable[[Path], None]:
    def changed(house: Path) -> None:
        text = (house / name).read_text("utf-8")
        assert old in text
        write(house / name, text.replace(old, new))

    return changed


TEST = "tests/saga/test_paths.py"
FAULTS = {
    "a row without a test": (change(TEST, '"F1", "F2"', '"F1"'), "no test proves F2"),
    "a test that is gone": (change(TEST, PROOF, ""), "no test proves F1"),
    "a row that is not there": (change(TEST, '"F2"', '"F2", "F99"'), "test_a_path proves F99, which is no row"),
    "a test that is skipped": (change(TEST, "@pytest.mark.param", "@pytest.mark.skip\n@pytest.mark.param"), "not run"),
    "a case that is skipped": (
        change(TEST, "[1, 2]", '[1, pytest.param(2, marks=pytest.mark.skipif("True"))]'),
        "may not run",
    ),
    "a test that should fail": (change(TEST, "@pytest.mark.param", "@pytest.mark.xfail()\n@pytest.mark.param"), "run"),
    "a mark on what is no test": (change(TEST, "def test_a_path", "def a_path"), "a_path is no test"),
    "a mark on a whole file": (change(TEST, "\n\n@", '\npytestmark = pytest.mark.proves("F1")\n\n@'), "stands on"),
    "a mark that is computed": (change(TEST, '"F1", "F2"', '*["F1", "F2"]'), "must name rows as plain texts"),
    "a mark of nothing": (change(TEST, '"F1", "F2"', ""), "must name rows as plain texts"),
    "two rows of one name": (change("docs/law.md", "`F2`", "`F1`"), "2 rows called F1"),
    "a law without rows": (change("docs/law.md", "| `", "| "), "the law is gone"),
}  # fmt: skip


def test_a_proven_law_has_no_finding(house: Path) -> None:
    """Every row proven: nothing to say, and the page names each row with its words and links its test."""
    assert proofs.findings(house) == []
    [(page, text)] = proofs.files(house).items()
    assert page == house / "docs" / "saga-proof.md"
    assert "| `F2` | card declined · CANCELLED | [a path](../tests/saga/test_paths.py) |" in text


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_a_finding(house: Path, fault: str) -> None:
    """Each of these turns `make check` red, with a line that says where to look."""
    plant, told = FAULTS[fault]
    plant(house)

    assert told in "\n".join(proofs.findings(house))


def test_what_is_left_for_later_says_why(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row may wait with a reason, which the page shows; once it has a test, or is gone, the reason is outdated."""
    monkeypatch.setattr(proofs, "LATER", {"F2": "comes with the fault tools"})
    assert proofs.findings(house) == ["F2 has a test now: take it off the list of later ones"]

    change(TEST, '"F1", "F2"', '"F1"')(house)
    assert proofs.findings(house) == []
    assert "*later:* comes with the fault tools" in proofs.files(house)[house / "docs" / "saga-proof.md"]

    change("docs/law.md", "`F2`", "`F3`")(house)
    assert "F2 is to be proven later and is no row of docs/law.md" in proofs.findings(house)


def test_the_law_is_whole() -> None:
    """Eleven laws, 24 failures, ten moments of a cancellation: no row of the design was lost on the way."""
    rows = {section: [row.name for row in rows] for section, rows in proofs.law(_law()).items()}

    assert rows["Laws"] == [f"L{n}" for n in range(1, 12)]
    assert rows["Failures"] == [f"F{n}" for n in range(1, 25)]
    assert len(rows["Cancellation at every moment"]) == 10
    assert len(rows["Order"]) == 24
    assert all(row.words for rows in proofs.law(_law()).values() for row in rows)


def _law() -> str:
    return (ROOT / "docs" / "law.md").read_text("utf-8")
