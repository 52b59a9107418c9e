"""One name means one thing: no public class or type of the chassis has the name of another."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
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
