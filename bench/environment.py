"""What the peers need, brought once and by hash: their virtual environment, and Debezium's jars."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from functools import cache
from pathlib import Path

from bench.model import CannotMeasureError
from quadrille_cli.stack import paths
from quadrille_cli.stack.errors import CannotRun
from quadrille_cli.stack.servers import artifacts

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements" / "bench.txt"
JARS = ROOT / "bench" / "peers" / "debezium" / "jars.lock"


@cache
def python() -> Path:
    """Return the Python of the peers' own environment, made once for each state of their lock file."""
    digest = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:12]
    there = paths.made_once(paths.usable(paths.cache_dir()) / f"bench-{digest}", _make)
    return there / "bin" / "python"


def _make(there: Path) -> None:
    uv: list[str | Path] = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, there], check=True)
    command = [*uv, "pip", "install", "--quiet", "--python", there / "bin" / "python"]
    command += ["--require-hashes", "--only-binary", ":all:", "--no-deps", "-r", LOCK]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        message = f"its packages cannot be installed: {done.stderr.strip().splitlines()[-1]}"
        raise CannotMeasureError(message)


def jars() -> list[Path]:
    """Return Debezium's jars, fetched once and held against their hashes."""
    try:
        return artifacts.fetch(str(JARS))
    except CannotRun as refused:
        message = f"its jars cannot be had: {refused.what}"
        raise CannotMeasureError(message) from refused
