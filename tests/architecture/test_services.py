"""A service is one folder and one line: there is one list of services, and what no program reads agrees with it."""

from __future__ import annotations

import ast
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from quadrille_cli.services import SERVICES
from quadrille_why import case

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
CONTRACTS: list[dict[str, Any]] = PROJECT["tool"]["importlinter"]["contracts"]
OPTIONAL = {"__init__", "gateway", "feed", "webhooks", "settings", "ops", "problems", "money", "metrics"}
OTHERS = {
    "tests", "chassis", "console", "sandbox", "why", "quadrille", "quadrille_cli", "quadrille_sandbox", "quadrille_why",
    "auditor", "quadrille_auditor",
}  # fmt: skip
LIST = "cli/src/quadrille_cli/services.py"
WHY = "why/src/quadrille_why/case.py"  # plain Python that imports nothing of ours: its list is held against the folders
PLACES: dict[str, Iterable[str]] = {
    LIST: SERVICES,
    "pyproject.toml, mypy_path": (part.split("/")[-2] for part in PROJECT["tool"]["mypy"]["mypy_path"].split(":")),
    "pyproject.toml, import-linter's packages": PROJECT["tool"]["importlinter"]["root_packages"],
    "pyproject.toml, the contract of rooms": next(c["containers"] for c in CONTRACTS if c["type"] == "layers"),
    "pyproject.toml, the contract of independence": next(
        c["modules"] for c in CONTRACTS if c["type"] == "independence"
    ),
    "compose.yaml": (name.removesuffix("-worker") for name in COMPOSE["services"] if name.endswith("-worker")),
    WHY: case.SERVICES,
    "schemas/": (folder.name for folder in (ROOT / "schemas").iterdir() if folder.is_dir()),
}
FOLDERS = {folder.name for folder in (ROOT / "services").iterdir() if (folder / "pyproject.toml").exists()}


@pytest.mark.parametrize("place", PLACES)
def test_every_place_knows_every_service(place: str) -> None:
    """A list of services holds exactly the folders of services/; a newcomer that is forgotten somewhere is named."""
    assert set(PLACES[place]) - OTHERS - {"cli"} == FOLDERS


def lists_in(source: str) -> Iterator[int]:
    """Yield the lines on which a tuple, list or set, or one text, names every service."""
    for node in ast.walk(ast.parse(source)):
        named: set[str] = set()
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            named = {name for item in node.elts if (name := _leading(item))}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = node.value.replace(",", " ").split()
            named = set(words) if len(words) <= len(SERVICES) + 1 else set()
        if named >= set(SERVICES):
            yield node.lineno  # type: ignore[attr-defined]  # an expression has its line


def _leading(item: ast.expr) -> str:
    """Return the name an item of a list begins with: of "order", order and order.handlers.on it is order."""
    while isinstance(item, ast.Attribute):
        item = item.value
    found = item.value if isinstance(item, ast.Constant) else item.id if isinstance(item, ast.Name) else ""
    return found if isinstance(found, str) else ""


def test_the_services_are_listed_once() -> None:
    """No other Python file of the repository lists the services: all read the one list."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    texts = {
        file: (ROOT / file).read_text("utf-8") for file in files if file not in (LIST, WHY) and (ROOT / file).exists()
    }
    found = [f"{file}:{line}" for file, text in texts.items() for line in lists_in(text)]

    assert found == []
    assert list(lists_in((ROOT / LIST).read_text("utf-8")))


@pytest.mark.parametrize(
    "planted",
    [
        'NAMES = ("order", "inventory", "payment", "notification")',
        'for name in ["notification", "order", "payment", "inventory", "chassis"]: ...',
        "HANDLERS = (order.handlers.on, inventory.handlers.on, payment.handlers.on, notification.handlers.on)",
        'assert names == {"order", "inventory", "payment", "notification"}',
        'NAMES = "order inventory payment notification".split()',
    ],
)
def test_a_second_list_is_found(planted: str) -> None:
    """However it is written, another list of the services is found with its line."""
    assert list(lists_in(f"x = 1\n{planted}\n")) == [2]


def test_services_look_alike() -> None:
    """Every service has the same rooms; some only where it has an outside, settings or operators' routes."""
    rooms = {
        name: {file.stem for file in (ROOT / "services" / name / "src" / name).glob("*.py")} - OPTIONAL
        for name in FOLDERS
    }

    assert len(FOLDERS) > 1
    assert all(
        found == {"__main__", "main", "api", "handlers", "store", "domain", "events"} for found in rooms.values()
    )
