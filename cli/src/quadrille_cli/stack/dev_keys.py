"""Keys of a local stack that runs with AUTH=keys: its key file, and the keys of the person, the console, the exporters.

A key's text is in a file that its owner alone reads; the key file has its hash, as everywhere.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from quadrille_cli import credentials

if TYPE_CHECKING:
    from pathlib import Path

    from quadrille_cli.stack.stack import Stack

FILE = "keys.json"
PERSON, CONSOLE, TRACES = "key", "console.key", "traces.key"
WHOSE = {
    PERSON: ("local", ("admin",)),  # whose orders are those that were placed without keys
    CONSOLE: ("console", ("ops:read", "ops:findings", "payments:read", "notices:read")),
    TRACES: ("traces", ("traces:write",)),
}
QUOTA = "100000"  # requests a second: a load run has one key


def wanted(stack: Stack) -> bool:
    """Whether the stack runs with keys."""
    return stack.settings.get("AUTH") == "keys"


def own(stack: Stack) -> bool:
    """Whether they are keys of the stack's own, not of a file somebody named."""
    return wanted(stack) and "KEYS_FILE" not in stack.settings


def prepare(stack: Stack) -> None:
    """Have the key file and every key in it; one that is over, or may too little, is made anew."""
    from datetime import UTC, datetime  # noqa: PLC0415 - as below

    from quadrille import keys  # noqa: PLC0415 - 0.3 s that a stack without keys can spare
    from quadrille_cli.key_store import changing  # noqa: PLC0415 - as above

    with changing(stack.data / FILE) as kept:
        live = {key.sha256: key.scopes for key in kept if key.live(datetime.now(UTC))}
        for name, (owner, scopes) in WHOSE.items():
            may = live.get(hashlib.sha256(read(stack.data, name).encode()).hexdigest(), frozenset())
            if not may >= {*scopes}:
                token, key = keys.mint(owner, scopes, None, "dev")
                _write(stack.data / name, token)
                kept.append(key)


def settings(stack: Stack, *, console: bool) -> dict[str, str]:
    """What a process is told: where the keys are, its quota, and which key the console asks with."""
    told = {"KEYS_FILE": str(stack.data / FILE), "RATE_PER_KEY": QUOTA}
    return told | ({"OPS_KEY_FILE": str(stack.data / CONSOLE)} if console else {})


def headers_of_exporters(stack: Stack) -> dict[str, str]:
    """What makes exporters show their key to the console."""
    return {"OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{read(stack.data, TRACES)}"}


def remember(stack: Stack) -> None:
    """Show the person's key to every address of this stack: the shell's if it has one, else the stack's own."""
    key = credentials.of_the_shell() or (read(stack.data, PERSON) if own(stack) else "")
    if wanted(stack) and key:
        credentials.remember((stack.url(name) for name in stack.ports if name != "sandbox"), key)


def read(data: Path, name: str) -> str:
    """A key's text, nothing while there is none."""
    try:
        return (data / name).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def _write(file: Path, token: str) -> None:
    scratch = file.with_name(f"{file.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as text:
        text.write(f"{token}\n")
    scratch.replace(file)
