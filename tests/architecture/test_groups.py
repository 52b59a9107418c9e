"""A run shared by several workers starts a whole stack once, and keeps a file's tests together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FILE = """
import os
from pathlib import Path
import pytest

{fixture}

@pytest.mark.parametrize("number", range(12))
def test_it({wants}number):
    with Path(__file__).with_name("{name}.workers").open("a") as told:
        told.write(os.environ["PYTEST_XDIST_WORKER"] + " ")
"""
STACK = "@pytest.fixture(scope='session')\ndef stack():\n    pass"
SHARED = ("--numprocesses", "2", "--dist", "loadgroup", "--no-loadscope-reorder", "-p", "no:schemathesis")


def test_no_two_workers_share_a_file_or_start_the_stack(tmp_path: Path) -> None:
    """A file's tests are one worker's, and so are all that need the whole stack, of whatever file."""
    for name in ("a", "b", "c", "d", "e"):
        own = {"fixture": "", "wants": ""} if name in "ab" else {"fixture": STACK, "wants": "stack, "}
        (tmp_path / f"test_{name}.py").write_text(FILE.format(name=name, **own), "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(tmp_path), *SHARED, "."]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)

    assert "60 passed" in done.stdout, done.stdout + done.stderr
    ran = {name: (tmp_path / f"{name}.workers").read_text("utf-8").split() for name in "abcde"}
    assert {name: len(set(workers)) for name, workers in ran.items()} == dict.fromkeys("abcde", 1)
    assert len({ran[name][0] for name in "cde"}) == 1
    assert len({workers[0] for workers in ran.values()}) == 2, "one worker did it all"
