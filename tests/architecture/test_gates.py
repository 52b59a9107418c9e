"""Every gate of `make check` turns red when what it guards is broken."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from quadrille_cli.services import SERVICES

ROOT = Path(__file__).parents[2]
SOURCES = [f"services/{name}/src" for name in SERVICES]
SOURCES += ["chassis/src", "cli/src", "console/src", "sandbox/src", "auditor/src"]
TESTS = [f"services/{name}/tests" for name in SERVICES] + ["sandbox/tests", "tests"]
# not `-m quadrille`: the command hears no PYTHONPATH, by which the copy is found here
SAGA_CHECK = (sys.executable, "-c", "from quadrille_cli import main; main.run()", "saga", "--check")


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sizes = _module(Path(__file__).with_name("sizes.py"))


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the sources that a test may break."""
    for name in [*SOURCES, *TESTS, "schemas", "docs"]:
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", *(f"services/{s}/README.md" for s in SERVICES)):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def _run(where: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(where / source) for source in SOURCES)
    env = dict(os.environ) | {
        "PYTHONPATH": path,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    return subprocess.run(command, cwd=where, env=env, capture_output=True, text=True, check=False, timeout=240)


def _append(path: str, text: str) -> Callable[[Path], None]:
    def plant(where: Path) -> None:
        file = where / path
        file.write_text((file.read_text("utf-8") if file.exists() else "") + text, "utf-8")

    return plant


def _imports(where: Path) -> subprocess.CompletedProcess[str]:
    return _run(where, "lint-imports", "--no-cache")


def test_imports_run_one_way(copied: Path) -> None:
    """No service imports another, no handler imports SQL, and every file of a service is a known room."""
    result = _imports(copied)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(_append("services/inventory/src/inventory/domain.py", "\nimport order.events\n"), id="sibling"),
        pytest.param(_append("services/payment/src/payment/handlers.py", "\nimport payment.store\n"), id="handler-sql"),
        pytest.param(_append("services/order/src/order/domain.py", "\nimport time\n"), id="domain-clock"),
        pytest.param(_append("services/order/src/order/helpers.py", '"""A room of its own."""\n'), id="unknown-room"),
        pytest.param(_append("chassis/src/quadrille/rows.py", "\nimport inventory.events\n"), id="chassis-service"),
        pytest.param(_append("chassis/src/quadrille/kafka/topics.py", "\nimport quadrille.web.app\n"), id="upwards"),
        pytest.param(
            _append("chassis/src/quadrille/relay/relay.py", "\nimport quadrille.processing.batch\n"), id="beside"
        ),
        pytest.param(
            _append("services/notification/src/notification/events.py", "\nimport notification.domain\n"), id="upwards"
        ),
        pytest.param(
            _append("auditor/src/quadrille_auditor/ids.py", "\nimport quadrille.ids\n"), id="auditor-judges-itself"
        ),
    ],
)
def test_a_forbidden_import_or_room_turns_the_gate_red(copied: Path, plant: Callable[[Path], None]) -> None:
    """A planted import against the direction, or a file that is no room, fails the import contracts."""
    plant(copied)
    result = _imports(copied)
    assert result.returncode == 1, result.stdout


def test_what_is_too_large_turns_the_gate_red(copied: Path) -> None:
    """A function of 61 lines is named, a long file is not."""
    assert sizes.findings(copied) == []
    _append("services/order/src/order/domain.py", "\n\ndef long() -> None:\n" + "    pass\n" * 60)(copied)
    _append("services/payment/src/payment/domain.py", "# more\n" * 250)(copied)
    named = {finding.split(":")[0] for finding in sizes.findings(copied)}
    assert named == {"services/order/src/order/domain.py"}


def test_the_map_of_the_saga_is_current(copied: Path) -> None:
    """docs/saga.md, the canvases and the README's picture are what the handlers say today."""
    result = _run(copied, *SAGA_CHECK)
    assert result.returncode == 0, result.stderr


def test_a_stale_map_turns_the_gate_red(copied: Path) -> None:
    """A changed promise in a handler makes the generated map stale, and the gate says which file."""
    handlers = copied / "services/inventory/src/inventory/handlers.py"
    handlers.write_text(handlers.read_text("utf-8").replace("Hold every line", "Hold each line"), "utf-8")
    result = _run(copied, *SAGA_CHECK)
    assert result.returncode == 1
    assert "stale" in result.stderr
    assert "saga.md" in result.stderr


def test_a_stale_diagram_turns_the_gate_red(copied: Path) -> None:
    """A sequence diagram that names another handler than the signatures do is stale, and its page is named."""
    page = copied / "docs/choreography.md"
    text = page.read_text("utf-8")
    assert "order.placed (reserve_stock)" in text
    page.write_text(text.replace("order.placed (reserve_stock)", "order.placed (hold_stock)"), "utf-8")
    result = _run(copied, sys.executable, "-m", "quadrille_cli", "saga", "--check")
    assert result.returncode == 1
    assert "stale: run `make saga`: docs/choreography.md" in result.stderr


def test_a_row_that_nothing_proves_turns_the_gate_red(copied: Path) -> None:
    """A row added to the law without a test fails the check, which names it, and makes the page of proofs stale."""
    _append("docs/law.md", "| `late.never` | It never happened. |\n")(copied)
    result = _run(copied, *SAGA_CHECK)
    assert result.returncode == 1
    assert "no test proves late.never" in result.stderr
    assert "stale: run `make saga`: docs/saga-proof.md" in result.stderr


def test_a_step_that_nothing_undoes_turns_the_gate_red(copied: Path) -> None:
    """A step whose compensation is demoted to learning is found by the map."""
    handlers = copied / "services/payment/src/payment/handlers.py"
    text = handlers.read_text("utf-8")
    assert "@on.compensates(take_permission)" in text
    handlers.write_text(text.replace("@on.compensates(take_permission)", "@on.learns"), "utf-8")
    result = _run(copied, *SAGA_CHECK)
    assert result.returncode == 1
    assert "is a step with no compensation" in result.stderr


def test_types_turn_the_gate_red(copied: Path) -> None:
    """A handler that says what it does not declare, and a match that forgets a case, fail mypy --strict."""
    file = copied / "services/inventory/src/inventory/handlers.py"
    text = file.read_text("utf-8")
    assert "        case Nothing():\n            return None\n" in text
    mypy = (sys.executable, "-m", "mypy", "--no-incremental", str(file))
    assert _run(copied, *mypy).returncode == 0
    file.write_text(text.replace("        case Nothing():\n            return None\n", "", 1), "utf-8")
    result = _run(copied, *mypy)
    assert result.returncode == 1, result.stdout
    assert "exhaustive-match" in result.stdout


def test_lint_turns_the_gate_red(copied: Path) -> None:
    """A swallowed exception fails ruff."""
    _append("services/order/src/order/domain.py", "\n\ntry:\n    pass\nexcept Exception:\n    pass\n")(copied)
    result = _run(copied, "ruff", "check", "--no-cache", "services/order/src/order/domain.py")
    assert result.returncode == 1
