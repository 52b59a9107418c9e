"""What cannot run says so before anything starts, with cause, fix and exit code 9: each situation made for real."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from quadrille_cli.stack import CannotRun, PartFailed, Stack
from quadrille_cli.testing import Start
from tests.stack.conftest import NEEDS_ROOT, quadrille

NOT_HERE = 9
ROOT = Path(__file__).resolve().parents[2]


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    """`up` in a directory with other files starts nothing: `down --wipe` would remove them; a file is no directory."""
    mine = tmp_path / "mine" / "letters.txt"
    mine.parent.mkdir(mode=0o750)
    mine.write_text("dear reader")
    for data in (mine.parent, mine):
        code, text = quadrille("up", "--detach", "--data", str(data))
        assert (code, str(data) in text, "fix: name a new or empty directory" in text) == (NOT_HERE, True, True), text

    assert [path.name for path in mine.parent.iterdir()] == ["letters.txt"]
    assert mine.parent.stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--set", "ORDER_DEADLIN=5s"), "QUADRILLE_ORDER_DEADLINE"),
        (("--set", "ORDER_DEADLINE=soon"), "a duration such as"),
        (("--port", "kafka=65536"), "a port is 1 to 65535"),
        (("--port", "kafka=0"), "a port is 1 to 65535"),
    ],
)
def test_a_wrong_option_ends_nothing_that_runs(tmp_path: Path, words: tuple[str, str], told: str) -> None:
    """What no process would take is refused before any process is ended or started for it, with what is wanted."""
    code, text = quadrille("up", "--detach", "--data", str(tmp_path / "data"), *words)

    assert (code, told in text) == (2, True), text
    assert not (tmp_path / "data").exists()


def test_a_failing_part_tells_its_last_lines_and_takes_the_rest_down(new_stack: Start) -> None:
    """A part that ends at its start is named with cause, fix and its last 20 log lines; the others are ended."""
    stack = new_stack(parts={"postgres:order", "kafka"})
    stack.start()
    stack.stop()
    (stack.data / "kafka" / "data" / "bootstrap.checkpoint").unlink()
    (stack.data / "kafka" / "data" / "meta.properties").write_text("version=1\ncluster.id=another\nnode.id=7\n")

    with pytest.raises(PartFailed) as failure:
        stack.start()

    assert failure.value.part == "kafka"
    assert 0 < len(failure.value.tail) <= 20
    assert any("node" in line for line in failure.value.tail)
    assert "the data is kept" in failure.value.fix
    assert not any(process.running for process in stack.processes.values())


@NEEDS_ROOT
def test_without_network_nothing_starts_and_the_missing_parts_are_listed(tmp_path: Path) -> None:
    """With an empty cache and no network, up lists what is missing with its size, starts nothing and exits 9."""
    env = {"QUADRILLE_CACHE": str(tmp_path / "cache")}
    alone = (shutil.which("unshare") or "unshare", "--net")
    code, text = quadrille("up", "--detach", "--data", str(tmp_path / "data"), env=env, before=alone)

    assert code == NOT_HERE
    assert "47 artifacts (203.6 MB) are missing and cannot be fetched" in text
    assert "apicurio-registry-app:3.3.3:all:tar.gz  158.6 MB" in text
    assert "fix: connect to the network once" in text
    assert not (tmp_path / "data" / "kafka").exists()


@NEEDS_ROOT
def test_a_full_disk_is_refused_before_anything_starts(tmp_path: Path) -> None:
    """On a disk too small, up says what it needs and what there is, starts nothing and exits 9."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)], check=True)
    try:
        code, text = quadrille("up", "--detach", "--data", str(disk / "data"))

        assert code == NOT_HERE
        assert "is too full: needs" in text
        assert "has 2" in text
        assert not (disk / "data" / "kafka").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@NEEDS_ROOT
def test_as_root_the_databases_run_as_nobody_where_nobody_can_reach_them(tmp_path: Path) -> None:
    """As root, below a closed directory, Postgres runs unprivileged over data in a directory it can reach."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    stack = Stack(closed / "data", parts={"postgres:order"}, scattered=True)
    with stack:
        assert not stack.postgres_home.is_relative_to(closed)
        status = Path(f"/proc/{stack.process('postgres:order').pid}/status").read_text()
        assert "Uid:\t0" not in status
    home = stack.postgres_home
    stack.wipe()
    assert not home.exists()


def bootstrap(tmp_path: Path, *python: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run the bootstrap script as make does, into an environment of its own."""
    command = [*(python or (sys.executable,)), str(ROOT / "deploy" / "bootstrap.py")]
    settings = {**os.environ, "QUADRILLE_VENV": str(tmp_path / "venv"), **(env or {})}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_python_without_venv_is_told_which_package_to_install(tmp_path: Path, module: str) -> None:
    """Where Python lacks venv or ensurepip, as on a bare Debian, one line names the package, exit 9."""
    hide = f"import sys, runpy; sys.modules['{module}'] = None; import importlib.util as u; f = u.find_spec; "
    hide += f"u.find_spec = lambda n, *a: None if n == '{module}' else f(n, *a); "
    hide += f"runpy.run_path({str(ROOT / 'deploy' / 'bootstrap.py')!r}, run_name='__main__')"
    code, text = bootstrap(tmp_path, sys.executable, "-c", hide)

    assert code == NOT_HERE
    assert f"this Python has no `{module}` module" in text
    assert "fix: apt-get install python3-venv" in text
    assert not (tmp_path / "venv").exists()


@NEEDS_ROOT
def test_wheels_that_cannot_be_fetched_end_with_the_fix(tmp_path: Path) -> None:
    """With no network and no cache the bootstrap says what is needed and exits 9."""
    env = {"QUADRILLE_CACHE": str(tmp_path), "PIP_NO_CACHE_DIR": "1", "PIP_RETRIES": "0", "PIP_FIND_LINKS": ""}
    alone = (shutil.which("unshare") or "unshare", "--net", sys.executable)
    code, text = bootstrap(tmp_path, *alone, env=env)

    assert code == NOT_HERE
    assert "fix: no network: connect once" in text


def test_a_second_bootstrap_has_nothing_to_do() -> None:
    """Once the environment is current the bootstrap does nothing: it says nothing and needs no network."""
    env = {name: value for name, value in os.environ.items() if name != "QUADRILLE_VENV"}
    command = [sys.executable, str(ROOT / "deploy" / "bootstrap.py")]
    subprocess.run(command, env=env, check=True)

    again = subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    assert (again.returncode, again.stdout + again.stderr) == (0, "")


def test_down_without_a_stack_is_no_error(tmp_path: Path) -> None:
    """`down` where nothing was started says so and exits 0; `status` exits 7 with the fix."""
    assert quadrille("down", "--data", str(tmp_path))[0] == 0
    code, text = quadrille("status", "--data", str(tmp_path))
    assert (code, "fix: quadrille up" in text) == (7, True)


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    """A stack is not made with a part that does not exist."""
    with pytest.raises(CannotRun):
        Stack(tmp_path, parts={"zookeeper"})
