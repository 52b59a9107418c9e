"""A service is known everywhere or nowhere: every list of services names the folders of services/."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from quadrille_cli.saga import saga_map
from quadrille_cli.schema import rules
from quadrille_cli.stack import ports, topics

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
CONTRACTS: list[dict[str, Any]] = PROJECT["tool"]["importlinter"]["contracts"]
OTHERS = {"tests", "chassis", "sandbox", "quadrille", "quadrille_cli", "quadrille_sandbox"}
PLACES: dict[str, Iterable[str]] = {
    "cli/src/quadrille_cli/stack/topics.py": topics.SERVICES,
    "cli/src/quadrille_cli/stack/ports.py": ports.SERVICES,
    "cli/src/quadrille_cli/schema/rules.py": rules.SERVICES,
    "cli/src/quadrille_cli/saga/saga_map.py": saga_map.SERVICES,
    "pyproject.toml, ruff's first-party names": PROJECT["tool"]["ruff"]["lint"]["isort"]["known-first-party"],
    "pyproject.toml, mypy_path": (part.split("/")[-2] for part in PROJECT["tool"]["mypy"]["mypy_path"].split(":")),
    "pyproject.toml, import-linter's packages": PROJECT["tool"]["importlinter"]["root_packages"],
    "pyproject.toml, the contract of rooms": next(c["containers"] for c in CONTRACTS if c["type"] == "layers"),
    "pyproject.toml, the contract of independence": next(
        c["modules"] for c in CONTRACTS if c["type"] == "independence"
    ),
    "compose.yaml": (name.removesuffix("-worker") for name in COMPOSE["services"] if name.endswith("-worker")),
    "schemas/": (folder.name for folder in (ROOT / "schemas").iterdir() if folder.is_dir()),
}
FOLDERS = {folder.name for folder in (ROOT / "services").iterdir() if (folder / "pyproject.toml").exists()}


@pytest.mark.parametrize("place", PLACES)
def test_every_place_knows_every_service(place: str) -> None:
    """A list of services holds exactly the folders of services/; a newcomer that is forgotten somewhere is named."""
    assert set(PLACES[place]) - OTHERS - {"cli"} == FOLDERS


def test_services_look_alike() -> None:
    """Every service has the same rooms; a gateway only where there is an outside."""
    rooms = {
        name: {file.stem for file in (ROOT / "services" / name / "src" / name).glob("*.py")} - {"__init__", "gateway"}
        for name in FOLDERS
    }

    assert len(FOLDERS) > 1
    assert all(
        found == {"__main__", "main", "api", "handlers", "store", "domain", "events"} for found in rooms.values()
    )
