"""One name means one thing: no public class or type of the chassis has the name of another."""

from __future__ import annotations

import ast
import builtins
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHASSIS = ROOT / "chassis" / "src" / "quadrille"


def types(source: str) -> Iterator[str]:
    """Return the public classes and type aliases of a module, classes within classes too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias":
            yield ast.unparse(node.target)


def doubles(folder: Path) -> dict[str, list[str]]:
    """Return every public type's name that is given more than once, with its files."""
    found = defaultdict(list)
    for file in sorted(folder.rglob("*.py")):
        for one in types(file.read_text("utf-8")):
            found[one].append(str(file.relative_to(folder)))
    return {one: files for one, files in found.items() if len(files) > 1 and not one.startswith("_")}


def test_no_public_type_of_the_chassis_has_anothers_name() -> None:
    """Who reads a class's name anywhere in the chassis knows which is meant."""
    assert doubles(CHASSIS) == {}


def test_a_name_given_twice_is_found(tmp_path: Path) -> None:
    """A second class of a name is named with both files, an alias too; a private one is the file's own matter."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "one.py").write_text("class Gate:\n    class _Inner: ...\nclass _Private: ...\n")
    (tmp_path / "inner" / "two.py").write_text("Gate: TypeAlias = int\nclass _Private: ...\nclass Other: ...\n")

    assert doubles(tmp_path) == {"Gate": ["inner/two.py", "one.py"]}


def unknown_errors(sources: Iterable[str]) -> set[str]:
    """Return every error that a docstring names and no source defines, imports or uses."""
    known, named = set(dir(builtins)), set[str]()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                known.add(node.name)
            elif isinstance(node, ast.ImportFrom | ast.Import):
                known |= {alias.asname or alias.name for alias in node.names}
            elif isinstance(node, ast.Attribute):
                known.add(node.attr)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
                named |= set(re.findall(r"\b[A-Z]\w*Error\b", ast.get_docstring(node) or ""))
    return named - known


def test_the_errors_that_docstrings_name_exist() -> None:
    """Who reads what a function raises can catch it under that name."""
    sources = (ROOT / folder for folder in ("chassis", "cli", "sandbox", "services"))
    files = [file for folder in sources for file in folder.glob("**/src/**/*.py")]

    assert unknown_errors(file.read_text("utf-8") for file in files) == set()


def test_an_error_that_is_not_there_is_found() -> None:
    """Planted: a docstring that kept an error's former name."""
    planted = 'def ask() -> None:\n    """Ask; raises GoneError or ValueError."""\n'

    assert unknown_errors([planted]) == {"GoneError"}
