"""Whatever is cited is there: each page, section and row that a text of the repository names can be looked up in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.architecture.test_documents import ROOT, tracked

DOCS = ROOT / "docs"
IDS = r"[A-Z]\d+(?:(?:,| and| to|, and) [A-Z]\d+)*"
PAGE = r"(?<![\w/.*<>{}-])(?P<page>[\w./-]*\w\.md)\b(?:'s)?"
WHERE = (
    r"#(?P<anchor>[\w-]+)",
    r",? section (?P<section>\d+)",
    r", (?P<number>\d+)\b",
    r", \"(?P<title>[^\"]+)\"",
    rf", (?P<rows>{IDS})",
)
CITED = re.compile(rf"(?:(?P<of>{IDS}) of )?{PAGE}(?:{'|'.join(WHERE)})?")
UNNAMED = re.compile(r"(?<![\w.])(?P<page>[a-z]+), section (?P<section>\d+)")  # a page without its .md
LAW = re.compile(r"(?<![\w%#./\"'-])(?P<rows>[LF]\d{1,2})(?![\w-])")
FAILURE = re.compile(r"\b[Ff]ailures? (?P<rows>[A-Z]\d+)\b")
INVARIANT = re.compile(r"\b[Ii]nvariants? (?P<rows>\d+(?:(?:,| and| to|, and) \d+)*)")
PROSE = (".py", ".md")
PLANTING = ("test_saga_proof.py", "test_citations.py")  # they name rows of laws that they make up
WRAPPED = re.compile(r"[ \t]*\n[ \t]*(?:#+ )?")


@cache
def headings(page: Path) -> tuple[str, ...]:
    """Return a page's headings."""
    return tuple(re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE))


@cache
def row_names(page: Path) -> frozenset[str]:
    """Return the names of a page's rows: the first cell of each, in backticks or not."""
    return frozenset(re.findall(r"^\| `?([\w.-]+)`? \|", page.read_text("utf-8"), re.MULTILINE))


def anchor(heading: str) -> str:
    """Return the anchor that a heading gets where Markdown is shown."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page: its headings', and those that are set by hand, as in the rows of a table."""
    return {*map(anchor, headings(page)), *re.findall(r'<a id="([\w-]+)"></a>', page.read_text("utf-8"))}


def found(name: str, cited_in: Path) -> Path | None:
    """Return the page of a name: beside the file that cites it, from the root, or in docs/."""
    places = (cited_in.parent / name, ROOT / name, DOCS / name)
    return next((place.resolve() for place in places if place.is_file()), None)


def faults(file: Path, text: str) -> Iterator[str]:
    """Yield what a text cites and nobody can look up."""
    flat = WRAPPED.sub(" ", text)
    for cited in CITED.finditer(flat):
        yield from _page(file, cited.groupdict())
    for cited in UNNAMED.finditer(flat):
        yield from _page(file, {**cited.groupdict(), "page": f"{cited['page']}.md"})
    if file.suffix in PROSE and file.name not in PLANTING:
        for pattern, page in ((LAW, "law.md"), (FAILURE, "reliability.md"), (INVARIANT, "law.md")):
            for cited in pattern.finditer(flat):
                yield from _rows(DOCS / page, cited["rows"])


def _page(file: Path, cited: dict[str, str | None]) -> Iterator[str]:
    name = cited["page"] or ""
    if (page := found(name, file)) is None:
        yield f"there is no page {name}"
        return
    number = cited.get("section") or cited.get("number")
    if number and not any(one.startswith(f"{number}. ") for one in headings(page)):
        yield f"{name} has no section {number}"
    if (title := cited.get("title")) and title not in headings(page):
        yield f"{name} has no section {title}"
    if (at := cited.get("anchor")) and at not in anchors(page):
        yield f"{name} has no anchor {at}"
    for rows in (cited.get("rows"), cited.get("of")):
        yield from _rows(page, rows or "")


def _rows(page: Path, rows: str) -> Iterator[str]:
    for row in re.findall(r"[A-Z]?\d+", rows):
        if row not in row_names(page):
            yield f"{page.name} has no row {row}"


def test_all_that_is_cited_is_there() -> None:
    """No tracked text cites a page, a section, an anchor or a row that does not exist."""
    texts = {file: file.read_text("utf-8", errors="ignore") for file in tracked() if not file.is_symlink()}
    wrong = {str(file.relative_to(ROOT)): broken for file, text in texts.items() if (broken := [*faults(file, text)])}

    assert wrong == {}


def test_citations_are_found_at_all() -> None:
    """The code cites pages and rows: the search is not blind."""
    text = "\n".join(
        file.read_text("utf-8") for file in tracked() if file.suffix == ".py" and "architecture" not in file.parts
    )

    assert len([one for one in CITED.finditer(WRAPPED.sub(" ", text)) if found(one["page"], ROOT / "README.md")]) > 20
    assert len(LAW.findall(text)) > 50
    assert len(INVARIANT.findall(text)) > 10


GONE = "nowhere" + ".md"  # in pieces, so that this file passes its own gate
LAW_PAGE, CONTRACTS = "law" + ".md", "contracts" + ".md"
PLANTED = {
    f"as {GONE} has it": f"there is no page {GONE}",
    f"({CONTRACTS}, section {99})": f"{CONTRACTS} has no section 99",
    f"({CONTRACTS},\n    # section {99})": f"{CONTRACTS} has no section 99",
    f"({CONTRACTS}, {99})": f"{CONTRACTS} has no section 99",
    f'({LAW_PAGE}, "Clocks of the moon")': f"{LAW_PAGE} has no section Clocks of the moon",
    f"[the ids](docs/{CONTRACTS}#{'3-idols'})": f"docs/{CONTRACTS} has no anchor 3-idols",
    f"({LAW_PAGE}, {'F' + '99'})": f"{LAW_PAGE} has no row F99",
    f"F1 to {'F' + '98'} of {LAW_PAGE}": f"{LAW_PAGE} has no row F98",
    f"refused by law {'L' + '42'}": f"{LAW_PAGE} has no row L42",
    f"(failure {'Z' + '1'})": "reliability" + ".md has no row Z1",
    f"invariants 3 {'and 77'}": f"{LAW_PAGE} has no row 77",
    f"(reliability, section {99})": "reliability" + ".md has no section 99",
}


@pytest.mark.parametrize("text", PLANTED)
def test_a_planted_citation_turns_the_gate_red(text: str) -> None:
    """A citation of what is not there is found, over a line's end too."""
    assert PLANTED[text] in [*faults(ROOT / "module.py", text)]


@pytest.mark.parametrize(
    "text",
    [
        f"({CONTRACTS}, section 4)",
        f'({LAW_PAGE}, "Clocks")',
        f"docs/{CONTRACTS}#3-ids",
        f"F4 and F12 to F14 of {LAW_PAGE}",
        "laws L1 to L11, invariants 3 to 7 and 15, failure R1",
    ],
)
def test_what_is_there_is_no_fault(text: str) -> None:
    """A page, section, anchor, row, law or invariant that exists may be cited."""
    assert [*faults(ROOT / "module.py", text)] == []
