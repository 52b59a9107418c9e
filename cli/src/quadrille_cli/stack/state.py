"""What is running, on disk: so that another command ends exactly these processes, and clients find the addresses."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from quadrille_cli.stack import processes

VERSION = 1


@dataclass(slots=True)
class Running:
    """One process as it was started."""

    pid: int
    born: str | None
    log: str
    ports: dict[str, int] = field(default_factory=dict)
    fingerprint: str = ""
    code: str = ""
    """The digest of the program's files as they were when it was launched."""
    ended: str = ""
    ended_at: float = 0.0

    @property
    def alive(self) -> bool:
        """Whether exactly this process still lives."""
        return self.born is not None and processes.birth(self.pid) == self.born


@dataclass(slots=True)
class State:
    """The stack in one data directory."""

    ports: dict[str, int] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)
    processes: dict[str, Running] = field(default_factory=dict)
    password: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    via: dict[str, int] = field(default_factory=dict)
    """Where its services find a server instead of at its own port: a proxy before it."""
    version: int = VERSION

    @property
    def alive(self) -> dict[str, Running]:
        """The processes that still live."""
        return {name: process for name, process in self.processes.items() if process.alive}


def file(data: Path) -> Path:
    """Where a data directory's state lies."""
    return data / "state.json"


def load(data: Path) -> State | None:
    """The state of the stack in this data directory; None when none was ever started there.

    One that a crash of the machine has cut short is as one that knows nothing: what runs is found by its mark.
    """
    try:
        raw: dict[str, Any] = json.loads(file(data).read_text(encoding="utf-8"))
        raw["processes"] = {name: Running(**process) for name, process in raw["processes"].items()}
        return State(**raw)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        return State()


def password(data: Path, known: str = "") -> tuple[str, bool]:
    """The password of the stack's databases, in a file of its own; and whether it is known, or made now."""
    secret = data / "password"
    if secret.exists() and (kept := secret.read_text(encoding="utf-8")):
        return kept, True
    chosen = known or secrets.token_urlsafe(24)
    scratch = data / "password.new"
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as text:
        text.write(chosen)
        text.flush()
        os.fsync(text.fileno())
    scratch.replace(secret)
    return chosen, bool(known)


def save(data: Path, state: State) -> None:
    """Write it whole or not at all; it holds the stack's password, so only its owner reads it."""
    scratch = data / f"state.json.{os.getpid()}"
    scratch.touch(mode=0o600)
    scratch.write_text(json.dumps(asdict(state), indent=2), encoding="utf-8")
    scratch.replace(file(data))
