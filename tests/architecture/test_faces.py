"""The library has six faces: services and their tests import it by them alone, and what stands in one is used."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PURE, STORE, GATEWAY, WEB, APP, TESTING = FACES = (
    *("quadrille", "quadrille.service", "quadrille.gateway", "quadrille.web", "quadrille.app", "quadrille.testing"),
)
ROOMS = {  # what a file of a service may import; those of its tests may import every face
    **{name: {PURE} for name in ("events", "domain", "handlers")},
    "store": {PURE, STORE},
    "gateway": {PURE, GATEWAY},
    **{name: {PURE, WEB} for name in ("api", "feed")},
    "webhooks": {PURE, WEB, GATEWAY},
    "main": {PURE, STORE, APP},
    "settings": {APP},
    "problems": {WEB},
    "ops": {PURE, APP},
    "metrics": {PURE, STORE, APP},
    "__main__": {APP},
    "migrations": {STORE},
    "tests": set(FACES),
}
README = (ROOT / "chassis" / "README.md").read_text("utf-8") if (ROOT / "chassis" / "README.md").exists() else ""


def imports(source: str) -> Iterator[tuple[str, str]]:
    """Return what a source imports of the library: module and name, no name where the module itself is imported."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PURE:
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == PURE)


def room(file: Path) -> str:
    """Return which room of a service a file is."""
    return next((name for name in ("tests", "migrations") if name in file.parts), file.stem)


def findings(services: Path) -> list[str]:
    """Return every import of the library by services that is not by a face, or by one that is not for its room."""
    return [
        f"{file.relative_to(services)}: {module} {name}"
        for file in sorted(services.rglob("*.py"))
        for module, name in imports(file.read_text("utf-8"))
        if module not in ROOMS.get("tests" if file.name == "conftest.py" else room(file), {PURE})
        or name not in exported(module)
    ]


def exported(face: str) -> set[str]:
    """Return the public names of a face."""
    return set(importlib.import_module(face).__all__)


def test_services_import_the_library_by_its_faces() -> None:
    """Pure rooms import from `quadrille` alone, each other room from its own face too; tests from any of the six."""
    assert findings(ROOT / "services") == []


def test_the_console_stands_on_the_faces_as_a_stranger_would() -> None:
    """It is no service of the saga, and has rooms of its own; of the library it knows what is public."""
    sources = sorted((ROOT / "console").rglob("*.py"))
    strange = [
        f"{file.name}: {module} {name}"
        for file in sources
        for module, name in imports(file.read_text("utf-8"))
        if module not in FACES or name not in exported(module)
    ]

    assert len(sources) > 10
    assert strange == []


@pytest.mark.parametrize(
    ("file", "planted"),
    [
        pytest.param("order/src/order/store.py", "from quadrille.rows import Rows", id="past-the-face"),
        pytest.param("order/tests/test_store.py", "from quadrille.testing.postgres import OnPostgres", id="in-a-test"),
        pytest.param("payment/src/payment/handlers.py", "from quadrille.service import Tx", id="another-room's-face"),
        pytest.param("payment/src/payment/domain.py", "import quadrille.db.schema", id="the-module-itself"),
        pytest.param("inventory/src/inventory/api.py", "from quadrille.web import problems", id="a-module-of-a-face"),
        pytest.param("inventory/migrations/env.py", "from quadrille.db import schema", id="in-a-migration"),
    ],
)
def test_another_import_is_named(tmp_path: Path, file: str, planted: str) -> None:
    """A service's import past a face is named by its file."""
    copied = tmp_path / file
    copied.parent.mkdir(parents=True)
    shutil.copy(ROOT / "services" / file, copied)
    assert findings(tmp_path) == []

    copied.write_text(
        f"{planted}\n{copied.read_text('utf-8').replace('from __future__', '# from __future__')}", "utf-8"
    )

    assert [one.partition(":")[0] for one in findings(tmp_path)] == [file]


@pytest.mark.parametrize("face", FACES)
def test_a_face_tells_how_to_read_it(face: str) -> None:
    """Its docstring begins with what it is and the reading order, in which every module exists."""
    module = importlib.import_module(face)
    first, order, *_ = (module.__doc__ or "").split("\n\n")
    assert first.endswith(".")
    assert order.startswith("Reading order: ")
    prefix = f"{face}." if hasattr(module, "__path__") else "quadrille."
    for name in re.findall(r"``([a-z_.]+)``", order):
        assert hasattr(module, name) or _exists(name if name.startswith(PURE) else f"{prefix}{name}"), name


def _exists(name: str) -> bool:
    """Tell whether there is a module of that name, or a function of it."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("face", FACES)
def test_every_name_of_a_face_says_what_it_is(face: str) -> None:
    """Each public name exists and has a docstring of its own, constants and types too."""
    module = importlib.import_module(face)
    assert [name for name in module.__all__ if not described(module, name)] == []


def described(face: ModuleType, name: str) -> bool:
    """Tell whether a name has a docstring: its own, or the text below the line that makes a constant or a type."""
    found = getattr(face, name)
    if inspect.isclass(found) or inspect.isfunction(found) or inspect.ismodule(found):
        return bool(vars(found).get("__doc__") if inspect.isclass(found) else found.__doc__)
    return any(name in constants(home) for home in _homes(face))


def _homes(face: ModuleType) -> Iterator[str]:
    """Return the source of a face and of every module it names as another's home."""
    own = inspect.getsource(face)
    yield own
    for module in {module for module, _ in imports(own)}:
        yield inspect.getsource(importlib.import_module(module))


def constants(source: str) -> set[str]:
    """Return the names a module gives a value and, in the next line, a docstring."""
    body = ast.parse(source).body
    return {
        target.id
        for made, said in pairwise(body)
        if isinstance(said, ast.Expr) and isinstance(said.value, ast.Constant) and isinstance(said.value.value, str)
        for target in (made.targets if isinstance(made, ast.Assign) else [getattr(made, "target", None)])
        if isinstance(target, ast.Name)
    }


def sources() -> Iterator[str]:
    """Return every source that may need a name of a face: services, console, tests, code of the chassis's README."""
    for folder in ("services", "console", "tests"):
        yield from (file.read_text("utf-8") for file in (ROOT / folder).rglob("*.py"))
    yield from re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@cache
def taken() -> frozenset[str]:
    """Return every name that is imported from the library, by its module."""
    return frozenset(f"{module}.{name}" for source in sources() for module, name in imports(source))


def unused(faces: Iterable[str]) -> set[str]:
    """Return what stands in a face and is imported from it by nobody."""
    return {f"{face}.{name}" for face in faces for name in exported(face)} - taken()


def test_a_face_offers_what_somebody_needs() -> None:
    """Every public name is imported through its face by a service, a test or the chassis's README."""
    assert unused(FACES) == set()


def test_an_offer_that_nobody_takes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name added to a face is found to be nobody's need."""
    face = importlib.import_module(STORE)
    monkeypatch.setattr(face, "__all__", [*face.__all__, "Encoder"])
    assert unused(FACES) == {"quadrille.service.Encoder"}


HEAVY = {"fastapi", "sqlalchemy", "alembic"}


def loaded(*modules: str) -> set[str]:
    """Return what a process has loaded that has imported these modules and nothing else."""
    program = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        pytest.param(FACES, HEAVY, id="faces"),
        pytest.param((PURE,), HEAVY | {"starlette", "psycopg", "confluent_kafka", "quadrille.web"}, id="quadrille"),
        pytest.param((APP, "quadrille.relay.relay"), HEAVY, id="relay"),
    ],
)
def test_a_face_loads_only_what_is_used(modules: tuple[str, ...], absent: set[str]) -> None:
    """To import faces, or what a relay runs, costs no web framework, no SQL toolkit and no migrations."""
    assert loaded(*modules) & absent == set()


def test_what_is_used_is_loaded() -> None:
    """The probe sees a framework once a module that stands on it is imported."""
    assert loaded("quadrille.web.api") >= {"fastapi", "sqlalchemy"}
