"""Searches and lives in processes of their own, two at a time, over the sources as they are or over a changed copy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CORES = 2


@dataclass(frozen=True, slots=True)
class Task:
    """One search by its name, with a planted action, or with changed packages in a folder; both may be none.

    Of ``tests.model.machine`` the name is a seed, and ``more`` are the number of lives and which story to tell.
    """

    name: str
    planted: str = ""
    changed: Path | None = None
    module: str = "tests.model"
    more: tuple[str, ...] = ()


def run(task: Task) -> dict[str, Any]:
    """Return what a search reports; fails if it does not come to an end."""
    command = [sys.executable, "-m", task.module, task.name, *([task.planted] if task.planted else []), *task.more]
    path = {"PYTHONPATH": str(task.changed)} if task.changed else {}
    ended = subprocess.run(command, cwd=ROOT, env={**os.environ, **path}, capture_output=True, text=True, check=False)
    assert ended.returncode in (0, 1), ended.stderr
    assert ended.stdout, ended.stderr
    report: dict[str, Any] = json.loads(ended.stdout)
    return report


def run_all(tasks: Iterable[Task]) -> list[dict[str, Any]]:
    """Return the reports of all tasks, in their order."""
    with ThreadPoolExecutor(CORES) as pool:
        return list(pool.map(run, tasks))
