"""What is shipped works alone: each service's wheel beside the chassis's, and nothing else of ours."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from quadrille_cli.services import SERVICES

ROOT = Path(__file__).parents[2]
PROOF = """
import importlib.util, sys
name, target, libraries, siblings = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4].split()
sys.path += [target, libraries]  # -S: the .pth files of editable installs are not read
from quadrille.db.migrations import scripts
from quadrille.avro.schemas import emitted_by
program = importlib.import_module(f"{name}.main").PROGRAM
importlib.import_module(program.api.partition(":")[0])
assert str(scripts(name)).startswith(target), scripts(name)
assert emitted_by(name), "no schemas in the wheel"
assert emitted_by("chassis"), "no schemas in the chassis's wheel"
assert program.on.service == name
specs = [importlib.util.find_spec(s) for s in siblings]
found = [spec.name for spec in specs if spec and spec.origin]  # an editable install leaves a folder without code
assert not found, f"siblings are importable: {found}"
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    for place in ["chassis", "cli", "console", "sandbox", "why", "auditor", *(f"services/{name}" for name in SERVICES)]:
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
            cwd=ROOT / place, check=True, capture_output=True, timeout=120,
        )  # fmt: skip
    return folder


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_runs_from_its_own_wheel(name: str, wheels: Path, tmp_path: Path) -> None:
    """A service's wheel and the chassis's carry all of it, migrations and schemas too; its siblings are not there."""
    files = [str(next(wheels.glob(f"quadrille_{part}-*.whl"))) for part in ("chassis", name)]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*pip, "--target", str(tmp_path), *files], check=True, timeout=120)
    others = " ".join(s for s in (*SERVICES, "quadrille_cli", "quadrille_sandbox") if s != name)
    libraries = sysconfig.get_path("purelib")
    command = [sys.executable, "-I", "-S", "-c", "import importlib\n" + PROOF, name, str(tmp_path), libraries, others]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_the_command_carries_its_schemas(wheels: Path) -> None:
    """The command line's wheel holds every schema, what was published of them, and the configuration of the stack."""
    with zipfile.ZipFile(next(wheels.glob("quadrille_cli-*.whl"))) as wheel:
        held = set(wheel.namelist())

    schemas = {
        f"quadrille_cli/schemas/{path.relative_to(ROOT / 'schemas')}" for path in (ROOT / "schemas").rglob("*.*")
    }
    assert schemas <= held
    assert "quadrille_cli/deploy/kafka/server.properties" in held


def test_every_wheel_carries_the_licence(wheels: Path) -> None:
    """Each wheel names the licence and holds its text, which is the one of the repository."""
    text, built = (ROOT / "LICENSE").read_bytes(), sorted(wheels.glob("*.whl"))
    for one in built:
        with zipfile.ZipFile(one) as wheel:
            [metadata] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
            fields = wheel.read(metadata).decode().splitlines()
            licence = wheel.read(metadata.replace("METADATA", "licenses/LICENSE"))
        assert {"License-Expression: Apache-2.0", "License-File: LICENSE"} <= set(fields), one.name
        assert licence == text, one.name

    assert len(built) == len(SERVICES) + 6
    assert text.splitlines()[0].strip() == b"Apache License"
