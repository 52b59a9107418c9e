"""A run shared by several workers starts a whole stack once, and once for commands; a file's tests stay together."""

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
    """A file's tests are one worker's, and so are all that need the whole stack; commands have one of theirs."""
    (tmp_path / "stack").mkdir()
    for name in ("a", "b", "c", "d", "e", "stack/f", "stack/g"):
        own = {"fixture": "", "wants": ""} if name in "ab" else {"fixture": STACK, "wants": "stack, "}
        file = (tmp_path / name).with_name(f"test_{name[-1]}.py")
        file.write_text(FILE.format(name=name[-1], **own), "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(tmp_path), *SHARED, "."]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280)

    assert "84 passed" in done.stdout, done.stdout + done.stderr
    ran = {file.stem: file.read_text("utf-8").split() for file in tmp_path.rglob("*.workers")}
    assert {name: len(set(workers)) for name, workers in ran.items()} == dict.fromkeys("abcdefg", 1)
    assert len({ran[name][0] for name in "cde"}) == len({ran[name][0] for name in "fg"}) == 1
    assert ran["c"][0] != ran["f"][0], "the two longest pieces of work are one worker's"
    assert len({workers[0] for workers in ran.values()}) == 2, "one worker did it all"
